//! The figures of the miner without Docker: validators and executors played by a load generator against a real miner
//! process on the same cores. `sh scripts/bench.sh miner` sets the machine up and runs it.
//!
//! Prints a table, or with `--json` one line per figure. `--rounds N` says how often each thing is measured; a figure
//! is the median of the rounds. The miner under test is this very program started again: `miner::run` on a new
//! database, its executors replaced by a backend that tells the load generator their tokens. Beside it runs a bare
//! server that takes the same connections, frames and signatures and keeps nothing: what the wire itself costs.
#![expect(clippy::print_stderr, reason = "there is nobody else to tell")]

#[path = "../common/accounts.rs"]
mod accounts;
mod bare;
#[path = "../common/figure.rs"]
mod figure;
mod load;
mod parts;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/ratio.rs"]
mod ratio;
mod script;
mod under_test;
mod wire;
#[path = "../common/work.rs"]
mod work;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use figure::{Figure, Sample};
use script::Generation;
use tokio::time::timeout;

/// Why something could not be measured.
type Failure = Box<dyn Error + Send + Sync>;

/// How often each thing is measured unless `--rounds` says otherwise.
const ROUNDS: usize = 5;

/// Jobs of one round unless `--jobs` says otherwise.
const JOBS: usize = 2000;

/// Jobs at a time.
const AT_ONCE: usize = 50;

/// Connections held at a time.
const HELD: usize = 1000;

/// Time for all of it, after which something hangs.
const PATIENCE: Duration = Duration::from_secs(900);

struct Options {
    json: bool,
    rounds: usize,
    jobs: usize,
    /// What this process is, where it is not the load generator.
    part: Option<Part>,
}

enum Part {
    Miner(under_test::Place),
    Bare(std::net::SocketAddr),
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        json: false,
        rounds: ROUNDS,
        jobs: JOBS,
        part: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = next()?.parse()?,
            "--jobs" => options.jobs = next()?.parse()?,
            parts::MINER => {
                options.part = Some(Part::Miner(under_test::Place {
                    directory: next()?.into(),
                    listen: next()?,
                    socket: next()?.into(),
                }));
            }
            parts::BARE => options.part = Some(Part::Bare(next()?.parse()?)),
            // Cargo tells every benchmark that it is one.
            "--bench" => {}
            other => {
                return Err(
                    format!("unknown argument {other}; known are --json, --rounds N and --jobs N").into(),
                );
            }
        }
    }
    if options.rounds == 0 || options.jobs == 0 {
        return Err("--rounds and --jobs want at least 1".into());
    }
    Ok(options)
}

async fn measure(rounds: usize, jobs: usize) -> Result<Vec<Figure>, Failure> {
    let bare = load::bare_jobs(rounds, jobs, AT_ONCE).await?;
    let miner = load::jobs(rounds, jobs, AT_ONCE, Generation::Baseline).await?;
    let signed = load::jobs(rounds, jobs, AT_ONCE, Generation::Published).await?;
    let connections = load::connections(rounds, HELD, AT_ONCE).await?;
    let bare_connections = load::bare_connections(rounds, HELD, AT_ONCE).await?;
    let floor = |key, name, unit, sample: &Sample, reference, target| Figure {
        is_floor: true,
        ..Figure::of(key, name, unit, sample, reference, target)
    };
    let shown = f64::NAN;
    Ok(vec![
        floor(
            "jobs_per_s",
            "jobs, 50 at a time",
            "/s",
            &miner.per_second,
            4.5,
            1000.0,
        ),
        Figure::of(
            "p50_ms",
            "  one job, median",
            "ms",
            &miner.median_ms,
            9600.0,
            shown,
        ),
        Figure::of(
            "p95_ms",
            "  one job, 95th percentile",
            "ms",
            &miner.p95_ms,
            12000.0,
            150.0,
        ),
        Figure::of(
            "cpu_ms_per_job",
            "  CPU of the miner per job",
            "ms",
            &miner.cpu_ms,
            83.0,
            1.0,
        ),
        floor(
            "signed_jobs_per_s",
            "  the same with the signed messages of 0.0.27",
            "/s",
            &signed.per_second,
            shown,
            shown,
        ),
        Figure::of(
            "signed_cpu_ms_per_job",
            "  and the CPU of the miner per such job",
            "ms",
            &signed.cpu_ms,
            shown,
            shown,
        ),
        ratio::ratio(
            "jobs_ratio",
            "  jobs/s of the bare server ÷ of the miner",
            &bare.per_second,
            &miner.per_second,
        ),
        ratio::ratio(
            "cpu_ratio",
            "  CPU of the miner ÷ of the bare server",
            &miner.cpu_ms,
            &bare.cpu_ms,
        ),
        floor(
            "connections_per_s",
            "validators' connections: open and authenticate",
            "/s",
            &connections.per_second,
            62.0,
            2000.0,
        ),
        ratio::ratio(
            "connections_ratio",
            "  connections/s of the bare server ÷ of the miner",
            &bare_connections.per_second,
            &connections.per_second,
        ),
        Figure::of(
            "connection_kb",
            "  memory of each while it is held",
            "KB",
            &connections.kilobytes,
            18.0,
            18.0,
        ),
    ])
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match options.part {
        Some(Part::Miner(place)) => return runtime.block_on(under_test::run(place)),
        Some(Part::Bare(address)) => return runtime.block_on(bare::run(address)),
        None => {}
    }
    let figures = runtime.block_on(async {
        timeout(PATIENCE, measure(options.rounds, options.jobs))
            .await
            .map_err(|_| "something hangs")?
    })?;
    let title = format!("median of {} rounds", options.rounds);
    figure::print(&figures, options.json, &title);
    Ok(())
}

fn main() -> ExitCode {
    figure::exit(run())
}
