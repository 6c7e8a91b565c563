//! Carries out what the machine decides: the link, the engine, the disk, the network.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::clock::Clock;
use crate::core::docker::info::EngineInfo;
use crate::core::docker::limits::Labels;
use crate::core::docker::place::Place;
use crate::core::docker::removal::REMOVAL_PATIENCE;
use crate::core::docker::sandbox::Sandbox;
use crate::core::docker::{Engine, Label, sweep};
use crate::core::host::hygiene::Dirt;
use crate::core::model::sandbox::SandboxWishes;
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::net;
use crate::core::proto::job::{ARTIFACT_VERDICTS_MAX, ArtifactVerdict, Context, FullJob};
use crate::core::proto::miner_executor::{Down, EXTENSION_OUTPUT};
use crate::core::tasks::Tasks;
use crate::core::transfer::artifacts;
use crate::core::transfer::download::Downloader;
use crate::core::transfer::folder::Folder;
use crate::core::transfer::path::RelativePath;
use crate::core::transfer::upload::Uploader;

use super::cleaner;
use super::container::{ContainerNews, Identity, JobContainer, Plan, STREAM_FILES, Told, disk, ours};
use super::describe::{self, describe};
use super::guard::Guard;
use super::images::{Images, LocalImage};
use super::live::Live;
use super::machine::{Effect, Event, Fault, Machine, Outcome, Results};
use super::road::Road;
use super::streaming::{self, ClientCertificate, StreamFault, StreamServer, Streaming};
use super::workspace::Workspace;

/// How many pieces of news may wait for the machine. Each piece of work sends two at most and there are
/// six kinds, of which two have ended before the others begin.
const NEWS_MAX: usize = 8;

/// How much longer than its removal may take a container is waited for.
const REMOVAL_SLACK: Duration = Duration::from_secs(10);

/// What a piece of work found out.
#[derive(Debug)]
enum News {
    Prepared(Result<Box<Prepared>, Fault>),
    Fetched(Result<(), Fault>),
    Container(ContainerNews),
    Streaming(Result<StreamServer, StreamFault>),
    Uploaded(Result<Results, Fault>),
    Described(Context),
}

/// What stands ready when a job may come.
#[derive(Debug)]
struct Prepared {
    /// The image, when the first request named one.
    image: Option<LocalImage>,
    /// What the job may use and do.
    sandbox: Sandbox,
    /// A folder on the file system where the engine keeps the roots of containers.
    engine_root: PathBuf,
}

/// What the driver works with.
#[derive(Debug)]
pub(super) struct Ports {
    /// The engine.
    pub(super) engine: Arc<dyn Engine>,
    /// Knows the machine, and who may run on it.
    pub(super) guard: Arc<Guard>,
    /// Where this process is, when the operator says so.
    pub(super) place: Option<Place>,
    /// Where images come from.
    pub(super) images: Arc<Images>,
    /// Fetches volumes.
    pub(super) downloader: Arc<Downloader>,
    /// Sends outputs.
    pub(super) uploader: Arc<Uploader>,
    /// Wall time, for certificates.
    pub(super) clock: Clock,
    /// Where new work is spawned.
    pub(super) tasks: Tasks,
}

/// One job, from the first message to the last.
#[derive(Debug)]
pub(super) struct Driver {
    machine: Machine,
    /// Gone once all is said.
    road: Option<Road>,
    ports: Ports,
    identity: Identity,
    wishes: Arc<SandboxWishes>,
    work_dir: Arc<Path>,
    news: mpsc::Receiver<News>,
    news_sender: mpsc::Sender<News>,
    workspace: Option<Arc<Workspace>>,
    prepared: Option<Box<Prepared>>,
    container: Option<JobContainer>,
    streaming: Option<Streaming>,
    is_stopping: bool,
    /// Cancelled once the machine is described, or is not to be.
    described: CancellationToken,
    work: Vec<AbortHandle>,
}

impl Driver {
    pub(super) fn new(
        machine: Machine,
        road: Road,
        ports: Ports,
        identity: Identity,
        wishes: SandboxWishes,
        work_dir: &Path,
    ) -> Self {
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        Self {
            machine,
            road: Some(road),
            ports,
            identity,
            wishes: Arc::new(wishes),
            work_dir: work_dir.into(),
            news,
            news_sender,
            workspace: None,
            prepared: None,
            container: None,
            streaming: None,
            is_stopping: false,
            described: CancellationToken::new(),
            work: Vec::new(),
        }
    }

    /// Runs until the machine has ended, then clears everything away.
    ///
    /// Fails when the job left the GPUs unclean; the miner has been told of the job all the same.
    pub(super) async fn run(mut self) -> Result<Outcome, Dirt> {
        self.ask_for_the_engine();
        let outcome = loop {
            let event = self.next_event().await;
            let effects = self.machine.on(Instant::now(), event);
            let mut ended = None;
            for effect in effects {
                match effect {
                    Effect::End(outcome) => ended = Some(outcome),
                    other => self.carry_out(other).await,
                }
            }
            if let Some(outcome) = ended {
                break outcome;
            }
        };
        Box::pin(self.clear_away()).await?;
        Ok(outcome)
    }

    /// Asks what the engine is while the miner's first message is on its way; its failure is told later.
    fn ask_for_the_engine(&mut self) {
        let guard = Arc::clone(&self.ports.guard);
        self.spawn("ask for the engine", async move {
            if let Err(fault) = guard.engine().await {
                tracing::warn!(?fault, "the engine does not answer yet");
            }
        });
    }

    /// Waits for whatever comes first. Being asked to stop is told once: what follows takes its time.
    async fn next_event(&mut self) -> Event {
        let Some(road) = &mut self.road else {
            return Event::LinkLost;
        };
        // A miner that is being looked for cannot be late with its first words.
        let is_excused = road.is_lost() && self.machine.job_uuid().is_none();
        let deadline = self.machine.deadline().filter(|_| !is_excused);
        let ticks = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            () = self.ports.tasks.stopped(), if !self.is_stopping => {
                self.is_stopping = true;
                Event::StopAsked
            }
            news = self.news.recv() => match news {
                Some(News::Prepared(result)) => {
                    Event::Prepared(result.map(|prepared| self.prepared = Some(prepared)))
                }
                Some(News::Fetched(result)) => Event::Fetched(result),
                Some(News::Container(ContainerNews::Ended(result))) => Event::Exited(result),
                Some(News::Container(ContainerNews::Gone(result))) => {
                    self.container = None;
                    Event::Gone(result.map_err(|error| chain(&error)))
                }
                Some(News::Streaming(result)) => Event::Streaming(result),
                Some(News::Uploaded(result)) => Event::Uploaded(result),
                Some(News::Described(specs)) => Event::Described(specs),
                // Cannot happen: a sender is kept here.
                None => Event::LinkLost,
            },
            event = road.recv() => match event {
                net::Event::Text(text) => match Down::decode(&text) {
                    Ok(message) => {
                        let is_repeated = road.has_resumed()
                            && matches!(&message, Down::InitialJob(job) if self.machine.job_uuid() == Some(&job.job_uuid));
                        road.note(&message);
                        // The miner could not know that it had arrived.
                        if is_repeated { Event::Tick } else { Event::Message(Box::new(message)) }
                    }
                    Err(error) => Event::Malformed { error: chain(&error), text },
                },
                net::Event::Binary(bytes) => Event::Malformed {
                    text: format!("<{} bytes>", bytes.len()),
                    error: "a binary message".to_owned(),
                },
                net::Event::Closed { code, reason } => {
                    tracing::warn!(code, reason, "the miner is gone");
                    Event::LinkLost
                }
            },
            () = ticks => Event::Tick,
        };
        if is_excused {
            self.machine.await_again(Instant::now());
        }
        event
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            // Beyond the wire, and the miner did not agree to it.
            Effect::Send(message) if message.extension().is_some_and(|name| !self.has_extension(name)) => {
                tracing::debug!(message = message.message_type(), "the miner does not know it");
            }
            Effect::Send(message) => {
                if let Some(road) = &mut self.road {
                    road.tell(message).await;
                }
            }
            Effect::Prepare { image, gpus } => self.prepare(image, gpus),
            Effect::OpenStream { client, address } => self.open_stream(client, address),
            Effect::Create(job) => self.create(job),
            Effect::Fetch(volume) => self.fetch(volume),
            Effect::Start => {
                if let Some(container) = &mut self.container {
                    container.start();
                }
            }
            Effect::Stop(signal) => {
                if let Some(container) = &self.container {
                    container.signal(signal);
                }
            }
            Effect::Remove => {
                if let Some(streaming) = &self.streaming {
                    streaming.close();
                }
                match &self.container {
                    Some(container) => container.remove(),
                    // Without folders there was nothing to make it for.
                    None => tell(&self.news_sender, News::Container(ContainerNews::Gone(Ok(())))).await,
                }
            }
            Effect::Upload {
                upload,
                artifacts_dir,
            } => self.upload(upload, artifacts_dir),
            Effect::End(_) => {}
        }
    }

    fn create(&mut self, job: Box<FullJob>) {
        if job.output_upload.is_some() {
            let uploader = Arc::clone(&self.ports.uploader);
            self.spawn("make the upload client", async move { uploader.warm().await });
        }
        let (Some(workspace), Some(prepared)) = (&self.workspace, self.prepared.take()) else {
            return;
        };
        let sender = self.road.as_ref().map(Road::sender);
        let live = self.has_extension(EXTENSION_OUTPUT).then(Live::default);
        let passing = live
            .clone()
            .zip(sender)
            .map(|(live, sender)| live.pass_on(job.job_uuid.clone(), sender));
        let plan = Plan {
            engine: Arc::clone(&self.ports.engine),
            guard: Arc::clone(&self.ports.guard),
            job,
            images: Arc::clone(&self.ports.images),
            image: prepared.image,
            until: self.machine.deadline(),
            identity: self.identity.clone(),
            workspace: Arc::clone(workspace),
            sandbox: prepared.sandbox,
            engine_root: prepared.engine_root,
            live,
        };
        let news = self.news_sender.clone();
        let told: Told = Box::new(move |piece| {
            let news = news.clone();
            async move { tell(&news, News::Container(piece)).await }.boxed()
        });
        let container = JobContainer::begin(plan, &self.ports.tasks, told);
        if let Some(streaming) = &mut self.streaming {
            streaming.lead_to(container.running());
        }
        self.container = Some(container);
        if let Some(passing) = passing {
            self.spawn("pass output on", passing);
        }
    }

    fn prepare(&mut self, image: Option<String>, gpus: bool) {
        // A handful of calls that never leave memory.
        let made =
            Workspace::create(&self.work_dir).map(|workspace| self.workspace = Some(Arc::new(workspace)));
        let (engine, news) = (Arc::clone(&self.ports.engine), self.news_sender.clone());
        let images = Arc::clone(&self.ports.images);
        let until = self.machine.deadline();
        let (wishes, guard) = (Arc::clone(&self.wishes), Arc::clone(&self.ports.guard));
        self.describe(gpus);
        let gpus = gpus && !self.identity.no_gpu;
        let token = self.identity.token.clone();
        let (place, workspace) = (self.ports.place.clone(), self.workspace.clone());
        self.spawn("prepare", async move {
            let result = async {
                made.map_err(disk)?;
                guard.admit(gpus).await?;
                if let Some(workspace) = workspace {
                    settle(&*engine, place, &workspace).await?;
                }
                let info = guard.engine().await?;
                let sandbox =
                    Sandbox::fit(&wishes, info, &token).map_err(|error| Fault::Refused(error.to_string()))?;
                let image = match image {
                    Some(name) => Some(images.obtain(&name, until).await?),
                    None => None,
                };
                Ok(Box::new(Prepared {
                    image,
                    sandbox,
                    engine_root: engine_root(info),
                }))
            };
            tell(&news, News::Prepared(result.await)).await;
        });
    }

    fn open_stream(&mut self, client: ClientCertificate, address: Option<String>) {
        // Without folders the preparation has failed, and says so.
        let Some(workspace) = self.workspace.clone() else {
            return;
        };
        let folders = match workspace.helper_folders() {
            Ok(folders) => folders,
            Err(error) => {
                let (news, fault) = (self.news_sender.clone(), StreamFault::Setup(error.to_string()));
                self.spawn("fail the stream", async move {
                    tell(&news, News::Streaming(Err(fault))).await;
                });
                return;
            }
        };
        let terms = streaming::Terms {
            engine: Arc::clone(&self.ports.engine),
            labels: Labels {
                owner: self.identity.owner.clone(),
                token: self.identity.token.clone(),
                job: self.machine.job_uuid().map(ToString::to_string),
            },
            client,
            address,
            port: self.identity.streaming_port,
            place: self.ports.place.clone(),
            folders,
            now: self.ports.clock.now(),
        };
        let news = self.news_sender.clone();
        let told = move |outcome| {
            let news = news.clone();
            async move { tell(&news, News::Streaming(outcome)).await }.boxed()
        };
        self.streaming = Some(Streaming::begin(terms, &self.ports.tasks, Box::new(told)));
    }

    /// Describes the machine beside everything else; not where GPUs are played without (wire-executor-miner §5).
    fn describe(&mut self, gpus: bool) {
        if self.identity.no_gpu {
            return self.described.cancel();
        }
        let (guard, engine) = (Arc::clone(&self.ports.guard), Arc::clone(&self.ports.engine));
        let (identity, work_dir) = (self.identity.clone(), Arc::clone(&self.work_dir));
        let (news, described) = (self.news_sender.clone(), self.described.clone());
        self.spawn("describe the machine", async move {
            let specs = describe(&guard, &*engine, &identity, &work_dir, gpus).await;
            tell(&news, News::Described(specs)).await;
            described.cancel();
        });
    }

    fn fetch(&mut self, volume: Option<Volume>) {
        let (downloader, news) = (Arc::clone(&self.ports.downloader), self.news_sender.clone());
        let workspace = self.workspace.clone();
        self.spawn("fetch the volume", async move {
            let result = match (volume, workspace) {
                (Some(volume), Some(workspace)) => fetch(&downloader, volume, &workspace).await,
                (None, _) | (_, None) => Ok(()),
            };
            tell(&news, News::Fetched(result)).await;
        });
    }

    fn upload(&mut self, upload: Option<OutputUpload>, artifacts_dir: Option<String>) {
        let (uploader, news) = (Arc::clone(&self.ports.uploader), self.news_sender.clone());
        let workspace = self.workspace.clone();
        let described = self.described.clone();
        self.spawn("upload the output", async move {
            let result = match workspace {
                Some(workspace) => deliver(&uploader, upload, artifacts_dir, &workspace).await,
                None => Ok(Results::default()),
            };
            // Usually long done. What is not by then is left out of the report.
            drop(tokio::time::timeout(describe::PATIENCE, described.cancelled()).await);
            tell(&news, News::Uploaded(result)).await;
        });
    }

    fn has_extension(&self, name: &str) -> bool {
        self.road.as_ref().is_some_and(|road| road.extensions().has(name))
    }

    fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.work.push(self.ports.tasks.spawn(name, work));
    }

    /// Says goodbye; meanwhile removes the container, then the folders.
    async fn clear_away(mut self) -> Result<(), Dirt> {
        let parting = self.road.take().map(Road::part);
        let parting = async {
            if let Some(parting) = parting {
                parting.await;
            }
        };
        tokio::join!(parting, self.clean_up()).1
    }

    async fn clean_up(mut self) -> Result<(), Dirt> {
        for work in self.work.drain(..) {
            work.abort();
        }
        let streaming = self.streaming.take();
        tokio::join!(self.outlive_the_container(), outlive(streaming));
        if !self.described.is_cancelled() {
            // The container that describes the GPUs may still be there.
            let label = Label::Token(&self.identity.token);
            if let Err(error) = sweep(&*self.ports.engine, label).await {
                tracing::warn!(%error, "could not look for a helper's container");
            }
        }
        let settled = self.ports.guard.settle().await;
        let workspace = self.workspace.take();
        cleaner::remove_folders(&*self.ports.engine, &self.identity, workspace, &self.work_dir).await;
        self.ports.images.shrink().await;
        settled
    }
}

impl Driver {
    /// Removes the container, if it is still there, and waits for its end.
    async fn outlive_the_container(&mut self) {
        let Some(container) = self.container.take() else {
            return;
        };
        container.remove();
        let gone = async {
            loop {
                match self.news.recv().await {
                    Some(News::Container(ContainerNews::Gone(result))) => return result,
                    Some(_) => {}
                    // Cannot happen: a sender is kept here.
                    None => return Ok(()),
                }
            }
        };
        match tokio::time::timeout(REMOVAL_PATIENCE + REMOVAL_SLACK, gone).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(token = %self.identity.token, error = %chain(&error), "the job's container is left");
            }
            Err(_elapsed) => {
                tracing::error!(token = %self.identity.token, "nobody knows what became of the job's container");
            }
        }
    }
}

/// Waits for the helpers of a streaming job to be gone.
async fn outlive(streaming: Option<Streaming>) {
    if let Some(streaming) = streaming
        && !matches!(
            tokio::time::timeout(REMOVAL_PATIENCE, streaming.remove()).await,
            Ok(true)
        )
    {
        tracing::error!("nobody knows what became of the helpers of the streaming job");
    }
}

async fn tell(news: &mpsc::Sender<News>, piece: News) {
    // The driver has ended: nobody needs to know.
    drop(news.send(piece).await);
}

/// Finds out where the engine's host has a workspace.
async fn settle(engine: &dyn Engine, place: Option<Place>, workspace: &Workspace) -> Result<(), Fault> {
    let place = match place {
        Some(place) => place,
        None => Place::find(engine).await.map_err(ours)?,
    };
    let root = place
        .on_host(workspace.root())
        .map_err(|error| Fault::Refused(error.to_string()))?;
    workspace.settle(root);
    Ok(())
}

/// Returns a folder on the file system of the engine's containers. An executor that runs in one does not see the
/// engine's own folder, but its own root lies there.
fn engine_root(info: &EngineInfo) -> PathBuf {
    let root = PathBuf::from(&info.root_dir);
    if root.is_dir() { root } else { PathBuf::from("/") }
}

async fn fetch(downloader: &Downloader, volume: Volume, workspace: &Workspace) -> Result<(), Fault> {
    let folder = Folder::open(&workspace.volume()).map_err(disk)?;
    downloader
        .fetch(volume, &folder, &workspace.scratch())
        .await
        .map_err(|error| {
            if error.is_ours() {
                Fault::Ours {
                    kind: "OSError",
                    detail: chain(&error),
                }
            } else {
                Fault::Job(chain(&error))
            }
        })
}

async fn deliver(
    uploader: &Uploader,
    upload: Option<OutputUpload>,
    artifacts_dir: Option<String>,
    workspace: &Workspace,
) -> Result<Results, Fault> {
    let mut results = Results::default();
    if let Some(container_path) = artifacts_dir {
        let folder = Folder::open(&workspace.artifacts()).map_err(disk)?;
        let path = container_path.trim_end_matches('/').to_owned();
        let collected = tokio::task::spawn_blocking(move || artifacts::collect(&folder, &path))
            .await
            .map_err(|error| disk(io::Error::other(error)))?
            .map_err(disk)?;
        results.artifacts = collected.files;
        let unnamed = collected.left_out.len().saturating_sub(ARTIFACT_VERDICTS_MAX) + collected.more;
        results.more = u64::try_from(unnamed).unwrap_or(u64::MAX);
        for (path, why) in collected.left_out.into_iter().take(ARTIFACT_VERDICTS_MAX) {
            let verdict = why.word().to_owned();
            tracing::warn!(path, verdict, "left an artifact out");
            results.verdicts.push(ArtifactVerdict { path, verdict });
        }
        if results.more > 0 {
            tracing::warn!(count = results.more, "left more artifacts out");
        }
    }
    if let Some(upload) = upload {
        let output = Folder::open(&workspace.output()).map_err(disk)?;
        for name in STREAM_FILES {
            let name = RelativePath::parse(name).map_err(|error| disk(io::Error::other(error)))?;
            output
                .replace(&workspace.scratch().join(name.as_str()), &name)
                .map_err(disk)?;
        }
        results.uploads = uploader
            .send(upload, &output, &workspace.scratch())
            .await
            .map_err(|error| {
                if error.is_ours() {
                    Fault::Ours {
                        kind: "OSError",
                        detail: chain(&error),
                    }
                } else {
                    Fault::Job(chain(&error))
                }
            })?;
    }
    Ok(results)
}

/// Writes an error with all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
