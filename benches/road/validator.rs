//! Plays the validator: one job after another through a real miner with a real executor, each beside a plain
//! `docker run` of the same image.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::try_join_all;
use horde::core::clock::Clock;
use horde::core::crypto::{Keypair, signed};
use horde::core::model::job::{ExecutorTiming, RunPreset};
use horde::core::model::receipt::{
    AcceptedWord, FinishedWord, JobAccepted, JobFinished, JobStarted, StartedWord,
};
use horde::core::model::{ExecutorClass, Hotkey, JobId, Timestamp};
use horde::core::net::ws::{self, ConnectOptions};
use horde::core::net::{Event, Link, close_code};
use horde::core::proto::frame;
use horde::core::proto::job::{FullJob, InitialJob};
use horde::core::proto::validator_miner::{AcceptedReceipt, Authenticate, Down, FinishedReceipt, Up};
use horde::core::tasks::Tasks;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::figure::Sample;
use crate::{Failure, processes};

/// How long one job or one `docker run` may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The class that needs no GPU.
const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// What the container does, under `docker run` as well as in the job.
const COMMAND: [&str; 2] = ["echo", "hello"];

/// A validator with a miner to talk to.
struct Validator {
    keypair: Keypair,
    miner: Hotkey,
    address: SocketAddr,
    image: String,
    clock: Clock,
    tasks: Tasks,
}

/// Runs both, in turn, `runs` times after one of each that does not count; `at_once` of a kind at the same time. A
/// sample is the time until the last of them is done.
pub(crate) async fn job_and_docker_run(
    runs: usize,
    image: &str,
    at_once: usize,
) -> Result<(Sample, Sample), Failure> {
    let directory = tempfile::tempdir()?;
    let address = processes::free_address().await?;
    let validator = Validator {
        keypair: Keypair::from_uri(processes::VALIDATOR)?,
        miner: Keypair::from_uri(processes::MINER)?.hotkey().clone(),
        address,
        image: image.to_owned(),
        clock: Clock::system(),
        tasks: Tasks::new(),
    };
    processes::make_chain(directory.path()).await?;
    let mut child = processes::start_miner(directory.path(), address)?;
    processes::listening(address, &mut child).await?;

    let mut jobs = Sample::default();
    let mut docker_runs = Sample::default();
    for run in 0..=runs {
        let docker_run = timeout(PATIENCE, try_join_all((0..at_once).map(|_| docker_run(image)))).await??;
        let job = timeout(PATIENCE, try_join_all((0..at_once).map(|_| validator.job()))).await??;
        if run > 0 {
            docker_runs.add(docker_run.into_iter().fold(0.0, f64::max));
            jobs.add(job.into_iter().fold(0.0, f64::max));
        }
    }
    processes::stop(child).await?;
    validator.tasks.shut_down(Duration::from_secs(1)).await;
    Ok((jobs, docker_runs))
}

/// Times `docker run` of the image, in seconds.
async fn docker_run(image: &str) -> Result<f64, Failure> {
    let started = Instant::now();
    let output = Command::new("docker")
        .args(["run", "--rm", "--network", "none", image])
        .args(COMMAND)
        .stdin(Stdio::null())
        .output()
        .await?;
    let took = started.elapsed().as_secs_f64();
    if output.status.success() && output.stdout == b"hello\n" {
        Ok(took)
    } else {
        Err(format!(
            "docker run of {image} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into())
    }
}

impl Validator {
    /// Runs one job and returns the seconds from its initial request to its results.
    async fn job(&self) -> Result<f64, Failure> {
        let url = format!(
            "ws://{}/v0.1/validator_interface/{}",
            self.address,
            self.keypair.hotkey().as_str()
        );
        let mut link = ws::connect(&url, &ConnectOptions::default(), &self.tasks).await?;
        link.send(Down::from(self.authenticate()).encode()).await?;
        expect(&mut link, |up| matches!(up, Up::Manifest(_))).await?;

        let job = JobId::new(uuid::Uuid::new_v4().to_string());
        let initial = self.initial_job(&job)?;
        let full = self.full_job(&job);
        let started = Instant::now();
        link.send(Down::from(initial).encode()).await?;
        expect(&mut link, |up| matches!(up, Up::Accepted(_))).await?;
        link.send(Down::from(self.accepted_receipt(&job)?).encode())
            .await?;
        expect(&mut link, |up| matches!(up, Up::ExecutorReady(_))).await?;
        link.send(Down::from(full).encode()).await?;
        expect(&mut link, |up| matches!(up, Up::VolumesReady(_))).await?;
        expect(&mut link, |up| matches!(up, Up::ExecutionDone(_))).await?;
        let finished = expect(&mut link, |up| matches!(up, Up::JobFinished(_))).await?;
        let took = started.elapsed();

        let Up::JobFinished(finished) = finished else {
            return Err("no results".into());
        };
        if finished.docker_process_stdout != "hello\n" {
            return Err(format!("the job printed {:?}", finished.docker_process_stdout).into());
        }
        link.send(Down::from(self.finished_receipt(&job, took)?).encode())
            .await?;
        link.close(close_code::NORMAL, "").await;
        while !matches!(link.recv().await, Event::Closed { .. }) {}
        Ok(took.as_secs_f64())
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.clock.now())
    }

    fn sign(&self, blob: &[u8]) -> String {
        self.keypair.sign(blob).to_hex_prefixed()
    }

    fn authenticate(&self) -> Authenticate {
        let timestamp = self.clock.unix_seconds();
        let blob = signed::auth_blob(self.keypair.hotkey(), &self.miner, timestamp);
        Authenticate {
            validator_hotkey: self.keypair.hotkey().clone(),
            miner_hotkey: self.miner.clone(),
            timestamp,
            signature: self.sign(&blob),
        }
    }

    fn initial_job(&self, job: &JobId) -> Result<InitialJob, Failure> {
        let payload = JobStarted {
            job_uuid: job.clone(),
            miner_hotkey: self.miner.clone(),
            validator_hotkey: self.keypair.hotkey().clone(),
            timestamp: self.now(),
            receipt_type: StartedWord,
            executor_class: CLASS,
            is_organic: true,
            ttl: 7,
        };
        let signature = self.sign(&signed::receipt_blob(&payload)?);
        let mut message = InitialJob {
            validator_signature: None,
            job_uuid: job.clone(),
            executor_class: CLASS,
            docker_image: Some(self.image.clone()),
            timeout_seconds: Some(300),
            volume: None,
            job_started_receipt_payload: payload,
            job_started_receipt_signature: signature,
            streaming_details: None,
            executor_timing: Some(ExecutorTiming {
                allowed_leeway: 5,
                download_time_limit: 10,
                execution_time_limit: 10,
                upload_time_limit: 10,
                streaming_start_time_limit: 5,
            }),
        };
        message.validator_signature = Some(self.sign(&signed::message_blob(&frame::to_object(&message))));
        Ok(message)
    }

    fn full_job(&self, job: &JobId) -> FullJob {
        let mut message = FullJob {
            validator_signature: None,
            job_uuid: job.clone(),
            executor_class: CLASS,
            docker_image: self.image.clone(),
            raw_script: None,
            docker_run_options_preset: RunPreset::None,
            docker_run_cmd: COMMAND.map(str::to_owned).into(),
            env: indexmap::IndexMap::new(),
            volume: None,
            output_upload: None,
            artifacts_dir: None,
        };
        message.validator_signature = Some(self.sign(&signed::message_blob(&frame::to_object(&message))));
        message
    }

    fn accepted_receipt(&self, job: &JobId) -> Result<AcceptedReceipt, Failure> {
        let now = self.now();
        let payload = JobAccepted {
            job_uuid: job.clone(),
            miner_hotkey: self.miner.clone(),
            validator_hotkey: self.keypair.hotkey().clone(),
            timestamp: now,
            receipt_type: AcceptedWord,
            time_accepted: now,
            ttl: 48,
        };
        let signature = self.sign(&signed::receipt_blob(&payload)?);
        Ok(AcceptedReceipt { payload, signature })
    }

    fn finished_receipt(&self, job: &JobId, took: Duration) -> Result<FinishedReceipt, Failure> {
        let payload = JobFinished {
            job_uuid: job.clone(),
            miner_hotkey: self.miner.clone(),
            validator_hotkey: self.keypair.hotkey().clone(),
            timestamp: self.now(),
            receipt_type: FinishedWord,
            time_started: Timestamp::new(self.clock.now() - took),
            time_took_us: i64::try_from(took.as_micros())?,
            score_str: "30.000000".to_owned(),
            block_numbers: Vec::new(),
        };
        let signature = self.sign(&signed::receipt_blob(&payload)?);
        Ok(FinishedReceipt { payload, signature })
    }
}

/// Waits for the news that `wanted` describes; machine specs may come at any time, anything else is a failure.
async fn expect(link: &mut Link, wanted: impl Fn(&Up) -> bool) -> Result<Up, Failure> {
    loop {
        match link.recv().await {
            Event::Text(text) => match Up::decode(&text)? {
                up if wanted(&up) => return Ok(up),
                Up::MachineSpecs(_) => {}
                _ => return Err(format!("the miner sent out of turn: {text}").into()),
            },
            other => return Err(format!("the miner sent no message: {other:?}").into()),
        }
    }
}
