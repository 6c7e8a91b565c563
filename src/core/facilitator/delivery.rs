//! How jobs and cheat reports get to their validators, and what becomes of jobs that do not, or never come back.
//!
//! A job is marked as handed over before it is handed over, so that a crash in between never has it run twice by a
//! validator that would do so; only a validator that says that it refuses duplicates ([`REFUSES_DUPLICATES`]) is handed
//! a job again of which it has said nothing. A job whose validator is away waits for it within the job's limits. The
//! [`watch`] ends what was not delivered in time, and what no validator ended in time.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::{Instant, timeout};

use super::Office;
use super::driver::append;
use super::machine::{self, signature_of};
use crate::core::causes::Causes;
use crate::core::model::Hotkey;
use crate::core::model::job::JobStatus;
use crate::core::net::LinkSender;
use crate::core::proto::facilitator_validator::{Down, JobRequest};
use crate::core::store::StoreError;
use crate::core::store::facilitator::{Appended, Overdue};

/// The header in which peers of our own say what they understand beyond the wire: words, divided by commas.
const FEATURES_HEADER: &str = "x-horde-features";

/// The word of a validator that never runs a job twice, however often it is handed over.
const REFUSES_DUPLICATES: &str = "dedup";

/// Longest wait for room in a validator's queue; a validator that takes nothing for so long gets no job.
pub(super) const PUSH_WITHIN: Duration = Duration::from_secs(10);

/// Jobs that may wait for one validator.
const WAITING_MAX: u32 = 1000;

/// Time between two looks for overdue jobs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Overdue jobs that are ended in one turn.
const OVERDUE_AT_ONCE: u32 = 100;

/// For how long a cheat report that was handed over is handed over again to a validator that comes back and takes
/// repetitions for what they are: its link may have ended before the report was through, and no wire acknowledges it.
const REPORT_REPEATED: time::Duration = time::Duration::hours(1);

/// The way to a validator.
#[derive(Debug)]
pub(super) enum Road {
    /// It is connected and heard.
    Open(LinkSender),
    /// It is not, but was a short while ago: its jobs wait for it.
    Away,
}

/// Why a validator gets no job.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRoad {
    /// Nobody knows it, or it has been away for too long, or it is no validator any more.
    #[error("the validator is not connected")]
    Unknown,
    /// So many jobs wait for it that no more may.
    #[error("the validator is away, and {WAITING_MAX} jobs wait for it already")]
    Full,
    /// Nobody can tell.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells whether a validator that connects with these headers refuses to run a job twice.
pub(super) fn refuses_duplicates(headers: &HeaderMap) -> bool {
    let values = headers.get_all(FEATURES_HEADER).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|word| word.trim() == REFUSES_DUPLICATES)
}

/// Finds the way to a validator.
pub(super) async fn road(office: &Office, validator: &Hotkey) -> Result<Road, NoRoad> {
    if let Some(link) = office.seats.ready(validator, Instant::now()) {
        return Ok(Road::Open(link));
    }
    let heard = office.store.last_heard(validator).await?;
    let is_away = heard.is_some_and(|heard| office.clock.now() - heard < office.away);
    // A chain that does not answer now is no reason to lose a job.
    if !is_away || matches!(office.active.contains(validator).await, Ok(false)) {
        return Err(NoRoad::Unknown);
    }
    if office.store.waiting(validator, WAITING_MAX).await? >= WAITING_MAX {
        return Err(NoRoad::Full);
    }
    Ok(Road::Away)
}

/// Hands a job that is stored as handed over to its validator; one that cannot be waits again.
pub(super) async fn hand_over(
    office: &Office,
    validator: &Hotkey,
    link: &LinkSender,
    request: Box<JobRequest>,
) -> bool {
    let uuid = request.uuid.clone();
    let frame = Down::JobRequest(request).encode_as_facilitator();
    let cause = match timeout(PUSH_WITHIN, link.send(frame)).await {
        Ok(Ok(())) => return true,
        Ok(Err(closed)) => closed.to_string(),
        Err(_) => "the validator takes no messages".to_owned(),
    };
    tracing::warn!(job = %uuid, %validator, cause, "a job could not be handed over and waits");
    if let Err(error) = office.store.unclaim(&uuid).await {
        // It stays marked as handed over: its end is the watch's business.
        tracing::error!(job = %uuid, error = %Causes(&error), "cannot let a job wait");
    }
    false
}

/// Why somebody looks for what waits for a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It has just connected.
    Connected,
    /// It was heard on the link that it has, or something has just begun to wait.
    Reminded,
}

/// Hands over in the background what waits for a validator, if it is connected.
pub(super) fn deliver_waiting(office: &Office, validator: &Hotkey, occasion: Occasion) {
    let (office, validator) = (office.clone(), validator.clone());
    let tasks = office.tasks.clone();
    tasks.spawn("delivery", async move {
        if let Err(error) = deliver_all(&office, &validator, occasion).await {
            tracing::error!(%validator, error = %Causes(&error), "cannot hand over what waits");
        }
    });
}

async fn deliver_all(office: &Office, validator: &Hotkey, occasion: Occasion) -> Result<(), StoreError> {
    let Some((link, peer)) = office.seats.link(validator, Instant::now()) else {
        return Ok(());
    };
    let repeat_before = peer.refuses_duplicates.then_some(peer.since);
    while let Some((job, evidence)) = office
        .store
        .claim_next(validator, office.clock.now(), repeat_before)
        .await?
    {
        tracing::info!(job = %job.uuid, %validator, "a job that waited is handed over");
        let request = Box::new(machine::push(&job, signature_of(&evidence)));
        if !hand_over(office, validator, &link, request).await {
            return Ok(());
        }
    }
    let is_repeated = peer.refuses_duplicates && occasion == Occasion::Connected;
    let repeat_since = is_repeated.then(|| office.clock.now() - REPORT_REPEATED);
    let mut place = 0;
    while let Some((next, frame)) = office
        .store
        .next_cheat_report(validator, place, repeat_since)
        .await?
    {
        place = next;
        if !matches!(timeout(PUSH_WITHIN, link.send(frame)).await, Ok(Ok(()))) {
            return Ok(());
        }
        tracing::info!(%validator, "a cheat report is handed over");
        office
            .store
            .cheat_report_pushed(place, office.clock.now())
            .await?;
    }
    Ok(())
}

/// Ends jobs that were not delivered or not ended in time, again and again.
pub(super) async fn watch(office: Office) {
    let mut turns = office.tasks.turns(LOOK_EVERY);
    while turns.next().await {
        let overdue = match office.store.overdue(office.clock.now(), OVERDUE_AT_ONCE).await {
            Ok(overdue) => overdue,
            Err(error) => {
                tracing::error!(error = %Causes(&error), "cannot look for overdue jobs");
                continue;
            }
        };
        for job in overdue {
            if let Err(error) = end(&office, &job).await {
                tracing::error!(job = %job.job, error = %Causes(&error), "cannot end an overdue job");
            }
        }
    }
}

async fn end(office: &Office, overdue: &Overdue) -> Result<(), StoreError> {
    // Whoever hands it over at this moment has come in time.
    if overdue.pushed_at.is_none() && !office.store.withdraw(&overdue.job).await? {
        return Ok(());
    }
    let details = machine::overdue(overdue, office.clock.now());
    let ended = append(
        office,
        &overdue.validator,
        &overdue.job,
        JobStatus::HordeFailed,
        Some(&details),
    );
    match ended.await? {
        Appended::Done => tracing::warn!(
            job = %overdue.job, validator = %overdue.validator, last = %overdue.last,
            delivered = overdue.pushed_at.is_some(), "an overdue job is ended"
        ),
        // Its validator was a moment faster.
        Appended::NoSuchJob | Appended::Refused(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_duplicates_says_so_by_its_word() {
        for (values, refuses) in [
            (&["dedup"][..], true),
            (&["cancel, dedup ,logs"], true),
            (&["cancel", "dedup"], true),
            (&["cancel, logs"], false),
            (&["dedupe"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FEATURES_HEADER, value.parse().unwrap());
            }
            assert_eq!(refuses_duplicates(&headers), refuses, "{values:?}");
        }
    }
}
