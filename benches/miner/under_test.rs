//! The process under test: the real miner, with a backend that starts nothing and tells the tokens of its executors
//! over a Unix socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use horde::core::chain::local::LocalChain;
use horde::core::clock::Clock;
use horde::core::config::{ChainConfig, Environment, Flag, MinerConfig, Scope, Sources, load};
use horde::core::crypto::Keypair;
use horde::core::docker::Alive;
use horde::core::miner::backend::capacity::Capacity;
use horde::core::miner::backend::{Backend, ClearError, ExecutorOrder, Exit, Running, StartError};
use horde::core::miner::{self, Ports};
use horde::core::store::miner::MinerStore;
use horde::core::tasks::Tasks;
use horde::core::tasks::signals;
use horde::core::telemetry;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{Failure, parts, process};

/// Tokens on their way to the load generator.
const QUEUE: usize = 1024;

/// Where the miner under test lives.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) listen: String,
    pub(crate) socket: PathBuf,
}

/// Runs the miner until it is told to stop.
pub(crate) async fn run(place: Place) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let listen = Flag {
        key: "miner.listen",
        flag: "--listen",
        value: place.listen,
    };
    let settings = load(&Sources {
        scope: Scope::Miner,
        environment: &environment,
        dir: Some(place.directory.join("miner")),
        config: None,
        context: None,
        flags: vec![listen],
    })?;
    // As `horde miner run` logs when nobody says otherwise.
    telemetry::init(telemetry::Setup {
        level: settings.text("log.level")?,
        format: settings.text("log.format")?.parse()?,
        ..telemetry::Setup::default()
    })?;
    let config = MinerConfig::from_settings(&settings)?;
    let listener = TcpListener::bind(config.listen).await?;
    let ChainConfig { path, netuid, block } = &config.chain;
    let chain = LocalChain::open(path, *netuid, *block, Clock::system()).await?;
    let tasks = Tasks::new();
    let capacity = Capacity::fixed(&config.executors);
    let backend = Played::connect(&place.socket, capacity, &tasks).await?;
    let ports = Ports {
        keypair: Keypair::from_uri(parts::MINER_KEY)?,
        chain: Arc::new(chain),
        store: MinerStore::open(&config.dir.join("miner.sqlite"))?,
        clock: Clock::system(),
        environment,
        leaves_jobs: true,
        backend: Some(backend),
    };
    let _received = signals::listen(&tasks)?;
    miner::run(config, ports, listener, tasks.clone()).await?;
    tasks.shut_down(process::GRACE).await;
    Ok(())
}

/// Executors that wait for their end.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Executors played by the load generator.
#[derive(Debug)]
struct Played {
    capacity: watch::Sender<Capacity>,
    tokens: mpsc::Sender<String>,
    waiting: Waiting,
}

impl Played {
    async fn connect(socket: &Path, capacity: Capacity, tasks: &Tasks) -> Result<Arc<Self>, Failure> {
        let (ends, starts) = UnixStream::connect(socket).await?.into_split();
        let (tokens, queue) = mpsc::channel(QUEUE);
        let waiting = Waiting::default();
        tasks.spawn("tell tokens", tell(queue, starts));
        let stop = tasks.token();
        let hearing = hear(ends, Arc::clone(&waiting));
        tasks.spawn("hear ends", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = hearing => {}
            }
        });
        Ok(Arc::new(Self {
            capacity: watch::Sender::new(capacity),
            tokens,
            waiting,
        }))
    }
}

/// Tells tokens, as many at a time as there are.
async fn tell(mut queue: mpsc::Receiver<String>, mut socket: OwnedWriteHalf) {
    let mut tokens = Vec::new();
    while queue.recv_many(&mut tokens, QUEUE).await > 0 {
        let lines: String = tokens.drain(..).map(|token| token + "\n").collect();
        if socket.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Ends executors whose token comes back.
async fn hear(socket: OwnedReadHalf, waiting: Waiting) {
    let mut lines = BufReader::new(socket).lines();
    while let Ok(Some(token)) = lines.next_line().await {
        let executor = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&token);
        if let Some(executor) = executor {
            let _heard = executor.send(());
        }
    }
}

#[async_trait]
impl Backend for Played {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let (sender, ended) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(order.token.clone(), sender);
        if self.tokens.send(order.token.clone()).await.is_err() {
            return Err(StartError::Spawn(std::io::ErrorKind::BrokenPipe.into()));
        }
        Ok(Box::new(Executor {
            token: order.token.clone(),
            ended,
            is_over: false,
        }))
    }

    async fn adopt(&self, _order: &ExecutorOrder, _process: Option<&str>) -> Option<Box<dyn Running>> {
        None
    }

    async fn clear(&self, _token: &str, _process: Option<&str>) -> Result<(), ClearError> {
        Ok(())
    }

    async fn reap(&self, _is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        Ok(0)
    }
}

#[derive(Debug)]
struct Executor {
    token: String,
    ended: oneshot::Receiver<()>,
    is_over: bool,
}

#[async_trait]
impl Running for Executor {
    fn process(&self) -> Option<String> {
        // Kept by the miner as a process number would be.
        self.token.get(..8).map(str::to_owned)
    }

    async fn wait(&mut self) -> Exit {
        if !self.is_over {
            // The load generator's end ends its executors, too.
            drop((&mut self.ended).await);
            self.is_over = true;
        }
        Exit::Code(0)
    }

    async fn kill(&mut self) {
        self.is_over = true;
    }
}
