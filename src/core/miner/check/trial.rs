//! A job of our own through the miner's front door: the check plays the validator, over the whole wire.

use std::net::SocketAddr;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::core::clock::Clock;
use crate::core::crypto::Keypair;
use crate::core::crypto::signed::{auth_blob, message_blob};
use crate::core::model::job::{ExecutorTiming, RejectionReason, RunPreset};
use crate::core::model::volume::Volume;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::net::ws::{self, ConnectError, ConnectOptions};
use crate::core::net::{Event, Link, close_code};
use crate::core::proto::frame::to_object;
use crate::core::proto::job::{FullJob, InitialJob};
use crate::core::proto::validator_miner::{AcceptedReceipt, Authenticate, Down, FinishedReceipt, Up};
use crate::core::receipts::{self, About, ReceiptError, Work};
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::tasks::Tasks;

/// The answer of the known hashcat job (sem-miner §10.1).
pub const HASHCAT_ANSWER: &str = "mQNJTt";

/// The image of the known hashcat job (sem-miner §10.1).
pub const HASHCAT_IMAGE: &str = "backenddevelopersltd/compute-horde-job:v0-latest";

/// SHA-256 of the answer followed by the bytes of the salt, and the salt (sem-miner §10.1).
const HASHCAT_TARGET: &str =
    "5726c17704f709432e2c7d816b8b3fc3236263c4cf7383267bf13bea22e91a85:55507f1971ff79d5";

/// For how long a hotkey of ours is let in: longer than any self-test takes.
pub const LEAVE: Duration = Duration::from_secs(3600);

/// Longest wait for an answer that takes no work.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// Time for an executor to get ready, beyond what its class is given.
const STARTUP_TIME: Duration = Duration::from_secs(60);

/// Seconds of the stages in which bytes move.
const TRANSFER_SECONDS: u32 = 120;

/// Seconds of the job itself; the known hashcat job takes up to 120 on an old GPU (its score is 0 then).
const EXECUTION_SECONDS: u32 = 600;

/// Time in which the miner has to keep the last receipt.
const RECEIPT_TIME: Duration = Duration::from_secs(10);

/// Pause between two looks for it.
const RECEIPT_PAUSE: Duration = Duration::from_millis(100);

/// Time to live of the started receipt, in seconds.
const STARTED_TTL: i64 = 7;

/// Characters of a wrong answer that are shown.
const SHOWN: usize = 200;

/// Returns the arguments of the known hashcat job.
pub fn hashcat_arguments() -> Vec<String> {
    [
        "--runtime",
        "600",
        "--restore-disable",
        "--attack-mode",
        "3",
        "--workload-profile",
        "3",
        "--optimized-kernel-enable",
        "--hash-type",
        "1410",
        "--hex-salt",
        "-1",
        "?l?d?u",
        "--outfile-format",
        "2",
        "--quiet",
        HASHCAT_TARGET,
        "?1?1?1?1?1?1",
    ]
    .map(str::to_owned)
    .into()
}

/// What is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// On an executor of this class.
    pub class: ExecutorClass,
    /// The image.
    pub image: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The devices.
    pub preset: RunPreset,
    /// The input.
    pub volume: Option<Volume>,
    /// What its standard output must be, without white space around it.
    pub expected: String,
}

/// A trial that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Its job.
    pub job: JobId,
    /// From the offer to the executor being ready.
    pub ready_after: Duration,
    /// From the offer to the result.
    pub took: Duration,
}

/// Why a trial did not go well.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It did not believe who we are.
    #[error("the miner does not let the check in: {0}")]
    NotLetIn(String),
    /// All executors of the class are taken.
    #[error("all executors of the class are taken at the moment")]
    Busy,
    /// It does not want the job.
    #[error("declined ({reason}): {message}")]
    Declined {
        /// The wire's word.
        reason: RejectionReason,
        /// Its words.
        message: String,
    },
    /// The job failed.
    #[error("{0}")]
    Failed(String),
    /// The connection ended.
    #[error("the miner closed the connection with {code} while the check waited for {stage}")]
    Closed {
        /// What was waited for.
        stage: &'static str,
        /// The close code.
        code: u16,
    },
    /// Nothing came.
    #[error("{stage} did not come within {} s", limit.as_secs())]
    TooLong {
        /// What was waited for.
        stage: &'static str,
        /// How long.
        limit: Duration,
    },
    /// It ran, and its output is wrong.
    #[error("the job answered {got:?} instead of {expected:?}")]
    WrongAnswer {
        /// What must come.
        expected: String,
        /// What came, cut.
        got: String,
    },
    /// The receipts are not there, or not countersigned.
    #[error("the job ran, and the miner did not keep its {0} receipt countersigned")]
    NoReceipt(&'static str),
    /// Something that cannot be read.
    #[error("the miner sent something that cannot be read: {0}")]
    Nonsense(String),
    /// No receipt could be made.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where and as whom trials run.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Where the miner is found.
    pub door: SocketAddr,
    /// Who it is.
    pub miner: &'a Hotkey,
    /// The key that the miner lets in.
    pub validator: &'a Keypair,
    /// Wall time.
    pub clock: &'a Clock,
    /// The miner's database, where its receipts are looked for.
    pub store: &'a MinerStore,
    /// What connections run in.
    pub tasks: &'a Tasks,
}

impl Bench<'_> {
    /// Runs a trial: authentication, offer, acceptance, order, input, execution, result, all three receipts.
    pub async fn run(&self, trial: &Trial) -> Result<Passed, TrialError> {
        let url = format!(
            "ws://{}/v0.1/validator_interface/{}",
            self.door,
            self.validator.hotkey()
        );
        let link = ws::connect(&url, &ConnectOptions::default(), self.tasks).await?;
        let mut visit = Visit {
            bench: self,
            link,
            job: JobId::new(Uuid::new_v4().to_string()),
        };
        let outcome = visit.run(trial).await;
        visit.link.close(close_code::NORMAL, "").await;
        let passed = outcome?;
        self.expect_receipts(&passed.job).await?;
        Ok(passed)
    }

    /// Waits until all receipts of the job are kept, and checks both signatures of each.
    async fn expect_receipts(&self, job: &JobId) -> Result<(), TrialError> {
        let deadline = Instant::now() + RECEIPT_TIME;
        loop {
            let kept = self.store.receipts_of(job).await?;
            let missing = ["JobStartedReceipt", "JobAcceptedReceipt", "JobFinishedReceipt"]
                .into_iter()
                .find(|kind| {
                    !kept.iter().any(|receipt| {
                        receipt.payload.receipt_type() == *kind && receipts::verify_kept(receipt).is_ok()
                    })
                });
            match missing {
                None => return Ok(()),
                Some(kind) if Instant::now() >= deadline => return Err(TrialError::NoReceipt(kind)),
                Some(_) => sleep(RECEIPT_PAUSE).await,
            }
        }
    }

    fn about<'a>(&'a self, job: &'a JobId) -> About<'a> {
        About {
            job_uuid: job,
            miner: self.miner,
            now: self.clock.now(),
        }
    }
}

/// One connection with one job.
struct Visit<'a> {
    bench: &'a Bench<'a>,
    link: Link,
    job: JobId,
}

impl Visit<'_> {
    async fn run(&mut self, trial: &Trial) -> Result<Passed, TrialError> {
        let bench = self.bench;
        let began = bench.clock.now();
        self.say(self.authentication()).await?;
        match self.hear("the manifest", ANSWER_TIME).await? {
            Up::Manifest(_) => {}
            Up::GenericError(error) => return Err(TrialError::NotLetIn(error.details.unwrap_or_default())),
            other => return Err(unexpected(&other)),
        }
        let offered = Instant::now();
        self.say(self.offer(trial)?).await?;
        match self.hear("an answer to the offer", ANSWER_TIME).await? {
            Up::Accepted(_) => {}
            other => return Err(unexpected(&other)),
        }
        let accepted = receipts::sign_accepted(
            bench.validator,
            bench.about(&self.job),
            bench.clock.now(),
            i64::from(EXECUTION_SECONDS),
        )?;
        self.say(AcceptedReceipt {
            payload: accepted.payload,
            signature: accepted.signature,
        })
        .await?;
        let spin_up = Duration::from_secs(trial.class.spin_up_seconds().unsigned_abs()) + STARTUP_TIME;
        match self.hear("the executor", spin_up).await? {
            Up::ExecutorReady(_) => {}
            other => return Err(unexpected(&other)),
        }
        let ready_after = offered.elapsed();
        self.say(self.order(trial)).await?;
        let transfer = Duration::from_secs(u64::from(TRANSFER_SECONDS)) + ANSWER_TIME;
        match self.hear("the input", transfer).await? {
            Up::VolumesReady(_) => {}
            other => return Err(unexpected(&other)),
        }
        let execution = Duration::from_secs(u64::from(EXECUTION_SECONDS)) + ANSWER_TIME;
        match self.hear("the end of the job", execution).await? {
            Up::ExecutionDone(_) => {}
            other => return Err(unexpected(&other)),
        }
        let got = match self.hear("the result", transfer).await? {
            Up::JobFinished(finished) => finished.docker_process_stdout,
            other => return Err(unexpected(&other)),
        };
        let took = offered.elapsed();
        let work = Work {
            started: began,
            took: bench.clock.now() - began,
            score: 0.0,
            block_numbers: Vec::new(),
        };
        let finished = receipts::sign_finished(bench.validator, bench.about(&self.job), work)?;
        self.say(FinishedReceipt {
            payload: finished.payload,
            signature: finished.signature,
        })
        .await?;
        if got.trim() != trial.expected {
            return Err(TrialError::WrongAnswer {
                expected: trial.expected.clone(),
                got: got.trim().chars().take(SHOWN).collect(),
            });
        }
        Ok(Passed {
            job: self.job.clone(),
            ready_after,
            took,
        })
    }

    async fn say(&self, message: impl Into<Down>) -> Result<(), TrialError> {
        let sent = self.link.send(message.into().encode()).await;
        sent.map_err(|closed| TrialError::Closed {
            stage: "its turn to speak",
            code: closed.code,
        })
    }

    /// Returns the next message of weight.
    async fn hear(&mut self, stage: &'static str, limit: Duration) -> Result<Up, TrialError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = timeout(left, self.link.recv())
                .await
                .map_err(|_| TrialError::TooLong { stage, limit })?;
            let text = match event {
                Event::Text(text) => text,
                Event::Binary(_) => return Err(TrialError::Nonsense("a frame that is not text".to_owned())),
                Event::Closed { code, .. } => return Err(TrialError::Closed { stage, code }),
            };
            match Up::decode(&text).map_err(|error| TrialError::Nonsense(error.to_string()))? {
                Up::MachineSpecs(_) => {}
                message => return Ok(message),
            }
        }
    }

    fn authentication(&self) -> Authenticate {
        let Bench {
            validator,
            miner,
            clock,
            ..
        } = self.bench;
        let timestamp = clock.unix_seconds();
        let blob = auth_blob(validator.hotkey(), miner, timestamp);
        Authenticate {
            validator_hotkey: validator.hotkey().clone(),
            miner_hotkey: (*miner).clone(),
            timestamp,
            signature: validator.sign(&blob).to_hex_prefixed(),
        }
    }

    fn offer(&self, trial: &Trial) -> Result<InitialJob, TrialError> {
        let bench = self.bench;
        let about = bench.about(&self.job);
        // Nobody asked for the job: its receipts excuse nothing and are worth nothing.
        let receipt = receipts::sign_started(bench.validator, about, trial.class, false, STARTED_TTL)?;
        let mut request = InitialJob {
            validator_signature: None,
            job_uuid: self.job.clone(),
            executor_class: trial.class,
            docker_image: Some(trial.image.clone()),
            timeout_seconds: None,
            volume: trial.volume.clone(),
            job_started_receipt_payload: receipt.payload,
            job_started_receipt_signature: receipt.signature,
            streaming_details: None,
            executor_timing: Some(ExecutorTiming {
                allowed_leeway: ANSWER_TIME.as_secs().try_into().unwrap_or(i64::MAX),
                download_time_limit: TRANSFER_SECONDS.into(),
                execution_time_limit: EXECUTION_SECONDS.into(),
                upload_time_limit: TRANSFER_SECONDS.into(),
                streaming_start_time_limit: 1,
            }),
        };
        let blob = message_blob(&to_object(&request));
        request.validator_signature = Some(bench.validator.sign(&blob).to_hex_prefixed());
        Ok(request)
    }

    fn order(&self, trial: &Trial) -> FullJob {
        let mut order = FullJob {
            validator_signature: None,
            job_uuid: self.job.clone(),
            executor_class: trial.class,
            docker_image: trial.image.clone(),
            raw_script: None,
            docker_run_options_preset: trial.preset,
            docker_run_cmd: trial.arguments.clone(),
            env: IndexMap::new(),
            volume: None,
            output_upload: None,
            artifacts_dir: None,
        };
        let blob = message_blob(&to_object(&order));
        order.validator_signature = Some(self.bench.validator.sign(&blob).to_hex_prefixed());
        order
    }
}

/// Says what a message means that does not carry the job on.
fn unexpected(message: &Up) -> TrialError {
    match message {
        Up::Declined(declined) if declined.reason == RejectionReason::Busy => TrialError::Busy,
        Up::Declined(declined) => TrialError::Declined {
            reason: declined.reason,
            message: declined.message.clone(),
        },
        Up::JobFailed(failed) => {
            let code = failed.docker_process_exit_status;
            let code = code.map_or_else(String::new, |code| format!(" (exit code {code})"));
            let stderr = failed.docker_process_stderr.as_deref().unwrap_or_default().trim();
            let stderr: String = stderr.chars().take(SHOWN).collect();
            let wrote = if stderr.is_empty() {
                String::new()
            } else {
                format!("; it wrote {stderr:?}")
            };
            let words = format!("failed in {}: {}{code}{wrote}", failed.stage, failed.message);
            TrialError::Failed(words)
        }
        Up::HordeFailed(failed) => TrialError::Failed(format!(
            "{} ({}, by the {})",
            failed.message, failed.reason, failed.reported_by
        )),
        Up::GenericError(error) => TrialError::Failed(error.details.clone().unwrap_or_default()),
        other => TrialError::Nonsense(format!("{} out of turn", other.message_type())),
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_known_answer_is_that_of_the_known_hash() {
        let (hash, salt) = HASHCAT_TARGET.split_once(':').unwrap();
        let salted = [HASHCAT_ANSWER.as_bytes(), &hex::decode(salt).unwrap()].concat();
        assert_eq!(hex::encode(Sha256::digest(salted)), hash);
        assert!(
            hashcat_arguments()
                .iter()
                .any(|argument| argument == HASHCAT_TARGET)
        );
    }
}
