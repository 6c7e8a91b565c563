//! The load generator: plays validators and executors, so many at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::model::{Hotkey, JobId};
use horde::core::store::miner::{JobState, MinerStore};
use horde::core::tasks::Tasks;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::figure::Sample;
use crate::parts;
use crate::process::{self, Process};
use crate::script::{self, Generation, Script};
use crate::wire::Wire;
use crate::work::in_background;

/// Time in which a process that has nothing more to do writes down what it still has in hand.
const SETTLE: Duration = Duration::from_millis(500);

/// Jobs before the clock runs, so that caches and buffers are as they will be.
const WARM_UP: usize = 200;

/// What rounds of jobs have shown.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) per_second: Sample,
    pub(crate) median_ms: Sample,
    pub(crate) p95_ms: Sample,
    pub(crate) cpu_ms: Sample,
}

/// What rounds of connections have shown.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub(crate) per_second: Sample,
    pub(crate) kilobytes: Sample,
}

/// Milliseconds that jobs took, in rising order.
struct Times(Vec<f64>);

impl Times {
    fn percentile(&self, percent: usize) -> Result<f64, Failure> {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        Ok(*self.0.get(place).ok_or("nothing was measured")?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn count(things: usize) -> f64 {
    things as f64
}

/// The played side: validators' keys, and where executors' tokens arrive.
#[derive(Debug)]
struct Stage {
    address: SocketAddr,
    validators: Vec<Keypair>,
    miner: Hotkey,
    generation: Generation,
    clock: Clock,
    /// None where the server tells no tokens.
    desk: Option<Desk>,
    /// Counts connections, so that their source addresses differ.
    sources: AtomicUsize,
}

/// Callers that wait for the token of their job's executor.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<String>>>>;

#[derive(Debug)]
struct Desk {
    waiting: Waiting,
    ends: AsyncMutex<OwnedWriteHalf>,
}

impl Desk {
    async fn open(listener: UnixListener, tasks: &Tasks) -> Result<Self, Failure> {
        let (starts, ends) = listener.accept().await?.0.into_split();
        let waiting = Waiting::default();
        let callers = Arc::clone(&waiting);
        tasks.spawn("hear tokens", async move {
            let mut lines = BufReader::new(starts).lines();
            while let Ok(Some(token)) = lines.next_line().await {
                let job = token.get(..36).unwrap_or_default();
                let caller = callers.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
                if let Some(caller) = caller {
                    drop(caller.send(token));
                }
            }
        });
        Ok(Self {
            waiting,
            ends: AsyncMutex::new(ends),
        })
    }

    fn expect(&self, job: &str) -> oneshot::Receiver<String> {
        let (sender, token) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job.to_owned(), sender);
        token
    }

    async fn end(&self, token: &str) -> Result<(), Failure> {
        let line = format!("{token}\n");
        Ok(self.ends.lock().await.write_all(line.as_bytes()).await?)
    }
}

/// Measures jobs through the miner, and looks afterwards whether it has kept every receipt.
pub(crate) async fn jobs(
    rounds: usize,
    jobs: usize,
    at_once: usize,
    generation: Generation,
) -> Result<Jobs, Failure> {
    let directory = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let (process, stage) = start_miner(directory.path(), &tasks, generation).await?;
    let (measured, names) = rounds_of_jobs(&process, stage, rounds, jobs, at_once).await?;
    process.stop().await?;
    tasks.shut_down(process::GRACE).await;
    check(directory.path(), names).await?;
    Ok(measured)
}

/// Measures the same connections, frames and signatures at the bare server.
pub(crate) async fn bare_jobs(rounds: usize, jobs: usize, at_once: usize) -> Result<Jobs, Failure> {
    let process = parts::bare().await?;
    let stage = Arc::new(bare_stage(process.address)?);
    let (measured, _) = rounds_of_jobs(&process, stage, rounds, jobs, at_once).await?;
    process.stop().await?;
    Ok(measured)
}

/// Measures connections that are opened, authenticated and held, in a new miner each time.
pub(crate) async fn connections(rounds: usize, held: usize, at_once: usize) -> Result<Connections, Failure> {
    let mut measured = Connections::default();
    for _ in 0..rounds {
        let directory = tempfile::tempdir()?;
        let tasks = Tasks::new();
        let (process, stage) = start_miner(directory.path(), &tasks, Generation::Baseline).await?;
        hold(&process, stage, held, at_once, &mut measured).await?;
        process.stop().await?;
        tasks.shut_down(process::GRACE).await;
    }
    Ok(measured)
}

/// Measures the same connections at the bare server.
pub(crate) async fn bare_connections(
    rounds: usize,
    held: usize,
    at_once: usize,
) -> Result<Connections, Failure> {
    let mut measured = Connections::default();
    for _ in 0..rounds {
        let process = parts::bare().await?;
        let stage = Arc::new(bare_stage(process.address)?);
        hold(&process, stage, held, at_once, &mut measured).await?;
        process.stop().await?;
    }
    Ok(measured)
}

async fn start_miner(
    directory: &Path,
    tasks: &Tasks,
    generation: Generation,
) -> Result<(Process, Arc<Stage>), Failure> {
    let validators = parts::make_chain(directory).await?;
    let socket = directory.join("tokens");
    let listener = UnixListener::bind(&socket)?;
    let process = parts::miner(directory, &socket).await?;
    let stage = Stage {
        address: process.address,
        validators,
        miner: Keypair::from_uri(parts::MINER_KEY)?.hotkey().clone(),
        generation,
        clock: Clock::system(),
        desk: Some(Desk::open(listener, tasks).await?),
        sources: AtomicUsize::new(0),
    };
    Ok((process, Arc::new(stage)))
}

fn bare_stage(address: SocketAddr) -> Result<Stage, Failure> {
    let keypair = Keypair::from_uri(parts::MINER_KEY)?;
    Ok(Stage {
        address,
        miner: keypair.hotkey().clone(),
        generation: Generation::Baseline,
        validators: vec![keypair],
        clock: Clock::system(),
        desk: None,
        sources: AtomicUsize::new(0),
    })
}

/// Runs rounds of jobs; returns what was measured and the names of all jobs.
async fn rounds_of_jobs(
    process: &Process,
    stage: Arc<Stage>,
    rounds: usize,
    jobs: usize,
    at_once: usize,
) -> Result<(Jobs, Vec<String>), Failure> {
    let mut measured = Jobs::default();
    let (_, mut names) = perform(&stage, stage.scripts(WARM_UP)?, at_once).await?;
    sleep(SETTLE).await;
    for _ in 0..rounds {
        let scripts = stage.scripts(jobs)?;
        let cpu = process.cpu_ms()?;
        let started = Instant::now();
        let (times, done) = perform(&stage, scripts, at_once).await?;
        let took = started.elapsed();
        // The last receipts are still to be kept.
        sleep(SETTLE).await;
        let count = count(times.0.len());
        measured.per_second.add(count / took.as_secs_f64());
        measured.cpu_ms.add((process.cpu_ms()? - cpu) / count);
        measured.median_ms.add(times.percentile(50)?);
        measured.p95_ms.add(times.percentile(95)?);
        names.extend(done);
    }
    Ok((measured, names))
}

/// Performs scripts, `at_once` of them at a time; returns how many milliseconds each took, and the jobs.
async fn perform(
    stage: &Arc<Stage>,
    scripts: Vec<Script>,
    at_once: usize,
) -> Result<(Times, Vec<String>), Failure> {
    let names = scripts.iter().map(|script| script.job.clone()).collect();
    let scripts = Arc::new(Mutex::new(scripts));
    let workers = (0..at_once).map(|_| {
        let (stage, scripts) = (Arc::clone(stage), Arc::clone(&scripts));
        in_background(async move {
            let mut times = Vec::new();
            loop {
                let next = scripts.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(script) = next else {
                    return Ok(times);
                };
                let started = Instant::now();
                stage.perform(script).await?;
                times.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        })
    });
    let mut times: Vec<f64> = try_join_all(workers).await?.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    Ok((Times(times), names))
}

/// Opens connections and holds them until their memory has been read.
async fn hold(
    process: &Process,
    stage: Arc<Stage>,
    held: usize,
    at_once: usize,
    measured: &mut Connections,
) -> Result<(), Failure> {
    // What the first connections bring to life stays, and belongs to none of them.
    let warm = open_many(&stage, at_once, at_once).await?;
    sleep(SETTLE).await;
    let before = process.resident_kb()?;
    let started = Instant::now();
    let wires = open_many(&stage, held - at_once, at_once).await?;
    let took = started.elapsed();
    sleep(SETTLE).await;
    let count = count(wires.len());
    measured.per_second.add(count / took.as_secs_f64());
    measured.kilobytes.add((process.resident_kb()? - before) / count);
    drop((warm, wires));
    Ok(())
}

async fn open_many(stage: &Arc<Stage>, count: usize, at_once: usize) -> Result<Vec<Wire>, Failure> {
    let left = Arc::new(AtomicUsize::new(count));
    let workers = (0..at_once).map(|_| {
        let (stage, left) = (Arc::clone(stage), Arc::clone(&left));
        in_background(async move {
            let mut wires = Vec::new();
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                wires.push(stage.authenticated().await?);
            }
            Ok(wires)
        })
    });
    Ok(try_join_all(workers).await?.into_iter().flatten().collect())
}

impl Stage {
    fn scripts(&self, jobs: usize) -> Result<Vec<Script>, Failure> {
        self.validators
            .iter()
            .cycle()
            .take(jobs)
            .map(|validator| Script::new(validator, &self.miner, &self.clock, self.generation))
            .collect()
    }

    fn next_source(&self) -> usize {
        self.sources.fetch_add(1, Ordering::Relaxed)
    }

    fn greeting(&self) -> &'static str {
        if self.desk.is_some() {
            "V0ExecutorManifestRequest"
        } else {
            "V0ExecutorReadyRequest"
        }
    }

    /// Opens a connection of the next validator and waits for the manifest.
    async fn authenticated(&self) -> Result<Wire, Failure> {
        let source = self.next_source();
        let validator = self
            .validators
            .get(source % self.validators.len())
            .ok_or("no validator")?;
        let mut wire = self.connect(validator, source).await?;
        wire.say(script::authentication(validator, &self.miner, &self.clock))
            .await?;
        wire.expect(self.greeting(), "").await?;
        Ok(wire)
    }

    async fn connect(&self, validator: &Keypair, source: usize) -> Result<Wire, Failure> {
        let path = format!("/v0.1/validator_interface/{}", validator.hotkey());
        Wire::open(self.address, source, &path).await
    }

    /// Plays the validator and the executor of one job.
    async fn perform(&self, script: Script) -> Result<(), Failure> {
        let validator = &script.validator;
        let source = self.next_source();
        let job = script.job.as_str();
        // The bare server answers every step, and always for the same job.
        let (accept, job_named) = match self.desk {
            Some(_) => ("V0AcceptJobRequest", job),
            None => ("V0ExecutorReadyRequest", ""),
        };
        let token = self.desk.as_ref().map(|desk| desk.expect(job));

        let mut wire = self.connect(validator, source).await?;
        wire.say(script::authentication(validator, &self.miner, &self.clock))
            .await?;
        wire.say(script.initial).await?;
        wire.expect(self.greeting(), "").await?;
        wire.expect(accept, job_named).await?;
        wire.say(script.accepted).await?;

        let token = match token {
            Some(token) => token.await?,
            None => job.to_owned(),
        };
        let path = format!("/v0.1/executor_interface/{token}");
        let mut executor = Wire::open(self.address, source, &path).await?;
        executor.expect("V0InitialJobRequest", job_named).await?;
        executor.say(script.ready).await?;
        wire.expect("V0ExecutorReadyRequest", job_named).await?;
        wire.say(script.order).await?;
        executor.expect("V0JobRequest", job_named).await?;
        executor.say(script.volumes).await?;
        executor.say(script.done).await?;
        executor.say(script.finished).await?;
        wire.expect("V0VolumesReadyRequest", job_named).await?;
        wire.expect("V0ExecutionDoneRequest", job_named).await?;
        wire.expect("V0JobFinishedRequest", job_named).await?;
        wire.say(script.receipt).await?;
        executor.close().await?;
        if let Some(desk) = &self.desk {
            desk.end(&token).await?;
        }
        wire.close().await
    }
}

/// Looks into the database of a miner that has ended: every job finished, reported, out of its slot, with its three
/// receipts.
async fn check(directory: &Path, names: Vec<String>) -> Result<(), Failure> {
    let store = MinerStore::open(&directory.join("miner").join("miner.sqlite"))?;
    for name in names {
        let job = JobId::new(name);
        let kept = store.job(&job).await?.ok_or("a job was not kept")?;
        let receipts = store.receipts_of(&job).await?.len();
        if (kept.state, kept.slot, kept.is_reported, receipts) != (JobState::Finished, None, true, 3) {
            return Err(format!("the miner kept {kept:?} and {receipts} receipts of it").into());
        }
    }
    Ok(())
}
