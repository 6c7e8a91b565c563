//! What the reasons for which the horde failed a job mean; some come under a general one, and what is said beside it
//! decides.

use super::image::{self, Trouble};
use super::reasons::{Blame, Ending, Meaning, after_colon, blame_of, fact, quoted};
use crate::core::model::job::HordeReason;
use crate::core::proto::facilitator_validator::HordeFailure;
use crate::core::proto::sdk_facilitator::JobView;

/// Explains a job that the horde failed.
pub(super) fn horde(details: &HordeFailure, job: &JobView) -> Meaning {
    let by = details.reported_by;
    let code = format!("horde_failed.{}", details.reason);
    let words = after_colon(&details.message);
    let meaning = |blame, sentence: String| Meaning::new(code.clone(), blame, Ending::Horde, sentence);
    let silent = |what: &str, limit: String| {
        meaning(
            Blame::Miner,
            format!("The miner did not tell {what} in time ({limit}), and the validator gave up."),
        )
        .retry(job)
    };
    match details.reason {
        HordeReason::GenericError | HordeReason::UnhandledException => known_trouble(details, job, &code)
            .unwrap_or_else(|| {
                meaning(
                    blame_of(by),
                    format!("The {by} could not go on with the job{words}."),
                )
                .retry(job)
            }),
        HordeReason::Unknown => meaning(
            blame_of(by),
            format!("The {by} failed the job for a reason that this program does not know{words}."),
        )
        .retry(job),
        HordeReason::UnhandledTimeout => {
            meaning(blame_of(by), format!("A limit of the {by}'s own ran out{words}.")).retry(job)
        }
        HordeReason::StreamingFailed => meaning(
            Blame::Miner,
            format!("The executor could not open the way into the streaming job{words}."),
        )
        .retry(job),
        HordeReason::MinerConnectionFailed => meaning(
            Blame::Miner,
            format!("The validator could not connect to the miner that it had chosen{words}."),
        )
        .retry(job),
        HordeReason::InitialResponseTimedOut => meaning(
            Blame::Miner,
            "The miner neither took nor declined the job in time.".to_owned(),
        )
        .retry(job),
        HordeReason::ExecutorReadinessResponseTimedOut => meaning(
            Blame::Miner,
            format!(
                "The miner's executor of the class {} was not ready in time.",
                job.executor_class
            ),
        )
        .retry(job),
        HordeReason::VolumesTimedOut => silent(
            "that the input is in place",
            format!("{} s to download", job.download_time_limit),
        )
        .raise(job, "--download-limit", job.download_time_limit),
        HordeReason::StreamingJobReadyTimedOut => silent(
            "that the streaming job can be reached",
            format!("{} s to start streaming", job.streaming_start_time_limit),
        ),
        HordeReason::ExecutionTimedOut => silent(
            "that the container has ended",
            format!("{} s to run", job.execution_time_limit),
        )
        .raise(job, "--execution-limit", job.execution_time_limit),
        HordeReason::FinalResponseTimedOut => silent(
            "the results",
            format!("{} s to upload", job.upload_time_limit),
        )
        .raise(job, "--upload-limit", job.upload_time_limit),
        HordeReason::ExecutorSpinupFailed => meaning(
            Blame::Miner,
            format!("The miner could not start an executor{words}."),
        )
        .retry(job),
        HordeReason::ExecutorDisconnected => meaning(
            Blame::Miner,
            format!("The miner lost its executor while the job ran{words}."),
        )
        .retry(job),
        HordeReason::SecurityCheckFailed => meaning(
            Blame::Miner,
            format!("The executor's machine is not safe to run jobs on{words}."),
        )
        .retry(job),
    }
}

/// Explains failures that come under a general reason, by what is said beside it: a pull, a start, an input.
fn known_trouble(details: &HordeFailure, job: &JobView, code: &str) -> Option<Meaning> {
    let context = details.context.as_ref();
    let image = quoted(&job.docker_image);
    if details.message.contains("pull docker image") {
        let told = fact(context, "stderr").unwrap_or_default();
        return Some(pull(job, code, &image, told));
    }
    if details.message.contains("did not end within") {
        return Some(
            Meaning::new(
                code,
                Blame::Job,
                Ending::Horde,
                format!(
                    "The job took longer than the validator gives to any job{}.",
                    after_colon(&details.message)
                ),
            )
            .help("ask for less time, or send the job to a validator that gives more with --validator"),
        );
    }
    let kind = fact(context, "exception_type")?;
    let stage = fact(context, "stage").unwrap_or_default();
    let detail = fact(context, "detail");
    match (kind, stage) {
        ("DockerError", "execution") => start(job, code, &image, detail),
        ("BadZipFile", _) => Some(
            Meaning::new(
                code,
                Blame::User,
                Ending::Failed,
                "A volume of the job is no zip file.",
            )
            .help("check the volume: a URL whose PATH ends in / must lead to a zip"),
        ),
        ("HTTPStatusError", "volume_download") => Some(
            Meaning::new(
                code,
                Blame::User,
                Ending::Failed,
                format!(
                    "A URL of the input was refused by its server{}.",
                    after_colon(detail.unwrap_or_default())
                ),
            )
            .help(
                "check that every URL of a volume can be fetched by anybody who has it, and that it has not expired",
            ),
        ),
        _ => None,
    }
}

/// Explains an image that was not to be had.
fn pull(job: &JobView, code: &str, image: &str, told: &str) -> Meaning {
    let words = after_colon(told);
    match image::trouble(told) {
        Trouble::Missing => Meaning::new(
            code,
            Blame::User,
            Ending::NotRunnable,
            format!("The image {image} does not exist, or its registry does not show it to everybody{words}."),
        )
        .help("check the image's name and tag, and that it can be pulled without a login")
        .help(image::advice(image)),
        Trouble::Unnamed => Meaning::new(
            code,
            Blame::User,
            Ending::NotRunnable,
            format!("The executor could not pull the image {image} and was not told why; most often it does not exist."),
        )
        .help("check the image's name and tag, and that it can be pulled without a login")
        .help(image::advice(image)),
        Trouble::Name => Meaning::new(
            code,
            Blame::User,
            Ending::NotRunnable,
            format!("{image:?} is no name of an image{words}."),
        )
        .help("name the image as in registry.example/name:tag or name@sha256:…"),
        Trouble::RateLimit => Meaning::new(
            code,
            Blame::Miner,
            Ending::Horde,
            format!("The registry lets the executor pull no more for now, so it could not get the image {image}{words}."),
        )
        .retry(job)
        .help("keep the image in a registry without such a limit"),
        Trouble::Disk => Meaning::new(
            code,
            Blame::Miner,
            Ending::Horde,
            format!("The executor's disk has no room for the image {image}{words}."),
        )
        .retry(job),
        Trouble::Network => Meaning::new(
            code,
            Blame::Miner,
            Ending::Horde,
            format!("The executor could not reach the registry of the image {image}{words}."),
        )
        .retry(job)
        .help("check the registry's name, if the image names one"),
        Trouble::Other => Meaning::new(
            code,
            Blame::Miner,
            Ending::Horde,
            format!("The executor could not pull the image {image}{words}."),
        )
        .retry(job),
    }
}

/// Explains a container that did not start.
///
/// The reference tells no more than that the engine refused; what its executors refuse at this point is a command that
/// is not in the image, or an image that is gone (reference-baseline, `executor-bad-cmd`, `executor-missing-image-late`).
fn start(job: &JobView, code: &str, image: &str, detail: Option<&str>) -> Option<Meaning> {
    let command = job.args.first().map(|arg| quoted(arg));
    let check = "check the command (after --) and the image's entry point";
    let Some(detail) = detail else {
        return Some(
            Meaning::new(
                code,
                Blame::Job,
                Ending::NotRunnable,
                format!(
                    "The container of the image {image} could not be started, and the executor does not say why; most \
                     often its command is not in the image."
                ),
            )
            .help(check),
        );
    };
    if image::is_command_missing(detail) {
        let what = command.map_or_else(
            || "its command".to_owned(),
            |command| format!("the command {command:?}"),
        );
        return Some(
            Meaning::new(
                code,
                Blame::Job,
                Ending::NotRunnable,
                format!(
                    "The container could not be started: {what} is not in the image {image}, or cannot be executed."
                ),
            )
            .help(check),
        );
    }
    if matches!(image::trouble(detail), Trouble::Missing) {
        return Some(
            Meaning::new(
                code,
                Blame::Miner,
                Ending::NotRunnable,
                format!(
                    "The image {image} was gone when the container was to start{}.",
                    after_colon(detail)
                ),
            )
            .retry(job),
        );
    }
    None
}
