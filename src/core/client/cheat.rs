//! Reporting that a miner cheated (wire-facilitator-http §8), signed as the SDK does.

use serde_json::{Value, json};

use super::{Call, Client, ClientError};
use crate::core::crypto::Keypair;
use crate::core::crypto::canonical::CanonicalError;
use crate::core::crypto::signed::{full_request_payload, sign_request};
use crate::core::model::JobId;
use crate::core::proto::facilitator_validator::SignatureScope;
use crate::core::proto::sdk_facilitator::{RequestSignature, path};

/// Writes a report and signs all of it; keys in the order of the SDK.
fn signed(
    keypair: &Keypair,
    timestamp_ns: u64,
    job: &JobId,
    trusted: &JobId,
    details: &Value,
) -> Result<(String, RequestSignature), CanonicalError> {
    let body = json!({"job_uuid": job, "trusted_job_uuid": trusted, "details": details});
    let signature = RequestSignature {
        signatory: keypair.hotkey().clone(),
        timestamp_ns,
        signature: sign_request(keypair, timestamp_ns, &full_request_payload(&body)).to_base64(),
        scope: SignatureScope::FullRequest,
    };
    Ok((serde_json::to_string(&body)?, signature))
}

impl Client {
    /// Reports that a job's miner cheated, as the same job on the trusted miner shows; returns the facilitator's words.
    pub async fn report_cheated(
        &self,
        job: &JobId,
        trusted: &JobId,
        details: &Value,
    ) -> Result<String, ClientError> {
        let now = u64::try_from(self.clock.unix_nanos()).unwrap_or_default();
        let (body, signature) = signed(&self.keypair, now, job, trusted, details)?;
        let mut headers = signature.headers().to_vec();
        headers.push(("content-type", "application/json".to_owned()));
        let answer: Value = self
            .ask(&Call {
                method: reqwest::Method::POST,
                path: path::CHEATED.to_owned(),
                headers,
                body: Some(body),
                // A second report of the same job is refused, which would hide that the first was taken.
                harmless: false,
            })
            .await?;
        Ok(answer
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_and_signed_as_the_sdk_does() {
        let text = include_str!("../../../tests/golden/sdk_http_headers.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let recorded = vectors["requests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|request| request["call"] == "report_cheated_job")
            .unwrap();
        let text = recorded["body_text"].as_str().unwrap();
        let body: Value = serde_json::from_str(text).unwrap();
        let id = |key: &str| JobId::new(body[key].as_str().unwrap());
        let alice = Keypair::from_uri("//Alice").unwrap();
        let (written, signature) = signed(
            &alice,
            7,
            &id("job_uuid"),
            &id("trusted_job_uuid"),
            &body["details"],
        )
        .unwrap();
        assert_eq!(written, text);
        let payload = recorded["signature"]["payload_bytes_utf8"].as_str().unwrap();
        signature.verify(payload.as_bytes()).unwrap();
        let names: Vec<&str> = signature.headers().iter().map(|(name, _)| *name).collect();
        for name in recorded["signature"]["header_names_as_sent"].as_array().unwrap() {
            assert!(
                names.contains(&name.as_str().unwrap().to_lowercase().as_str()),
                "{name}"
            );
        }
        assert_eq!(
            signature.headers()[4].1,
            recorded["headers"]["x-ch-signature-scope"]
        );
    }
}
