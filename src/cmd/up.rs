//! `horde up`: a whole network on this machine, as supervised child processes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::Serialize;
use tempfile::TempDir;

use super::catalogue;
use super::context::Context;
use super::contract::{JOBS_OWN, Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use super::job;
use super::progress::Progress;
use crate::core::client::Client;
use crate::core::config::{Backend, ConfigError, Environment, SETTINGS, Scope, Setting, Settings, Value};
use crate::core::crypto::Keypair;
use crate::core::devnet::plan::{Choices, MINERS, Plan, TRUSTED_MINER, USER, USERS, VALIDATOR};
use crate::core::devnet::ready::{self, ReadyError};
use crate::core::devnet::sample::{self, Sink};
use crate::core::devnet::{Devnet, Launch, StartError, child, keypair};
use crate::core::docker::engine::Bollard;
use crate::core::docker::image::make_executor_image;
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError};
use crate::core::host::checks::{self, Finding, Status};
use crate::core::host::facts::Host;
use crate::core::host::floors::Floors;
use crate::core::host::gpu::NvmlGpus;
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::tasks::Tasks;

/// Lines of what a role has printed that are shown when it failed.
const TAIL_LINES: usize = 15;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "up",
    Prints::Either(of::<Running>, of::<SampleResult<'_>>),
    &[
        ExitCode::NotFound,
        ExitCode::Conflict,
        ExitCode::Unreachable,
        ExitCode::TooLong,
        JOBS_OWN,
    ],
)];

/// `horde up …`
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Run a sample job, print its result and exit with its outcome
    #[arg(long)]
    once: bool,
    /// Image of the sample job; it needs sh, sort, tee and wc
    #[arg(long, value_name = "NAME:TAG", default_value = "horde-sample:latest")]
    image: String,
    /// How miners start executors
    #[arg(long, value_enum, default_value_t = BackendArg::Process)]
    backend: BackendArg,
    /// Port of the facilitator on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    facilitator_port: u16,
    /// Ports of the two miners; 0 takes a free one
    #[arg(long, value_name = "PORT,PORT", value_delimiter = ',', default_value = "0,0")]
    miner_ports: Vec<u16>,
    /// Port of the validator's trusted miner; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    trusted_miner_port: u16,
    /// Address of this machine that containers reach; for --backend docker
    #[arg(long, value_name = "ADDRESS", default_value = "172.17.0.1")]
    bridge: IpAddr,
    /// Seconds to wait until all roles answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
}

/// A backend, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    /// As child processes
    Process,
    /// As containers
    Docker,
}

/// What runs where.
#[derive(Debug, Serialize, JsonSchema)]
struct Running {
    /// The facilitator.
    facilitator: FacilitatorRow,
    /// The validator.
    validator: ValidatorRow,
    /// The miners.
    miners: Vec<MinerRow>,
    /// The miner of jobs that must be believed.
    trusted_miner: TrustedMinerRow,
    /// A user whose jobs the network takes.
    user: UserRow,
    /// Where everything keeps its data.
    directory: PathBuf,
    /// The processes, by name.
    pids: BTreeMap<&'static str, u32>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FacilitatorRow {
    /// Where users reach it.
    url: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ValidatorRow {
    /// Its hotkey.
    hotkey: Hotkey,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MinerRow {
    /// Its hotkey.
    hotkey: Hotkey,
    /// Where it listens.
    address: IpAddr,
    /// On which port.
    port: u16,
}

/// The miner of jobs with `on_trusted_miner`, which has no hotkey.
#[derive(Debug, Serialize, JsonSchema)]
struct TrustedMinerRow {
    /// Where it listens.
    address: IpAddr,
    /// On which port.
    port: u16,
}

/// A key whose jobs the network takes.
#[derive(Debug, Serialize, JsonSchema)]
struct UserRow {
    /// Its hotkey.
    hotkey: Hotkey,
    /// The development key that it signs with.
    uri: &'static str,
}

/// What came of the sample job.
#[derive(Debug, Serialize, JsonSchema)]
struct SampleResult<'a> {
    #[serde(flatten)]
    running: Running,
    /// The sample job.
    job: JobRow<'a>,
    /// What arrived, by file name.
    uploads: BTreeMap<&'static str, &'a str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct JobRow<'a> {
    /// The job.
    uuid: &'a JobId,
    /// How it ended.
    status: JobStatus,
    /// What it wrote to standard output.
    stdout: &'a str,
    /// What it wrote to standard error.
    stderr: &'a str,
}

/// Where the network keeps its data.
enum Directory {
    /// Given by the user; stays.
    Given(PathBuf),
    /// Made for this run; goes when all went well, stays for its logs when not.
    Fresh(TempDir),
}

impl Directory {
    fn open(context: &Context) -> Result<Self, CmdError> {
        let tried = "could not make a directory for the network's data";
        match context.dir() {
            Some(dir) => {
                std::fs::create_dir_all(dir).or_fail(ExitCode::Failed, tried)?;
                Ok(Self::Given(
                    std::path::absolute(dir).or_fail(ExitCode::Failed, tried)?,
                ))
            }
            None => tempfile::Builder::new()
                .prefix("horde-up-")
                .tempdir_in(context.environment.temporary())
                .map(Self::Fresh)
                .or_fail(ExitCode::Failed, tried),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Fresh(dir) => dir.path(),
        }
    }

    /// Keeps a fresh directory, for its logs.
    fn keep(self) -> PathBuf {
        match self {
            Self::Given(path) => path,
            Self::Fresh(dir) => dir.keep(),
        }
    }
}

impl UpArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.settings(Scope::Tool, Vec::new())?;
        context.start_logs(&settings)?;
        let engine = Bollard::new(settings.text("executor.docker_host")?)
            .or_fail(ExitCode::Configuration, "could not use the Docker engine")?;
        self.check_docker(context, &engine).await?;
        let accepted = accept_this_machine(context, &settings, Arc::new(engine)).await?;
        let directory = Directory::open(context)?;
        let outcome = self.run_in(context, &settings, accepted, directory.path()).await;
        if outcome.is_err() {
            let is_given = matches!(directory, Directory::Given(_));
            let has_begun = std::fs::read_dir(directory.path()).is_ok_and(|mut found| found.next().is_some());
            if has_begun && !is_given {
                let path = directory.keep();
                context.say(format_args!("logs are kept: horde logs --dir {}", path.display()));
            }
        }
        outcome
    }

    /// Without Docker no job can run, and without its image not this one: better said before anything starts.
    async fn check_docker(&self, context: &Context, engine: &Bollard) -> Result<(), CmdError> {
        engine.version().await.map_err(|error| docker_error(&error))?;
        if self.once {
            let image = ImageReference::parse(&self.image)
                .or_fail(ExitCode::Usage, format!("{} is no name of an image", self.image))?;
            if engine
                .find_image(&image)
                .await
                .map_err(|error| docker_error(&error))?
                .is_none()
            {
                let missing = CmdError::new(ExitCode::NotFound, format!("there is no image {}", self.image));
                return Err(
                    missing.hint("`sh scripts/demo.sh` makes the sample image; --image takes another one")
                );
            }
        }
        if self.backend == BackendArg::Docker {
            let image = ImageReference::parse("horde-executor:latest")
                .or_fail(ExitCode::Bug, "the executor's image has no name")?;
            Progress::of_time(context, format!("making {image} out of this binary"))
                .during(make_executor_image(engine, &image))
                .await
                .or_fail(ExitCode::Failed, "could not make the executor's image")?;
        }
        Ok(())
    }

    async fn run_in(
        &self,
        context: &Context,
        settings: &Settings,
        accepted: Vec<String>,
        dir: &Path,
    ) -> Result<(), CmdError> {
        let tasks = Tasks::new();
        let received = context.watch(&tasks)?;
        let plan = Plan::new(&self.choices(settings, dir)?);
        let launch = Launch {
            program: std::env::current_exe()
                .or_fail(ExitCode::Failed, "could not find this program's file")?,
            forget: overriding(&context.environment),
            variables: executor_variables(settings, plan.miner_ip(), accepted)?,
        };
        let network = Devnet::start(&plan, &launch, context.clock.clone(), &tasks)
            .await
            .map_err(|error| start_error(&error))?;
        let outcome = tokio::select! {
            biased;
            () = tasks.stopped() => Ok(()),
            outcome = self.use_network(context, &plan, &network, &tasks) => outcome,
        };
        let asked = tasks.is_stopping();
        let in_order = network.stop().await & tasks.shut_down(Duration::from_secs(5)).await;
        outcome?;
        match received.exit_code() {
            // Stopping is what ends a network; a sample job that was cut off has failed.
            Some(code) if asked && (self.once || received.is_impatient()) => {
                Err(CmdError::quiet(ExitCode::Passed(code)))
            }
            _ if !in_order => Err(CmdError::new(ExitCode::Failed, "some roles had to be killed")),
            _ => Ok(()),
        }
    }

    fn choices(&self, settings: &Settings, dir: &Path) -> Result<Choices, CmdError> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (backend, miner_ip) = match self.backend {
            BackendArg::Process => (Backend::Process, loopback),
            BackendArg::Docker => (Backend::Docker, self.bridge),
        };
        let &[first, second] = self.miner_ports.as_slice() else {
            let got = self.miner_ports.len();
            return Err(CmdError::new(
                ExitCode::Usage,
                format!("--miner-ports takes two ports, got {got}"),
            ));
        };
        let [facilitator_port, first, second, trusted_miner_port] = reserve([
            (loopback, self.facilitator_port),
            (miner_ip, first),
            (miner_ip, second),
            (miner_ip, self.trusted_miner_port),
        ])?;
        let validator = keypair(VALIDATOR).map_err(|error| start_error(&error))?;
        let users = USERS
            .iter()
            .map(|uri| Keypair::from_uri(uri).map(|key| key.hotkey().clone()));
        Ok(Choices {
            dir: dir.to_owned(),
            backend,
            docker_host: settings.text("executor.docker_host")?.to_owned(),
            miner_ip,
            facilitator_port,
            prices: settings.number_per_class("facilitator.prices")?.to_vec(),
            miner_ports: [first, second],
            trusted_miner_port,
            validator: validator.hotkey().clone(),
            users: users
                .collect::<Result<_, _>>()
                .or_fail(ExitCode::Bug, "could not derive development keys")?,
            netuid: settings.integer("chain.netuid")?,
            block: settings.duration("chain.block_seconds")?,
            log_level: settings.text("log.level")?.to_owned(),
        })
    }

    /// Waits until all answer, tells what runs where, and uses the network until it is asked to stop.
    async fn use_network(
        &self,
        context: &Context,
        plan: &Plan,
        network: &Devnet,
        tasks: &Tasks,
    ) -> Result<(), CmdError> {
        let validator = keypair(VALIDATOR).map_err(|error| start_error(&error))?;
        let user = keypair(USER).map_err(|error| start_error(&error))?;
        let client = Client::new(&plan.facilitator_url(), user, context.clock.clone())
            .or_fail(ExitCode::Failed, "could not set up a client")?;
        let probes = ready::probes(plan, validator.hotkey());
        Progress::of_time(context, "waiting until all roles answer")
            .during(ready::wait(
                network,
                &client,
                &probes,
                Duration::from_secs(self.wait.into()),
            ))
            .await
            .map_err(|error| ready_error(&error, network))?;
        let running = running(plan, network).map_err(|error| start_error(&error))?;
        let broken = async {
            let (child, source) = network.broken().await;
            Err(ready_error(
                &ReadyError::Died {
                    name: child.name(),
                    source,
                },
                network,
            ))
        };
        if !self.once {
            tell(context, &running)?;
            context.say("everything answers; Ctrl-C stops it");
            return broken.await;
        }
        let sink = Sink::open(plan.miner_ip(), tasks)
            .await
            .or_fail(ExitCode::Failed, "could not open a place for the job's output")?;
        tokio::select! {
            biased;
            outcome = broken => outcome,
            outcome = self.run_sample(context, running, &client, &sink) => outcome,
        }
    }

    /// Runs the sample job and tells its result; ends with the job's outcome.
    async fn run_sample(
        &self,
        context: &Context,
        running: Running,
        client: &Client,
        sink: &Sink,
    ) -> Result<(), CmdError> {
        if !context.wants_data() {
            tell(context, &running)?;
        }
        let sample_job = sample::job(&self.image, &running.validator.hotkey, sink)
            .or_fail(ExitCode::Bug, "could not pack the sample job's input")?;
        context.say("submitting a sample job");
        let view = sample::run(client, &sample_job, |status| {
            context.say(format_args!("  {status}"));
        })
        .await
        .or_fail(ExitCode::Failed, "could not run the sample job")?;
        let Some(end) = job::end(&view) else {
            return Err(CmdError::new(ExitCode::Bug, "the sample job has not ended"));
        };
        let uploaded = sink
            .received()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let result = SampleResult {
            running,
            job: JobRow {
                uuid: &view.uuid,
                status: view.current(),
                stdout: &end.stdout,
                stderr: &end.stderr,
            },
            uploads: uploaded
                .iter()
                .map(|text| (sample::OUTPUT_NAME, text.as_str()))
                .collect(),
        };
        tell_result(context, &result)?;
        match end.words {
            Some(words) => Err(CmdError::new(end.code, super::table::printable(&words))),
            None if uploaded == Some(sample::expected()) => Ok(()),
            None => Err(CmdError::new(
                ExitCode::Failed,
                "the sample job's output did not arrive as it should",
            )),
        }
    }
}

/// Takes free ports where none is asked for, all at once so that none is taken twice.
///
/// They are free again until the children bind them; who takes one in between makes that child fail, by name.
fn reserve<const N: usize>(wanted: [(IpAddr, u16); N]) -> Result<[u16; N], CmdError> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for (slot, (ip, port)) in ports.iter_mut().zip(wanted) {
        let tried = format!("could not listen on {ip} port {port}");
        let listener = TcpListener::bind((ip, port)).map_err(|error| {
            let failure = CmdError::new(ExitCode::Failed, tried.clone()).caused_by(&error);
            match error.kind() {
                ErrorKind::AddrInUse => failure
                    .hint("another process listens there; give another port, or 0 for any that is free"),
                _ => failure,
            }
        })?;
        *slot = listener.local_addr().or_fail(ExitCode::Failed, tried)?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Returns the variables that would override the settings that are written for the children.
fn overriding(environment: &Environment) -> Vec<String> {
    let is_alias = |name: &str| SETTINGS.iter().any(|setting| setting.alias == Some(name));
    environment
        .names()
        .filter(|name| name.starts_with("HORDE_") || is_alias(name))
        .map(str::to_owned)
        .collect()
}

/// Returns the failed security checks that this network's executors are to accept, and says so: only the user's own
/// jobs run here.
async fn accept_this_machine(
    context: &Context,
    settings: &Settings,
    engine: Arc<dyn Engine>,
) -> Result<Vec<String>, CmdError> {
    let mut accepted = settings.list("executor.accept")?.to_vec();
    let floors = Floors::built_in().or_fail(ExitCode::Bug, "could not read the table of versions")?;
    let host = Host::new(engine, Arc::new(NvmlGpus::new()));
    // Its miners offer no GPUs.
    let facts = host.facts(false).await.map_err(|error| docker_error(&error))?;
    let risks: Vec<Finding> = checks::security(&facts, &floors, &accepted)
        .into_iter()
        .filter(|finding| finding.status == Status::Failed && !finding.cves.is_empty())
        .collect();
    if !risks.is_empty() {
        let words: Vec<String> = risks
            .iter()
            .map(|risk| format!("{} ({})", risk.check, risk.actual))
            .collect();
        context.say(format_args!(
            "takes the risk of {} on this machine, as only your own jobs run; `horde executor check` tells more",
            words.join(", ")
        ));
    }
    accepted.extend(risks.into_iter().map(|risk| risk.check));
    Ok(accepted)
}

/// Returns what executors are told, who have no file of their own; they reach this machine at `host`.
fn executor_variables(
    settings: &Settings,
    host: IpAddr,
    accepted: Vec<String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    const ALLOW: &str = "executor.allow_addresses";
    // Only the user's own jobs run here, and their servers may well be on this machine.
    let mut allowed = settings.networks(ALLOW)?.to_owned();
    let here: [IpNet; 3] = [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        host.into(),
    ];
    for network in here {
        if !allowed.iter().any(|known| known.contains(&network)) {
            allowed.push(network);
        }
    }
    Ok([
        (
            "executor.docker_host",
            settings.text("executor.docker_host")?.to_owned(),
        ),
        (ALLOW, Value::Networks(allowed).to_string()),
        ("executor.accept", Value::List(accepted).to_string()),
        ("executor.hub_url", settings.text("executor.hub_url")?.to_owned()),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((Setting::find(key)?.environment_name(), value)))
    .collect())
}

fn running(plan: &Plan, network: &Devnet) -> Result<Running, StartError> {
    let hotkey = |account| keypair(account).map(|key| key.hotkey().clone());
    let axons = plan.members.iter().filter_map(|member| member.axon);
    let miners = MINERS.into_iter().zip(axons).map(|(account, axon)| {
        Ok(MinerRow {
            hotkey: hotkey(account)?,
            address: axon.ip(),
            port: axon.port(),
        })
    });
    let trusted = plan.trusted_miner;
    let children = network
        .children()
        .iter()
        .filter_map(|child| Some((child.name(), child.pid()?)));
    Ok(Running {
        facilitator: FacilitatorRow {
            url: plan.facilitator_url(),
        },
        validator: ValidatorRow {
            hotkey: hotkey(VALIDATOR)?,
        },
        miners: miners.collect::<Result<_, StartError>>()?,
        trusted_miner: TrustedMinerRow {
            address: trusted.ip(),
            port: trusted.port(),
        },
        user: UserRow {
            hotkey: hotkey(USER)?,
            uri: USER.uri,
        },
        directory: plan.dir.clone(),
        pids: children.chain([("up", std::process::id())]).collect(),
    })
}

/// Prints what runs where.
fn tell(context: &Context, running: &Running) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(running);
    }
    let pid = |name| {
        running
            .pids
            .get(name)
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    context.line(format_args!(
        "facilitator  {}  (pid {})",
        running.facilitator.url,
        pid("facilitator")
    ))?;
    context.line(format_args!(
        "validator    {}  (pid {})",
        running.validator.hotkey,
        pid("validator")
    ))?;
    for (name, miner) in ["miner-1", "miner-2"].into_iter().zip(&running.miners) {
        let (hotkey, address, port) = (&miner.hotkey, miner.address, miner.port);
        context.line(format_args!(
            "{name:11}  {hotkey}  {address}:{port}  (pid {})",
            pid(name)
        ))?;
    }
    let trusted = &running.trusted_miner;
    context.line(format_args!(
        "trusted      {}:{}  (pid {})",
        trusted.address,
        trusted.port,
        pid(TRUSTED_MINER)
    ))?;
    context.line(format_args!(
        "user         {}  ({})",
        running.user.hotkey, running.user.uri
    ))?;
    context.line(format_args!("directory    {}", running.directory.display()))?;
    Ok(())
}

/// Prints what came of the sample job.
fn tell_result(context: &Context, result: &SampleResult<'_>) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(result);
    }
    context.line(format_args!("\njob {} {}", result.job.uuid, result.job.status))?;
    let streams = [("stdout", result.job.stdout), ("stderr", result.job.stderr)];
    for (name, text) in streams
        .into_iter()
        .chain(result.uploads.iter().map(|(name, text)| (*name, *text)))
    {
        context.line(format_args!(
            "--- {name} ({} bytes)\n{}",
            text.len(),
            text.trim_end()
        ))?;
    }
    Ok(())
}

fn docker_error(error: &EngineError) -> CmdError {
    CmdError::new(catalogue::NO_DOCKER, "jobs cannot run without Docker")
        .caused_by(error)
        .hint("on Debian or Ubuntu: `sh scripts/demo.sh` installs and starts the Docker engine")
}

fn start_error(error: &StartError) -> CmdError {
    CmdError::new(catalogue::NETWORK, "could not start the network").caused_by(error)
}

/// Names the child that is to blame and shows the end of what it printed.
fn ready_error(error: &ReadyError, network: &Devnet) -> CmdError {
    let failed = CmdError::new(catalogue::NETWORK, "the network does not run").caused_by(error);
    let culprit = network
        .children()
        .iter()
        .find(|child| Some(child.name()) == error.culprit());
    match culprit.map(|child| (child.console(), child::tail(child.console(), TAIL_LINES))) {
        None => failed,
        Some((file, Ok(tail))) if tail.is_empty() => failed.hint(format!("{} is empty", file.display())),
        Some((file, Ok(tail))) => failed.hint(format!("the end of {}:\n{tail}", file.display())),
        Some((file, Err(error))) => failed.hint(format!("{} cannot be read: {error}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{Sources, load};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn free_ports_are_distinct_and_a_taken_one_is_named() {
        let [one, two, three] = reserve([(LOOPBACK, 0), (LOOPBACK, 0), (LOOPBACK, 0)]).unwrap();
        assert!(one != two && two != three && one != three && one != 0);
        let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = reserve([(LOOPBACK, port)]).unwrap_err();
        assert_eq!(
            error.message,
            format!("could not listen on 127.0.0.1 port {port}")
        );
    }

    #[test]
    fn children_inherit_nothing_that_overrides_their_settings() {
        let environment = Environment::from_iter([
            ("PATH", "/bin"),
            ("HORDE_WALLET_URI", "//Eve"),
            ("EXECUTOR_TOKEN", "token"),
        ]);
        assert_eq!(overriding(&environment), ["EXECUTOR_TOKEN", "HORDE_WALLET_URI"]);
    }

    #[test]
    fn executors_reach_this_machine_and_what_the_user_lists_besides() {
        for (listed, host, wanted) in [
            ("", "127.0.0.1", "127.0.0.0/8,::1/128"),
            (
                "10.0.0.0/8,::/0",
                "172.17.0.1",
                "10.0.0.0/8,::/0,127.0.0.0/8,172.17.0.1/32",
            ),
        ] {
            let environment = Environment::from_iter([("HORDE_EXECUTOR_ALLOW_ADDRESSES", listed)]);
            let settings = load(&Sources {
                scope: Scope::Tool,
                environment: &environment,
                dir: None,
                config: None,
                context: None,
                flags: Vec::new(),
            });
            let variables =
                executor_variables(&settings.unwrap(), host.parse().unwrap(), Vec::new()).unwrap();
            assert_eq!(
                variables[1],
                ("HORDE_EXECUTOR_ALLOW_ADDRESSES".to_owned(), wanted.to_owned())
            );
        }
    }
}
