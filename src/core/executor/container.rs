//! The job's container: planned from the order, made early, started when the input is in place, removed last.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::core::docker::cgroup::Cgroup;
use crate::core::docker::limits::{BindMount, ContainerPath, ContainerSpec, Labels, Network, Preset, Role};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::removal::{self, REMOVAL_PATIENCE, RemovalError};
use crate::core::docker::sandbox::Sandbox;
use crate::core::docker::{
    ContainerId, Engine, EngineError, ImageId, OutputChunk, OutputStream, Signal, StreamName,
};
use crate::core::model::job::RunPreset;
use crate::core::proto::job::FullJob;
use crate::core::tasks::Tasks;

use super::capture::{Capture, FILE_BYTES_MAX};
use super::guard::Guard;
use super::images::{Images, LocalImage};
use super::live::Live;
use super::machine::{Ended, Fault, Streams};
use super::shortfall::{Observed, Shortfall};
use super::usage::{Excess, Watched};
use super::workspace::Workspace;

/// The names of the files that hold a container's streams, in scratch and later in the output.
pub(super) const STREAM_FILES: [&str; 2] = ["stdout.txt", "stderr.txt"];

/// Signals that may wait for a container to run: one to ask it, one to kill it.
const SIGNALS_MAX: usize = 2;

/// Time between two looks at how many processes a job was refused.
const REFUSALS_EVERY: Duration = Duration::from_millis(250);

/// How much of a stream is gathered before it is written to its file, in bytes.
const FILE_BUFFER_BYTES: usize = 128 * 1024;

/// What the executor adds to every order.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// On whose behalf containers run.
    pub(super) owner: String,
    /// The executor's token.
    pub(super) token: String,
    /// Whether no GPU is asked for, whatever the order says.
    pub(super) no_gpu: bool,
    /// Where the client of a streaming job connects.
    pub(super) streaming_port: u16,
}

/// Plans a job's container; pure.
pub(super) fn plan(
    job: &FullJob,
    image: ImageId,
    identity: &Identity,
    workspace: &Workspace,
    sandbox: &Sandbox,
) -> Result<ContainerSpec, Fault> {
    let mount = |source, target: &str| match ContainerPath::parse(target) {
        Ok(target) => Ok(BindMount {
            source: workspace.on_host(source),
            target,
        }),
        Err(error) => Err(Fault::Refused(format!("artifacts_dir was refused: {error}"))),
    };
    let mut mounts = vec![
        mount(workspace.volume(), "/volume")?,
        mount(workspace.output(), "/output")?,
        mount(workspace.specs(), "/specs")?,
    ];
    let mut command = job.docker_run_cmd.clone();
    if job.raw_script.is_some() {
        mounts.push(mount(workspace.script(), "/script.py")?);
        if command.is_empty() {
            command = vec!["python".to_owned(), "/script.py".to_owned()];
        }
    }
    if let Some(folder) = &job.artifacts_dir {
        let artifacts = mount(workspace.artifacts(), folder)?;
        if mounts.iter().any(|mount| mount.target == artifacts.target) {
            return Err(Fault::Refused(format!(
                "artifacts_dir was refused: `{folder}` is mounted already"
            )));
        }
        mounts.push(artifacts);
    }
    Ok(ContainerSpec {
        name: format!("ch-{}-job", identity.token),
        image,
        command,
        env: job
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        labels: Labels {
            owner: identity.owner.clone(),
            token: identity.token.clone(),
            job: Some(job.job_uuid.to_string()),
        },
        mounts,
        network: Network::None,
        role: Role::Job {
            preset: preset(job, identity),
            sandbox: sandbox.clone(),
        },
    })
}

fn preset(job: &FullJob, identity: &Identity) -> Preset {
    match job.docker_run_options_preset {
        RunPreset::NvidiaAll if !identity.no_gpu => Preset::NvidiaAll,
        RunPreset::NvidiaAll | RunPreset::None => Preset::None,
    }
}

/// What a container's task works with.
#[derive(Debug)]
pub(super) struct Plan {
    /// The engine.
    pub(super) engine: Arc<dyn Engine>,
    /// Looks at the machine once more when a job turns out to want GPUs.
    pub(super) guard: Arc<Guard>,
    /// The order.
    pub(super) job: Box<FullJob>,
    /// Where images come from.
    pub(super) images: Arc<Images>,
    /// The image, if the first request named it.
    pub(super) image: Option<LocalImage>,
    /// When the stage ends in which the container is made.
    pub(super) until: Option<Instant>,
    /// What is added.
    pub(super) identity: Identity,
    /// The folders.
    pub(super) workspace: Arc<Workspace>,
    /// What the job may use and do.
    pub(super) sandbox: Sandbox,
    /// Where its streams go besides, when the miner wants them while it runs.
    pub(super) live: Option<Live>,
    /// A folder on the file system where the engine keeps the roots of containers.
    pub(super) engine_root: PathBuf,
}

/// What is told of a container, in this order.
#[derive(Debug)]
pub(super) enum ContainerNews {
    /// It has ended, or could not be made or started.
    Ended(Result<Ended, Fault>),
    /// It is gone with everything that ran in it, also when it was never there.
    Gone(Result<(), RemovalError>),
}

/// Who is told.
pub(super) type Told = Box<dyn Fn(ContainerNews) -> BoxFuture<'static, ()> + Send + Sync>;

/// The container of a job, while its task lives; dropping it removes the container too.
#[derive(Debug)]
pub(super) struct JobContainer {
    go: Option<oneshot::Sender<()>>,
    signals: mpsc::Sender<Signal>,
    release: CancellationToken,
    running: watch::Receiver<Option<ContainerId>>,
}

/// The orders as the task sees them.
struct Orders {
    go: oneshot::Receiver<()>,
    signals: mpsc::Receiver<Signal>,
    release: CancellationToken,
    running: watch::Sender<Option<ContainerId>>,
}

impl JobContainer {
    /// Begins to make the container; `told` hears of its end, if it was to start, and of its removal.
    pub(super) fn begin(plan: Plan, tasks: &Tasks, told: Told) -> Self {
        let (go, go_received) = oneshot::channel();
        let (signals, signals_received) = mpsc::channel(SIGNALS_MAX);
        let release = CancellationToken::new();
        let (running_sender, running) = watch::channel(None);
        let orders = Orders {
            go: go_received,
            signals: signals_received,
            release: release.clone(),
            running: running_sender,
        };
        tasks.spawn("job container", live(plan, orders, told));
        Self {
            go: Some(go),
            signals,
            release,
            running,
        }
    }

    /// Returns where to learn which container it is, once that runs.
    pub(super) fn running(&self) -> watch::Receiver<Option<ContainerId>> {
        self.running.clone()
    }

    /// Lets the container start.
    pub(super) fn start(&mut self) {
        if let Some(go) = self.go.take() {
            // A task that has failed already has told so.
            go.send(()).unwrap_or_default();
        }
    }

    /// Sends the container a signal, as soon as it runs.
    pub(super) fn signal(&self, signal: Signal) {
        // Each signal is sent once; a task that has ended needs none.
        self.signals.try_send(signal).unwrap_or_default();
    }

    /// Removes the container, also while it runs or is being made; its end is told.
    pub(super) fn remove(&self) {
        self.release.cancel();
    }
}

impl Drop for JobContainer {
    fn drop(&mut self) {
        self.release.cancel();
    }
}

async fn live(plan: Plan, mut orders: Orders, told: Told) {
    let engine = Arc::clone(&plan.engine);
    let release = orders.release.clone();
    let made = make(&plan, &release).await;
    let is_to_start = tokio::select! {
        biased;
        () = release.cancelled() => false,
        go = &mut orders.go => go.is_ok(),
    };
    let mut cgroup = None;
    let (container, ended) = match made {
        Ok((container, output)) if is_to_start => {
            let running = Running {
                plan: &plan,
                container: &container,
                cgroup: &mut cgroup,
                told: &orders.running,
            };
            let ended = tokio::select! {
                biased;
                () = release.cancelled() => None,
                ended = execute(running, output, &mut orders.signals) => Some(ended),
            };
            (Some(container), ended)
        }
        Ok((container, _output)) => (Some(container), None),
        Err(Unmade { container, fault }) => (container, is_to_start.then_some(Err(fault))),
    };
    if let Some(live) = &plan.live {
        live.end();
    }
    if let Some(ended) = ended {
        tokio::select! {
            biased;
            () = release.cancelled() => {}
            () = async {
                told(ContainerNews::Ended(ended)).await;
                release.cancelled().await;
            } => {}
        }
    }
    let gone = match container {
        Some(container) => removal::remove(&*engine, &container, cgroup.as_ref(), REMOVAL_PATIENCE).await,
        None => Ok(()),
    };
    told(ContainerNews::Gone(gone)).await;
}

/// Why there is no container to start, and the one that is there all the same.
struct Unmade {
    container: Option<ContainerId>,
    fault: Fault,
}

impl From<Fault> for Unmade {
    fn from(fault: Fault) -> Self {
        Self {
            container: None,
            fault,
        }
    }
}

async fn make(plan: &Plan, release: &CancellationToken) -> Result<(ContainerId, OutputStream), Unmade> {
    let engine = &*plan.engine;
    let wanted = ImageReference::parse(&plan.job.docker_image);
    let image = match &plan.image {
        Some(image) if wanted.as_ref() == Ok(&image.reference) => image.id.clone(),
        Some(_) | None => {
            // The only part that may take long; the others are not cut short, so that nothing is made unseen.
            tokio::select! {
                biased;
                () = release.cancelled() => return Err(Fault::NoImage("cancelled".to_owned()).into()),
                image = plan.images.obtain(&plan.job.docker_image, plan.until) => image?.id,
            }
        }
    };
    if let Some(script) = &plan.job.raw_script {
        std::fs::write(plan.workspace.script(), script).map_err(disk)?;
    }
    let spec = self::plan(&plan.job, image, &plan.identity, &plan.workspace, &plan.sandbox)?;
    if matches!(
        spec.role,
        Role::Job {
            preset: Preset::NvidiaAll,
            ..
        }
    ) {
        // Also for a job of a class without GPUs that asks for some all the same.
        plan.guard.admit(true).await?;
    }
    let container = engine.create(&spec).await.map_err(|error| refused(error, plan))?;
    match engine.attach(&container).await {
        Ok(output) => Ok((container, output)),
        Err(error) => Err(Unmade {
            container: Some(container),
            fault: ours(error),
        }),
    }
}

/// A container that is to run.
struct Running<'a> {
    plan: &'a Plan,
    container: &'a ContainerId,
    /// Where its processes can be seen, once it runs.
    cgroup: &'a mut Option<Cgroup>,
    /// Who is told that it runs.
    told: &'a watch::Sender<Option<ContainerId>>,
}

/// Starts the container and follows it to its end; one that goes over what it may write is killed.
async fn execute(
    running: Running<'_>,
    mut output: OutputStream,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<Ended, Fault> {
    let Running {
        plan,
        container,
        cgroup,
        told,
    } = running;
    let engine = &*plan.engine;
    let mut files = StreamFiles::open(&plan.workspace.scratch()).map_err(disk)?;
    engine
        .start(container)
        .await
        .map_err(|error| refused(error, plan))?;
    told.send_replace(Some(container.clone()));
    let watched = watched(plan, container);
    let mut exit = pin!(engine.wait(container));
    let mut look = pin!(engine.inspect(container));
    let mut overuse = pin!(watched.excess());
    let mut ticks = tokio::time::interval(REFUSALS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut exit_code, mut has_ended, mut is_seen) = (None, false, false);
    let (mut excess, mut refused_processes) = (None, 0);
    // Beside the reading: an engine answers to KILL when the container has ended, which waits until all that it wrote
    // is read.
    let mut kills = FuturesUnordered::new();
    let exit_code = loop {
        if let (Some(code), true, true) = (exit_code, has_ended, is_seen) {
            break code;
        }
        tokio::select! {
            biased;
            Some(signal) = signals.recv() => {
                tracing::info!(%container, signal = signal.as_str(), "the job is over its time");
                kills.push(engine.kill(container, signal));
            }
            Some(killed) = kills.next() => killed.map_err(ours)?,
            state = &mut look, if !is_seen => {
                is_seen = true;
                let pid = state.ok().flatten().and_then(|state| state.pid);
                *cgroup = Cgroup::find(container, pid);
                if cgroup.is_none() {
                    tracing::debug!(%container, "its control group is not seen from here: the engine's word will do");
                }
            }
            code = &mut exit, if exit_code.is_none() => exit_code = Some(code.map_err(ours)?),
            found = &mut overuse, if excess.is_none() && exit_code.is_none() => {
                tracing::warn!(%container, excess = ?found, "the job is over what it may write and is killed");
                excess = Some(found);
                kills.push(engine.kill(container, Signal::Kill));
            }
            _ = ticks.tick(), if exit_code.is_none() => {
                let refused = cgroup.as_ref().map_or(0, Cgroup::refused_processes);
                refused_processes = refused_processes.max(refused);
            }
            chunk = output.next(), if !has_ended => match chunk {
                Some(chunk) => {
                    let chunk = chunk.map_err(ours)?;
                    files.push(&chunk).map_err(disk)?;
                    if let Some(live) = &plan.live {
                        live.push(chunk.stream, &chunk.bytes);
                    }
                }
                None => has_ended = true,
            },
        }
    };
    let streams = files.finish()?;
    let observed = Observed {
        exit_code,
        is_out_of_memory: exit_code != 0 && is_out_of_memory(engine, container).await,
        excess,
        refused_processes,
        stderr: &streams.stderr,
    };
    let shortfall = Shortfall::of(&observed, &plan.sandbox);
    match (&observed.excess, &shortfall) {
        (
            Some(Excess::HostFull { .. }),
            Some(Shortfall {
                certain: Some(words), ..
            }),
        ) => Err(Fault::Refused(format!("The job was ended: {words}"))),
        _ => Ok(Ended {
            exit_code,
            streams,
            shortfall,
        }),
    }
}

fn watched(plan: &Plan, container: &ContainerId) -> Watched {
    let workspace = &plan.workspace;
    Watched {
        engine: Arc::clone(&plan.engine),
        container: container.clone(),
        folders: vec![
            workspace.volume(),
            workspace.output(),
            workspace.artifacts(),
            workspace.specs(),
        ],
        file_systems: vec![workspace.volume(), plan.engine_root.clone()],
        bound: plan.sandbox.disk_bytes(),
    }
}

/// Returns whether the kernel killed a process of a container that has ended for lack of memory.
async fn is_out_of_memory(engine: &dyn Engine, container: &ContainerId) -> bool {
    match engine.inspect(container).await {
        Ok(state) => state.is_some_and(|state| state.is_out_of_memory),
        Err(error) => {
            tracing::warn!(%container, %error, "cannot tell whether the job ran out of memory");
            false
        }
    }
}

/// The files and texts of a container's two streams.
struct StreamFiles {
    stdout: Capture<BufWriter<File>>,
    stderr: Capture<BufWriter<File>>,
}

impl StreamFiles {
    fn open(scratch: &Path) -> io::Result<Self> {
        let [stdout, stderr] = STREAM_FILES;
        Ok(Self {
            stdout: open_stream(scratch, stdout)?,
            stderr: open_stream(scratch, stderr)?,
        })
    }

    fn push(&mut self, chunk: &OutputChunk) -> io::Result<()> {
        match chunk.stream {
            StreamName::Stdout => self.stdout.push(&chunk.bytes),
            StreamName::Stderr => self.stderr.push(&chunk.bytes),
        }
    }

    fn finish(self) -> Result<Streams, Fault> {
        Ok(Streams {
            stdout: close_stream("stdout", self.stdout)?,
            stderr: close_stream("stderr", self.stderr)?,
        })
    }
}

/// Ends a stream; returns its text, and tells the log what of it nobody will see.
fn close_stream(name: &str, stream: Capture<BufWriter<File>>) -> Result<String, Fault> {
    let captured = stream.finish().map_err(disk)?;
    if captured.characters_cut > 0 {
        tracing::info!(
            name,
            bytes = captured.bytes,
            characters_cut = captured.characters_cut,
            file_bytes_left_out = captured.file_bytes_left_out,
            "a long stream was cut in the middle"
        );
    }
    Ok(captured.text)
}

fn open_stream(scratch: &Path, name: &str) -> io::Result<Capture<BufWriter<File>>> {
    let file = File::create(scratch.join(name))?;
    Ok(Capture::new(
        BufWriter::with_capacity(FILE_BUFFER_BYTES, file),
        FILE_BYTES_MAX,
    ))
}

/// Turns an engine's refusal of a container into a fault, with what was missing where that is known.
fn refused(error: EngineError, plan: &Plan) -> Fault {
    match Shortfall::of_refusal(&error, preset(&plan.job, &plan.identity), &plan.sandbox) {
        Some(shortfall) => Fault::Denied {
            detail: error.to_string(),
            shortfall: Box::new(shortfall),
        },
        None => ours(error),
    }
}

/// Turns an engine's error into a fault of ours, under the name that the reference gives it.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(super) fn ours(error: EngineError) -> Fault {
    Fault::Ours {
        kind: "DockerError",
        detail: error.to_string(),
    }
}

/// Turns a failure of our own disk into a fault of ours.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(super) fn disk(error: io::Error) -> Fault {
    Fault::Ours {
        kind: "OSError",
        detail: error.to_string(),
    }
}
