//! What the user has, what a job may cost, and a submission that happens once.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Call, Client, ClientError};
use crate::core::crypto::canonical::CanonicalError;
use crate::core::proto::sdk_facilitator::{
    AccountView, IDEMPOTENCY_KEY, JobView, RequestSignature, Submit, path,
};

/// What a job may cost at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Estimate {
    /// Whether jobs cost anything here.
    pub charges: bool,
    /// The seconds that are set aside: all its limits together.
    pub reserved_seconds: i64,
    /// Micro-units per second of its class; absent if the facilitator has no price for it.
    pub micro_per_second: Option<i64>,
    /// What is set aside, in micro-units; absent if the class has no price.
    pub required_micro: Option<i64>,
    /// What can be spent, in micro-units.
    pub available_micro: i64,
}

impl AccountView {
    /// Returns what a job may cost at most: the price of all its limits.
    pub fn estimate(&self, job: &Submit) -> Estimate {
        let mut seconds = job
            .download_time_limit
            .saturating_add(job.execution_time_limit)
            .saturating_add(job.upload_time_limit);
        if job.streaming_details.is_some() {
            seconds = seconds.saturating_add(job.streaming_start_time_limit);
        }
        let price = self.prices.get(&job.executor_class).copied();
        let price = if self.charges { price } else { Some(0) };
        Estimate {
            charges: self.charges,
            reserved_seconds: seconds,
            micro_per_second: price,
            required_micro: price.map(|price| price.saturating_mul(seconds)),
            available_micro: self.available_micro,
        }
    }
}

impl Client {
    /// Returns the user's account; facilitators of the reference have none and answer that they do not know it.
    pub async fn account(&self) -> Result<AccountView, ClientError> {
        self.ask(&Call::get(path::ACCOUNT)).await
    }

    /// Signs a job and submits it under a key: at a facilitator of ours the same key is the same job, however often it
    /// is sent.
    ///
    /// When nobody knows whether the submission has arrived it is sent again, but only to a facilitator that knows what
    /// the key means; the reference would run the job twice.
    pub async fn submit_once(&self, job: &Submit, key: &str) -> Result<JobView, ClientError> {
        let mut headers = self.sign(job)?.headers().to_vec();
        headers.push(("content-type", "application/json".to_owned()));
        headers.push((IDEMPOTENCY_KEY, key.to_owned()));
        let mut call = Call {
            method: reqwest::Method::POST,
            path: path::SUBMIT.to_owned(),
            headers,
            body: Some(serde_json::to_string(job).map_err(CanonicalError::from)?),
            harmless: false,
        };
        match self.ask(&call).await {
            Err(error @ ClientError::Unreachable { .. }) if !is_connect(&error) => {
                if self.knows_keys().await {
                    call.harmless = true;
                    return self.ask(&call).await;
                }
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Signs a job as it would be submitted now.
    pub fn sign(&self, job: &Submit) -> Result<RequestSignature, CanonicalError> {
        let now = u64::try_from(self.clock.unix_nanos()).unwrap_or_default();
        job.sign(&self.keypair, now)
    }

    /// Tells whether the facilitator is one of ours: only those tell their validators.
    async fn knows_keys(&self) -> bool {
        self.validators().await.is_ok()
    }
}

/// Tells whether a call has failed before anything of it was sent.
fn is_connect(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { source, .. } if source.is_connect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_the_price_of_all_limits() {
        let account: AccountView = serde_json::from_str(
            r#"{"hotkey": "5x", "charges": true, "available_micro": 5, "reserved_micro": 0,
                "prices": {"always_on.test": 3}}"#,
        )
        .unwrap();
        let mut job: Submit = serde_json::from_str(
            r#"{"target_validator_hotkey": "v", "executor_class": "always_on.test", "docker_image": "i",
                "job_namespace": null, "args": [], "env": {}, "use_gpu": false, "artifacts_dir": null,
                "on_trusted_miner": false, "download_time_limit": 1, "execution_time_limit": 20,
                "streaming_start_time_limit": 1000, "upload_time_limit": 300}"#,
        )
        .unwrap();
        let estimate = account.estimate(&job);
        assert_eq!(
            (estimate.reserved_seconds, estimate.required_micro),
            (321, Some(963))
        );
        job.streaming_details = Some(crate::core::proto::sdk_facilitator::StreamingClient {
            public_key: String::new(),
        });
        assert_eq!(account.estimate(&job).required_micro, Some(3963));
        let free = AccountView {
            charges: false,
            prices: indexmap::IndexMap::new(),
            ..account.clone()
        };
        assert_eq!(free.estimate(&job).required_micro, Some(0));
        job.executor_class = crate::core::model::ExecutorClass::AlwaysOnGpu24Gb;
        assert_eq!(account.estimate(&job).required_micro, None);
    }
}
