//! `horde job show`.

use clap::Args;
use serde_json::Value;

use super::follow::history_line;
use super::{UserArgs, end, find};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::printable;
use crate::core::client::explain::status_word;
use crate::core::client::source::show_amount;
use crate::core::model::upload::SingleFileUpload;
use crate::core::model::volume::SimpleVolume;
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job show 3f2a
  horde job show 3f2a --json | jq .status_history";

/// Most characters of an argument or a variable that are shown.
const SHOWN_CHARACTERS_MAX: usize = 2000;

/// `horde job show …`
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    user: UserArgs,
    /// The job; the beginning of its identity is enough
    id: String,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        if context.wants_data() {
            return context.print_data(&job);
        }
        let mut last = "";
        for (name, text) in lines(&job) {
            let shown = if name == last { "" } else { name };
            last = name;
            context.line(format_args!("{shown:<12}{text}").to_string().trim_end())?;
        }
        Ok(())
    }
}

/// Quotes a text of the job, harmless and cut.
fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// Returns everything about a job, line by line; a name that repeats belongs to several lines.
fn lines(job: &JobView) -> Vec<(&'static str, String)> {
    let args = job.args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>();
    let limits = format!(
        "download {} s, execution {} s, upload {} s",
        job.download_time_limit, job.execution_time_limit, job.upload_time_limit
    );
    let mut lines = vec![
        ("job", printable(job.uuid.as_str())),
        ("status", status_word(job).to_owned()),
        ("image", printable(&job.docker_image)),
        ("arguments", args.join(" ")),
    ];
    let env = job.env.iter();
    lines.extend(env.map(|(name, value)| ("env", format!("{}={}", printable(name), quoted(value)))));
    lines.push(("class", job.executor_class.to_string()));
    if let Some(name) = &job.job_namespace {
        lines.push(("namespace", printable(name)));
    }
    if !job.tag.is_empty() {
        lines.push(("tag", printable(&job.tag)));
    }
    lines.push(("validator", printable(job.target_validator_hotkey.as_str())));
    if job.on_trusted_miner {
        lines.push(("miner", "the validator's own, which is trusted".to_owned()));
    }
    lines.push(("limits", limits));
    lines.extend(job.volumes.iter().map(|volume| ("volume", volume_line(volume))));
    lines.extend(job.uploads.iter().map(|upload| ("output", upload_line(upload))));
    if !job.artifacts_dir.is_empty() {
        lines.push(("artifacts of", printable(&job.artifacts_dir)));
    }
    if !job.streaming_server_address.is_empty() {
        let address = printable(&job.streaming_server_address);
        lines.push(("streaming", format!("{address}:{}", job.streaming_server_port)));
    }
    lines.push(("submitted", job.created_at.to_string()));
    lines.extend(
        job.status_history
            .iter()
            .map(|entry| ("history", history_line(job, entry))),
    );
    lines.extend(beyond(job));
    if let Some(end) = end(job) {
        lines.push(("exit code", end.code.number().to_string()));
        if let Some(words) = end.words {
            lines.push(("end", printable(&words)));
        }
    }
    for (name, paths) in [("artifact", &job.artifacts), ("uploaded", &job.upload_results)] {
        lines.extend(paths.keys().map(|path| (name, printable(path))));
    }
    lines
}

/// Returns what the facilitator tells beside the reference's wire: cost, cancel, delivery.
fn beyond(job: &JobView) -> Vec<(&'static str, String)> {
    let Ok(Value::Object(parts)) = serde_json::to_value(&job.horde) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for (part, facts) in parts {
        let name = match part.as_str() {
            "cost" => "cost",
            "cancel" => "cancel",
            "delivery" => "delivery",
            _ => "more",
        };
        let Value::Object(facts) = facts else {
            lines.push((name, printable(&format!("{part}: {facts}"))));
            continue;
        };
        let known = facts.iter().filter(|(_, value)| !value.is_null());
        let words: Vec<String> = known.map(|(key, value)| fact(key, value)).collect();
        lines.push((name, printable(&words.join(", "))));
    }
    lines
}

/// Returns a fact in words; money as people count it, in units.
fn fact(key: &str, value: &Value) -> String {
    if let (Some(key), Some(micro)) = (key.strip_suffix("_micro"), value.as_u64()) {
        return format!("{} {}", key.replace('_', " "), show_amount(micro));
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("{} {text}", key.replace('_', " "))
}

/// Returns a path of the container.
fn below(root: &str, path: Option<&str>) -> String {
    match path.filter(|path| !path.is_empty()) {
        Some(path) => format!("{root}/{}", printable(path)),
        None => root.to_owned(),
    }
}

fn volume_line(volume: &SimpleVolume) -> String {
    match volume {
        SimpleVolume::Inline(inline) => format!(
            "{} from the request ({} bytes, base64)",
            below("/volume", inline.relative_path.as_deref()),
            inline.contents.len()
        ),
        SimpleVolume::ZipUrl(zip) => format!(
            "{} from the zip {}",
            below("/volume", zip.relative_path.as_deref()),
            printable(&zip.contents)
        ),
        SimpleVolume::SingleFile(file) => format!(
            "{} from {}",
            below("/volume", Some(&file.relative_path)),
            printable(&file.url)
        ),
        SimpleVolume::Huggingface(repo) => format!(
            "{} from hf://{}",
            below("/volume", repo.relative_path.as_deref()),
            printable(&repo.repo_id)
        ),
    }
}

fn upload_line(upload: &SingleFileUpload) -> String {
    let (path, method, url) = match upload {
        SingleFileUpload::Post(post) => (&post.relative_path, "POST", &post.url),
        SingleFileUpload::Put(put) => (&put.relative_path, "PUT", &put.url),
    };
    format!(
        "{} by {method} to {}",
        below("/output", Some(path)),
        printable(url)
    )
}
