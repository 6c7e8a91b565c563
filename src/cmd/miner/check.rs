//! `horde miner check`: would validators find this miner, and would it do their jobs?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::super::check::bytes_of_a_job;
use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::executor::engine;
use super::super::findings::{FindingRow, Findings, status_word};
use super::super::key::own_address;
use super::super::progress::Progress;
use super::super::table::printable;
use super::open_beside;
use crate::core::chain::local::LocalChain;
use crate::core::chain::{Chain, ChainError};
use crate::core::config::{Backend, ChainConfig, MinerConfig, Scope, Settings};
use crate::core::docker::reference::ImageReference;
use crate::core::doctor::facts::{Directory, KeyFile};
use crate::core::doctor::judge::{self, Looked};
use crate::core::host::facts::{Facts, Host};
use crate::core::host::gpu::NvmlGpus;
use crate::core::host::posture::{self, Wants, WorkDir};
use crate::core::miner::check::{self, FROM_ELSEWHERE, Finding, NAMES, Status, probe, skipped};
use crate::core::miner::ports::count_free;
use crate::core::model::Hotkey;
use crate::core::model::subnet::{Axon, Metagraph};
use crate::core::store::miner::MinerStore;
use crate::core::tasks::Tasks;

/// How long connections of the check may take to say goodbye.
const GRACE: Duration = Duration::from_secs(5);

/// `horde miner check …`
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// Make only these checks, by the names that the whole list has
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these checks out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<String>,
    /// Fail what cannot be looked at while the miner does not run
    #[arg(long)]
    require_running: bool,
    /// Check the miner of this hotkey from another machine: what the chain and the network tell
    #[arg(long, value_name = "HOTKEY", conflicts_with = "require_running")]
    hotkey: Option<String>,
    /// Run the self-test's job in this image, which needs cat [default: one made of this binary]
    #[arg(long, value_name = "IMAGE")]
    pub(super) image: Option<String>,
    /// Run the known hashcat job of GPU classes in this image [default: that of the reference]
    #[arg(long, value_name = "IMAGE")]
    pub(super) gpu_image: Option<String>,
}

const EXAMPLES: &str = "\
A port may be closed to others and open from here: look from another machine as well, with --hotkey or
  curl -i http://ADDRESS:PORT/admin/login/

Examples:
  horde miner check
  horde miner check --only registered,axon,clock
  horde miner check --skip self-test --json";

impl CheckArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let wanted = self.wanted()?;
        let settings = context.role_settings(Scope::Miner, Vec::new())?;
        let config = MinerConfig::from_settings(&settings)?;
        let tasks = Tasks::new();
        let received = context.watch(&tasks)?;
        let progress = Progress::of_time(context, "looking at the miner");
        let mut inspection = Inspection {
            context,
            progress: &progress,
            settings,
            config,
            wanted,
            tasks: tasks.clone(),
            findings: Vec::new(),
            made_image: None,
            guest: None,
            args: self,
        };
        let outcome = tokio::select! {
            biased;
            () = tasks.stopped() => None,
            outcome = progress.during(Box::pin(inspection.look())) => Some(outcome),
        };
        inspection.clear_away().await;
        tasks.shut_down(GRACE).await;
        let Some(outcome) = outcome else {
            return Err(CmdError::quiet(ExitCode::Passed(
                received.exit_code().unwrap_or(130),
            )));
        };
        outcome?;
        inspection.end()
    }

    /// Returns the checks to make.
    fn wanted(&self) -> Result<Vec<&'static str>, CmdError> {
        for name in self.only.iter().chain(&self.skip) {
            if !NAMES.contains(&name.as_str()) {
                return Err(
                    CmdError::new(ExitCode::Usage, format!("there is no check {name:?}"))
                        .hint(format!("there are {}", NAMES.join(", "))),
                );
            }
        }
        let is_wanted = |name: &&&str| {
            let is_possible = self.hotkey.is_none() || FROM_ELSEWHERE.contains(*name);
            let is_asked = self.only.is_empty() || self.only.iter().any(|only| only == **name);
            is_possible && is_asked && !self.skip.iter().any(|skip| skip == **name)
        };
        let wanted: Vec<&str> = NAMES.iter().filter(is_wanted).copied().collect();
        if wanted.is_empty() {
            return Err(CmdError::new(ExitCode::Usage, "no check is left to make"));
        }
        Ok(wanted)
    }
}

/// A check in progress.
pub(super) struct Inspection<'a> {
    pub(super) context: &'a Context,
    pub(super) progress: &'a Progress<'a>,
    pub(super) args: CheckArgs,
    settings: Settings,
    pub(super) config: MinerConfig,
    wanted: Vec<&'static str>,
    pub(super) tasks: Tasks,
    findings: Vec<Finding>,
    /// The image of the self-test, which goes with it.
    pub(super) made_image: Option<ImageReference>,
    /// The hotkey that is let in for the self-test, and the database that says so.
    pub(super) guest: Option<(Hotkey, MinerStore)>,
}

impl Inspection<'_> {
    /// Makes all checks in turn.
    async fn look(&mut self) -> Result<(), CmdError> {
        let is_here = self.args.hotkey.is_none();
        let mut store = None;
        if is_here {
            self.keys().await?;
            store = self.data().await?;
        }
        let hotkey = match &self.args.hotkey {
            Some(hotkey) => Ok(Hotkey::new(hotkey.as_str())),
            None => own_address(self.context, &self.config.wallet).await,
        };
        let axon = self.chain(&hotkey).await?;
        let door = if is_here { self.front_door().await? } else { None };
        self.reachable(axon, is_here, door.is_some()).await?;
        if !is_here {
            return Ok(());
        }
        self.machine().await?;
        self.self_tests(hotkey.ok(), store, door).await
    }

    pub(super) fn wants(&self, check: &str) -> bool {
        self.wanted.contains(&check)
    }

    /// Keeps a finding, if it was asked for, and tells it at once.
    pub(super) fn add(&mut self, finding: Finding) -> Result<(), CmdError> {
        let name = finding.check.split(':').next().unwrap_or_default();
        if !self.wants(name) {
            return Ok(());
        }
        if !self.context.wants_data() {
            self.progress.beside(|| self.context.line(line(&finding)))?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Says that a check needs a running miner.
    pub(super) fn not_running(&mut self, check: &str) -> Result<(), CmdError> {
        self.not_running_since(check, "see front-door")
    }

    fn not_running_since(&mut self, check: &str, why: &str) -> Result<(), CmdError> {
        let status = if self.args.require_running {
            Status::Failed
        } else {
            Status::Skipped
        };
        self.add(Finding {
            remedy: "start it: horde miner run".to_owned(),
            ..check::finding(check, status, format_args!("the miner does not run: {why}"))
        })
    }

    async fn keys(&mut self) -> Result<(), CmdError> {
        let (hotkey, coldkey) = (
            self.config.wallet.hotkey_file(),
            self.config.wallet.coldkey_file(),
        );
        let is_development = self.config.wallet.uri.is_some();
        let read = move || (KeyFile::read(&hotkey), KeyFile::read(&coldkey));
        let (hotkey, coldkey) = blocking(read).await?;
        self.add(if is_development {
            skipped("key-file", "wallet.uri is a development key")
        } else {
            judge::key_file(&hotkey).finding
        })?;
        self.add(judge::coldkey(&coldkey))
    }

    /// Looks at the data directory; returns the database, if it can be opened.
    async fn data(&mut self) -> Result<Option<MinerStore>, CmdError> {
        let dir = self.config.dir.clone();
        let directory = blocking(move || Directory::read(&dir)).await?;
        self.add(judge::data_dir(&directory).finding)?;
        match open_beside(self.context).await {
            Ok((store, _)) => {
                if self.wants("database") {
                    self.add(judge::database(&match store.damage().await {
                        Ok(faults) => Looked::Through(faults),
                        Err(error) => Looked::Refused(error.to_string()),
                    }))?;
                }
                Ok(Some(store))
            }
            Err(error) if error.code == ExitCode::NotFound => {
                self.add(skipped("database", "there is none yet: horde miner run makes it"))?;
                Ok(None)
            }
            Err(error) => {
                self.add(judge::database(&Looked::Refused(error.to_string())))?;
                Ok(None)
            }
        }
    }

    /// Looks at the chain and the clock; returns the announced address.
    async fn chain(&mut self, hotkey: &Result<Hotkey, CmdError>) -> Result<Option<Axon>, CmdError> {
        let read = if [
            "registered",
            "axon",
            "clock",
            "reachable-http",
            "reachable-websocket",
        ]
        .iter()
        .any(|name| self.wants(name))
        {
            self.read_chain().await
        } else {
            Err("not asked for".to_owned())
        };
        let mut announced = None;
        match (&read, hotkey) {
            (Err(why), _) => {
                for name in ["registered", "axon"] {
                    self.add(Finding {
                        remedy: "set chain.path to the chain that this miner shall serve".to_owned(),
                        ..check::finding(
                            name,
                            Status::Failed,
                            format_args!("the chain cannot be read: {why}"),
                        )
                    })?;
                }
            }
            (Ok(_), Err(error)) => {
                for name in ["registered", "axon"] {
                    self.add(skipped(name, format_args!("the hotkey is not known: {error}")))?;
                }
            }
            (Ok((metagraph, _)), Ok(hotkey)) => {
                announced = metagraph.neuron(hotkey).and_then(|neuron| neuron.axon);
                let configured = if self.args.hotkey.is_some() {
                    None
                } else {
                    self.configured()
                };
                self.add(judge::registered(hotkey, metagraph))?;
                self.add(check::axon(announced, configured))?;
            }
        }
        if self.wants("clock") {
            let server = match self.settings.optional("miner.clock_url")? {
                Some(_) => {
                    let url = self.settings.text("miner.clock_url")?.to_owned();
                    Some(probe::ask_time(&url, &self.context.clock).await)
                }
                None => None,
            };
            let head = read.ok().map(|(_, time)| time);
            self.add(judge::clock(self.context.clock.now(), head, server))?;
        }
        Ok(announced)
    }

    /// Returns the neurons, and the time of the newest block; errors are words.
    async fn read_chain(&self) -> Result<(Metagraph, time::OffsetDateTime), String> {
        let ChainConfig { path, netuid, block } = &self.config.chain;
        if !path.exists() {
            return Err(format!("there is no {}", path.display()));
        }
        let chain = LocalChain::open(path, *netuid, *block, self.context.clock.clone())
            .await
            .map_err(|error| error.to_string())?;
        let read = async {
            let head = chain.head().await?;
            Ok::<_, ChainError>((chain.metagraph().await?, head.time))
        };
        read.await.map_err(|error| error.to_string())
    }

    /// Returns the address that the miner announces; none when that or its port is found out as it runs.
    fn configured(&self) -> Option<Axon> {
        let port = self.config.port.unwrap_or(self.config.listen.port());
        let ip = self.config.address?;
        (port != 0).then_some(Axon { ip, port })
    }

    /// Returns where the running miner is found from here.
    async fn front_door(&mut self) -> Result<Option<SocketAddr>, CmdError> {
        let needs_it = [
            "front-door",
            "reachable-http",
            "reachable-websocket",
            "self-test",
            "receipts-page",
        ];
        if !needs_it.iter().any(|name| self.wants(name)) {
            return Ok(None);
        }
        let Some(door) = probe::front_door(self.config.listen) else {
            self.add(skipped(
                "front-door",
                "miner.listen has port 0: nobody can tell where it serves",
            ))?;
            return Ok(None);
        };
        match probe::is_running(door).await {
            Ok(()) => {
                self.add(check::finding(
                    "front-door",
                    Status::Held,
                    format_args!("answers at {door}"),
                ))?;
                Ok(Some(door))
            }
            Err(why) => {
                tracing::debug!(%door, why, "no miner answers");
                self.not_running_since("front-door", &why)?;
                Ok(None)
            }
        }
    }

    async fn reachable(
        &mut self,
        axon: Option<Axon>,
        is_here: bool,
        is_running: bool,
    ) -> Result<(), CmdError> {
        let names = ["reachable-http", "reachable-websocket"];
        if is_here && !is_running {
            return names.iter().try_for_each(|name| self.not_running(name));
        }
        let Some(axon) = axon else {
            return names
                .iter()
                .try_for_each(|name| self.add(skipped(name, "no address is announced on the chain")));
        };
        let address = SocketAddr::new(axon.ip, axon.port);
        if self.wants("reachable-http") {
            let url = format!("http://{address}/admin/login/");
            let answer = probe::get(&url).await.map(|answer| answer.status);
            self.add(check::reachable_http(&url, &answer))?;
        }
        if self.wants("reachable-websocket") {
            let first = probe::first_message(address, &self.tasks).await;
            self.add(check::reachable_websocket(&probe::websocket_url(address), &first))?;
        }
        Ok(())
    }

    /// Looks at engine, image, disk, GPUs and ports.
    async fn machine(&mut self) -> Result<(), CmdError> {
        let borrowed = [
            "docker",
            "image",
            "work-dir",
            "disk",
            "gpu",
            "nvidia-runtime",
            "gpu-devices",
        ];
        if borrowed.iter().any(|name| self.wants(name)) {
            let offers_gpus = self
                .config
                .executors
                .iter()
                .any(|(class, count)| class.has_gpu() && *count > 0);
            let gpus = offers_gpus && !self.config.no_gpu;
            let engine = engine(&self.config.docker_host)?;
            let host = Host::new(Arc::clone(&engine), Arc::new(NvmlGpus::new()));
            match host.facts(gpus).await {
                Err(error) => {
                    self.add(posture::no_docker(error.to_string()))?;
                    for name in borrowed.into_iter().skip(1) {
                        self.add(skipped(name, "Docker does not answer"))?;
                    }
                }
                Ok(facts) => {
                    let found = find_image(&*engine, &self.config.executor_image).await?;
                    self.posture(&facts, found, gpus).await?;
                }
            }
        }
        if self.wants("streaming-ports") {
            let range = self.config.streaming_ports.clone();
            let free = blocking(move || count_free(&range)).await?;
            let executors = self.config.executors.iter().map(|(_, count)| count).sum();
            self.add(check::streaming_ports(
                &self.config.streaming_ports,
                free,
                executors,
            ))?;
        }
        Ok(())
    }

    async fn posture(&mut self, facts: &Facts, found: bool, gpus: bool) -> Result<(), CmdError> {
        let path = self.settings.path("executor.work_dir")?.to_owned();
        let work_dir = blocking(move || WorkDir::read(&path)).await?;
        let wants = Wants {
            disk_bytes: bytes_of_a_job(&self.settings)?,
            gpus,
        };
        let name = self.config.executor_image.clone();
        for finding in posture::posture(facts, &work_dir, found.then_some(name.as_str()), wants) {
            if finding.check == "image" {
                self.add(match (self.config.backend, found) {
                    (Backend::Docker, true) => check::finding("image", Status::Held, &name),
                    (Backend::Docker, false) => {
                        check::finding("image", Status::Failed, format_args!("there is no {name}"))
                    }
                    (Backend::Process, _) => skipped("image", "executors are processes (miner.backend)"),
                    (Backend::Swarm | Backend::Command, _) => {
                        skipped("image", "executors are on other machines (miner.backend)")
                    }
                })?;
            } else if NAMES.contains(&finding.check.as_str()) {
                self.add(finding)?;
            }
        }
        if gpus {
            let has_links = blocking(|| check::has_device_links(Path::new("/dev/char"))).await?;
            self.add(check::gpu_devices(&facts.engine.info.cgroup_driver, has_links))
        } else {
            let why = if self.config.no_gpu {
                "miner.no_gpu is set"
            } else {
                "no GPU class is offered"
            };
            ["gpu", "nvidia-runtime", "gpu-devices"]
                .iter()
                .try_for_each(|name| self.add(skipped(name, why)))
        }
    }

    /// Takes back what the self-test needed.
    async fn clear_away(&mut self) {
        if let Some((hotkey, store)) = self.guest.take()
            && let Err(error) = store
                .dismiss_check_validator(&hotkey, self.context.clock.now())
                .await
        {
            tracing::warn!(%error, "the hotkey of the self-test is let in for some time more");
        }
        if let Some(image) = self.made_image.take()
            && let Ok(engine) = engine(&self.config.docker_host)
            && let Err(error) = engine.remove_image(&image).await
        {
            tracing::warn!(%image, %error, "cannot remove the image of the self-test");
        }
    }

    /// Prints what was found and ends as it must.
    fn end(self) -> Result<(), CmdError> {
        if self.context.wants_data() {
            self.context
                .print_data(&Findings::of(self.findings.iter().map(FindingRow::from)))?;
        }
        let failed = self
            .findings
            .iter()
            .filter(|finding| finding.status == Status::Failed);
        let failed: Vec<&str> = failed.map(|finding| finding.check.as_str()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let message = format!("this miner is not fit: {}", failed.join(", "));
        Err(CmdError::new(ExitCode::CheckFailed, message).hint("the remedies are above"))
    }
}

/// Returns a finding in one line; what helps is told where help is needed.
fn line(finding: &Finding) -> String {
    let status = status_word(finding.status);
    let mut text = format!(
        "{status:<8}  {:<20}  {}",
        finding.check,
        printable(&finding.actual)
    );
    let needs_help = match finding.status {
        Status::Failed | Status::Advice => true,
        Status::Unknown | Status::Held | Status::Accepted | Status::Skipped => false,
    };
    if needs_help {
        text.push_str("; remedy: ");
        text.push_str(&finding.remedy);
    }
    text
}

async fn find_image(engine: &dyn crate::core::docker::Engine, name: &str) -> Result<bool, CmdError> {
    let image = ImageReference::parse(name).or_fail(
        ExitCode::Configuration,
        "could not use the setting miner.executor_image",
    )?;
    let found = engine.find_image(&image).await;
    Ok(found
        .or_fail(ExitCode::Failed, "could not look for the executor's image")?
        .is_some())
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, CmdError> {
    tokio::task::spawn_blocking(look)
        .await
        .or_fail(ExitCode::Bug, "could not look at the machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_brings_its_remedy_where_one_is_needed() {
        let held = check::finding("axon", Status::Held, "as\nit must be");
        let failed = check::finding("axon", Status::Failed, "none");
        assert!(!line(&held).contains('\n') && !line(&held).contains("remedy"));
        assert!(line(&failed).contains("remedy: run the miner"));
    }
}
