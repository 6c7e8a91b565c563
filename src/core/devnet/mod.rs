//! A whole network on one machine, for development: every role a supervised child process of this binary.
//!
//! [`plan`] decides who runs with which settings (pure), [`child`] keeps one of them running, [`ready`] waits until
//! all answer, [`sample`] is a job for the finished network. [`Devnet`] puts them together: it registers the
//! development keys on the local chain, starts facilitator, validator and miners, and stops them in order.
//!
//! A child dies with its parent even if that is killed: it holds the other end of a pipe and stops when it closes.

pub mod child;
pub mod plan;
pub mod ready;
pub mod sample;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::chain::local::{LocalChain, LocalChainError, Registration};
use crate::core::chain::{Chain, ChainError};
use crate::core::clock::Clock;
use crate::core::crypto::{KeyError, Keypair};
use crate::core::model::Hotkey;
use crate::core::model::subnet::Axon;
use crate::core::tasks::{Tasks, VitalEnd};

use self::child::{Child, ChildSpec};
use self::plan::{Account, Plan};

/// How long one role may take to stop before it is killed; a little more than it grants itself.
const STOP_GRACE: Duration = Duration::from_secs(12);

/// Why a network could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process runs a network in this directory.
    #[error("another network runs in {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory could not be made.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A development key cannot be derived: a bug of ours.
    #[error("development key {uri} cannot be derived")]
    Key {
        /// The key.
        uri: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The local chain could not be opened.
    #[error("could not open the local chain")]
    OpenChain(#[source] LocalChainError),
    /// The local chain refused a registration.
    #[error("could not register {name} on the local chain")]
    Register {
        /// Whom.
        name: &'static str,
        /// Why.
        #[source]
        source: ChainError,
    },
}

/// How children are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program: this binary.
    pub program: PathBuf,
    /// Variables of the environment that would override the children's own settings.
    pub forget: Vec<String>,
    /// Variables that children get, for the executors that they start.
    pub variables: Vec<(String, String)>,
}

/// A running network.
#[derive(Debug)]
pub struct Devnet {
    children: Vec<Child>,
    /// Held for its lock: one network per directory.
    _lock: File,
}

impl Devnet {
    /// Registers everybody on the local chain and starts all roles of a plan, each in a family of `tasks`.
    pub async fn start(
        plan: &Plan,
        launch: &Launch,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let lock = lock(&plan.dir)?;
        for member in &plan.members {
            let dir = plan.dir_of(member);
            fs::create_dir_all(&dir).map_err(|source| StartError::Write {
                path: dir.clone(),
                source,
            })?;
            let path = dir.join("horde.toml");
            fs::write(&path, &member.settings).map_err(|source| StartError::Write { path, source })?;
        }
        register(plan, clock).await?;
        let children = plan.members.iter().map(|member| {
            let spec = ChildSpec {
                name: member.name,
                program: launch.program.clone(),
                arguments: plan.arguments_of(member),
                forget: launch.forget.clone(),
                variables: launch.variables.clone(),
                console: plan.console_of(member),
            };
            Child::start(spec, &tasks.child())
        });
        Ok(Self {
            children: children.collect(),
            _lock: lock,
        })
    }

    /// Returns the children in the order in which they were started.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// Waits until a child has died too often; pends for ever while all is well. Cancel-safe.
    pub async fn broken(&self) -> (&Child, VitalEnd) {
        if self.children.is_empty() {
            return std::future::pending().await;
        }
        let ends = self
            .children
            .iter()
            .map(|child| Box::pin(async move { (child, child.gave_up().await) }));
        let (first, _, _) = futures_util::future::select_all(ends).await;
        first
    }

    /// Stops all children in order: first who brings work, then who does it. Returns true if none had to be killed.
    pub async fn stop(self) -> bool {
        let mut in_order = true;
        for child in &self.children {
            in_order &= child.stop(STOP_GRACE).await;
        }
        in_order
    }
}

/// Locks a directory for one network; the operating system lets go when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File, StartError> {
    let path = dir.join("up.lock");
    let failed = |source| StartError::Write {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Derives a development key.
pub fn keypair(account: Account) -> Result<Keypair, StartError> {
    Keypair::from_uri(account.uri).map_err(|source| StartError::Key {
        uri: account.uri,
        source,
    })
}

/// Enters validator and miners with stake and addresses, so that the chain is complete before anybody reads it.
async fn register(plan: &Plan, clock: Clock) -> Result<(), StartError> {
    let chain = LocalChain::open(&plan.chain_file(), plan.netuid, plan.block, clock)
        .await
        .map_err(StartError::OpenChain)?;
    for member in &plan.members {
        let Some(account) = member.account else { continue };
        let name = member.name;
        let key = keypair(account)?;
        let hotkey: Hotkey = key.hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao: account.stake_rao,
            validator_permit: member.axon.is_none(),
        };
        let refused = |source| StartError::Register { name, source };
        chain.register(registration).await.map_err(refused)?;
        if let Some(address) = member.axon {
            let axon = Axon {
                ip: address.ip(),
                port: address.port(),
            };
            chain.serve_axon(&key, axon).await.map_err(refused)?;
        }
    }
    Ok(())
}
