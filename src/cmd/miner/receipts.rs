//! `horde miner receipts`: what validators have signed for, listed, checked, handed out.

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::open_beside;
use crate::core::causes::Causes;
use crate::core::model::receipt::{Receipt, ReceiptPayload};
use crate::core::model::{Hotkey, JobId, Timestamp};
use crate::core::receipts::verify_receipt;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::pages::{ListedReceipt, ReceiptFilter};

/// Receipts read at once by an export.
const BATCH: u32 = 500;

/// `horde miner receipts …`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  horde miner receipts --type finished --since 2h\n  horde miner receipts --verify\n  horde miner receipts export --since 1d > receipts.jsonl"
)]
pub struct ReceiptsArgs {
    #[command(subcommand)]
    command: Option<ReceiptsCommand>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Show at most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Check the signatures of validator and miner; exit with 10 if one is wrong
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Subcommand)]
enum ReceiptsCommand {
    /// Print receipts as the lines of the pages that validators fetch
    Export(FilterArgs),
}

/// Which receipts.
#[derive(Args, Debug)]
struct FilterArgs {
    /// Only of this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Only from this validator
    #[arg(long, value_name = "SS58")]
    validator: Option<String>,
    /// Only of this type
    #[arg(long, value_name = "TYPE")]
    r#type: Option<TypeWord>,
    /// Only stored since then: an age such as 90s, 15m, 2h, 1d, or a time such as 2026-01-15T12:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TypeWord {
    Started,
    Accepted,
    Finished,
}

impl FilterArgs {
    fn filter(self, now: OffsetDateTime) -> Result<ReceiptFilter, CmdError> {
        let since = self.since.map(|text| since(&text, now)).transpose()?;
        Ok(ReceiptFilter {
            job: self.job.map(JobId::new),
            validator: self.validator.map(Hotkey::new),
            receipt_type: self.r#type.map(|word| match word {
                TypeWord::Started => "JobStartedReceipt",
                TypeWord::Accepted => "JobAcceptedReceipt",
                TypeWord::Finished => "JobFinishedReceipt",
            }),
            since,
        })
    }
}

/// Reads an age or a time.
fn since(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, CmdError> {
    let age = text.char_indices().last().and_then(|(at, unit)| {
        let number: u32 = text.get(..at)?.parse().ok()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        now.checked_sub(time::Duration::seconds(i64::from(number) * seconds))
    });
    let moment = || {
        let parsed = Timestamp::parse(text).ok()?;
        parsed.is_aware().then(|| parsed.moment())
    };
    age.or_else(moment).ok_or_else(|| {
        CmdError::new(
            ExitCode::Usage,
            format!("--since {text:?} is neither an age nor a time"),
        )
        .hint("an age is a number with s, m, h or d; a time has a time zone: 2026-01-15T12:30:00Z")
    })
}

impl ReceiptsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, _settings) = open_beside(context).await?;
        let now = context.clock.now();
        match self.command {
            Some(ReceiptsCommand::Export(filter)) => export(context, &store, filter.filter(now)?).await,
            None => {
                let filter = self.filter.filter(now)?;
                let found = store
                    .newest_receipts(filter, self.limit)
                    .await
                    .or_fail(ExitCode::Failed, "could not read the receipts")?;
                list(context, found, self.verify)
            }
        }
    }
}

/// Turns a row into the whole receipt; a row of the miner always has its signature.
fn whole(listed: ListedReceipt) -> Receipt {
    Receipt {
        payload: listed.receipt.payload,
        validator_signature: listed.receipt.validator_signature,
        miner_signature: listed.receipt.miner_signature.unwrap_or_default(),
    }
}

async fn export(context: &Context, store: &MinerStore, filter: ReceiptFilter) -> Result<(), CmdError> {
    let mut after = 0;
    loop {
        let batch = store
            .receipts_after(filter.clone(), after, BATCH)
            .await
            .or_fail(ExitCode::Failed, "could not read the receipts")?;
        let Some(last) = batch.last() else {
            return Ok(());
        };
        after = last.id;
        for listed in batch {
            let receipt = whole(listed);
            if context.wants_data() {
                context.print_data(&receipt)?;
            } else {
                context.json_line(&receipt)?;
            }
        }
    }
}

/// The receipts that were asked for.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Receipts {
    /// They, newest first.
    receipts: Vec<ShownReceipt>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownReceipt {
    /// When it was stored.
    stored_at: String,
    /// The number of its page, as validators fetch it.
    page: i64,
    /// It.
    receipt: Receipt,
    /// With `--verify`: whether signatures and values are right; null without.
    valid: Option<bool>,
    /// What is wrong; null if nothing is, or nobody looked.
    error: Option<String>,
}

fn list(context: &Context, found: Vec<ListedReceipt>, verify: bool) -> Result<(), CmdError> {
    let mut rows = Vec::new();
    let mut wrong = 0_usize;
    for listed in found {
        let (page, stored_at) = (listed.page, listed.stored_at);
        let receipt = whole(listed);
        let verdict = verify.then(|| verify_receipt(&receipt).map_err(|error| Causes(&error).to_string()));
        wrong += usize::from(matches!(verdict, Some(Err(_))));
        let stored_at = stored_at
            .format(&Rfc3339)
            .or_fail(ExitCode::Bug, "could not write a time")?;
        if context.wants_data() {
            rows.push(ShownReceipt {
                stored_at,
                page,
                receipt,
                valid: verdict.as_ref().map(Result::is_ok),
                error: verdict.and_then(Result::err),
            });
        } else {
            context.line(row(&stored_at, &receipt, verdict.as_ref()))?;
        }
    }
    if context.wants_data() {
        context.print_data(&Receipts { receipts: rows })?;
    }
    if wrong > 0 {
        return Err(CmdError::new(
            ExitCode::CheckFailed,
            format!("{wrong} receipts have a wrong signature or value"),
        ));
    }
    Ok(())
}

fn row(stored_at: &str, receipt: &Receipt, verdict: Option<&Result<(), String>>) -> String {
    let payload = &receipt.payload;
    let (kind, details) = match payload {
        ReceiptPayload::Started(started) => {
            let kind = if started.is_organic { "" } else { " synthetic" };
            (
                "started",
                format!("{} ttl={}s{kind}", started.executor_class, started.ttl),
            )
        }
        ReceiptPayload::Accepted(accepted) => ("accepted", format!("ttl={}s", accepted.ttl)),
        ReceiptPayload::Finished(finished) => {
            let millis = finished.time_took_us / 1000;
            let took = format!("{}.{:03}s", millis / 1000, millis % 1000);
            ("finished", format!("took={took} score={}", finished.score_str))
        }
    };
    let verdict = match verdict {
        None => String::new(),
        Some(Ok(())) => " valid".to_owned(),
        Some(Err(error)) => format!(" WRONG: {error}"),
    };
    format!(
        "{stored_at:<27} {kind:<8} {} {} {details}{verdict}",
        payload.job_uuid(),
        payload.validator_hotkey()
    )
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn since_is_an_age_or_a_time_with_its_zone() {
        let now = datetime!(2026-01-15 12:30:45 UTC);
        for (text, expected) in [
            ("90s", now - Duration::seconds(90)),
            ("15m", now - Duration::minutes(15)),
            ("2h", now - Duration::hours(2)),
            ("1d", now - Duration::days(1)),
            ("2026-01-15T12:30:00Z", datetime!(2026-01-15 12:30:00 UTC)),
        ] {
            assert_eq!(since(text, now).unwrap(), expected, "{text}");
        }
        for text in ["", "h", "-1h", "1w", "2026-01-15T12:30:00", "yesterday", "1é"] {
            assert!(since(text, now).is_err(), "{text}");
        }
    }
}
