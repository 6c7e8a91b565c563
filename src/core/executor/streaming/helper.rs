//! Helpers of a streaming job: containers of our own image, each led by one line over a socket.
//!
//! A helper connects to the executor, gets its order, answers when it is ready, and lives until the connection ends:
//! so it outlives neither the job nor an executor that was killed. What it needs to know comes over the socket and
//! nothing else, for an environment or a file would show a key to others.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::certificate::{ClientCertificate, ServerIdentity};
use super::front::{Front, listen};
use super::sockets::{SocketFolder, hear, say};
use super::{StreamFault, relay};
use crate::core::docker::limits::{
    BindMount, ContainerPath, ContainerPathError, ContainerSpec, Labels, Network, Preset, Role,
};
use crate::core::docker::{ContainerId, Engine, ImageId};
use crate::core::tasks::Tasks;

/// Where a helper finds the folder of its own socket.
const OWN_FOLDER: &str = "/run/horde/own";

/// Where the front finds the relay's folder.
const JOB_FOLDER: &str = "/run/horde/job";

/// The executor's socket in a helper's folder.
const CONTROL: &str = "control.sock";

/// How long a helper may take from its start to its answer.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// What a helper is to do.
#[derive(Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(super) enum Order {
    /// Hand connections from a socket in its own folder to the job.
    Relay,
    /// Let the client in from outside.
    Front {
        /// Where to listen.
        addresses: [SocketAddr; 2],
        /// The server's certificate.
        certificate: Vec<u8>,
        /// Its key.
        key: Vec<u8>,
        /// The client's certificate.
        client: Vec<u8>,
    },
}

/// What a helper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Ready,
    Failed { why: String },
}

/// Why a helper ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The executor is not there, or broke off.
    #[error("could not talk to the executor")]
    Talk(#[source] io::Error),
    /// The order could not be carried out; the executor has been told.
    #[error("could not begin: {0}")]
    Begin(String),
}

/// Does what the executor at the other end of the socket in `folder` says, until that connection ends.
pub async fn run(folder: &Path, tasks: Tasks) -> Result<(), HelperError> {
    let own = SocketFolder::open(folder).map_err(HelperError::Talk)?;
    let mut control = BufReader::new(own.connect(CONTROL).await.map_err(HelperError::Talk)?);
    let order = hear::<Order>(&mut control).await.map_err(HelperError::Talk)?;
    let begun = begin(order, &own, &tasks).await;
    let answer = match &begun {
        Ok(()) => Answer::Ready,
        Err(why) => Answer::Failed { why: why.clone() },
    };
    say(control.get_mut(), &answer).await.map_err(HelperError::Talk)?;
    begun.map_err(HelperError::Begin)?;
    tokio::select! {
        biased;
        () = tasks.stopped() => {}
        // The executor says nothing more; it ends, or ends this.
        _ = control.read_u8() => tasks.stop(),
    }
    Ok(())
}

async fn begin(order: Order, own: &SocketFolder, tasks: &Tasks) -> Result<(), String> {
    match order {
        Order::Relay => {
            let listener = own
                .listen(relay::SOCKET)
                .map_err(|error| format!("cannot make its socket: {error}"))?;
            tasks.spawn("relay", relay::serve(listener, tasks.clone()));
        }
        Order::Front {
            addresses,
            certificate,
            key,
            client,
        } => {
            let job = SocketFolder::open(Path::new(JOB_FOLDER))
                .map_err(|error| format!("cannot open {JOB_FOLDER}: {error}"))?;
            let identity = ServerIdentity {
                pem: String::new(),
                certificate,
                key,
            };
            let front = Front::new(&identity, ClientCertificate::from_der(client), job)
                .map_err(|error| error.to_string())?;
            let listener = listen(addresses)
                .await
                .map_err(|error| format!("cannot listen at {}: {error}", addresses[0]))?;
            tasks.spawn("front", Arc::new(front).serve(listener, tasks.clone()));
        }
    }
    Ok(())
}

/// What every helper of a job has in common.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// The engine.
    pub(super) engine: Arc<dyn Engine>,
    /// Our own image.
    pub(super) image: ImageId,
    /// The labels of the job's containers.
    pub(super) labels: Labels,
}

/// A helper to be started.
pub(super) struct Plan<'a> {
    /// The end of its name: `ch-TOKEN-NAME`.
    pub(super) name: &'static str,
    /// The folder of its own socket, as this process knows it.
    pub(super) folder: &'a Path,
    /// The same folder, as the engine knows it.
    pub(super) source: PathBuf,
    /// The relay's folder, as the engine knows it: the front's only.
    pub(super) job_folder: Option<PathBuf>,
    /// Its network.
    pub(super) network: Network,
    /// What it is to do.
    pub(super) order: Order,
}

/// A helper that has begun: the connection to it, with which it ends.
#[derive(Debug)]
pub(super) struct Helper(BufReader<UnixStream>);

impl Helper {
    /// Makes the container and leads it to its answer. A container that was made is handed to `made` at once, so
    /// that it is removed whatever comes after.
    pub(super) async fn start(
        terms: &Terms,
        plan: Plan<'_>,
        made: &mut Vec<ContainerId>,
    ) -> Result<Self, StreamFault> {
        let folder = SocketFolder::open(plan.folder).map_err(|error| broken("open its folder", &error))?;
        let listener = folder
            .listen(CONTROL)
            .map_err(|error| broken("make its socket", &error))?;
        let (name, order) = (plan.name, plan.order);
        let spec = spec(terms, name, plan.source, plan.job_folder, plan.network)
            .map_err(|error| broken("mount its folder", &error))?;
        let engine = &*terms.engine;
        let container = engine.create(&spec).await.map_err(engine_fault)?;
        made.push(container.clone());
        engine.start(&container).await.map_err(engine_fault)?;
        let talk = async {
            let (mut stream, _) = listener.accept().await?;
            say(&mut stream, &order).await?;
            let mut control = BufReader::new(stream);
            let answer = hear::<Answer>(&mut control).await?;
            Ok::<_, io::Error>((answer, control))
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout(READY_PATIENCE, talk) => outcome,
            exit = engine.wait(&container) => {
                let code = exit.map_err(engine_fault)?;
                return Err(StreamFault::Setup(format!("the {name} ended at once with exit code {code}")));
            }
        };
        let control = match outcome {
            Err(_elapsed) => {
                let seconds = READY_PATIENCE.as_secs();
                return Err(StreamFault::Setup(format!(
                    "the {name} was not ready within {seconds} s"
                )));
            }
            Ok(Err(error)) => return Err(broken("talk to it", &error)),
            Ok(Ok((Answer::Failed { why }, _))) => {
                return Err(StreamFault::Setup(format!("the {name} could not begin: {why}")));
            }
            Ok(Ok((Answer::Ready, control))) => control,
        };
        Ok(Self(control))
    }

    /// Waits until the helper has ended, which it never does by itself.
    pub(super) async fn ended(&mut self) {
        // It says nothing more; an error is an end too.
        drop(self.0.read_u8().await);
    }
}

fn broken(action: &str, error: &(impl std::error::Error + ?Sized)) -> StreamFault {
    StreamFault::Setup(format!("could not {action}: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(super) fn engine_fault(error: crate::core::docker::EngineError) -> StreamFault {
    StreamFault::Setup(error.to_string())
}

fn spec(
    terms: &Terms,
    name: &str,
    own: PathBuf,
    job: Option<PathBuf>,
    network: Network,
) -> Result<ContainerSpec, ContainerPathError> {
    let mut mounts = vec![BindMount {
        source: own,
        target: ContainerPath::parse(OWN_FOLDER)?,
    }];
    if let Some(job) = job {
        mounts.push(BindMount {
            source: job,
            target: ContainerPath::parse(JOB_FOLDER)?,
        });
    }
    let command = ["executor", "helper", "--folder", OWN_FOLDER];
    Ok(ContainerSpec {
        name: format!("ch-{}-{name}", terms.labels.token),
        image: terms.image.clone(),
        command: command.map(str::to_owned).into(),
        env: Vec::new(),
        labels: terms.labels.clone(),
        mounts,
        network,
        role: Role::Helper {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            preset: Preset::None,
        },
    })
}
