//! What each reason of the wire means for the user: one sentence, who is to blame, how a command ends, what helps.
//!
//! Every `match` names all words, so that a new word of the wire does not compile without an explanation.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::core::model::job::{FailureReason, JobStage, JobStatus, Participant, RejectionReason};
use crate::core::proto::facilitator_validator::{JobFailure, JobRejection};
use crate::core::proto::job::Context;
use crate::core::proto::sdk_facilitator::JobView;

/// Most characters of a peer's text inside a sentence.
const QUOTED_CHARACTERS_MAX: usize = 300;

/// Who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// Nobody: all is well, or nobody knows yet.
    Nobody,
    /// The program in the container, or what the job asks for.
    Job,
    /// Who submitted it: a key, an address, a wish to cancel.
    User,
    /// The miner with its executors.
    Miner,
    /// The broker.
    Validator,
    /// The gateway.
    Facilitator,
}

impl Blame {
    /// Returns the word that JSON has.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Job => "job",
            Self::User => "user",
            Self::Miner => "miner",
            Self::Validator => "validator",
            Self::Facilitator => "facilitator",
        }
    }
}

/// How a job ended, as far as the exit code of a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With results.
    Completed,
    /// Its user asked for it.
    Cancelled,
    /// The container ended with this code; none if nobody told.
    Exit(Option<i64>),
    /// A stage outlived its limit.
    Timeout,
    /// The image or the command is not there, or cannot be run.
    NotRunnable,
    /// The horde failed it.
    Horde,
    /// Nobody took it.
    Rejected,
    /// By itself, but not by its exit code: its input or output.
    Failed,
}

/// What a reason means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// A stable code, such as `failed.timeout.execution`.
    pub code: String,
    /// One sentence.
    pub sentence: String,
    /// Who is to blame.
    pub blame: Blame,
    /// How the job ended; none while it has not.
    pub ending: Option<Ending>,
    /// What would change the outcome; best something that can be typed.
    pub remedies: Vec<String>,
}

impl Meaning {
    pub(super) fn new(
        code: impl Into<String>,
        blame: Blame,
        ending: Ending,
        sentence: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            sentence: sentence.into(),
            blame,
            ending: Some(ending),
            remedies: Vec::new(),
        }
    }

    pub(super) fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    pub(super) fn retry(self, job: &JobView) -> Self {
        let remedy = format!("submit it again: horde job retry {}", job.uuid);
        self.help(remedy)
    }

    /// Proposes a limit twice as long.
    pub(super) fn raise(self, job: &JobView, flag: &str, seconds: i64) -> Self {
        let more = seconds.max(1).saturating_mul(2);
        self.help(format!(
            "raise {flag} (now {seconds} s), as in: horde job retry {} {flag} {more}",
            job.uuid
        ))
    }
}

/// Returns a text of a failure's facts.
pub(super) fn fact<'a>(context: Option<&'a Context>, name: &str) -> Option<&'a str> {
    let text = context?.get(name).and_then(Value::as_str)?.trim();
    (!text.is_empty()).then_some(text)
}

/// Cuts a peer's text to what fits into a sentence.
pub(super) fn quoted(text: &str) -> String {
    let text = text.trim();
    let mut cut: String = text.chars().take(QUOTED_CHARACTERS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// Returns `: words`, or nothing if there are none.
pub(super) fn after_colon(words: &str) -> String {
    let words = quoted(words);
    if words.is_empty() {
        words
    } else {
        format!(": {words}")
    }
}

/// Returns who is to blame when a participant says that it was itself.
pub(super) const fn blame_of(participant: Participant) -> Blame {
    match participant {
        Participant::Unknown => Blame::Nobody,
        Participant::Sdk => Blame::User,
        Participant::Facilitator => Blame::Facilitator,
        Participant::Validator => Blame::Validator,
        Participant::Miner | Participant::Executor => Blame::Miner,
    }
}

/// Explains a job that was refused before it ran.
pub fn rejection(details: &JobRejection, job: &JobView) -> Meaning {
    let by = details.rejected_by;
    let code = format!("rejected.{}", details.reason);
    let meaning = |blame, sentence: String| Meaning::new(code.clone(), blame, Ending::Rejected, sentence);
    let words = after_colon(&details.message);
    match details.reason {
        RejectionReason::Unknown => meaning(
            blame_of(by),
            format!("The {by} rejected the job for a reason that this program does not know{words}."),
        )
        .retry(job),
        RejectionReason::Busy => meaning(
            Blame::Miner,
            format!(
                "The miner had no free executor of the class {}.",
                job.executor_class
            ),
        )
        .retry(job)
        .help("ask for another class with --class"),
        RejectionReason::InvalidSignature if by == Participant::Miner => meaning(
            Blame::Validator,
            format!("The miner did not accept the validator's signature{words}."),
        )
        .help("send the job to another validator with --validator"),
        RejectionReason::InvalidSignature if details.message.contains("whitelist") => meaning(
            Blame::User,
            "The validator does not take jobs from the hotkey that signed this one.".to_owned(),
        )
        .help("ask the validator's operator to list the hotkey, or name another validator with --validator"),
        RejectionReason::InvalidSignature => meaning(
            Blame::User,
            format!("The user's signature does not cover what reached the validator{words}."),
        )
        .help("sign again: horde job retry makes a new signature")
        .help(
            "if it happens again, look for spaces at the ends of the image's name or of arguments: a facilitator of \
             the reference trims them after they were signed",
        ),
        RejectionReason::InvalidReceipt => meaning(
            Blame::Validator,
            format!("The miner did not accept the receipt that the validator sent with the job{words}."),
        )
        .retry(job),
        RejectionReason::NoMinerForJob => no_miner(details, job, &code),
        RejectionReason::ValidatorBlacklisted => meaning(
            Blame::Validator,
            "The miner that the validator chose does not serve this validator.".to_owned(),
        )
        .retry(job)
        .help("send the job to another validator with --validator"),
    }
}

/// Explains why a validator found no miner, as far as it tells (sem-organic-jobs §6).
fn no_miner(details: &JobRejection, job: &JobView, code: &str) -> Meaning {
    let class = job.executor_class;
    let seconds = job
        .download_time_limit
        .saturating_add(job.execution_time_limit)
        .saturating_add(job.upload_time_limit);
    let kind = fact(details.context.as_ref(), "exception_type").unwrap_or_default();
    let meaning = |sentence: String| Meaning::new(code, Blame::Validator, Ending::Rejected, sentence);
    if kind.contains("Allowance") {
        return meaning(format!(
            "The validator has not enough allowance left with any miner for {seconds} s on the class {class}."
        ))
        .help("ask for less time: the download, execution and upload limits count together")
        .help("send the job to another validator with --validator");
    }
    if kind.contains("Collateral") {
        return meaning(format!(
            "No miner of the class {class} has put down the collateral that the validator demands."
        ))
        .help("send the job to another validator with --validator");
    }
    if kind.contains("Busy") {
        return Meaning::new(
            code,
            Blame::Miner,
            Ending::Rejected,
            format!("All executors of the class {class} that the validator knows are taken."),
        )
        .retry(job)
        .help("ask for another class with --class");
    }
    meaning(format!(
        "The validator found no miner for the class {class}{}.",
        after_colon(&details.message)
    ))
    .help("check that the class is offered at all, and name another with --class")
    .help("send the job to another validator with --validator")
}

/// Explains a job that failed by itself.
pub fn failure(details: &JobFailure, job: &JobView) -> Meaning {
    let words = after_colon(&details.message);
    match details.reason {
        FailureReason::Timeout => timeout(details, job),
        FailureReason::NonzeroReturnCode => exit(details, job),
        FailureReason::DownloadFailed => Meaning::new(
            "failed.download_failed",
            Blame::User,
            Ending::Failed,
            format!("The input of the job could not be fetched{words}."),
        )
        .help(
            "check that every URL of a volume can be fetched by anybody who has it, and that it has not expired; \
             `horde job show` lists the volumes",
        ),
        FailureReason::UploadFailed => Meaning::new(
            "failed.upload_failed",
            Blame::User,
            Ending::Failed,
            format!(
                "The job ran, but its output could not be delivered{}.",
                after_colon(fact(details.context.as_ref(), "error").unwrap_or(&details.message))
            ),
        )
        .help("check the URLs of the output: a presigned one expires, and allows one method only"),
        FailureReason::Unknown => Meaning::new(
            format!("failed.unknown.{}", details.stage),
            Blame::Job,
            Ending::Failed,
            format!(
                "The job failed in the stage {} for a reason that this program does not know{words}.",
                details.stage
            ),
        )
        .retry(job),
    }
}

/// Explains a stage that outlived its limit.
fn timeout(details: &JobFailure, job: &JobView) -> Meaning {
    let code = format!("failed.timeout.{}", details.stage);
    let meaning = |blame, sentence: String| Meaning::new(code.clone(), blame, Ending::Timeout, sentence);
    match details.stage {
        JobStage::Execution => {
            let limit = job.execution_time_limit;
            meaning(
                Blame::Job,
                format!(
                    "The container still ran when its {limit} s, and what earlier stages had left, were over."
                ),
            )
            .raise(job, "--execution-limit", limit)
        }
        JobStage::VolumeDownload => {
            let limit = job.download_time_limit;
            meaning(
                Blame::Job,
                format!("The input was not fetched within {limit} s and the leeway."),
            )
            .raise(job, "--download-limit", limit)
            .help("give less input, or from a faster place")
        }
        JobStage::ResultUpload => {
            let limit = job.upload_time_limit;
            meaning(
                Blame::Job,
                format!("The output was not delivered within {limit} s and what earlier stages had left."),
            )
            .raise(job, "--upload-limit", limit)
            .help("deliver less, or to a faster place")
        }
        JobStage::StreamingStartup => meaning(
            Blame::Job,
            format!(
                "The streaming job did not become reachable within {} s.",
                job.streaming_start_time_limit
            ),
        )
        .help("answer GET /health with 200 earlier, or give the job a longer streaming start limit"),
        JobStage::ExecutorStartup => meaning(
            Blame::Miner,
            format!(
                "The executor did not get ready for the job in time{}.",
                after_colon(&details.message)
            ),
        )
        .retry(job),
        // The reference's executor tells a streaming job that never got healthy without its stage.
        JobStage::Unknown => meaning(
            Blame::Job,
            format!(
                "A stage of the job outlived its limit{}.",
                after_colon(&details.message)
            ),
        )
        .raise(job, "--execution-limit", job.execution_time_limit),
    }
}

/// Explains a container that ended with an error.
fn exit(details: &JobFailure, job: &JobView) -> Meaning {
    let status = details.docker_process_exit_status;
    let meaning = |sentence: String| {
        Meaning::new(
            "failed.nonzero_return_code",
            Blame::Job,
            Ending::Exit(status),
            sentence,
        )
    };
    let Some(code) = status else {
        return meaning("The container ended with an exit code that nobody told.".to_owned()).retry(job);
    };
    // Executors of horde say after the code what the job ran short of, if that is certain.
    let certain = details
        .message
        .split_once(&format!("{code}: "))
        .map(|(_, words)| words.trim());
    if let Some(words) = certain.filter(|words| !words.is_empty()) {
        return meaning(format!(
            "The container ended with exit code {code}: {}.",
            quoted(words)
        ))
        .help("change the program so that it needs less, or ask for a class with more");
    }
    let hint = fact(details.context.as_ref(), "explanation");
    let meaning = match code {
        126 => meaning(
            "The container ended with exit code 126: its command was found, but cannot be executed."
                .to_owned(),
        )
        .help("check the arguments, and that the file is executable and made for the executor's processor"),
        127 => meaning(
            "The container ended with exit code 127: its command was not found in the image.".to_owned(),
        )
        .help("check the arguments and the image"),
        137 => meaning("The container was killed (exit code 137); most often for want of memory.".to_owned())
            .help("use less memory, or ask for a class with more"),
        139 => {
            meaning("The program in the container crashed (exit code 139, invalid memory access).".to_owned())
                .help("read its standard error: horde job logs")
        }
        143 => meaning("The container was asked to end (exit code 143).".to_owned()).retry(job),
        code => meaning(format!(
            "The program in the container ended with exit code {code}."
        ))
        .help(format!("read what it said: horde job logs {}", job.uuid)),
    };
    match hint {
        Some(hint) => meaning.help(format!("perhaps: {}", quoted(hint))),
        None => meaning,
    }
}

/// Explains a job that its user has cancelled.
pub fn cancelled(job: &JobView) -> Meaning {
    Meaning::new(
        "cancelled",
        Blame::User,
        Ending::Cancelled,
        "The job was cancelled by its user.",
    )
    .retry(job)
}

/// Explains a job that completed.
pub fn completed(job: &JobView) -> Meaning {
    let meaning = Meaning::new(
        "completed",
        Blame::Nobody,
        Ending::Completed,
        "The job completed: its container ended with 0 and its output was delivered.",
    );
    if job.artifacts.is_empty() {
        return meaning;
    }
    meaning.help(format!("fetch its artifacts: horde job download {}", job.uuid))
}

/// Explains an end without details.
pub fn without_details(status: JobStatus, job: &JobView) -> Meaning {
    let (blame, ending) = match status {
        JobStatus::Rejected => (Blame::Validator, Ending::Rejected),
        JobStatus::HordeFailed => (Blame::Validator, Ending::Horde),
        _ => (Blame::Job, Ending::Failed),
    };
    Meaning::new(
        format!("{status}.without_details"),
        blame,
        ending,
        format!("The job ended as {status}, and the validator gave no reason."),
    )
    .retry(job)
}
