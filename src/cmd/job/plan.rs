//! `--dry-run`: what would be submitted, without what is secret in it; and what a job may cost.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::client_error;
use super::output::OutputPlan;
use super::volume::VolumePlan;
use crate::cmd::catalogue;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::table::printable;
use crate::core::client::source::{hide_query, show_amount};
use crate::core::client::{Client, ClientError, Estimate};
use crate::core::proto::sdk_facilitator::Submit;

/// What stands for what is not shown.
const HIDDEN: &str = "<hidden>";

/// What would be done.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Plan {
    /// The request's body, without secrets and contents.
    pub(super) request: Value,
    /// The signature's headers; they are those of the request as it is, not as it is shown.
    pub(super) headers: Map<String, Value>,
    /// The key that makes the submission happen once.
    pub(super) idempotency_key: String,
    /// The inputs.
    pub(super) volumes: Vec<VolumePlan>,
    /// The outputs.
    pub(super) outputs: Vec<OutputPlan>,
    /// What it may cost; null if the facilitator does not tell.
    pub(super) cost: Option<Estimate>,
    /// The size of the request, in bytes.
    pub(super) request_bytes: usize,
}

/// A plan, as it is printed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Planned<'a> {
    /// What would be done.
    plan: &'a Plan,
}

/// Asks what a job may cost; none if the facilitator has no accounts.
pub(super) async fn estimate(client: &Client, job: &Submit) -> Result<Option<Estimate>, CmdError> {
    match client.account().await {
        Ok(account) => Ok(Some(account.estimate(job))),
        Err(ClientError::NotFound { .. }) => Ok(None),
        Err(error) => Err(client_error("could not ask what the job may cost", &error)),
    }
}

/// Refuses a job that may cost more than its user allows.
pub(super) fn check_cost(estimate: Option<&Estimate>, max: Option<u64>) -> Result<(), CmdError> {
    let Some(max) = max else { return Ok(()) };
    let tried = "the job was not submitted: its cost is not known to be within --max-cost";
    let Some(estimate) = estimate else {
        return Err(CmdError::new(catalogue::TOO_DEAR, tried)
            .hint("this facilitator has no accounts and tells no prices; leave --max-cost out"));
    };
    let Some(required) = estimate.required_micro else {
        return Err(CmdError::new(catalogue::TOO_DEAR, tried)
            .hint("the facilitator has no price for this class; choose another with --class"));
    };
    if u64::try_from(required).is_ok_and(|required| required > max) {
        let words = format!(
            "the job was not submitted: it may cost more than {}",
            show_amount(max)
        );
        let mut failed = CmdError::new(catalogue::TOO_DEAR, words);
        failed.causes.push(words_of(estimate));
        return Err(failed.hint("shorter limits cost less: --limits download=…,execution=…,upload=…"));
    }
    Ok(())
}

/// Says what a job may cost.
pub(super) fn words_of(estimate: &Estimate) -> String {
    if !estimate.charges {
        return "nothing: this facilitator does not charge".to_owned();
    }
    let amount = |micro: i64| match u64::try_from(micro) {
        Ok(micro) => show_amount(micro),
        Err(_) => format!("-{}", show_amount(micro.unsigned_abs())),
    };
    let available = amount(estimate.available_micro);
    match (estimate.required_micro, estimate.micro_per_second) {
        (Some(required), Some(price)) => format!(
            "at most {}: {} s at {} a second; {available} is available",
            amount(required),
            estimate.reserved_seconds,
            amount(price)
        ),
        _ => format!("unknown: the facilitator has no price for this class; {available} is available"),
    }
}

impl Plan {
    /// Makes the plan of a request.
    pub(super) fn new(client: &Client, job: &Submit, key: String) -> Result<Self, CmdError> {
        let tried = "could not sign the request";
        let headers = client.sign(job).or_fail(ExitCode::Bug, tried)?.headers();
        let body = serde_json::to_string(job).or_fail(ExitCode::Bug, tried)?;
        Ok(Self {
            request: shown(job),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
            idempotency_key: key,
            volumes: Vec::new(),
            outputs: Vec::new(),
            cost: None,
            request_bytes: body.len(),
        })
    }

    /// Prints it.
    pub(super) fn print(&self, context: &Context, job: &Submit) -> Result<(), CmdError> {
        if context.wants_data() {
            return context.print_data(&Planned { plan: self });
        }
        let args: Vec<String> = job.args.iter().map(|arg| format!("{arg:?}")).collect();
        let names: Vec<String> = job.env.keys().map(|name| printable(name)).collect();
        let limits = format!(
            "download {} s, execution {} s, upload {} s",
            job.download_time_limit, job.execution_time_limit, job.upload_time_limit
        );
        let cost = self.cost.as_ref().map_or_else(
            || "unknown: this facilitator has no accounts".to_owned(),
            words_of,
        );
        let mut lines = vec![
            ("image", printable(&job.docker_image)),
            ("arguments", args.join(" ")),
            ("variables", names.join(" ")),
            ("class", job.executor_class.to_string()),
            ("validator", printable(job.target_validator_hotkey.as_str())),
            ("limits", limits),
        ];
        for volume in &self.volumes {
            let bytes = volume
                .bytes
                .map(|bytes| format!(", {bytes} bytes"))
                .unwrap_or_default();
            let to = volume
                .uploaded_to
                .as_deref()
                .map(|to| format!(" at {to}"))
                .unwrap_or_default();
            let line = format!(
                "{} from {} ({}{bytes}{to})",
                volume.path, volume.source, volume.how
            );
            lines.push(("input", printable(&line)));
        }
        for output in &self.outputs {
            let line = format!("{} to {} ({})", output.path, output.to, output.how);
            lines.push(("output", printable(&line)));
        }
        lines.push(("request", format!("{} bytes, signed", self.request_bytes)));
        lines.push(("key", printable(&self.idempotency_key)));
        lines.push(("cost", cost));
        for (name, text) in lines {
            if !text.is_empty() {
                context.line(format_args!("{name:<12}{text}"))?;
            }
        }
        context.say("nothing was submitted and nothing uploaded");
        Ok(())
    }
}

/// Returns a request's body without what is secret or long in it: contents, signatures, tokens, values of variables.
fn shown(job: &Submit) -> Value {
    let mut body = serde_json::to_value(job).unwrap_or(Value::Null);
    if let Some(Value::Object(env)) = body.get_mut("env") {
        env.values_mut().for_each(|value| *value = HIDDEN.into());
    }
    for list in ["volumes", "uploads"] {
        for item in body
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            hide(item);
        }
    }
    body
}

fn hide(item: &mut Value) {
    let is_inline = item.get("volume_type").and_then(Value::as_str) == Some("inline");
    let Value::Object(fields) = item else { return };
    for (name, value) in fields {
        match (name.as_str(), &*value) {
            ("contents", Value::String(text)) if is_inline => {
                *value = format!("<{} characters of base64>", text.len()).into();
            }
            ("contents" | "url", Value::String(url)) => *value = hide_query(url).into(),
            ("token", Value::String(_)) => *value = HIDDEN.into(),
            ("form_fields" | "signed_headers", Value::Object(pairs)) => {
                let hidden = pairs.keys().map(|name| (name.clone(), HIDDEN.into()));
                *value = Value::Object(hidden.collect());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_secret_of_a_request_is_shown() {
        let job: Submit = serde_json::from_value(json!({
            "target_validator_hotkey": "v", "executor_class": "always_on.test", "docker_image": "i",
            "job_namespace": null, "args": [], "env": {"TOKEN": "secret1"}, "use_gpu": false, "artifacts_dir": null,
            "on_trusted_miner": false, "download_time_limit": 1, "execution_time_limit": 2,
            "streaming_start_time_limit": 5, "upload_time_limit": 3,
            "volumes": [
                {"volume_type": "inline", "contents": "secret2", "relative_path": null},
                {"volume_type": "zip_url", "contents": "https://u:secret3@h/a?s=secret4", "relative_path": null},
                {"volume_type": "huggingface_volume", "repo_id": "o/m", "token": "secret5"}],
            "uploads": [
                {"output_upload_type": "single_file_put", "url": "https://h/x?s=secret6", "relative_path": "x",
                 "signed_headers": {"Authorization": "secret7"}},
                {"output_upload_type": "single_file_post", "url": "https://h/x?s=secret8", "relative_path": "y",
                 "form_fields": {"policy": "secret9"}}],
        }))
        .unwrap();
        let text = shown(&job).to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("TOKEN") && text.contains("https://h/x?<hidden>"),
            "{text}"
        );
    }

    #[test]
    fn a_job_that_may_cost_too_much_is_refused() {
        let estimate = Estimate {
            charges: true,
            reserved_seconds: 240,
            micro_per_second: Some(10_000),
            required_micro: Some(2_400_000),
            available_micro: 5_000_000,
        };
        assert!(check_cost(Some(&estimate), None).is_ok());
        assert!(check_cost(Some(&estimate), Some(2_400_000)).is_ok());
        let refused = check_cost(Some(&estimate), Some(2_399_999)).unwrap_err();
        assert_eq!(refused.code, ExitCode::CheckFailed);
        assert_eq!(
            refused.causes,
            ["at most 2.4: 240 s at 0.01 a second; 5 is available"]
        );
        let unknown = Estimate {
            required_micro: None,
            micro_per_second: None,
            ..estimate
        };
        assert!(check_cost(Some(&unknown), Some(u64::MAX)).is_err());
        assert!(check_cost(None, Some(0)).is_err());
        assert!(check_cost(None, None).is_ok());
    }
}
