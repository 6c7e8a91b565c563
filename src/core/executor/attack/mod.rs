//! The sandbox proves itself: jobs that try to get out, run as every job is run.
//!
//! ```text
//!   stage (a miner and a web server on the loopback) ── orders ──▶ executor::run ──▶ container: inside
//!      ▲                                                              │                    │
//!      │                        report, uploads                       │                    │ tries
//!      └──────────────────────────────────────────────────────────────┘                    ▼
//!   canaries (ears on the host)   witness (eyes on the host)   ───── seen ─────▶ judge: held or broken
//! ```
//!
//! Nothing is made for the attack but its image, which is this binary: the jobs come as messages over the wire, and
//! [`super::run`] does with them what it does with a stranger's. Only the bounds are smaller than an operator's, so
//! that exhausting them is quick. What speaks for a verdict is, wherever there is one, an observer outside of the
//! container. An attack of which nothing is heard counts as not held.

mod archives;
mod canary;
mod catalogue;
mod elf;
pub mod inside;
mod judge;
mod orders;
mod probe;
mod stage;
mod trial;
mod witness;

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use crate::core::config::ExecutorConfig;
use crate::core::docker::image::ImageError;
use crate::core::docker::{Engine, EngineError};
use crate::core::host::floors::TableError;
use crate::core::model::Profile;
use crate::core::tasks::Tasks;

pub use catalogue::{ATTACKS, Attack, find};
pub use judge::{Finding, Verdict};

use judge::{Scene, Seen, judge};
use trial::Trial;

/// How long executors may take to clear up when the attack is interrupted.
const GRACE: Duration = Duration::from_secs(30);

/// What is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Under which profile.
    pub profile: Profile,
    /// The attacks, by name; all when empty.
    pub only: Vec<&'static str>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// The profile that was attacked.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub profile: Profile,
    /// A verdict for each attack, in the order of [`ATTACKS`].
    pub attacks: Vec<Finding>,
}

impl Report {
    /// Returns whether every attack was held.
    pub fn is_held(&self) -> bool {
        self.attacks
            .iter()
            .all(|finding| finding.verdict == Verdict::Held)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn as_text<S: serde::Serializer>(profile: &Profile, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(profile.as_str())
}

/// Why nothing can be said about a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// The engine did not take part.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The attack's image could not be made.
    #[error("could not make the attack's image")]
    Image(#[from] ImageError),
    /// The table of versions, compiled in, is damaged.
    #[error(transparent)]
    Floors(#[from] TableError),
    /// The listeners or folders on this side could not be had.
    #[error("could not set the stage")]
    Stage(#[source] io::Error),
    /// It was asked to stop.
    #[error("the attack was interrupted")]
    Interrupted,
}

/// Attacks the sandbox that `config` gives to jobs; `tell` hears which job begins.
///
/// Returns once everything that it made is removed: containers, image, folders; also when `tasks` is told to stop.
/// One run after another: the canaries and the witness see the whole host.
pub async fn run(
    config: &ExecutorConfig,
    engine: Arc<dyn Engine>,
    options: &Options,
    tasks: &Tasks,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, AttackError> {
    let own = tasks.child();
    let trial = Trial::prepare(config, engine, options.profile, &own).await?;
    let chosen = |name: &str| options.only.is_empty() || options.only.contains(&name);
    let outcome = {
        let mut running = pin!(trial.run(&chosen, tell));
        tokio::select! {
            biased;
            () = tasks.stopped() => {
                // Executors that are told to stop clear up after themselves.
                drop(timeout(GRACE, running).await);
                None
            }
            outcome = &mut running => Some(outcome),
        }
    };
    let swept = trial.clear_away().await;
    // The stage and the canaries, and executors that were cut short.
    own.stop();
    let (seen, scene) = outcome.ok_or(AttackError::Interrupted)?;
    swept?;
    Ok(Report {
        profile: options.profile,
        attacks: verdicts(&chosen, &seen, &scene),
    })
}

fn verdicts(chosen: &dyn Fn(&str) -> bool, seen: &BTreeMap<&str, Arc<Seen>>, scene: &Scene) -> Vec<Finding> {
    let attacks = ATTACKS.iter().filter(|attack| chosen(attack.name));
    attacks
        .map(|attack| judge(attack, seen.get(attack.name).map(Arc::as_ref), scene))
        .collect()
}
