//! `horde job retry`: the same job again, with a new signature and a new identity.

use clap::Args;
use time::{Date, Month, OffsetDateTime, Time};

use super::follow::{InterruptArgs, Plan, follow};
use super::submit::{key_problem, submit_error};
use super::{UserArgs, find, plan, recent};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::cmd::table::{printable, stamp};
use crate::core::model::upload::SingleFileUpload;
use crate::core::model::volume::SimpleVolume;
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::proto::sdk_facilitator::{JobView, StreamingClient, Submit};

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job retry 3f2a
  horde job retry 3f2a --execution-limit 600
  horde job retry 3f2a --trusted --detach
  horde job retry 3f2a --dry-run --json | jq .plan";

/// `horde job retry …`
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct RetryArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Send it to this validator instead (SS58)
    #[arg(long, value_name = "HOTKEY")]
    validator: Option<String>,
    /// Run on an executor of this class instead
    #[arg(long, value_name = "CLASS")]
    class: Option<ExecutorClass>,
    /// Run on the validator's trusted miner, to compare the results
    #[arg(long)]
    trusted: bool,
    /// Seconds for the input instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    download_limit: Option<u32>,
    /// Seconds for the container instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    execution_limit: Option<u32>,
    /// Seconds for the output instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    upload_limit: Option<u32>,
    /// Submit it although one of its presigned URLs has expired
    #[arg(long)]
    force: bool,
    /// Submit once, however often this is run with the same key within 7 days [default: a new key each time]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Show what would be submitted and what it may cost, submit nothing, and end with 11
    #[arg(long)]
    dry_run: bool,
    /// Print the new job's identity and leave it alone
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    interrupt: InterruptArgs,
    /// The job; the beginning of its identity is enough
    id: String,
}

impl RetryArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        if let Some(problem) = self.idempotency_key.as_deref().and_then(key_problem) {
            return Err(CmdError::new(ExitCode::Usage, problem));
        }
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        let submit = self.request(&job);
        let now = context.clock.now();
        let mut expired = Vec::new();
        for (what, url) in urls(&submit) {
            match expiry(url) {
                Some(at) if at <= now => {
                    expired.push(format!(
                        "the URL of {} was valid until {}",
                        printable(&what),
                        stamp(at)
                    ));
                }
                None if is_presigned(url) => {
                    context.say(format_args!(
                        "note: the URL of {} is presigned and may have expired",
                        printable(&what)
                    ));
                }
                Some(_) | None => {}
            }
        }
        if !expired.is_empty() && !self.force {
            let refused = CmdError::new(ExitCode::Conflict, "the job cannot be repeated as it was");
            let refused = CmdError {
                causes: expired,
                ..refused
            };
            return Err(refused.hint(
                "submit it anew with fresh URLs (`horde job submit`), or pass --force to send it as it was",
            ));
        }
        for words in expired {
            context.say(format_args!("note: {words}"));
        }
        for words in lost(&job) {
            context.say(format_args!("note: {words}"));
        }
        let new_key = || uuid::Uuid::new_v4().to_string();
        let key = self.idempotency_key.clone().unwrap_or_else(new_key);
        if self.dry_run {
            let mut plan = plan::Plan::new(&client, &submit, key)?;
            plan.cost = plan::estimate(&client, &submit).await?;
            plan.print(context, &submit)?;
            return Err(CmdError::quiet(ExitCode::Pending));
        }
        let again = client
            .submit_once(&submit, &key)
            .await
            .map_err(|error| submit_error(&error, &key))?;
        recent::note(&context.environment, &again.uuid);
        if !self.detach {
            return follow(context, &client, again, Plan::to_the_end(self.interrupt)).await;
        }
        if context.wants_data() {
            return context.print_data(&again);
        }
        context.line(&again.uuid)
    }

    /// Returns the request of a job, with what is to be otherwise.
    fn request(&self, job: &JobView) -> Submit {
        let limit = |given: Option<u32>, before: i64| given.map_or(before, i64::from);
        let validator = self.validator.as_deref().map(Hotkey::new);
        let class = self.class.unwrap_or(job.executor_class);
        Submit {
            target_validator_hotkey: validator.unwrap_or_else(|| job.target_validator_hotkey.clone()),
            executor_class: class,
            docker_image: job.docker_image.clone(),
            job_namespace: job.job_namespace.clone(),
            args: job.args.clone(),
            env: job.env.clone(),
            use_gpu: job.use_gpu,
            artifacts_dir: Some(job.artifacts_dir.clone()).filter(|path| !path.is_empty()),
            on_trusted_miner: job.on_trusted_miner || self.trusted,
            download_time_limit: limit(self.download_limit, job.download_time_limit),
            execution_time_limit: limit(self.execution_limit, job.execution_time_limit),
            streaming_start_time_limit: job.streaming_start_time_limit,
            upload_time_limit: limit(self.upload_limit, job.upload_time_limit),
            streaming_details: Some(job.streaming_client_cert.clone())
                .filter(|pem| !pem.is_empty())
                .map(|public_key| StreamingClient { public_key }),
            volumes: job.volumes.clone(),
            uploads: job.uploads.clone(),
            tag: Some(job.tag.clone()).filter(|tag| !tag.is_empty()),
        }
    }
}

/// Says what of a job is not in its view, or not in the hands of whoever repeats it.
fn lost(job: &JobView) -> Vec<&'static str> {
    let mut words = Vec::new();
    if !job.streaming_client_cert.is_empty() {
        words.push("only who has the key of the job's certificate can connect to it: this command does not");
    }
    let is_private =
        |volume: &SimpleVolume| matches!(volume, SimpleVolume::Huggingface(repo) if repo.token.is_none());
    if job.volumes.iter().any(is_private) {
        words.push(
            "if the repository of a volume needs a token, it is missing: facilitators do not give it back",
        );
    }
    words
}

/// Returns the URLs of a request, each with the path that it is for.
fn urls(submit: &Submit) -> Vec<(String, &str)> {
    let volumes = submit.volumes.iter().filter_map(|volume| match volume {
        SimpleVolume::ZipUrl(zip) => {
            let path = zip.relative_path.as_deref().unwrap_or_default();
            Some((format!("/volume/{path}"), zip.contents.as_str()))
        }
        SimpleVolume::SingleFile(file) => {
            Some((format!("/volume/{}", file.relative_path), file.url.as_str()))
        }
        SimpleVolume::Inline(_) | SimpleVolume::Huggingface(_) => None,
    });
    let uploads = submit.uploads.iter().map(|upload| {
        let url = match upload {
            SingleFileUpload::Post(post) => &post.url,
            SingleFileUpload::Put(put) => &put.url,
        };
        (format!("/output/{}", upload.relative_path()), url.as_str())
    });
    volumes.chain(uploads).collect()
}

/// Returns the value of a name in a URL's query; names are compared without case.
fn query<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value)
}

/// Tells whether a URL carries a signature, so that it is valid for a while only.
fn is_presigned(url: &str) -> bool {
    ["X-Amz-Signature", "X-Goog-Signature", "Signature", "sig"]
        .iter()
        .any(|name| query(url, name).is_some())
}

/// Returns until when a presigned URL is valid, if it says so as S3 or Google Cloud Storage write it.
fn expiry(url: &str) -> Option<OffsetDateTime> {
    for vendor in ["X-Amz", "X-Goog"] {
        let date = query(url, &format!("{vendor}-Date")).and_then(compact_date);
        let seconds = query(url, &format!("{vendor}-Expires")).and_then(|text| text.parse::<u32>().ok());
        if let (Some(date), Some(seconds)) = (date, seconds) {
            return date.checked_add(time::Duration::seconds(seconds.into()));
        }
    }
    // The older form of S3: seconds since 1970, beside a signature.
    query(url, "Signature")?;
    OffsetDateTime::from_unix_timestamp(query(url, "Expires")?.parse().ok()?).ok()
}

/// Reads a date as in `20261125T180000Z`.
fn compact_date(text: &str) -> Option<OffsetDateTime> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if digits.len() != 14 {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<u16>().ok();
    let small = |from: usize| number(from, from + 2).and_then(|number| u8::try_from(number).ok());
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, small(6)?).ok()?;
    let time = Time::from_hms(small(8)?, small(10)?, small(12)?).ok()?;
    Some(date.with_time(time).assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_presigned_url_is_read() {
        let at = |url: &str| expiry(url).map(OffsetDateTime::unix_timestamp);
        let noon = 1_795_608_000;
        assert_eq!(
            at("https://b.example/k?X-Amz-Date=20261125T120000Z&X-Amz-Expires=60&X-Amz-Signature=0"),
            Some(noon + 60)
        );
        assert_eq!(
            at("https://b.example/k?x-goog-date=20261125T120000Z&x-goog-expires=1"),
            Some(noon + 1)
        );
        assert_eq!(at("https://b.example/k?Signature=a&Expires=7"), Some(7));
        for url in [
            "https://b.example/k?Expires=7",
            "https://b.example/k",
            "https://b.example/k?X-Amz-Date=2026&X-Amz-Expires=60",
            "https://b.example/k?X-Amz-Date=20269925T120000Z&X-Amz-Expires=60",
        ] {
            assert_eq!(at(url), None, "{url}");
        }
        assert!(is_presigned("https://b.example/k?se=x&sig=y") && !is_presigned("https://b.example/k?a=b"));
    }
}
