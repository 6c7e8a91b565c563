//! Executors as containers on several Docker engines: which there are, which answer, and which runs what.
//!
//! Each engine is a [`ContainerBackend`]; here is decided which one an order is for. A place says its engine, and
//! keeps its number for the life of the miner: places of an engine that does not answer, or that the file names no
//! more, are lost, and come back with it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use indexmap::IndexMap;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::capacity::{Capacity, PLACES_MAX, Place, PlaceState};
use super::container::ContainerBackend;
use super::{Backend, ClearError, ExecutorOrder, Exit, Reach, Running, StartError, Terms, tunnel};
use crate::core::clock::Clock;
use crate::core::config::Environment;
use crate::core::config::engines::{self, EnginesError, Road, Server, USUAL_SOCKET};
use crate::core::docker::engine::{Bollard, TlsFiles};
use crate::core::docker::limits::ContainerPathError;
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Alive, Engine, EngineError};
use crate::core::model::ExecutorClass;
use crate::core::tasks::Tasks;

/// Time between two looks at an engine.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Pause after the first look without an answer.
const PING_AGAIN: Duration = Duration::from_millis(500);

/// Longest wait for an engine's answer.
const PING_TIME: Duration = Duration::from_secs(5);

/// Looks in a row without an answer after which an engine is lost.
const MISSES_MAX: u32 = 2;

/// Time that an executor of a lost engine has to report over its own connection before its job ends.
const LAST_TIME: Duration = Duration::from_secs(10);

/// Longest wait for an engine that is asked to end an executor; what it does not do then is done when it is back.
const KILL_TIME: Duration = Duration::from_secs(30);

/// Time between two looks at whether the file of servers was changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks after which the file is read in any case: 5 min (wire-executor-miner §3).
const LOOKS: u32 = 60;

/// Time between two refreshes of the executor's image, and the longest of one (wire-executor-miner §3).
const REFRESH_EVERY: Duration = Duration::from_secs(600);

/// Why a fleet could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The file of servers could not be read.
    #[error("could not read the file of servers {path} (setting miner.engines)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("the file of servers {path} (setting miner.engines) is wrong:\n{source}")]
    File {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        source: EnginesError,
    },
    /// An address cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A path cannot be mounted.
    #[error(transparent)]
    Mount(#[from] ContainerPathError),
    /// No folder for the sockets of tunnels.
    #[error("could not make a folder for the sockets of ssh tunnels")]
    Folder(#[source] std::io::Error),
}

/// What a fleet is set up with.
#[derive(Debug)]
pub struct FleetSetup {
    /// What executors are told.
    pub terms: Terms,
    /// The miner's environment.
    pub environment: Environment,
    /// The executor's image.
    pub image: ImageReference,
    /// Wall time.
    pub clock: Clock,
    /// The file of servers; none for those of `servers` for good.
    pub file: Option<PathBuf>,
    /// The servers without a file.
    pub servers: Vec<Server>,
}

/// Whether an engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Answers,
    Lost(String),
}

/// An engine of the fleet.
#[derive(Debug)]
struct Member {
    server: Server,
    engine: Arc<Bollard>,
    boxes: ContainerBackend,
    health: watch::Sender<Health>,
    /// The tokens of executors that this life looks after.
    tokens: Mutex<HashSet<String>>,
    /// Asks for a look before its time, since something went wrong with the engine.
    doubt: Notify,
    stop: CancellationToken,
}

impl Member {
    fn tokens(&self) -> MutexGuard<'_, HashSet<String>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the engine whether it is there.
    async fn ping(&self) -> Result<(), String> {
        match timeout(PING_TIME, self.engine.version()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PING_TIME.as_secs())),
        }
    }

    /// Ends containers whose executor nobody looks after.
    async fn sweep(&self) {
        let is_alive = |token: &str| self.tokens().contains(token);
        match self.boxes.reap(&is_alive).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(
                server = self.server.name,
                count,
                "leftovers of a returned engine removed"
            ),
            Err(error) => tracing::warn!(server = self.server.name, %error, "cannot sweep a returned engine"),
        }
    }
}

/// The engines and their places.
#[derive(Debug, Default)]
struct Roster {
    members: IndexMap<Arc<str>, Arc<Member>>,
    /// Places by class: the name of the engine, and whether the file still asks for it.
    places: IndexMap<ExecutorClass, Vec<(Arc<str>, bool)>>,
}

impl Roster {
    /// Makes the places fit the servers: old ones keep their numbers, new ones come behind.
    fn fit(&mut self, servers: &[Server]) {
        for (_, is_wanted) in self.places.values_mut().flatten() {
            *is_wanted = false;
        }
        for server in servers {
            let name: Arc<str> = server.name.as_str().into();
            for (class, count) in &server.executors {
                let places = self.places.entry(*class).or_default();
                let mut missing = usize::try_from(*count).unwrap_or(PLACES_MAX);
                for (_, is_wanted) in places
                    .iter_mut()
                    .filter(|(other, _)| *other == name)
                    .take(missing)
                {
                    *is_wanted = true;
                    missing -= 1;
                }
                let room = PLACES_MAX.saturating_sub(places.len());
                if missing > room {
                    tracing::warn!(server = %name, %class, "more places than the miner can count: restart it");
                }
                places.extend(std::iter::repeat_n((Arc::clone(&name), true), missing.min(room)));
            }
        }
    }

    fn state(&self, name: &str, is_wanted: bool, clock: &Clock) -> PlaceState {
        let reason = match self.members.get(name) {
            Some(member) if is_wanted => match &*member.health.borrow() {
                Health::Answers => return PlaceState::InService,
                Health::Lost(reason) => reason.clone(),
            },
            Some(_) | None => "the file of servers does not name it any more".to_owned(),
        };
        PlaceState::Lost {
            reason,
            since: clock.now(),
        }
    }
}

/// Starts executors as containers on the engines of a file.
#[derive(Debug)]
pub struct FleetBackend {
    setup: FleetSetup,
    roster: Mutex<Roster>,
    capacity: watch::Sender<Capacity>,
    /// Sockets of tunnels, which only this user may enter.
    folder: TempDir,
}

impl FleetBackend {
    /// Sets the fleet up, looks at each engine once, and keeps looking.
    pub async fn start(setup: FleetSetup, tasks: &Tasks) -> Result<Arc<Self>, FleetError> {
        let servers = match &setup.file {
            Some(path) => read(path, &setup.environment).await?,
            None => setup.servers.clone(),
        };
        let folder = tempfile::Builder::new()
            .prefix("horde-")
            .tempdir()
            .map_err(FleetError::Folder)?;
        let fleet = Arc::new(Self {
            setup,
            roster: Mutex::default(),
            capacity: watch::Sender::new(Capacity::default()),
            folder,
        });
        fleet.set_servers(&servers, tasks)?;
        let first_looks = fleet.members().into_iter().map(|member| async move {
            if member.ping().await.is_ok() {
                member.health.send_replace(Health::Answers);
            }
        });
        futures_util::future::join_all(first_looks).await;
        fleet.publish();
        if fleet.setup.file.is_some() {
            tasks.spawn("engines file", watch_file(Arc::clone(&fleet), tasks.clone()));
        }
        Ok(fleet)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.roster().members.values().cloned().collect()
    }

    fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.roster().members.get(name).cloned()
    }

    /// Returns the engine of a slot.
    fn at(&self, class: ExecutorClass, slot: u32) -> Option<Arc<Member>> {
        let roster = self.roster();
        let (name, _) = roster.places.get(&class)?.get(usize::try_from(slot).ok()?)?;
        roster.members.get(name).cloned()
    }

    /// Takes over what a file says. All or nothing: an address that cannot be used leaves everything as it was.
    fn set_servers(self: &Arc<Self>, servers: &[Server], tasks: &Tasks) -> Result<(), FleetError> {
        let mut fresh = Vec::new();
        for server in servers {
            let known = self.member(&server.name);
            if known.is_none_or(|member| {
                member.server.road != server.road || member.server.address != server.address
            }) {
                fresh.push(Arc::new(self.make(server, tasks)?));
            }
        }
        let mut roster = self.roster();
        for member in fresh {
            tasks.spawn(
                "engine",
                watch_engine(Arc::clone(self), Arc::clone(&member), tasks.token()),
            );
            tasks.spawn(
                "executor image",
                refresh_image(Arc::clone(self), Arc::clone(&member), tasks.token()),
            );
            let name: Arc<str> = member.server.name.as_str().into();
            if let Some(former) = roster.members.insert(name, member) {
                former.stop.cancel();
            }
        }
        roster.fit(servers);
        drop(roster);
        self.publish();
        Ok(())
    }

    fn make(&self, server: &Server, tasks: &Tasks) -> Result<Member, FleetError> {
        let stop = tasks.token().child_token();
        let (engine, socket) = match &server.road {
            Road::Unix(socket) => (
                Bollard::new(&format!("unix://{}", socket.display()))?,
                socket.clone(),
            ),
            Road::Tcp { address, tls } => {
                let tls = tls.as_ref().map(|tls| TlsFiles {
                    ca: tls.ca.clone(),
                    cert: tls.cert.clone(),
                    key: tls.key.clone(),
                });
                (Bollard::tcp(address, tls), PathBuf::from(USUAL_SOCKET))
            }
            Road::Ssh(ssh) => {
                let file = format!("{}.sock", uuid::Uuid::new_v4().simple());
                let socket = self.folder.path().join(file);
                let engine = Bollard::new(&format!("unix://{}", socket.display()))?;
                let tunnel = tunnel::keep(server.name.clone(), ssh.clone(), socket, stop.clone());
                tasks.spawn("ssh tunnel", tunnel);
                (engine, PathBuf::from(USUAL_SOCKET))
            }
        };
        let engine = Arc::new(engine);
        let FleetSetup {
            terms,
            environment,
            image,
            ..
        } = &self.setup;
        let boxes = ContainerBackend::new(
            terms.clone(),
            environment,
            Capacity::default(),
            image.clone(),
            socket,
            Arc::<Bollard>::clone(&engine),
        )?;
        Ok(Member {
            server: server.clone(),
            engine,
            boxes,
            health: watch::Sender::new(Health::Lost("it has not answered yet".to_owned())),
            tokens: Mutex::default(),
            doubt: Notify::new(),
            stop,
        })
    }

    /// Tells the pool which places there are; a place that stays lost has been so since it was first.
    fn publish(&self) {
        let roster = self.roster();
        self.capacity.send_modify(|capacity| {
            let mut next = Capacity::default();
            for (class, places) in &roster.places {
                let former = capacity.of(*class);
                let places = places.iter().enumerate().map(|(slot, (name, is_wanted))| {
                    let mut state = roster.state(name, *is_wanted, &self.setup.clock);
                    if let PlaceState::Lost { since, .. } = &mut state
                        && let Some(PlaceState::Lost { since: first, .. }) =
                            former.get(slot).map(|place| &place.state)
                    {
                        *since = *first;
                    }
                    Place {
                        engine: Some(Arc::clone(name)),
                        state,
                    }
                });
                next.places.insert(*class, places.collect());
            }
            *capacity = next;
        });
    }
}

async fn read(path: &Path, environment: &Environment) -> Result<Vec<Server>, FleetError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| FleetError::Read {
            path: path.to_owned(),
            source,
        })?;
    let default_class = match environment.get(engines::DEFAULT_CLASS_WORD).map(str::parse) {
        Some(Ok(class)) => class,
        Some(Err(error)) => {
            let problems = vec![format!("the variable {}: {error}", engines::DEFAULT_CLASS_WORD)];
            return Err(FleetError::File {
                path: path.to_owned(),
                source: EnginesError { problems },
            });
        }
        None => ExecutorClass::SpinUp4MinGpu24Gb,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    engines::parse(&text, folder, default_class).map_err(|source| FleetError::File {
        path: path.to_owned(),
        source,
    })
}

/// Reads the file again when it was changed, and now and then anyway.
async fn watch_file(fleet: Arc<FleetBackend>, tasks: Tasks) {
    let Some(path) = &fleet.setup.file else { return };
    let modified = async || {
        tokio::fs::metadata(path)
            .await
            .and_then(|facts| facts.modified())
            .ok()
    };
    let mut seen: Option<SystemTime> = modified().await;
    let mut looks = 0;
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = sleep(LOOK_EVERY) => {}
        }
        let now = modified().await;
        looks += 1;
        if now == seen && looks < LOOKS {
            continue;
        }
        (seen, looks) = (now, 0);
        let taken = match read(path, &fleet.setup.environment).await {
            Ok(servers) => fleet.set_servers(&servers, &tasks),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "the file of servers cannot be used; the last good one holds");
        }
    }
}

/// Looks at an engine now and then, and takes its places out of service while it does not answer.
async fn watch_engine(fleet: Arc<FleetBackend>, member: Arc<Member>, stop: CancellationToken) {
    let name = &member.server.name;
    let mut misses = 0;
    let mut was_there = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = member.stop.cancelled() => return,
            () = member.doubt.notified() => {}
            () = sleep(if misses == 1 { PING_AGAIN } else { PING_EVERY }) => {}
        }
        let is_lost = matches!(*member.health.borrow(), Health::Lost(_));
        was_there |= !is_lost;
        match member.ping().await {
            Ok(()) => {
                misses = 0;
                if is_lost {
                    // Of what a former life of the miner left, its recovery takes care.
                    if was_there {
                        member.sweep().await;
                    }
                    tracing::info!(server = name, "an engine answers; its executors are in service");
                    member.health.send_replace(Health::Answers);
                    fleet.publish();
                }
            }
            Err(reason) => {
                misses += 1;
                if misses == MISSES_MAX {
                    tracing::error!(
                        server = name,
                        reason,
                        "an engine does not answer; its executors are out of service"
                    );
                }
                if misses >= MISSES_MAX {
                    member.health.send_replace(Health::Lost(reason));
                    fleet.publish();
                }
            }
        }
    }
}

/// Fetches the executor's image anew now and then, where it comes from a registry.
async fn refresh_image(fleet: Arc<FleetBackend>, member: Arc<Member>, stop: CancellationToken) {
    let image = &fleet.setup.image;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = member.stop.cancelled() => return,
            () = sleep(REFRESH_EVERY) => {}
        }
        if let Err(error) = member.boxes.refresh_image().await {
            tracing::warn!(server = member.server.name, %image, %error, "cannot refresh the executor's image");
        }
    }
}

#[async_trait]
impl Backend for FleetBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    fn reach(&self, class: ExecutorClass, slot: u32) -> Reach {
        match self.at(class, slot) {
            Some(member) => Reach {
                is_local: member.server.road.is_local(),
                address: member.server.address.clone(),
            },
            None => Reach::default(),
        }
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let Some(member) = self.at(order.class, order.slot) else {
            return Err(StartError::NoPlace { slot: order.slot });
        };
        if let Health::Lost(reason) = &*member.health.borrow() {
            return Err(StartError::Lost {
                server: member.server.name.clone(),
                reason: reason.clone(),
            });
        }
        member.tokens().insert(order.token.clone());
        match member.boxes.start(order).await {
            Ok(inner) => Ok(Box::new(Aboard {
                inner,
                health: member.health.subscribe(),
                member,
                token: order.token.clone(),
            })),
            Err(error) => {
                member.tokens().remove(&order.token);
                member.doubt.notify_one();
                Err(error)
            }
        }
    }

    async fn adopt(&self, order: &ExecutorOrder, process: Option<&str>) -> Option<Box<dyn Running>> {
        let members = match process {
            Some(name) => self.member(name).into_iter().collect(),
            None => self.members(),
        };
        for member in members {
            member.tokens().insert(order.token.clone());
            if let Some(inner) = member.boxes.adopt(order, None).await {
                return Some(Box::new(Aboard {
                    inner,
                    health: member.health.subscribe(),
                    member,
                    token: order.token.clone(),
                }));
            }
            member.tokens().remove(&order.token);
        }
        None
    }

    async fn clear(&self, token: &str, process: Option<&str>) -> Result<(), ClearError> {
        let members = match process {
            Some(name) => {
                let Some(member) = self.member(name) else {
                    tracing::warn!(
                        token,
                        server = name,
                        "cannot clear a server that the file names no more"
                    );
                    return Ok(());
                };
                vec![member]
            }
            // That life ended before it could note where: so it is looked for everywhere.
            None => self.members(),
        };
        let mut outcome = Ok(());
        for member in members {
            if let Err(error) = member.boxes.clear(token, None).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        let mut count = 0;
        for member in self.members() {
            if *member.health.borrow() == Health::Answers {
                let is_alive = |token: &str| is_alive(token) || member.tokens().contains(token);
                count += member.boxes.reap(&is_alive).await?;
            }
        }
        Ok(count)
    }

    async fn preload(&self, images: &[ImageReference]) {
        for member in self.members() {
            if *member.health.borrow() == Health::Answers {
                member.boxes.preload(images).await;
            }
        }
    }
}

/// An executor on one of the engines.
#[derive(Debug)]
struct Aboard {
    inner: Box<dyn Running>,
    member: Arc<Member>,
    health: watch::Receiver<Health>,
    token: String,
}

impl Drop for Aboard {
    fn drop(&mut self) {
        self.member.tokens().remove(&self.token);
    }
}

/// Waits until an engine has been lost for so long that its executors are given up.
async fn given_up(health: &mut watch::Receiver<Health>) {
    loop {
        if health
            .wait_for(|health| *health != Health::Answers)
            .await
            .is_err()
        {
            return;
        }
        match timeout(LAST_TIME, health.wait_for(|health| *health == Health::Answers)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[async_trait]
impl Running for Aboard {
    fn process(&self) -> Option<String> {
        Some(self.member.server.name.clone())
    }

    async fn wait(&mut self) -> Exit {
        tokio::select! {
            exit = self.inner.wait() => {
                if exit == Exit::Unknown {
                    self.member.doubt.notify_one();
                }
                exit
            }
            () = given_up(&mut self.health) => {
                tracing::error!(token = self.token, server = self.member.server.name, "an executor is lost with its engine");
                Exit::Unknown
            }
        }
    }

    async fn kill(&mut self) {
        let is_lost = *self.member.health.borrow() != Health::Answers;
        if is_lost || timeout(KILL_TIME, self.inner.kill()).await.is_err() {
            tracing::warn!(
                token = self.token,
                "the engine does not answer; the executor is removed when it is back"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

    fn server(name: &str, count: u32) -> Server {
        Server {
            name: name.to_owned(),
            executors: vec![(CLASS, count)],
            road: Road::Unix(format!("/run/{name}.sock").into()),
            address: None,
        }
    }

    #[test]
    fn places_keep_their_numbers_whatever_the_file_says_next() {
        let mut roster = Roster::default();
        let mut fit = |servers: &[Server]| {
            roster.fit(servers);
            let words = roster.places[&CLASS].iter();
            words
                .map(|(name, is_wanted)| format!("{name}{}", if *is_wanted { "" } else { "-" }))
                .collect::<Vec<_>>()
        };
        assert_eq!(fit(&[server("a", 2), server("b", 1)]), ["a", "a", "b"]);
        assert_eq!(fit(&[server("b", 2)]), ["a-", "a-", "b", "b"]);
        assert_eq!(fit(&[server("a", 1), server("b", 2)]), ["a", "a-", "b", "b"]);
    }
}
