//! Waits until every role of a network answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::core::client::Client;
use crate::core::model::Hotkey;
use crate::core::net::http::{ClientError, ClientOptions, Redirects, client};
use crate::core::proto::sdk_facilitator::path;
use crate::core::tasks::VitalEnd;

use super::Devnet;
use super::plan::Plan;

/// Pause between two questions to the same role.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A question whose answer shows that a role serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The role answers a GET with status 200.
    Answers {
        /// Which role.
        name: &'static str,
        /// What to ask.
        url: String,
    },
    /// A validator serves nobody; it is ready when the facilitator can send it jobs.
    Connected {
        /// Which role.
        name: &'static str,
        /// Its hotkey.
        hotkey: Hotkey,
    },
}

impl Probe {
    /// Returns whom the answer is about.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answers { name, .. } | Self::Connected { name, .. } => name,
        }
    }
}

/// Why a network is not ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadyError {
    /// No HTTP client to ask with.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A role did not answer in time.
    #[error("the {name} did not answer within {} s: {last}", limit.as_secs_f64())]
    TooLong {
        /// Which.
        name: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// What came back the last time.
        last: String,
    },
    /// A role died too often.
    #[error("the {name} does not run")]
    Died {
        /// Which.
        name: &'static str,
        /// How it ended.
        #[source]
        source: VitalEnd,
    },
}

impl ReadyError {
    /// Returns which role is to blame, if one is.
    pub fn culprit(&self) -> Option<&'static str> {
        match self {
            Self::Client(_) => None,
            Self::TooLong { name, .. } | Self::Died { name, .. } => Some(name),
        }
    }
}

/// Returns what to ask the roles of a plan, in an order in which one answer makes the next possible.
pub fn probes(plan: &Plan, validator: &Hotkey) -> Vec<Probe> {
    plan.members
        .iter()
        .map(|member| match (member.role, member.serves) {
            ("miner", Some(address)) => Probe::Answers {
                name: member.name,
                url: format!("http://{address}/admin/login/"),
            },
            ("validator", _) => Probe::Connected {
                name: member.name,
                hotkey: validator.clone(),
            },
            _ => Probe::Answers {
                name: member.name,
                url: format!("{}{}", plan.facilitator_url(), path::HEALTH),
            },
        })
        .collect()
}

/// Waits until all probes are answered, at most `limit` in all; `user` asks the facilitator.
pub async fn wait(
    network: &Devnet,
    user: &Client,
    probes: &[Probe],
    limit: Duration,
) -> Result<(), ReadyError> {
    let options = ClientOptions {
        connect_timeout: ANSWER_MAX,
        total_timeout: Some(ANSWER_MAX),
        redirects: Redirects::Refuse,
        ..ClientOptions::default()
    };
    let http = client(&options)?;
    let deadline = Instant::now() + limit;
    // What is still missing, in words; none if the role is ready.
    let ask = async |probe: &Probe| match probe {
        Probe::Answers { url, .. } => match http.get(url).send().await {
            Ok(answer) if answer.status().as_u16() == 200 => None,
            Ok(answer) => Some(format!("HTTP status {}", answer.status())),
            Err(error) => Some(error.without_url().to_string()),
        },
        Probe::Connected { hotkey, .. } => match user.validators().await {
            Ok(connected) if connected.contains(hotkey) => None,
            Ok(_) => Some("the facilitator does not know it".to_owned()),
            Err(error) => Some(error.to_string()),
        },
    };
    let all = async {
        for probe in probes {
            let mut last = "it was not asked".to_owned();
            let answered = timeout_at(deadline, async {
                while let Some(missing) = ask(probe).await {
                    last = missing;
                    sleep(PAUSE).await;
                }
            });
            if answered.await.is_err() {
                return Err(ReadyError::TooLong {
                    name: probe.name(),
                    limit,
                    last,
                });
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        (child, source) = network.broken() => Err(ReadyError::Died { name: child.name(), source }),
        outcome = all => outcome,
    }
}
