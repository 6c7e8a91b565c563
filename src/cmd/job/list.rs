//! `horde job list`.

use clap::Args;
use time::OffsetDateTime;

use super::{UserArgs, client_error, end};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::{NOTHING, Table, moment, or_nothing, printable, to_the_second};
use crate::core::client::explain::status_word;
use crate::core::model::ExecutorClass;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job list
  horde job list --status failed,horde_failed --since 1d
  horde job list --all --json | jq -r '.[].uuid'
  horde job list --status open --quiet | xargs horde job cancel";

/// `horde job list …`
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    user: UserArgs,
    /// List only jobs that stand so: open, ended, cancelled, or a status as the list has it
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = Standing::parse)]
    status: Vec<Standing>,
    /// List only those of an executor class
    #[arg(long, value_name = "CLASS")]
    class: Option<ExecutorClass>,
    /// List only those with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// List only those of this family
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// List only those since so long ago (90s, 30m, 2h, 1d) or since a time (2026-11-25T18:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// List only those until so long ago, or until a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// List so many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// List all, however many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print the identities only, one a line
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// What `--status` narrows to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Ended,
    Word(&'static str),
}

impl Standing {
    fn parse(word: &str) -> Result<Self, String> {
        let word = word.trim().to_ascii_lowercase();
        match word.as_str() {
            "open" => return Ok(Self::Open),
            "ended" => return Ok(Self::Ended),
            "cancelled" => return Ok(Self::Word("cancelled")),
            _ => {}
        }
        let known = JobStatus::ALL
            .iter()
            .filter(|status| **status != JobStatus::Unknown);
        let known: Vec<&'static str> = known.map(|status| status.as_str()).collect();
        let found = known.iter().copied().find(|known| *known == word);
        found
            .map(Self::Word)
            .ok_or_else(|| format!("there are open, ended, cancelled, {}", known.join(", ")))
    }

    fn holds(self, job: &JobView) -> bool {
        match self {
            Self::Open => !job.current().is_terminal(),
            Self::Ended => job.current().is_terminal(),
            Self::Word(word) => status_word(job) == word,
        }
    }
}

/// What is listed.
struct Filter {
    standings: Vec<Standing>,
    class: Option<ExecutorClass>,
    namespace: Option<String>,
    tag: Option<String>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

impl Filter {
    fn holds(&self, job: &JobView) -> bool {
        let at = job.created_at.moment();
        (self.standings.is_empty() || self.standings.iter().any(|standing| standing.holds(job)))
            && self.class.is_none_or(|class| job.executor_class == class)
            && self
                .namespace
                .as_ref()
                .is_none_or(|name| job.job_namespace.as_ref() == Some(name))
            && self.tag.as_ref().is_none_or(|tag| job.tag == *tag)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at <= until)
    }

    /// Tells whether the pages after this one can hold nothing: it goes from new to old, and ends before `since`.
    ///
    /// A facilitator of the reference promises no order, so the page must show it.
    fn is_past(&self, page: &[JobView]) -> bool {
        let is_sorted =
            page.is_sorted_by(|newer, older| newer.created_at.moment() >= older.created_at.moment());
        let oldest = page.last().map(|job| job.created_at.moment());
        page.len() > 1
            && is_sorted
            && self
                .since
                .zip(oldest)
                .is_some_and(|(since, oldest)| oldest < since)
    }
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let time = |text: &Option<String>| {
            text.as_deref()
                .map(|text| moment(context.clock.now(), text))
                .transpose()
        };
        let (since, until) = (time(&self.since)?, time(&self.until)?);
        let filter = Filter {
            standings: self.status,
            class: self.class,
            namespace: self.namespace,
            tag: self.tag,
            since,
            until,
        };
        let limit = if self.all {
            usize::MAX
        } else {
            usize::try_from(self.limit).unwrap_or(usize::MAX)
        };
        let client = self.user.client(context).await?;
        let mut pages = client.pages(filter.tag.as_deref());
        let mut jobs = Vec::new();
        while jobs.len() < limit {
            let page = pages.next().await;
            let Some(page) = page.map_err(|error| client_error("could not list the jobs", &error))? else {
                break;
            };
            let is_past = filter.is_past(&page);
            jobs.extend(page.into_iter().filter(|job| filter.holds(job)));
            if is_past {
                break;
            }
        }
        jobs.truncate(limit);
        if jobs.is_empty() {
            context.say("no such jobs; `horde job submit --help` tells how to submit one");
        }
        if context.wants_data() {
            return context.print_data(&jobs);
        }
        if self.quiet {
            return jobs
                .iter()
                .try_for_each(|job| context.line(printable(job.uuid.as_str())));
        }
        if jobs.is_empty() {
            return Ok(());
        }
        table(&jobs).print(context)
    }
}

fn table(jobs: &[JobView]) -> Table<7> {
    let mut table = Table::new(["JOB", "STATUS", "EXIT", "CLASS", "SUBMITTED", "TOOK", "IMAGE"]);
    for job in jobs {
        let ended = job.last().filter(|entry| entry.status.is_terminal());
        let took = ended.map(|entry| entry.created_at.moment() - job.created_at.moment());
        let code = end(job).map(|end| end.code.number().to_string());
        table.add([
            printable(job.uuid.as_str()),
            status_word(job).to_owned(),
            code.unwrap_or_else(|| NOTHING.to_owned()),
            job.executor_class.to_string(),
            to_the_second(job.created_at.moment()),
            took.map_or_else(
                || NOTHING.to_owned(),
                |took| format!("{:.1}s", took.as_seconds_f64()),
            ),
            or_nothing(Some(&job.docker_image)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::model::Timestamp;

    fn job(status: &str, created_at: &str) -> JobView {
        serde_json::from_value(json!({
            "uuid": "u", "executor_class": "always_on.test", "created_at": created_at, "docker_image": "i",
            "args": [], "env": {}, "stdout": "", "stderr": "", "tag": "t", "job_namespace": "n",
            "status_history": [{"status": status, "metadata": {}, "created_at": created_at}],
        }))
        .unwrap()
    }

    #[test]
    fn words_of_a_status_are_read_and_others_are_refused_with_those_that_there_are() {
        assert_eq!(Standing::parse("OPEN"), Ok(Standing::Open));
        assert_eq!(Standing::parse("failed"), Ok(Standing::Word("failed")));
        assert!(Standing::parse("nope").unwrap_err().contains("horde_failed"));
        assert!(Standing::parse("unknown").is_err());
        let open = job("received", "2026-11-25T18:00:00Z");
        assert!(Standing::Open.holds(&open) && !Standing::Ended.holds(&open));
    }

    #[test]
    fn a_list_ends_with_the_page_that_is_too_old_only_if_pages_go_from_new_to_old() {
        let filter = Filter {
            standings: Vec::new(),
            class: None,
            namespace: Some("n".to_owned()),
            tag: Some("t".to_owned()),
            since: Some(Timestamp::parse("2026-11-25T12:00:00Z").unwrap().moment()),
            until: None,
        };
        let (new, old) = (
            job("sent", "2026-11-25T18:00:00Z"),
            job("sent", "2026-11-25T06:00:00Z"),
        );
        assert!(filter.holds(&new) && !filter.holds(&old));
        assert!(filter.is_past(&[new.clone(), old.clone()]));
        assert!(!filter.is_past(&[old, new]));
    }
}
