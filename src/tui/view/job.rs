//! One job: its timeline over all roles here, how long each stage took, its receipts, its cost and its output.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::cells::{self, or_nothing};
use super::jobs::{All, Merged};
use super::{Ask, Cell, Chart, Line, LoadError, Page, Row, Tone, View};
use crate::core::model::JobId;
use crate::core::model::receipt::ReceiptPayload;
use crate::core::store::facilitator::Job;
use crate::core::store::miner::ledger::JobDetails;
use crate::core::store::receipts::KeptReceipt;
use crate::core::store::times::micros;
use crate::core::store::validator::look::ValidatorJob;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "job",
    key: None,
    title: "job",
    about: "Show one job: its timeline over all roles here, stages, receipts, cost and output",
    opens: None,
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str = "no job is chosen: open one from the jobs, or type its id, as in `:job 3f2a`";

/// Jobs that a beginning may mean, at most.
const CANDIDATES_MAX: u32 = 3;

/// Lines and characters of a stream that are shown, from its end.
const STREAM_LINES: usize = 200;
const STREAM_CHARS: usize = 64 * 1024;

/// Refusals of one job that are shown.
const REFUSALS_MAX: u32 = 20;

/// What happened to the job, by one role.
struct Mark {
    at: OffsetDateTime,
    by: String,
    step: String,
    words: String,
    tone: Tone,
}

/// All that is known of the job.
#[derive(Default)]
pub(in crate::tui) struct Story {
    facts: Vec<(&'static str, Cell)>,
    marks: Vec<Mark>,
    /// Name and end of each stream.
    streams: Vec<(&'static str, String)>,
    receipts: Vec<KeptReceipt>,
}

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let Some(key) = ask.key.as_deref().filter(|key| !key.is_empty()) else {
        return Ok(Page {
            empty: EMPTY,
            ..Page::default()
        });
    };
    let moment = source.moment(ask);
    let at_us = if ask.at.is_some() {
        micros(moment)
    } else {
        i64::MAX
    };
    let all = All::open(source)?;
    let job = find(&all, key)?;
    let merged = all.of(std::slice::from_ref(&job), at_us)?;
    let Some(merged) = merged.first() else {
        return Err(LoadError::NotFound(format!("job {key} at that time")));
    };
    let mut story = Story::default();
    story.head(merged, moment);
    for seen in &all.facilitators {
        if let Some(job) = seen.ask(|look| look.job(&job))? {
            story.facilitator(&seen.place.name, &job);
        }
    }
    for seen in &all.validators {
        if let Some(job) = seen.ask(|look| look.job(&job, at_us))? {
            story.validator(&seen.place.name, job);
        }
    }
    for seen in &all.miners {
        let name = &seen.place.name;
        if let Some(details) = seen.ask(|look| look.job(&job))? {
            story.miner(name, details);
            story.receipts(name, seen.ask(|look| look.receipts_of(&job))?);
        }
        for refusal in seen.ask(|look| look.refusals_of(&job, REFUSALS_MAX))? {
            story.mark(refusal.at, name, &refusal.what, refusal.words, Tone::Warning);
        }
    }
    Ok(story.page(at_us))
}

/// Returns the job that a person means: by its id, or by a beginning that only one has.
fn find(all: &All, key: &str) -> Result<JobId, LoadError> {
    let job = JobId::new(key);
    if !all.of(std::slice::from_ref(&job), i64::MAX)?.is_empty() {
        return Ok(job);
    }
    let mut named = std::collections::BTreeSet::new();
    for seen in &all.facilitators {
        named.extend(seen.ask(|look| look.named(key, CANDIDATES_MAX))?);
    }
    for seen in &all.validators {
        named.extend(seen.ask(|look| look.named(key, CANDIDATES_MAX))?);
    }
    for seen in &all.miners {
        named.extend(seen.ask(|look| look.named(key, CANDIDATES_MAX))?);
    }
    let mut found = named.into_iter();
    match (found.next(), found.next()) {
        (Some(job), None) => Ok(job),
        (Some(one), Some(other)) => Err(LoadError::NotFound(format!(
            "one job that begins with {key}: there are {one} and {other}, perhaps more"
        ))),
        (None, _) => Err(LoadError::NotFound(format!("job {key} here"))),
    }
}

impl Story {
    pub(in crate::tui) fn fact(&mut self, name: &'static str, cell: Cell) {
        self.facts.push((name, cell));
    }

    pub(in crate::tui) fn mark(
        &mut self,
        at: OffsetDateTime,
        by: &str,
        step: &str,
        words: String,
        tone: Tone,
    ) {
        self.marks.push(Mark {
            at,
            by: by.to_owned(),
            step: step.to_owned(),
            words,
            tone,
        });
    }

    pub(in crate::tui) fn head(&mut self, merged: &Merged, now: OffsetDateTime) {
        self.fact("state", merged.state());
        if let Some(reason) = merged.reason() {
            self.fact("reason", Cell::text(reason).tone(Tone::Bad));
        }
        if let Some(code) = merged.exit() {
            self.fact("exit code", Cell::integer(code));
        }
        self.fact("age", cells::age(merged.came(), now));
        self.fact("took", merged.took(now));
        if let Some(first) = merged.first() {
            self.fact("class", Cell::text(first.class.clone()));
        }
        for (name, who) in [
            ("owner", merged.owner().map(ToString::to_string)),
            ("validator", merged.validator().map(ToString::to_string)),
            ("miner", merged.miner()),
        ] {
            if let Some(who) = who {
                self.fact(name, cells::identity(&who));
            }
        }
        if let Some(score) = merged.score() {
            self.fact("score", cells::score(score));
        }
    }

    fn facilitator(&mut self, by: &str, job: &Job) {
        self.fact("image", Cell::text(job.spec.docker_image.clone()));
        if !job.spec.tag.is_empty() {
            self.fact("tag", Cell::text(job.spec.tag.clone()));
        }
        if let Some(cost) = &job.cost {
            let words = format!(
                "{} charged for {} s, {} was reserved",
                cost.charged, cost.seconds, cost.reserved
            );
            self.fact("cost", Cell::text(words));
        }
        if let Some(cancel) = &job.cancel {
            let words = cancel
                .refused
                .clone()
                .map_or_else(String::new, |why| format!("refused: {why}"));
            self.mark(cancel.asked_at, by, "cancel_asked", words, Tone::Warning);
        }
        if let Some(pushed) = job.wait.as_ref().and_then(|wait| wait.pushed_at) {
            self.mark(
                pushed,
                by,
                "pushed",
                "handed to the validator".to_owned(),
                Tone::Plain,
            );
        }
        for step in &job.history {
            let told = [
                "job_failure_details",
                "horde_failure_details",
                "job_rejection_details",
            ]
            .iter()
            .find_map(|key| step.metadata.get(*key));
            let word = |key: &str| told.and_then(|told| told.get(key)).and_then(|word| word.as_str());
            let words = [word("reason"), word("message")].into_iter().flatten();
            let words = words.collect::<Vec<_>>().join(": ");
            let tone = match step.status.as_str() {
                "completed" => Tone::Good,
                "failed" | "horde_failed" => Tone::Bad,
                "rejected" => Tone::Warning,
                _ => Tone::Plain,
            };
            self.mark(step.created_at, by, step.status.as_str(), words, tone);
        }
        if let Some(last) = job.history.last() {
            for (name, key) in [
                ("stdout", "docker_process_stdout"),
                ("stderr", "docker_process_stderr"),
            ] {
                let text = ["miner_response", "job_failure_details"]
                    .iter()
                    .find_map(|details| last.metadata.get(*details)?.get(key)?.as_str());
                self.stream(name, text.unwrap_or_default());
            }
        }
    }

    fn validator(&mut self, by: &str, job: ValidatorJob) {
        let glance = &job.glance;
        self.mark(glance.came, by, "received", String::new(), Tone::Plain);
        if let Some(at) = job.assigned {
            let to = glance
                .miner
                .as_ref()
                .map(|miner| cells::shortened(miner.as_str()));
            let words = [to, job.address]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" at ");
            self.mark(at, by, "assigned", words, Tone::Plain);
        }
        if let Some(at) = job.cancelled {
            self.mark(at, by, "cancelled", "as its user wants".to_owned(), Tone::Warning);
        }
        if let Some((at, reason)) = job.incident {
            self.mark(at, by, "incident", reason, Tone::Bad);
        }
        if let Some(at) = glance.ended {
            self.mark(at, by, &glance.state, String::new(), cells::tone(glance.standing));
        }
        self.receipts(by, job.receipts);
    }

    fn miner(&mut self, by: &str, details: JobDetails) {
        let row = &details.row;
        let slot = row
            .slot
            .map_or_else(|| "slot given back".to_owned(), |slot| format!("slot {slot}"));
        let executor = [Some(slot), details.executor_process, details.executor_address];
        let executor = executor.into_iter().flatten().collect::<Vec<_>>().join(", ");
        self.fact("executor", Cell::text(executor));
        if let Some(words) = row.error_detail.as_deref().filter(|words| !words.is_empty()) {
            self.fact("words", Cell::text(words));
        }
        if let Some(stage) = details.stage {
            self.fact("stage", Cell::text(stage));
        }
        let delivery = match (row.reported_at, row.has_outcome) {
            (Some(_), _) => Some(Cell::text("handed to the validator").tone(Tone::Good)),
            (None, true) => {
                Some(Cell::text("owed: the validator gets it when it connects").tone(Tone::Warning))
            }
            (None, false) => None,
        };
        if let Some(delivery) = delivery {
            self.fact("outcome", delivery);
        }
        for (step, at) in details.steps {
            let tone = match step.as_str() {
                "finished" => Tone::Good,
                "failed" => Tone::Bad,
                "declined" => Tone::Warning,
                _ => Tone::Plain,
            };
            self.mark(at, by, step.as_str(), String::new(), tone);
        }
        self.stream("stdout", &details.stdout);
        self.stream("stderr", &details.stderr);
    }

    fn receipts(&mut self, by: &str, receipts: Vec<KeptReceipt>) {
        for receipt in receipts {
            let at = receipt.payload.timestamp().moment();
            let known = |kept: &KeptReceipt| kept.payload == receipt.payload;
            if !self.receipts.iter().any(known) {
                let (step, words) = match &receipt.payload {
                    ReceiptPayload::Started(started) => {
                        ("receipt_started", format!("valid for {} s", started.ttl))
                    }
                    ReceiptPayload::Accepted(accepted) => {
                        ("receipt_accepted", format!("valid for {} s", accepted.ttl))
                    }
                    ReceiptPayload::Finished(finished) => {
                        ("receipt_finished", format!("score {}", finished.score_str))
                    }
                };
                let signed = if receipt.miner_signature.is_some() {
                    "signed by both"
                } else {
                    "signed by the validator"
                };
                self.mark(at, by, step, format!("{words}, {signed}"), Tone::Plain);
                self.receipts.push(receipt);
            }
        }
    }

    /// Keeps the end of a stream, unless an earlier role told it.
    pub(in crate::tui) fn stream(&mut self, name: &'static str, text: &str) {
        if text.is_empty() || self.streams.iter().any(|(known, _)| *known == name) {
            return;
        }
        let start = text
            .char_indices()
            .rev()
            .nth(STREAM_CHARS - 1)
            .map_or(0, |(at, _)| at);
        let end = text.get(start..).unwrap_or_default().to_owned();
        self.streams.push((name, end));
    }

    pub(in crate::tui) fn page(mut self, at_us: i64) -> Page {
        self.marks.retain(|mark| micros(mark.at) <= at_us);
        self.marks.sort_by_key(|mark| mark.at);
        let charts = stages(&self.marks);
        let text = if at_us == i64::MAX {
            lines(&self.streams)
        } else {
            Vec::new()
        };
        let start = self.marks.first().map(|mark| mark.at);
        let mut before = start;
        let rows = self.marks.iter().enumerate().map(|(number, mark)| {
            let since = start.map(|start| mark.at - start);
            let step = before.map(|before| mark.at - before);
            before = Some(mark.at);
            Row {
                key: format!("{} {}#{number}", mark.by, mark.step).into(),
                cells: vec![
                    or_nothing(since, cells::span),
                    or_nothing(step, cells::span),
                    Cell::text(mark.by.clone()),
                    Cell::text(mark.step.clone()).tone(mark.tone),
                    cells::words(&mark.words),
                    cells::clock(mark.at),
                ],
            }
        });
        Page {
            rows: rows.collect(),
            facts: self.facts,
            charts,
            columns: cells::columns(&[
                ("since", true, 0),
                ("step", true, 1),
                ("role", false, 1),
                ("event", false, 0),
                ("words", false, 2),
                ("time", false, 3),
            ]),
            text,
            empty: EMPTY,
            ..Page::default()
        }
    }
}

/// The stages of a job: a name, the events at one of which it begins, and those at one of which it ends.
const STAGES: [(&str, &[&str], &[&str]); 5] = [
    ("to the miner", &["sent", "received", "offered"], &["accepted"]),
    ("executor", &["accepted"], &["executor_ready", "ready"]),
    (
        "input",
        &["executor_ready", "order_received", "ready"],
        &["volumes_ready"],
    ),
    ("execution", &["volumes_ready"], &["execution_done"]),
    ("output", &["execution_done"], &["completed", "finished"]),
];

/// Returns how long each stage took, in seconds.
fn stages(marks: &[Mark]) -> Vec<Chart> {
    let mut first: HashMap<&str, OffsetDateTime> = HashMap::new();
    for mark in marks {
        first.entry(mark.step.as_str()).or_insert(mark.at);
    }
    let earliest = |steps: &[&str]| steps.iter().filter_map(|step| first.get(step)).min().copied();
    let bars: Vec<(String, f64)> = STAGES
        .iter()
        .filter_map(|(name, begins, ends)| {
            let took = earliest(ends)? - earliest(begins)?;
            (!took.is_negative()).then(|| ((*name).to_owned(), took.as_seconds_f64()))
        })
        .collect();
    if bars.is_empty() {
        return Vec::new();
    }
    vec![Chart {
        title: "seconds by stage",
        bars,
    }]
}

/// Returns the last lines of the streams.
fn lines(streams: &[(&'static str, String)]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, text) in streams {
        let all: Vec<&str> = text.lines().collect();
        let shown = all
            .get(all.len().saturating_sub(STREAM_LINES)..)
            .unwrap_or_default();
        lines.push(Line {
            at: None,
            text: if shown.len() < all.len() {
                format!("{name}, the last {} lines:", shown.len())
            } else {
                format!("{name}:")
            },
            tone: Tone::Faint,
        });
        let tone = if *name == "stderr" {
            Tone::Warning
        } else {
            Tone::Plain
        };
        lines.extend(shown.iter().map(|line| Line {
            at: None,
            text: (*line).to_owned(),
            tone,
        }));
    }
    lines
}
