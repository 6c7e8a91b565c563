//! `horde miner jobs show`: one job from all sides.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::catalogue;
use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{or_nothing, printable, stamp};
use super::jobs::{ShownJob, ShownRefusal, ShownStep, exit_code, timeline};
use super::open_beside;
use crate::core::model::JobId;
use crate::core::model::receipt::ReceiptPayload;
use crate::core::receipts::verify_kept;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::ledger::{JobDetails, RefusedFilter, RefusedRow};
use crate::core::store::receipts::KeptReceipt;

/// Lines of each stream that are shown.
const TAIL_LINES: usize = 20;

/// Characters of each stream that are shown, at most.
const TAIL_CHARS: usize = 4000;

/// Refusals of one job that are shown.
const REFUSALS: u32 = 20;

const TRIED: &str = "could not read the job";

/// `horde miner jobs show …`
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The job: its id, the beginning of it, or the number in the list
    id: String,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, _) = open_beside(context).await?;
        let job = find(&store, &self.id).await?;
        let details = store.job_details(&job).await.or_fail(ExitCode::Failed, TRIED)?;
        let receipts = store.receipts_of(&job).await.or_fail(ExitCode::Failed, TRIED)?;
        let filter = RefusedFilter {
            job: Some(job.to_string()),
            ..RefusedFilter::default()
        };
        let refusals = store
            .refusals(filter, REFUSALS)
            .await
            .or_fail(ExitCode::Failed, TRIED)?;
        if context.wants_data() {
            return context.print_data(&whole(details.as_ref(), &receipts, &refusals));
        }
        match &details {
            Some(details) => print_details(context, details)?,
            None => context.line(format_args!("{:<12}{}", "job", printable(job.as_str())))?,
        }
        print_receipts(context, &receipts)?;
        for (index, row) in refusals.iter().enumerate() {
            let name = if index == 0 { "rejections" } else { "" };
            let refused = &row.refused;
            context.line(format_args!(
                "{name:<12}{}  {} refused: {}: {}  {}",
                stamp(refused.at),
                refused.subject.as_str(),
                printable(&refused.reason),
                printable(&refused.words),
                printable(&refused.evidence.to_string()),
            ))?;
        }
        if let Some(details) = &details {
            for (name, stream) in [("stdout", &details.stdout), ("stderr", &details.stderr)] {
                print_tail(context, name, stream)?;
            }
        }
        Ok(())
    }
}

async fn find(store: &MinerStore, name: &str) -> Result<JobId, CmdError> {
    let jobs = store.jobs_named(name).await.or_fail(ExitCode::Failed, TRIED)?;
    match jobs.as_slice() {
        [job] => Ok(job.clone()),
        [] => Err(CmdError::new(catalogue::NO_JOB, format!("there is no job {name:?}"))
            .hint("`horde miner jobs` lists the accepted jobs, with --rejected the others; both are kept for days")),
        many => {
            let mut error = CmdError::new(catalogue::AMBIGUOUS, format!("{name:?} is the beginning of several jobs"));
            for job in many {
                error = error.hint(format!("horde miner jobs show {}", printable(job.as_str())));
            }
            Err(error)
        }
    }
}

/// Returns the last lines of a stream, and how many characters are left out before them.
fn tail(text: &str) -> (String, usize) {
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines
        .get(lines.len().saturating_sub(TAIL_LINES)..)
        .unwrap_or_default();
    let shown = shown.join("\n");
    let left_out = shown.chars().count().saturating_sub(TAIL_CHARS);
    let shown: String = shown.chars().skip(left_out).collect();
    let total = text.trim_end_matches('\n').chars().count();
    let left_out = total.saturating_sub(shown.chars().count());
    (shown, left_out)
}

/// Says how the outcome's delivery stands.
fn delivery(details: &JobDetails) -> String {
    match (details.row.reported_at, details.row.has_outcome) {
        (Some(at), _) => format!("handed to the validator at {}", stamp(at)),
        (None, true) => "owed: the validator gets it when it connects".to_owned(),
        (None, false) => "nothing to hand over yet".to_owned(),
    }
}

fn signatures(receipt: &KeptReceipt) -> String {
    match verify_kept(receipt) {
        Ok(()) => "both signatures are valid".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// All that is known of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Whole<'a> {
    /// The job; null if it was not accepted.
    job: Option<ShownJob<'a>>,
    /// Its steps; null if it was not accepted.
    timeline: Option<Vec<ShownStep>>,
    /// What its executor reported; null while it has not.
    outcome: Option<&'a str>,
    /// The stage in which it failed; null if it did not.
    stage: Option<&'a str>,
    /// How the delivery of its outcome stands.
    delivery: Option<String>,
    /// Its executor.
    executor: Option<ShownExecutor<'a>>,
    /// Its receipts.
    receipts: Vec<ShownReceipt<'a>>,
    /// What was refused of it.
    rejections: Vec<ShownRefusal<'a>>,
    /// The end of its standard output.
    stdout: Option<Tail>,
    /// The end of its standard error.
    stderr: Option<Tail>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownExecutor<'a> {
    /// The process or container.
    process: Option<&'a str>,
    /// Where it came from.
    address: Option<&'a str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownReceipt<'a> {
    /// Its type.
    receipt_type: &'static str,
    /// What is signed.
    payload: &'a ReceiptPayload,
    /// Whether this miner has signed it too.
    countersigned: bool,
    /// What the signatures are worth, in words.
    signatures: String,
    /// Whether both are valid.
    is_valid: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Tail {
    /// The last lines.
    tail: String,
    /// How many characters stand before them.
    left_out_characters: usize,
}

impl Tail {
    fn of(text: &str) -> Self {
        let (tail, left_out_characters) = tail(text);
        Self {
            tail,
            left_out_characters,
        }
    }
}

fn whole<'a>(
    details: Option<&'a JobDetails>,
    receipts: &'a [KeptReceipt],
    refusals: &'a [RefusedRow],
) -> Whole<'a> {
    let receipts = receipts.iter().map(|receipt| ShownReceipt {
        receipt_type: receipt.payload.receipt_type(),
        payload: &receipt.payload,
        countersigned: receipt.miner_signature.is_some(),
        signatures: signatures(receipt),
        is_valid: verify_kept(receipt).is_ok(),
    });
    let rejections = refusals.iter().map(|row| ShownRefusal::of(&row.refused));
    Whole {
        job: details.map(|details| ShownJob::of(&details.row)),
        timeline: details.map(|details| timeline(&details.steps)),
        outcome: details.and_then(|details| details.outcome.as_deref()),
        stage: details.and_then(|details| details.stage.as_deref()),
        delivery: details.map(delivery),
        executor: details.map(|details| ShownExecutor {
            process: details.executor_process.as_deref(),
            address: details.executor_address.as_deref(),
        }),
        receipts: receipts.collect(),
        rejections: rejections.collect(),
        stdout: details.map(|details| Tail::of(&details.stdout)),
        stderr: details.map(|details| Tail::of(&details.stderr)),
    }
}

fn print_details(context: &Context, details: &JobDetails) -> Result<(), CmdError> {
    let row = &details.row;
    let executor = format!(
        "slot {}, process {}, address {}",
        row.slot
            .map_or_else(|| "given back".to_owned(), |slot| slot.to_string()),
        or_nothing(details.executor_process.as_deref()),
        or_nothing(details.executor_address.as_deref()),
    );
    let mut outcome = vec![or_nothing(details.outcome.as_deref())];
    outcome.extend(exit_code(row).map(|code| format!("exit code {code}")));
    for (name, text) in [
        ("reason", &row.error_type),
        ("stage", &details.stage),
        ("words", &row.error_detail),
    ] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            outcome.push(format!("{name} {}", printable(text)));
        }
    }
    let outcome = outcome.join(", ");
    let worth = match (row.time_took_us, row.score) {
        (Some(took), Some(score)) => {
            let took = time::Duration::microseconds(took).as_seconds_f64();
            format!("{took:.3} s, score {score}")
        }
        _ => "no finished receipt yet".to_owned(),
    };
    for (name, text) in [
        (
            "job",
            format!("{} (number {})", printable(row.job.as_str()), row.id),
        ),
        ("status", row.state.as_str().to_owned()),
        ("class", row.class.to_string()),
        ("validator", printable(row.validator.as_str())),
        ("executor", executor),
        ("outcome", outcome),
        ("delivery", delivery(details)),
        ("worth", worth),
    ] {
        context.line(format_args!("{name:<12}{text}"))?;
    }
    for (index, step) in timeline(&details.steps).iter().enumerate() {
        let name = if index == 0 { "timeline" } else { "" };
        context.line(format_args!(
            "{name:<12}{:>10.3} s  {:<22}  +{:.3} s  {}",
            step.since_start_seconds, step.step, step.seconds, step.at,
        ))?;
    }
    Ok(())
}

fn print_receipts(context: &Context, receipts: &[KeptReceipt]) -> Result<(), CmdError> {
    if receipts.is_empty() {
        return context.line(format_args!("{:<12}none", "receipts"));
    }
    for (index, receipt) in receipts.iter().enumerate() {
        let name = if index == 0 { "receipts" } else { "" };
        let payload = &receipt.payload;
        context.line(format_args!(
            "{name:<12}{:<19}  {}  {}",
            payload.receipt_type(),
            payload.timestamp(),
            signatures(receipt)
        ))?;
    }
    Ok(())
}

fn print_tail(context: &Context, name: &str, stream: &str) -> Result<(), CmdError> {
    if stream.is_empty() {
        return Ok(());
    }
    let (tail, left_out) = tail(stream);
    if left_out > 0 {
        context.line(format_args!("{name:<12}… {left_out} characters before"))?;
    }
    for (index, line) in tail.lines().enumerate() {
        let name = if index == 0 && left_out == 0 { name } else { "" };
        context.line(format_args!("{name:<12}{}", printable(line)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_stream_is_bounded_and_says_what_is_left_out() {
        assert_eq!(tail("a\nb\n"), ("a\nb".to_owned(), 0));
        let many: Vec<String> = (0..100).map(|line| format!("{line:03}\n")).collect();
        let many = many.concat();
        let (shown, left_out) = tail(&many);
        assert!(shown.starts_with("080") && shown.ends_with("099"));
        assert_eq!(left_out, 80 * 4);
        let (shown, left_out) = tail(&"é".repeat(10_000));
        assert_eq!(
            (shown.chars().count(), left_out),
            (TAIL_CHARS, 10_000 - TAIL_CHARS)
        );
    }
}
