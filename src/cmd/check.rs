//! `horde executor check` and `horde executor specs`: is this machine fit for jobs, and what is it made of.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::attack::AttackArgs;
use super::context::Context;
use super::error::{CmdError, ExitCode, OrFail};
use super::executor::engine;
use super::findings::{FindingRow, Findings, status_word};
use super::progress::Progress;
use crate::core::config::{Scope, Settings};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError};
use crate::core::host::checks::{self, Finding, Status};
use crate::core::host::facts::Host;
use crate::core::host::floors::Floors;
use crate::core::host::gpu::NvmlGpus;
use crate::core::host::posture::{self, Wants, WorkDir};
use crate::core::host::specs;

/// The image of executors, unless the miner's settings name another one.
const EXECUTOR_IMAGE: &str = "miner.executor_image";

/// `horde executor check …`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Expect GPUs; by itself it looks for them where a driver or the NVIDIA runtime is installed
    #[arg(long, conflicts_with = "attack")]
    gpu: bool,
    #[command(flatten)]
    attack: AttackArgs,
}

/// `horde executor specs …`
#[derive(Args, Debug)]
pub struct SpecsArgs {}

impl CheckArgs {
    /// Runs the command; ends with 10 when a check failed.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        if self.attack.attack {
            return self.attack.run(context).await;
        }
        let settings = context.role_settings(Scope::Executor, Vec::new())?;
        let looking = Progress::of_time(context, "looking at this machine");
        let findings = looking.during(look(&settings, self.gpu)).await?;
        if context.wants_data() {
            context.print_data(&Findings::of(findings.iter().map(FindingRow::from)))?;
        } else {
            for finding in &findings {
                tell(context, finding)?;
            }
        }
        let failed: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.status == Status::Failed)
            .map(|finding| finding.check.as_str())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let message = format!("this machine is not fit for jobs: {}", failed.join(", "));
        let error = CmdError::new(ExitCode::CheckFailed, message);
        Err(error
            .hint("each remedy is above; `executor.accept` takes the risk of a vulnerability by its name"))
    }
}

/// Looks at this machine as these settings have jobs run on it; expects GPUs where it is told to, or finds traces of some.
pub(super) async fn look(settings: &Settings, expects_gpus: bool) -> Result<Vec<Finding>, CmdError> {
    let engine = engine(settings.text("executor.docker_host")?)?;
    match look_by(settings, expects_gpus, &engine).await {
        Ok(findings) => Ok(findings),
        Err(LookError::Docker(error)) => Ok(vec![posture::no_docker(error.to_string())]),
        Err(LookError::Cmd(error)) => Err(error),
    }
}

async fn look_by(
    settings: &Settings,
    expects_gpus: bool,
    engine: &Arc<dyn Engine>,
) -> Result<Vec<Finding>, LookError> {
    let accepted = settings.list("executor.accept").map_err(CmdError::from)?;
    let floors = Floors::built_in().or_fail(ExitCode::Bug, "could not read the table of versions")?;
    for name in checks::unknown_names(&floors, accepted) {
        tracing::warn!(name, "executor.accept names no check");
    }
    let host = Host::new(Arc::clone(engine), Arc::new(NvmlGpus::new()));
    let has_runtime = host.engine().await?.has_nvidia_runtime();
    let gpus = Arc::clone(host.gpus());
    let path = settings
        .path("executor.work_dir")
        .map_err(CmdError::from)?
        .to_owned();
    let (has_library, work_dir) =
        tokio::task::spawn_blocking(move || (gpus.has_library(), WorkDir::read(&path)))
            .await
            .or_fail(ExitCode::Bug, "could not look at the machine")?;
    let has_gpus = !settings.bool("executor.no_gpu").map_err(CmdError::from)? && (has_runtime || has_library);
    let wants = Wants {
        disk_bytes: bytes_of_a_job(settings).map_err(CmdError::from)?,
        gpus: expects_gpus || has_gpus,
    };
    let facts = host.facts(wants.gpus).await?;
    let name = settings.text(EXECUTOR_IMAGE).map_err(CmdError::from)?;
    let image = ImageReference::parse(name).or_fail(
        ExitCode::Configuration,
        "could not use the setting miner.executor_image",
    )?;
    let image = engine.find_image(&image).await?.map(|_| name);
    let mut findings = checks::security(&facts, &floors, accepted);
    findings.extend(posture::posture(&facts, &work_dir, image, wants));
    Ok(findings)
}

/// Returns what one job may need of the disk: input and output at their limits.
pub(super) fn bytes_of_a_job(settings: &Settings) -> Result<u64, crate::core::config::ConfigError> {
    let volume: u64 = settings.integer("executor.volume_bytes_max")?;
    let upload: u64 = settings.integer("executor.upload_bytes_max")?;
    Ok(volume.saturating_add(upload))
}

/// Why the machine could not be looked at.
enum LookError {
    Docker(EngineError),
    Cmd(CmdError),
}

impl From<EngineError> for LookError {
    fn from(error: EngineError) -> Self {
        Self::Docker(error)
    }
}

impl From<CmdError> for LookError {
    fn from(error: CmdError) -> Self {
        Self::Cmd(error)
    }
}

fn tell(context: &Context, finding: &Finding) -> Result<(), CmdError> {
    let status = status_word(finding.status);
    context.line(format_args!("{status:<8}  {}", finding.check))?;
    for (name, text) in [
        ("actual", &finding.actual),
        ("required", &finding.required),
        ("purpose", &finding.purpose),
        ("remedy", &finding.remedy),
    ] {
        context.line(format_args!("          {name:<8}  {text}"))?;
    }
    Ok(())
}

impl SpecsArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.role_settings(Scope::Executor, Vec::new())?;
        let work_dir: PathBuf = settings.path("executor.work_dir")?.to_owned();
        let read = move || specs::read(&NvmlGpus::new(), &work_dir, "");
        let specs = tokio::task::spawn_blocking(read)
            .await
            .or_fail(ExitCode::Bug, "could not look at the machine")?;
        if context.wants_data() {
            return context.print_data(&specs);
        }
        for (section, value) in &specs {
            context.line(format_args!("{section:<9}  {value}"))?;
        }
        Ok(())
    }
}
