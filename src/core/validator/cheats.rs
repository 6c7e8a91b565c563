//! Users' reports that a miner cheated: who may make them, and what follows.
//!
//! A report counts if its signer's jobs are taken here, the signature is good, and the job completed and was not
//! reported before. Then the miner gets no jobs for `validator.cheat_blacklist_seconds`, and it is on record that its
//! collateral is to be slashed. Like the reference, the validator believes the reporter: it does not compare results.
//! What does not count is kept with the reason. No wire has an answer to a report, so a repetition changes nothing.

use serde_json::{Map, Value};

use super::Broker;
use super::intake::Refusal;
use super::machine::cut;
use crate::core::model::JobId;
use crate::core::proto::facilitator_validator::{Cheated, Down};
use crate::core::proto::frame::{MESSAGE_TYPE, Message};
use crate::core::store::StoreError;
use crate::core::store::validator::{CheatReport, Verdict};

impl Broker {
    /// Judges a report and keeps it.
    pub(super) async fn take_report(&self, report: Cheated) -> Result<(), StoreError> {
        let refusal = self
            .check_report(&report)
            .err()
            .map(|refusal| refusal.to_string());
        let job = canonical(&report.job_uuid);
        let kept = CheatReport {
            job: job.clone(),
            trusted_job: canonical(&report.trusted_job_uuid),
            details: report.details,
            signature: report
                .signature
                .map(|signature| (signature.signatory, signature.signature)),
        };
        let blacklist = time::Duration::try_from(self.config.cheat_blacklist).unwrap_or(time::Duration::WEEK);
        let now = self.clock.now();
        match self.store.judge_cheat(kept, refusal, blacklist, now).await? {
            Verdict::Accepted { miner, until } => {
                tracing::warn!(%job, %miner, %until, "the job was cheated, its miner gets no jobs");
            }
            Verdict::Refused(reason) => tracing::warn!(%job, reason, "a cheat report does not count"),
            Verdict::Repeated => tracing::debug!(%job, "a cheat report is known already"),
        }
        Ok(())
    }

    fn check_report(&self, report: &Cheated) -> Result<(), Refusal> {
        let signature = report.signature.as_ref().ok_or(Refusal::NoSignature)?;
        if !self.trusts(&signature.signatory) {
            return Err(Refusal::Signatory(signature.signatory.clone()));
        }
        report.verify().map_err(|error| {
            tracing::debug!(job = %report.job_uuid, %error, "bad signature");
            Refusal::Signature
        })
    }
}

/// Returns the database's spelling of a job that a user wrote in any; of what is none, the beginning.
fn canonical(job: &JobId) -> JobId {
    match uuid::Uuid::try_parse(job.as_str()) {
        Ok(uuid) => JobId::new(uuid.hyphenated().to_string()),
        Err(_) => JobId::new(cut(job.as_str())),
    }
}

/// Reads a report without the key `details`, which the reference's facilitator leaves out where it is null
/// (wire-facilitator-validator §3).
pub(super) fn without_details(text: &str) -> Option<Cheated> {
    let mut frame: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_report = frame.get(MESSAGE_TYPE).and_then(Value::as_str) == Some(Cheated::TYPE);
    if !is_report || frame.contains_key("details") {
        return None;
    }
    frame.insert("details".to_owned(), Value::Null);
    match Down::decode(&Value::Object(frame).to_string()) {
        Ok(Down::Cheated(report)) => Some(report),
        Ok(_) | Err(_) => None,
    }
}
