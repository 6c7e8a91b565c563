//! The load generator: plays users and validators.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use horde::core::client::Client;
use horde::core::clock::Clock;
use horde::core::crypto::{Keypair, signed};
use horde::core::model::Hotkey;
use horde::core::net::Event;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::proto::facilitator_validator::{Authenticate, Heartbeat, Up};
use horde::core::proto::sdk_facilitator::Submit;
use horde::core::tasks::Tasks;
use tokio::time::{Instant, sleep};

use crate::figure::Sample;
use crate::parts::{self, CLASS, IMAGE, READER};
use crate::process::{self, Process};
use crate::work::in_background;
use crate::{Extent, Failure};

/// Users that log in.
const USERS: usize = 1000;

/// Submissions, or logins, at a time.
const AT_ONCE: usize = 50;

/// Jobs of a page.
pub(crate) const PAGE_SIZE: u32 = 50;

/// Pages that are read in a round.
const PAGES: u32 = 40;

/// Time between two heartbeats of a validator (wire-facilitator-validator §5 has 60 s).
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Time in which a process that has nothing more to do comes to rest.
const SETTLE: Duration = Duration::from_millis(500);

/// What rounds have shown.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) per_second: Sample,
    pub(crate) p95_ms: Sample,
    pub(crate) cpu_ms: Sample,
    pub(crate) page_ms: Sample,
    pub(crate) last_page_ms: Sample,
    pub(crate) megabytes: Sample,
    pub(crate) held_megabytes: Sample,
    pub(crate) busy_megabytes: Sample,
}

/// Measures the facilitator.
pub(crate) async fn facilitator(extent: Extent) -> Result<Measured, Failure> {
    let directory = tempfile::tempdir()?;
    let keypairs = parts::make_chain(directory.path()).await?;
    let validators: Vec<Hotkey> = keypairs.iter().map(|keypair| keypair.hotkey().clone()).collect();
    let first = validators.first().ok_or("no validator")?;
    parts::make_list(directory.path(), first, extent.listed).await?;
    let process = parts::facilitator(directory.path()).await?;
    let tasks = Tasks::new();
    for keypair in keypairs {
        play_validator(keypair, process.address, &tasks).await?;
    }
    let measured = rounds(&process, validators, extent).await?;
    tasks.shut_down(process::GRACE).await;
    process.stop().await?;
    Ok(measured)
}

/// Measures the same requests at the bare server.
pub(crate) async fn bare(extent: Extent) -> Result<Measured, Failure> {
    let process = parts::bare().await?;
    let validator = Keypair::from_uri("//Validator")?.hotkey().clone();
    let measured = rounds(&process, vec![validator], extent).await?;
    process.stop().await?;
    Ok(measured)
}

async fn rounds(process: &Process, validators: Vec<Hotkey>, extent: Extent) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    // First as users come and go, then as all of them stay at once.
    for first in (0..USERS).step_by(AT_ONCE) {
        drop(log_in(process.address, first..USERS.min(first + AT_ONCE)).await?);
    }
    sleep(SETTLE).await;
    measured.megabytes.add(process.resident_kb()? / 1000.0);
    let mut users = Vec::new();
    for first in (0..USERS).step_by(AT_ONCE) {
        users.extend(log_in(process.address, first..USERS.min(first + AT_ONCE)).await?);
    }
    let users = Arc::new(users);
    let reader = client(process.address, READER)?;
    sleep(SETTLE).await;
    measured.held_megabytes.add(process.resident_kb()? / 1000.0);
    for _ in 0..extent.rounds {
        let cpu = process.cpu_ms()?;
        let started = Instant::now();
        let mut times = submit(&users, &validators, extent.jobs).await?;
        let took = started.elapsed();
        sleep(SETTLE).await;
        let jobs = count(extent.jobs);
        measured.per_second.add(jobs / took.as_secs_f64());
        measured.cpu_ms.add((process.cpu_ms()? - cpu) / jobs);
        times.sort_by(f64::total_cmp);
        let place = (times.len() * 95).div_ceil(100).saturating_sub(1);
        measured
            .p95_ms
            .add(*times.get(place).ok_or("nothing was measured")?);
        read_pages(&reader, extent.listed / PAGE_SIZE, &mut measured).await?;
    }
    measured.busy_megabytes.add(process.resident_kb()? / 1000.0);
    Ok(measured)
}

fn client(address: SocketAddr, uri: &str) -> Result<Client, Failure> {
    let url = format!("http://{address}");
    Ok(Client::new(&url, Keypair::from_uri(uri)?, Clock::system())?)
}

/// Logs users in, all of them at once.
async fn log_in(address: SocketAddr, users: Range<usize>) -> Result<Vec<Client>, Failure> {
    try_join_all(users.map(|number| async move {
        let user = client(address, &format!("//User/{number}"))?;
        user.page(1, 1).await?;
        Ok::<_, Failure>(user)
    }))
    .await
}

/// Submits `jobs` jobs; returns the milliseconds that each took.
async fn submit(users: &Arc<Vec<Client>>, validators: &[Hotkey], jobs: usize) -> Result<Vec<f64>, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..AT_ONCE).map(|_| {
        let (users, next, validators) = (Arc::clone(users), Arc::clone(&next), validators.to_vec());
        in_background(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    return Ok(times);
                }
                let user = users.get(number % users.len()).ok_or("no user")?;
                let validator = validators.get(number % validators.len()).ok_or("no validator")?;
                let job = job(validator);
                let started = Instant::now();
                user.submit(&job).await?;
                times.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        })
    });
    Ok(try_join_all(workers).await?.into_iter().flatten().collect())
}

fn job(validator: &Hotkey) -> Submit {
    Submit {
        target_validator_hotkey: validator.clone(),
        executor_class: CLASS,
        docker_image: IMAGE.to_owned(),
        job_namespace: None,
        args: ["echo", "hello"].map(str::to_owned).to_vec(),
        env: indexmap::IndexMap::new(),
        use_gpu: false,
        artifacts_dir: None,
        on_trusted_miner: false,
        download_time_limit: 10,
        execution_time_limit: 10,
        streaming_start_time_limit: 5,
        upload_time_limit: 10,
        streaming_details: None,
        volumes: Vec::new(),
        uploads: Vec::new(),
        tag: None,
    }
}

/// Reads pages all over the list, and the last one.
async fn read_pages(reader: &Client, last: u32, measured: &mut Measured) -> Result<(), Failure> {
    for index in 0..PAGES {
        let number = 1 + u64::from(last - 1) * u64::from(index) / u64::from(PAGES);
        measured.page_ms.add(read_page(reader, number).await?);
    }
    measured.last_page_ms.add(read_page(reader, last.into()).await?);
    Ok(())
}

async fn read_page(reader: &Client, number: u64) -> Result<f64, Failure> {
    let started = Instant::now();
    let page = reader.page(number, PAGE_SIZE).await?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    if page.results.len() == PAGE_SIZE as usize {
        Ok(took)
    } else {
        Err(format!("page {number} has {} jobs", page.results.len()).into())
    }
}

/// Connects a validator that takes all jobs and says nothing about them.
async fn play_validator(keypair: Keypair, address: SocketAddr, tasks: &Tasks) -> Result<(), Failure> {
    let url = format!("ws://{address}/ws/v0/");
    let mut link = connect(&url, &ConnectOptions::default(), tasks).await?;
    let (public_key, signature) = signed::sign_facilitator_auth(&keypair);
    link.send(
        Up::Authenticate(Authenticate {
            public_key,
            signature: signature.to_hex_prefixed(),
        })
        .encode(),
    )
    .await?;
    match link.recv().await {
        Event::Text(text) if text.contains("success") => {}
        other => return Err(format!("a validator is not let in: {other:?}").into()),
    }
    let stop = tasks.token();
    tasks.spawn("validator", async move {
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => drop(link.send(Up::Heartbeat(Heartbeat {}).encode()).await),
                event = link.recv() => if matches!(event, Event::Closed { .. }) { return },
            }
        }
    });
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn count(things: usize) -> f64 {
    things as f64
}
