//! One validator's link: authentication, signs of life, status updates, facts about machines.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::delivery::{self, Occasion};
use super::machine::{self, judge, stored_metadata};
use super::validators::{Peer, Reach};
use super::{Office, cancel};
use crate::core::causes::Causes;
use crate::core::crypto::signed::{self, FacilitatorAuthError};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::net::{Event, Link, LinkClosed, close_code};
use crate::core::proto::facilitator_validator::{
    Authenticate, Down, JobOutput, MachineSpecs, Response, StatusMetadata, StatusUpdate, Up,
};
use crate::core::proto::job::{EXTENSION_CANCEL, EXTENSION_LOGS};
use crate::core::proto::{DecodeError, frame};
use crate::core::store::facilitator::{Appended, KeptSpecs, Step};

/// Time that a link has to authenticate. The reference waits for ever; then every stranger could hold a link.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(60);

/// Characters of a validator's words for a user that are kept.
const REASON_CHARS_MAX: usize = 500;

/// Bytes of the largest machine facts that are kept; real ones have some 2,000 (wire-executor-miner §11).
const SPECS_BYTES_MAX: usize = 64 * 1024;

/// Time between two looks for silent and inactive validators.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the validator says of itself when it connects.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions {
    pub(super) validator: Option<String>,
    pub(super) runner: Option<String>,
    /// Whether it never runs a job twice.
    pub(super) refuses_duplicates: bool,
}

/// Talks to one validator until either side has had enough.
pub(super) async fn converse(mut link: Link, office: &Office, versions: &Versions) {
    let stop = office.tasks.token();
    let conversation = async {
        let Some(hotkey) = authenticate(&mut link, office).await? else {
            return Ok(());
        };
        tracing::info!(validator = %hotkey, version = versions.validator, runner = versions.runner, "validator connected");
        let peer = Peer {
            refuses_duplicates: versions.refuses_duplicates,
            cancels: link.extensions().has(EXTENSION_CANCEL),
            logs: link.extensions().has(EXTENSION_LOGS),
            since: office.clock.now(),
        };
        let reach = Reach::new(link.sender(), peer);
        let (number, before) = office.seats.take(&hotkey, (link.sender(), peer), Instant::now());
        if let Some(before) = before {
            tracing::info!(validator = %hotkey, "an older connection of the validator is closed");
            before
                .close(close_code::NORMAL, "replaced by a newer connection")
                .await;
        }
        note_heard(office, &hotkey, versions).await;
        delivery::deliver_waiting(office, &hotkey, Occasion::Connected);
        // Beside the listening: a validator that takes nothing may still say something.
        let (again, validator) = (office.clone(), hotkey.clone());
        office.tasks.spawn("cancels", async move {
            cancel::say_again(&again, &validator, &reach).await;
        });
        let outcome = listen(&mut link, office, &hotkey, number).await;
        office.seats.leave(&hotkey, number);
        note_heard(office, &hotkey, &Versions::default()).await;
        tracing::info!(validator = %hotkey, "validator disconnected");
        outcome
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        outcome = conversation => {
            if let Err(LinkClosed { code, reason }) = outcome {
                tracing::debug!(code, reason, "a validator's link has ended");
            }
            return;
        }
    }
    link.close(close_code::GOING_AWAY, "the facilitator is stopping")
        .await;
    link.sender().closed().await;
}

/// Hears a validator until it is authenticated; none if it was refused and the link is closing.
async fn authenticate(link: &mut Link, office: &Office) -> Result<Option<Hotkey>, LinkClosed> {
    let deadline = Instant::now() + AUTHENTICATE_WITHIN;
    loop {
        let Ok(event) = timeout_at(deadline, link.recv()).await else {
            answer(link, not_authenticated()).await?;
            link.close(close_code::AUTH_SIGNATURE_INVALID, "no authentication in time")
                .await;
            return Ok(None);
        };
        let request = match read(event)? {
            Ok(Up::Authenticate(request)) => request,
            Ok(_) => {
                answer(link, not_authenticated()).await?;
                continue;
            }
            Err(refusal) => {
                answer(link, refusal).await?;
                continue;
            }
        };
        return match check(&request, office).await {
            Ok(hotkey) if link.trust() => {
                answer(link, Response::success()).await?;
                Ok(Some(hotkey))
            }
            Ok(_) => {
                link.close(close_code::TRY_AGAIN_LATER, "too many connections")
                    .await;
                Ok(None)
            }
            Err((response, code)) => {
                answer(link, response).await?;
                link.close(code, "").await;
                Ok(None)
            }
        };
    }
}

fn not_authenticated() -> Response {
    Response::error(
        "auth.not_authenticated",
        "Not authenticated",
        "Please send authentication request first",
    )
}

/// Checks an authentication; a refusal comes with its close code.
async fn check(request: &Authenticate, office: &Office) -> Result<Hotkey, (Response, u16)> {
    let bad = |help: String| {
        (
            Response::error("auth.signature_invalid", "Invalid signature", help),
            close_code::AUTH_SIGNATURE_INVALID,
        )
    };
    // The reference crashes on what it cannot decode.
    let hotkey =
        signed::facilitator_auth_hotkey(&request.public_key).map_err(|error| bad(format!("The {error}")))?;
    match office.active.contains(&hotkey).await {
        Ok(true) => {}
        Ok(false) => {
            let help = format!(
                "Validator with hotkey {hotkey} was not found. If you are sure that the key belongs to an active \
                 validator, please wait at least 0:05:00 for the list of active validators to be updated and then \
                 retry."
            );
            return Err((
                Response::error("auth.validator_not_found", "Validator not found", help),
                close_code::AUTH_VALIDATOR_NOT_FOUND,
            ));
        }
        Err(error) => {
            tracing::warn!(validator = %hotkey, %error, "cannot tell whether the validator is active");
            return Err((
                Response::error(
                    "auth.validators_unavailable",
                    "Validators unavailable",
                    "The list of active validators cannot be read now, please retry later",
                ),
                close_code::INTERNAL,
            ));
        }
    }
    match signed::verify_facilitator_auth(&request.public_key, &request.signature) {
        Ok(hotkey) => Ok(hotkey),
        Err(FacilitatorAuthError::Verify(crate::core::crypto::VerifyError::Mismatch)) => Err(bad(
            "The signature provided does not match the public key".to_owned(),
        )),
        Err(error) => Err(bad(format!("The {error}"))),
    }
}

/// Hears an authenticated validator until its link ends.
async fn listen(link: &mut Link, office: &Office, hotkey: &Hotkey, number: u64) -> Result<(), LinkClosed> {
    loop {
        let message = match read(link.recv().await)? {
            Ok(message) => message,
            Err(refusal) => {
                answer(link, refusal).await?;
                continue;
            }
        };
        match message {
            Up::Heartbeat(_) => {
                office.seats.heard(hotkey, number, Instant::now());
                note_heard(office, hotkey, &Versions::default()).await;
                delivery::deliver_waiting(office, hotkey, Occasion::Reminded);
            }
            Up::StatusUpdate(update) => {
                let Some(response) = store_status(office, hotkey, update).await else {
                    // An answer of any kind would let the validator forget the report; it repeats it after this.
                    link.close(close_code::INTERNAL, "the status could not be stored")
                        .await;
                    return Ok(());
                };
                answer(link, response).await?;
            }
            Up::CancelRefused(refused) => {
                let reason = refused.reason.chars().take(REASON_CHARS_MAX).collect();
                cancel::refuse(office, hotkey, &refused.uuid, reason).await;
            }
            Up::JobOutput(piece) => take_output(office, hotkey, &piece).await,
            Up::MachineSpecs(specs) => keep_specs(office, hotkey, specs).await,
            Up::Authenticate(_) => {
                let response = Response::error(
                    "auth.already_authenticated",
                    "Already authenticated",
                    "You are already authenticated, please do not send authentication request again.",
                );
                answer(link, response).await?;
            }
        }
    }
}

/// Takes in what a running job has written. Nothing is said about it: it may be lost as well.
async fn take_output(office: &Office, validator: &Hotkey, piece: &JobOutput) {
    let Some(job) = super::canonical_uuid(piece.uuid.as_str()) else {
        return;
    };
    if !office.logs.knows(&job, validator) {
        match office.store.is_running(&job, validator).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%job, error = %Causes(&error), "cannot tell whose output it is");
                return;
            }
        }
    }
    match STANDARD.decode(&piece.data) {
        Ok(bytes) => office
            .logs
            .add(&job, validator, piece.stream, piece.offset, &bytes),
        Err(error) => tracing::debug!(%job, %validator, %error, "output that is no base64 is ignored"),
    }
}

/// Notes that a validator was heard: its jobs wait for it for a while when it is away.
async fn note_heard(office: &Office, hotkey: &Hotkey, versions: &Versions) {
    let known = (versions.validator.clone(), versions.runner.clone());
    if let Err(error) = office.store.heard(hotkey, known, office.clock.now()).await {
        tracing::error!(validator = %hotkey, error = %Causes(&error), "cannot note a validator");
    }
}

/// Keeps the facts about a miner's machine. The wire has no answer to them, so what is not kept is logged.
async fn keep_specs(office: &Office, validator: &Hotkey, specs: MachineSpecs) {
    let MachineSpecs {
        miner_hotkey: miner,
        validator_hotkey,
        specs,
        batch_id,
    } = specs;
    let facts = Value::Object(specs.into_iter().collect());
    let bytes = facts.to_string().len() + batch_id.len() + miner.as_str().len();
    if &validator_hotkey != validator || bytes > SPECS_BYTES_MAX {
        tracing::warn!(%validator, claims = %validator_hotkey, bytes, "machine specs of another validator, or too large, are not kept");
        return;
    }
    let kept = KeptSpecs {
        validator: validator.clone(),
        miner,
        batch_id,
        specs: facts,
        received_at: office.clock.now(),
    };
    if let Err(error) = office.store.keep_specs(kept).await {
        tracing::error!(%validator, error = %Causes(&error), "cannot keep machine specs");
    }
}

/// Stores a status and returns the answer to it; none if it could not be stored.
async fn store_status(office: &Office, validator: &Hotkey, update: StatusUpdate) -> Option<Response> {
    let StatusUpdate {
        uuid,
        status,
        metadata,
    } = update;
    let response = match append(office, validator, &uuid, status, metadata.as_ref()).await {
        Ok(Appended::Done) => {
            tracing::info!(job = %uuid, %status, "job status");
            office.metrics.status(status.as_str());
            Response::success()
        }
        Ok(Appended::NoSuchJob) => Response::error(
            "job.not_found",
            "Job not found",
            "Job with this UUID was not found",
        ),
        Ok(Appended::Refused(refusal)) => {
            tracing::warn!(job = %uuid, %status, ?refusal, "a status was refused");
            refusal.response()
        }
        Err(error) => {
            tracing::error!(job = %uuid, %status, error = %Causes(&error), "cannot store a status");
            return None;
        }
    };
    Some(response)
}

pub(super) async fn append(
    office: &Office,
    validator: &Hotkey,
    job: &JobId,
    status: JobStatus,
    metadata: Option<&StatusMetadata>,
) -> Result<Appended<machine::StepRefusal>, crate::core::store::StoreError> {
    let step = Step {
        status,
        metadata: stored_metadata(metadata),
        created_at: office.clock.now(),
    };
    // The wire takes UUIDs in any spelling; the database has one.
    let job = super::canonical_uuid(job.as_str()).unwrap_or_else(|| job.clone());
    let appended = office
        .store
        .append(&job, validator, step, move |states| judge(states, status))
        .await?;
    if appended == Appended::Done {
        office.logs.step(&job, status.is_terminal());
    }
    Ok(appended)
}

/// Closes the links of validators that are silent or no longer active, again and again.
pub(super) async fn sweep(office: Office) {
    let mut turns = office.tasks.turns(SWEEP_EVERY);
    while turns.next().await {
        for (hotkey, link, is_silent) in office.seats.all(Instant::now()) {
            let reason = match office.active.contains(&hotkey).await {
                _ if is_silent => "no heartbeat",
                Ok(false) => "not an active validator",
                Ok(true) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the list of active validators");
                    continue;
                }
            };
            tracing::info!(validator = %hotkey, reason, "a validator's link is closed");
            link.close(close_code::AUTH_VALIDATOR_NOT_FOUND, reason).await;
        }
    }
}

async fn answer(link: &Link, response: Response) -> Result<(), LinkClosed> {
    link.send(Down::Response(response).encode_as_facilitator()).await
}

/// Reads an event: the end of the link, a message, or the answer to what is none.
fn read(event: Event) -> Result<Result<Up, Response>, LinkClosed> {
    match event {
        Event::Text(text) => Ok(Up::decode(&text).map_err(|error| malformed(&error))),
        Event::Binary(_) => Ok(Err(Response::error(
            "json_invalid",
            "Invalid JSON: this link speaks text frames",
            "",
        ))),
        Event::Closed { code, reason } => Err(LinkClosed { code, reason }),
    }
}

/// Returns the answer to a frame that is no message, with the error words of the reference's parser.
fn malformed(error: &DecodeError) -> Response {
    const KNOWN: &str =
        "'V0AuthenticationRequest', 'V0JobStatusUpdate', 'V0MachineSpecsUpdate', 'V0Heartbeat'";
    let tag = frame::MESSAGE_TYPE;
    let (code, msg, loc) = match error {
        DecodeError::NotJson(source) => ("json_invalid", format!("Invalid JSON: {source}"), json!([])),
        DecodeError::NotAnObject => (
            "model_attributes_type",
            "Input should be a valid dictionary or object to extract fields from".to_owned(),
            json!([]),
        ),
        DecodeError::NoMessageType => (
            "union_tag_not_found",
            format!("Unable to extract tag using discriminator '{tag}'"),
            json!([]),
        ),
        DecodeError::UnknownMessageType(word) => {
            let word: String = word.chars().take(64).collect();
            let msg = format!(
                "Input tag '{word}' found using '{tag}' does not match any of the expected tags: {KNOWN}"
            );
            ("union_tag_invalid", msg, json!([]))
        }
        DecodeError::Invalid { message_type, source } => {
            let words = source.to_string();
            match quoted(&words) {
                Some(field) if words.starts_with("missing field") => (
                    "missing",
                    "Field required".to_owned(),
                    json!([message_type, field]),
                ),
                Some(field) if words.starts_with("unknown field") => (
                    "extra_forbidden",
                    "Extra inputs are not permitted".to_owned(),
                    json!([message_type, field]),
                ),
                _ => ("value_error", words, json!([message_type])),
            }
        }
    };
    let mut response = Response::error(code, msg, "");
    for entry in &mut response.errors {
        entry.more.insert("loc".to_owned(), Value::clone(&loc));
    }
    response
}

/// Returns the first text between backticks, where the parser names a field.
fn quoted(words: &str) -> Option<&str> {
    words.split('`').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_answered_with_the_words_of_the_references_parser() {
        for (frame, code, msg) in [
            ("not json", "json_invalid", "Invalid JSON: "),
            (
                "[]",
                "model_attributes_type",
                "Input should be a valid dictionary",
            ),
            ("{}", "union_tag_not_found", "Unable to extract tag"),
            (
                r#"{"message_type":"Nope"}"#,
                "union_tag_invalid",
                "Input tag 'Nope' found",
            ),
            (
                r#"{"message_type":"V0AuthenticationRequest","public_key":"ab"}"#,
                "missing",
                "Field required",
            ),
            (
                r#"{"message_type":"V0Heartbeat","x":1}"#,
                "extra_forbidden",
                "Extra inputs",
            ),
        ] {
            let response = malformed(&Up::decode(frame).unwrap_err());
            let error = &response.errors[0];
            assert_eq!(error.r#type, code, "{frame}");
            assert!(error.msg.starts_with(msg), "{frame}: {}", error.msg);
        }
    }
}
