//! `horde validator cheats`: which reports of cheating came, and what became of them.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{Table, or_nothing, printable, stamp, to_the_second};
use super::open_beside;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::validator::JudgedReport;

/// `horde validator cheats …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  horde validator cheats\n  horde --json validator cheats")]
pub struct CheatsArgs {}

impl CheatsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let store = open_beside(context).await?;
        let reports = store
            .cheats()
            .await
            .or_fail(ExitCode::Failed, "could not read the reports")?;
        if context.wants_data() {
            let all: Vec<ShownReport<'_>> = reports.iter().map(shown).collect();
            return context.print_data(&all);
        }
        if reports.is_empty() {
            context.say("nobody has reported a miner");
            return Ok(());
        }
        let mut table = Table::new(["reported", "job", "miner", "fate"]);
        for report in &reports {
            table.add(row(report));
        }
        table.print(context)
    }
}

/// A report of a forged result, and what came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownReport<'a> {
    /// The job in doubt.
    job_uuid: &'a JobId,
    /// The same job on the trusted miner.
    trusted_job_uuid: &'a JobId,
    /// Whose result is in doubt; null if that is not known here.
    miner: Option<&'a Hotkey>,
    /// Who signed the report; null if nobody did.
    signatory: Option<&'a Hotkey>,
    /// When it came.
    reported_at: String,
    /// Whether it counts.
    counts: bool,
    /// Why it does not; null if it does.
    refusal: Option<&'a str>,
    /// Whether the miner's collateral is to be slashed.
    slash_due: bool,
    /// What the user added.
    details: &'a Value,
}

fn shown(judged: &JudgedReport) -> ShownReport<'_> {
    let report = &judged.report;
    ShownReport {
        job_uuid: &report.job,
        trusted_job_uuid: &report.trusted_job,
        miner: judged.miner.as_ref(),
        signatory: report.signature.as_ref().map(|(signatory, _)| signatory),
        reported_at: stamp(judged.reported_at),
        counts: judged.refusal.is_none(),
        refusal: judged.refusal.as_deref(),
        slash_due: judged.slash_due,
        details: &report.details,
    }
}

fn row(judged: &JudgedReport) -> [String; 4] {
    let fate = match &judged.refusal {
        Some(refusal) => format!("does not count: {refusal}"),
        None if judged.slash_due => "counts; the collateral is to be slashed".to_owned(),
        None => "counts".to_owned(),
    };
    [
        to_the_second(judged.reported_at),
        printable(judged.report.job.as_str()),
        or_nothing(judged.miner.as_ref().map(Hotkey::as_str)),
        printable(&fate),
    ]
}
