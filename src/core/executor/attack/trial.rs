//! One trial of one profile: the stage is set, the jobs are run, everything is cleared away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::capture::FILE_BYTES_MAX;
use super::AttackError;
use super::canary::Canaries;
use super::elf;
use super::inside::namespaces;
use super::judge::{Ending, Scene, Seen, visitors};
use super::orders::{self, Addresses, Order};
use super::probe::{self, Bounds, Orders};
use super::stage::Stage;
use super::witness;
use crate::core::config::{ExecutorConfig, Secret};
use crate::core::docker::image::{ExtraFile, make_image_with};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError, Label, sweep};
use crate::core::host::checks::RELEASE_AGENT;
use crate::core::host::floors::Floors;
use crate::core::model::Profile;
use crate::core::net::{Event, Link};
use crate::core::proto::job::Context;
use crate::core::proto::miner_executor::Up;
use crate::core::tasks::Tasks;

/// The memory of an attacking job, in bytes.
const MEMORY_BYTES: u64 = 256 << 20;

/// Its processes and threads.
const PIDS_MAX: u32 = 128;

/// Its open files.
const NOFILE_MAX: u32 = 1024;

/// Its `/dev/shm`, in bytes.
const SHM_BYTES: u64 = 32 << 20;

/// What it may write to the disk, in bytes.
const DISK_BYTES: u64 = 192 << 20;

/// The largest volume of an attacking job, in bytes.
const VOLUME_BYTES_MAX: u64 = 1 << 20;

/// Where the attacker stops by itself: beyond every limit of its job, and before it hurts a host without limits.
const BOUNDS: Bounds = Bounds {
    forks: 1000,
    memory_bytes: MEMORY_BYTES + (256 << 20),
    disk_bytes: DISK_BYTES + (128 << 20),
    log_bytes: FILE_BYTES_MAX + (32 << 20),
    descriptors: NOFILE_MAX + 64,
};

/// The longest that one job may take from its executor's start to its end.
const JOB_PATIENCE: Duration = Duration::from_secs(120);

/// How the names of everything on the host begin.
const PREFIX: &str = "horde-attack-";

/// Where archives try to place files on the host.
const STRAYS: &str = "/tmp";

/// How the files begin in which executors keep which images they used; engines that give local images a digest have
/// one for the attack's image too.
const IMAGE_RECORD: &[u8] = b"horde-images-";

/// A profile under attack.
#[derive(Debug)]
pub(super) struct Trial {
    run: String,
    config: ExecutorConfig,
    engine: Arc<dyn Engine>,
    tasks: Tasks,
    image: ImageReference,
    folder: TempDir,
    canary: PathBuf,
    secret: String,
    stray: PathBuf,
    canaries: Canaries,
    stage: Stage,
}

impl Trial {
    /// Makes the image, the folders and the listeners.
    pub(super) async fn prepare(
        config: &ExecutorConfig,
        engine: Arc<dyn Engine>,
        profile: Profile,
        tasks: &Tasks,
    ) -> Result<Self, AttackError> {
        // Asked first, so that nothing has been made for an engine that is not there.
        engine.version().await?;
        let run = uuid::Uuid::new_v4().simple().to_string();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{run}-"))
            .tempdir_in(&config.work_dir)
            .map_err(AttackError::Stage)?;
        let secret = format!("horde-secret-{}", uuid::Uuid::new_v4());
        let canary = plant_canary(folder.path(), &secret).map_err(AttackError::Stage)?;
        let stray = Path::new(STRAYS).join(format!("{PREFIX}stray-{run}"));
        let canaries = Canaries::open(&run, &probe::abstract_name(&run), tasks)
            .await
            .map_err(AttackError::Stage)?;
        let stage = Stage::open(&run, &stray.to_string_lossy(), canaries.tcp_port, tasks)
            .await
            .map_err(AttackError::Stage)?;
        let image = image(&run)?;
        let setuid = ExtraFile {
            path: elf::SETUID_PATH,
            content: elf::tell_user(),
            mode: 0o4755,
        };
        make_image_with(&*engine, &image, vec![setuid]).await?;
        Ok(Self {
            config: small(config, profile, &stage, &folder, &run)?,
            run,
            engine,
            tasks: tasks.clone(),
            image,
            folder,
            canary,
            secret,
            stray,
            canaries,
            stage,
        })
    }

    /// Runs the jobs of the chosen attacks: what was seen of each attack, and of all.
    pub(super) async fn run(
        &self,
        chosen: &(dyn Fn(&str) -> bool + Sync),
        tell: &(dyn Fn(&str) + Sync),
    ) -> (BTreeMap<&'static str, Arc<Seen>>, Scene) {
        let (first, second) = orders::plan(chosen);
        let neighbour = async {
            if !chosen("neighbour") {
                return None;
            }
            let seen = self.play(&orders::neighbour(), tell).await;
            visitors(&seen.probes)
        };
        let (first, second, visitors) =
            tokio::join!(self.lane(&first, tell), self.lane(&second, tell), neighbour);
        let scene = Scene {
            profile: self.config.sandbox.profile,
            namespaces: namespaces(),
            pids_max: self.config.sandbox.pids_max,
            log_bytes_max: FILE_BYTES_MAX,
            heard: self.canaries.heard(),
            visitors,
        };
        (first.into_iter().chain(second).collect(), scene)
    }

    async fn lane(
        &self,
        orders: &[Order],
        tell: &(dyn Fn(&str) + Sync),
    ) -> BTreeMap<&'static str, Arc<Seen>> {
        let mut all = BTreeMap::new();
        for order in orders {
            if self.tasks.is_stopping() {
                break;
            }
            let seen = Arc::new(self.play(order, tell).await);
            all.extend(order.attacks.iter().map(|attack| (*attack, Arc::clone(&seen))));
        }
        all
    }

    /// Has one job run by an executor, as a miner would.
    async fn play(&self, order: &Order, tell: &(dyn Fn(&str) + Sync)) -> Seen {
        tell(order.name);
        let token = format!("{PREFIX}{}-{}", self.run, order.name);
        // A folder of its own, so that what lies in it is this job's.
        let work_dir = self.folder.path().join(order.name);
        if let Err(error) = fs::create_dir(&work_dir) {
            tracing::warn!(%error, "could not make an executor's folder");
            return Seen::default();
        }
        let config = ExecutorConfig {
            token: Secret::new(&*token),
            work_dir: work_dir.clone(),
            ..self.config.clone()
        };
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let link = self.stage.expect(&token);
        let executor = async {
            let outcome = super::super::run(config, Arc::clone(&self.engine), self.tasks.child()).await;
            if let Err(error) = outcome {
                tracing::debug!(job = order.name, %error, "an executor under attack ended");
            }
            ended.cancel();
        };
        let miner = async {
            let link = tokio::select! {
                biased;
                link = link => link.ok(),
                // One that ended without having come never will.
                () = ended.cancelled() => None,
            };
            let told = match link {
                Some(link) => self.converse(order, &token, link).await,
                None => Told::default(),
            };
            stop.cancel();
            told
        };
        let watched = witness::watch(token.clone(), work_dir.clone(), stop.clone());
        let played = async {
            let ((), told, watched) = tokio::join!(executor, miner, watched);
            (told, watched)
        };
        let Ok((told, watched)) = timeout(JOB_PATIENCE, Box::pin(played)).await else {
            tracing::warn!(job = order.name, "a job of the attack did not end in time");
            return Seen::default();
        };
        Seen {
            is_page_served: self.stage.is_served(order.name),
            ..self.sum_up(&token, &work_dir, told, watched)
        }
    }

    /// Speaks with the executor until it has reported.
    async fn converse(&self, order: &Order, token: &str, mut link: Link) -> Told {
        let mut told = Told::default();
        let job_uuid = uuid::Uuid::new_v4().to_string();
        let image = self.image.as_str();
        // A link that has ended says so in what it receives.
        drop(link.send(orders::initial(&job_uuid, image).to_string()).await);
        loop {
            let text = match link.recv().await {
                Event::Text(text) => text,
                Event::Binary(_) => continue,
                Event::Closed { .. } => return told,
            };
            match Up::decode(&text) {
                Ok(Up::ExecutorReady(_)) => {
                    let full = self.full(order, &job_uuid, token).to_string();
                    drop(link.send(full).await);
                }
                Ok(up) => {
                    if told.take(up) {
                        break;
                    }
                }
                Err(error) => tracing::debug!(%error, "an executor under attack sent no message"),
            }
        }
        // At this very moment nothing of the job may be left.
        let marker = token.to_owned();
        told.processes_left = tokio::task::spawn_blocking(move || witness::processes(&marker))
            .await
            .ok();
        told.containers_left = match self.engine.list(Label::Token(token)).await {
            Ok(left) => left.len(),
            Err(_) => 1,
        };
        while !matches!(link.recv().await, Event::Closed { .. }) {}
        told
    }

    fn full(&self, order: &Order, job_uuid: &str, token: &str) -> serde_json::Value {
        let inside = Orders {
            attacks: order.inside.iter().map(|name| (*name).to_owned()).collect(),
            run: self.run.clone(),
            job: token.to_owned(),
            addresses: self.canaries.addresses.clone(),
            tcp_port: self.canaries.tcp_port,
            udp_port: self.canaries.udp_port,
            canary: self.canary.to_string_lossy().into_owned(),
            bounds: BOUNDS,
        };
        let inside = serde_json::to_string(&inside).unwrap_or_default();
        let addresses = Addresses {
            stage: self.stage.address(),
            canary_port: self.canaries.tcp_port,
            run: &self.run,
            canary: &self.canary.to_string_lossy(),
        };
        orders::full(order, job_uuid, self.image.as_str(), &inside, addresses, token)
    }

    fn sum_up(&self, token: &str, work_dir: &Path, told: Told, watched: witness::Seen) -> Seen {
        let mut leaks = Vec::new();
        for upload in self.stage.take_uploads(token) {
            if has(&upload, self.secret.as_bytes()) {
                leaks.push("in an upload".to_owned());
            }
        }
        if told.has(&self.secret) {
            leaks.push("in the report".to_owned());
        }
        let mut strays: Vec<String> = [self.stray.clone(), Path::new(STRAYS).join("horde-attack-through")]
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .map(|path| path.display().to_string())
            .collect();
        // The executor has cleared its folder: what is left there, but for its own record of images, came out of a
        // job.
        let left = fs::read_dir(work_dir).into_iter().flatten().flatten();
        let is_record = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(IMAGE_RECORD);
        strays.extend(
            left.filter(|entry| !is_record(entry))
                .map(|entry| entry.path().display().to_string()),
        );
        Seen {
            probes: probe::read(&told.stdout),
            stdout_characters: told.stdout.chars().count(),
            ending: told.ending,
            processes_max: watched.processes_max,
            // Who never saw the processes of the job cannot say that they are gone.
            processes_left: told.processes_left.filter(|_| watched.processes_max.is_some()),
            containers_left: told.containers_left,
            resident_growth: watched.resident_growth,
            folder_bytes_max: watched.folder_bytes_max,
            leaks,
            canary_is_whole: fs::read(&self.canary).is_ok_and(|content| content == self.secret.as_bytes()),
            strays,
            is_page_served: false,
        }
    }

    /// Removes containers, image and folders.
    pub(super) async fn clear_away(self) -> Result<(), EngineError> {
        let swept = sweep(&*self.engine, Label::Owner(&self.config.owner)).await;
        let removed = self.engine.remove_image(&self.image).await;
        for stray in [&self.stray, &Path::new(STRAYS).join("horde-attack-through")] {
            fs::remove_file(stray).unwrap_or_default();
        }
        if let Err(error) = self.folder.close() {
            tracing::warn!(%error, "could not remove the attack's folder");
        }
        swept.map(drop).and(removed)
    }
}

/// What an executor told the stage.
#[derive(Debug, Default)]
struct Told {
    ending: Ending,
    stdout: String,
    rest: String,
    processes_left: Option<usize>,
    containers_left: usize,
}

impl Told {
    /// Takes a message; returns whether it was the report.
    fn take(&mut self, up: Up) -> bool {
        match up {
            Up::JobFinished(finished) => {
                self.ending = Ending::Finished;
                self.rest = format!("{:?} {}", finished.artifacts, finished.docker_process_stderr);
                self.stdout = finished.docker_process_stdout;
            }
            Up::JobFailed(failed) => {
                self.ending = Ending::Failed {
                    reason: failed.reason.to_string(),
                    exit_code: failed.docker_process_exit_status,
                    words: in_words(&failed.message, failed.context.as_ref()),
                };
                self.stdout = failed.docker_process_stdout.unwrap_or_default();
                self.rest = failed.docker_process_stderr.unwrap_or_default();
            }
            Up::HordeFailed(failed) => {
                self.ending = Ending::HordeFailed(in_words(&failed.message, failed.context.as_ref()));
            }
            _ => return false,
        }
        true
    }

    /// Tells whether a secret is in it, also as base64, in which artifacts travel.
    fn has(&self, secret: &str) -> bool {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        [&self.stdout, &self.rest]
            .iter()
            .any(|text| text.contains(secret) || text.contains(encoded.trim_end_matches('=')))
    }
}

/// Returns the operator's settings with what the attack needs: another miner, and bounds that are quickly met.
fn small(
    config: &ExecutorConfig,
    profile: Profile,
    stage: &Stage,
    folder: &TempDir,
    run: &str,
) -> Result<ExecutorConfig, AttackError> {
    let mut small = ExecutorConfig {
        miner_address: stage.miner(),
        startup: JOB_PATIENCE,
        owner: format!("{PREFIX}{run}"),
        work_dir: folder.path().to_owned(),
        volume_bytes_max: VOLUME_BYTES_MAX,
        // The versions of the machine are judged by the checks; here the sandbox is tried as it is.
        accept: every_risk()?,
        // The first hop only: whatever a volume leads to from there is refused as it is for strangers.
        allow_addresses: vec![IpNet::from(stage.address().ip())],
        no_gpu: true,
        ..config.clone()
    };
    small.sandbox.profile = profile;
    small.sandbox.memory_bytes = Some(MEMORY_BYTES);
    small.sandbox.pids_max = PIDS_MAX;
    small.sandbox.nofile_max = NOFILE_MAX;
    small.sandbox.shm_bytes = Some(SHM_BYTES);
    small.sandbox.disk_bytes = DISK_BYTES;
    Ok(small)
}

/// Returns the names of all risks that an operator can accept.
fn every_risk() -> Result<Vec<String>, AttackError> {
    let floors = Floors::built_in()?;
    let ids = floors.list.into_iter().map(|floor| floor.id);
    Ok(ids.chain([RELEASE_AGENT.to_owned()]).collect())
}

/// Writes a failure in one line: its message, then the facts that came with it.
fn in_words(message: &str, context: Option<&Context>) -> String {
    let facts = context
        .into_iter()
        .flatten()
        .map(|(key, value)| match value.as_str() {
            Some(text) => format!("; {key}: {text}"),
            None => format!("; {key}: {value}"),
        });
    std::iter::once(message.to_owned()).chain(facts).collect()
}

fn plant_canary(folder: &Path, secret: &str) -> io::Result<PathBuf> {
    let canary = folder.join("canary").join("secret");
    fs::create_dir(folder.join("canary"))?;
    fs::write(&canary, secret)?;
    Ok(canary)
}

fn image(run: &str) -> Result<ImageReference, AttackError> {
    ImageReference::parse(&format!("horde-attack:{run}"))
        .map_err(|error| AttackError::Stage(io::Error::other(error)))
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
