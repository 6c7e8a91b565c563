//! Streaming: how the client of a job reaches the web server in it.
//!
//! ```text
//!  client ── TLS ──► front ── Unix socket ──► relay ── loopback ──► the job's port 8000
//!                      │                        │
//!              this process, or a        a helper that shares
//!              helper with the port      the network of the job
//! ```
//!
//! A streaming job has no more of a network than any other: its own loopback (the reference gives it an internal
//! network instead, through whose gateway it reaches the host). The relay is the only way in, and there is no way
//! out. The front runs in this process when its port is the host's; in a container it is not, so there a second
//! helper publishes it.

mod certificate;
mod front;
mod health;
mod helper;
mod relay;
mod sockets;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::core::docker::limits::{Labels, Network};
use crate::core::docker::own::own_image;
use crate::core::docker::place::Place;
use crate::core::docker::{ContainerId, Engine};
use crate::core::tasks::Tasks;

pub use certificate::{ClientCertificate, ClientCertificateError};
pub use helper::{HelperError, run as help};

use certificate::ServerIdentity;
use front::{Front, listen, listening_addresses};
use helper::{Helper, Order, Plan};
use sockets::SocketFolder;

/// A streaming job's way in, once it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamServer {
    /// The server's certificate, PEM.
    pub certificate: String,
    /// The port, on the address that the miner knows.
    pub port: u16,
}

/// Why there is no way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFault {
    /// Through us, the engine, or what the miner said.
    Setup(String),
    /// The job did not become healthy; what it said last.
    Unhealthy(String),
}

/// What a way in is made of.
#[derive(Debug)]
pub(super) struct Terms {
    /// The engine.
    pub(super) engine: Arc<dyn Engine>,
    /// The labels of the job's containers.
    pub(super) labels: Labels,
    /// The only client.
    pub(super) client: ClientCertificate,
    /// The executor's address, as the client will know it.
    pub(super) address: Option<String>,
    /// The port for the client.
    pub(super) port: u16,
    /// Where this process is, if that is known already.
    pub(super) place: Option<Place>,
    /// The folders of the helpers' sockets.
    pub(super) folders: Folders,
    /// Wall time.
    pub(super) now: OffsetDateTime,
}

/// A folder for each helper, which no job sees; as this process knows them.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// The relay's.
    pub(super) relay: PathBuf,
    /// The front's.
    pub(super) front: PathBuf,
}

/// Who is told that the way is open, or that there is none; the second may come after the first.
pub(super) type Told = Box<dyn Fn(Result<StreamServer, StreamFault>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Which container the job runs in, once it runs.
pub(super) type Running = watch::Receiver<Option<ContainerId>>;

/// The way into a job while its task lives; dropping it closes the way too.
#[derive(Debug)]
pub(super) struct Streaming {
    running: Option<oneshot::Sender<Running>>,
    close: CancellationToken,
    gone: oneshot::Receiver<()>,
}

impl Streaming {
    /// Begins with what needs no job: certificate, image, port.
    pub(super) fn begin(terms: Terms, tasks: &Tasks, told: Told) -> Self {
        let (running, running_received) = oneshot::channel();
        let (gone_sender, gone) = oneshot::channel();
        let close = CancellationToken::new();
        let (family, stop) = (tasks.child(), close.clone());
        tasks.spawn("streaming", async move {
            let engine = Arc::clone(&terms.engine);
            let mut made = Vec::new();
            let opened = Opening {
                terms,
                tasks: family.clone(),
                stop: stop.clone(),
                made: &mut made,
            };
            opened.live(running_received, told).await;
            family.stop();
            for container in made {
                if let Err(error) = engine.remove(&container).await {
                    tracing::error!(%container, %error, "could not remove a helper of a streaming job");
                }
            }
            // Nobody listens any more when the executor was aborted.
            gone_sender.send(()).unwrap_or_default();
        });
        tracing::debug!("opening a way into the streaming job");
        Self {
            running: Some(running),
            close,
            gone,
        }
    }

    /// Says where to learn which container the job runs in.
    pub(super) fn lead_to(&mut self, job: Running) {
        if let Some(running) = self.running.take() {
            // A task that has failed already has told so.
            running.send(job).unwrap_or_default();
        }
    }

    /// Ends all connections and lets the helpers go; does not wait.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    /// Closes the way and waits until the helpers are gone; false when the task broke.
    pub(super) async fn remove(mut self) -> bool {
        self.close.cancel();
        (&mut self.gone).await.is_ok()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

/// Why the opening did not go on.
enum Broken {
    /// Nobody wants it any more.
    Closed,
    /// It failed.
    Fault(StreamFault),
}

impl From<StreamFault> for Broken {
    fn from(fault: StreamFault) -> Self {
        Self::Fault(fault)
    }
}

/// What was made before the job runs.
struct Prepared {
    identity: ServerIdentity,
    helpers: helper::Terms,
    /// The listener, when the front runs here.
    listener: Option<TcpListener>,
    /// The relay's folder, as the engine knows it.
    relay_source: PathBuf,
    /// The front's folder, as the engine knows it.
    front_source: PathBuf,
}

struct Opening<'a> {
    terms: Terms,
    tasks: Tasks,
    stop: CancellationToken,
    made: &'a mut Vec<ContainerId>,
}

impl Opening<'_> {
    async fn live(mut self, running: oneshot::Receiver<Running>, told: Told) {
        let opened = self.open(running).await;
        let (server, mut helpers) = match opened {
            Ok(opened) => opened,
            Err(Broken::Closed) => return,
            Err(Broken::Fault(fault)) => {
                tracing::warn!(?fault, "there is no way into the streaming job");
                self.tell(&told, Err(fault)).await;
                return self.stop.cancelled().await;
            }
        };
        self.tell(&told, Ok(server)).await;
        let ended =
            futures_util::future::select_all(helpers.iter_mut().map(|helper| Box::pin(helper.ended())));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            _ = ended => {
                let fault = StreamFault::Setup("a helper of the streaming job ended early".to_owned());
                self.tell(&told, Err(fault)).await;
            }
        }
    }

    async fn tell(&self, told: &Told, news: Result<StreamServer, StreamFault>) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = told(news) => {}
        }
    }

    async fn open(
        &mut self,
        running: oneshot::Receiver<Running>,
    ) -> Result<(StreamServer, Vec<Helper>), Broken> {
        let mut prepared = until(&self.stop, prepare(&self.terms)).await??;
        let job = until(&self.stop, container_of(running))
            .await?
            .ok_or(Broken::Closed)?;
        let mut helpers = vec![self.start_relay(&prepared, job).await?];
        match prepared.listener.take() {
            Some(listener) => self.serve(&prepared.identity, listener)?,
            None => helpers.push(self.start_front(&prepared).await?),
        }
        until(&self.stop, health::wait(&self.job()?, health::PATIENCE))
            .await?
            .map_err(StreamFault::Unhealthy)?;
        let server = StreamServer {
            certificate: prepared.identity.pem,
            port: self.terms.port,
        };
        Ok((server, helpers))
    }

    /// Opens the folder of the relay's socket.
    fn job(&self) -> Result<SocketFolder, StreamFault> {
        SocketFolder::open(&self.terms.folders.relay).map_err(|error| setup("open a folder", &error))
    }

    async fn start_relay(&mut self, prepared: &Prepared, job: ContainerId) -> Result<Helper, StreamFault> {
        let plan = Plan {
            name: "relay",
            folder: &self.terms.folders.relay,
            source: prepared.relay_source.clone(),
            job_folder: None,
            network: Network::Container(job),
            order: Order::Relay,
        };
        Helper::start(&prepared.helpers, plan, self.made).await
    }

    /// Lets the client in here.
    fn serve(&self, identity: &ServerIdentity, listener: TcpListener) -> Result<(), StreamFault> {
        let front = Front::new(identity, self.terms.client.clone(), self.job()?)
            .map_err(|error| setup("set TLS up", &error))?;
        self.tasks
            .spawn("front", Arc::new(front).serve(listener, self.tasks.clone()));
        Ok(())
    }

    /// Has a helper let the client in.
    async fn start_front(&mut self, prepared: &Prepared) -> Result<Helper, StreamFault> {
        let [address, _] = listening_addresses(self.terms.address.as_deref(), self.terms.port);
        let plan = Plan {
            name: "front",
            folder: &self.terms.folders.front,
            source: prepared.front_source.clone(),
            job_folder: Some(prepared.relay_source.clone()),
            network: Network::Published(address),
            order: Order::Front {
                addresses: listening_addresses(None, self.terms.port),
                certificate: prepared.identity.certificate.clone(),
                key: prepared.identity.key.clone(),
                client: self.terms.client.der().to_vec(),
            },
        };
        Helper::start(&prepared.helpers, plan, self.made).await
    }
}

/// Makes what needs no job, side by side.
async fn prepare(terms: &Terms) -> Result<Prepared, StreamFault> {
    let (address, now) = (terms.address.clone(), terms.now);
    let identity = tokio::task::spawn_blocking(move || ServerIdentity::make(address.as_deref(), now));
    let place = async {
        let place = match &terms.place {
            Some(place) => place.clone(),
            None => Place::find(&*terms.engine)
                .await
                .map_err(|error| setup("look for its own container", &error))?,
        };
        // In a container the port is not the host's: a helper listens, whose port is published.
        if place != Place::Host {
            return Ok((place, None));
        }
        let addresses = listening_addresses(terms.address.as_deref(), terms.port);
        let tried = format!("listen on port {}", terms.port);
        let listener = listen(addresses).await.map_err(|error| setup(&tried, &error))?;
        Ok((place, Some(listener)))
    };
    let image = async {
        own_image(&*terms.engine)
            .await
            .map_err(|error| setup("make the image of its helpers", &error))
    };
    let identity = async {
        match identity.await {
            Ok(made) => made.map_err(|error| setup("make a certificate", &error)),
            Err(error) => Err(setup("make a certificate", &error)),
        }
    };
    let (identity, image, (place, listener)) = tokio::try_join!(identity, image, place)?;
    let on_host = |folder: &Path| {
        place
            .on_host(folder)
            .map_err(|error| setup("mount a folder", &error))
    };
    Ok(Prepared {
        identity,
        helpers: helper::Terms {
            engine: Arc::clone(&terms.engine),
            image,
            labels: terms.labels.clone(),
        },
        listener,
        relay_source: on_host(&terms.folders.relay)?,
        front_source: on_host(&terms.folders.front)?,
    })
}

/// Waits for the job's container to run; none when it never will.
async fn container_of(running: oneshot::Receiver<Running>) -> Option<ContainerId> {
    let mut running = running.await.ok()?;
    let container = running.wait_for(Option::is_some).await.ok()?;
    container.clone()
}

async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Broken> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Broken::Closed),
        done = work => Ok(done),
    }
}

/// A fault with all its causes in one line.
fn setup(action: &str, error: &dyn std::error::Error) -> StreamFault {
    let mut text = format!("could not {action}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    StreamFault::Setup(text)
}
