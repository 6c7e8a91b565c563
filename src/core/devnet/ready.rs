//! Waits until every role of a network answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::core::net::http::{ClientError, ClientOptions, Redirects, client};
use crate::core::tasks::VitalEnd;

use super::Devnet;
use super::plan::Plan;

/// Pause between two questions to the same role.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A question whose answer shows that a role serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom the answer is about.
    pub name: &'static str,
    /// What to ask.
    pub url: String,
    /// What the answer must hold, besides its status 200.
    pub holds: String,
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

/// Returns what to ask the roles of a plan; `validator` is the validator's hotkey.
pub fn probes(plan: &Plan, validator: &str) -> Vec<Probe> {
    let facilitator = plan.facilitator_url();
    plan.members
        .iter()
        .map(|member| match (member.role, member.axon) {
            ("miner", Some(address)) => Probe {
                name: member.name,
                url: format!("http://{address}/admin/login/"),
                holds: String::new(),
            },
            // A validator serves nobody; it is ready when the facilitator knows it.
            ("validator", _) => Probe {
                name: member.name,
                url: format!("{facilitator}/api/v1/validators/"),
                holds: validator.to_owned(),
            },
            _ => Probe {
                name: member.name,
                url: format!("{facilitator}/health"),
                holds: String::new(),
            },
        })
        .collect()
}

/// Waits until all probes are answered, at most `limit` in all.
pub async fn wait(network: &Devnet, probes: &[Probe], limit: Duration) -> Result<(), ReadyError> {
    let options = ClientOptions {
        connect_timeout: ANSWER_MAX,
        total_timeout: Some(ANSWER_MAX),
        redirects: Redirects::Refuse,
        ..ClientOptions::default()
    };
    let client = client(&options)?;
    let deadline = Instant::now() + limit;
    let ask = async |url: &str| -> Result<(u16, String), String> {
        let answer = client
            .get(url)
            .send()
            .await
            .map_err(|error| error.without_url().to_string())?;
        let status = answer.status().as_u16();
        Ok((
            status,
            answer
                .text()
                .await
                .map_err(|error| error.without_url().to_string())?,
        ))
    };
    let all = async {
        for probe in probes {
            let mut last = "it was not asked".to_owned();
            let answered = timeout_at(deadline, async {
                loop {
                    match ask(&probe.url).await {
                        Ok((200, text)) if text.contains(&probe.holds) => return,
                        Ok((200, _)) => "it is not there".clone_into(&mut last),
                        Ok((status, _)) => last = format!("HTTP status {status}"),
                        Err(error) => last = error,
                    }
                    sleep(PAUSE).await;
                }
            });
            if answered.await.is_err() {
                return Err(ReadyError::TooLong {
                    name: probe.name,
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
