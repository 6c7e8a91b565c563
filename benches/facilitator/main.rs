//! The figures of the facilitator: users and validators played by a load generator against a real `horde facilitator
//! run` on the same cores. `sh scripts/bench.sh facilitator` sets the machine up and runs it.
//!
//! Prints a table, or with `--json` one line per figure. `--rounds N` says how often each thing is measured; a figure
//! is the median of the rounds. Every submission is signed by its user, checked, stored and handed to a validator
//! before it counts. Beside it runs a bare server that takes the same requests over the same connections, checks the
//! same signatures and keeps nothing: what the wire itself costs.

#[path = "../common/accounts.rs"]
mod accounts;
mod bare;
#[path = "../common/figure.rs"]
mod figure;
mod load;
#[path = "../common/old_job.rs"]
mod old_job;
mod parts;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/ratio.rs"]
mod ratio;
#[path = "../common/work.rs"]
mod work;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use figure::Figure;
use tokio::time::timeout;

/// Why something could not be measured.
type Failure = Box<dyn Error + Send + Sync>;

/// How often each thing is measured unless `--rounds` says otherwise.
const ROUNDS: usize = 5;

/// Submissions of one round unless `--jobs` says otherwise.
const JOBS: usize = 2000;

/// Jobs in the list of one user unless `--listed` says otherwise.
const LISTED: u32 = 100_000;

/// Time for all of it, after which something hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Extent {
    rounds: usize,
    jobs: usize,
    listed: u32,
}

struct Options {
    json: bool,
    extent: Extent,
    /// Where this process is the bare server rather than the load generator.
    bare: Option<std::net::SocketAddr>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        json: false,
        extent: Extent {
            rounds: ROUNDS,
            jobs: JOBS,
            listed: LISTED,
        },
        bare: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.extent.rounds = next()?.parse()?,
            "--jobs" => options.extent.jobs = next()?.parse()?,
            "--listed" => options.extent.listed = next()?.parse()?,
            parts::BARE => options.bare = Some(next()?.parse()?),
            // Cargo tells every benchmark that it is one.
            "--bench" => {}
            other => {
                return Err(format!(
                    "unknown argument {other}; known are --json, --rounds N, --jobs N and --listed N"
                )
                .into());
            }
        }
    }
    if options.extent.rounds == 0 || options.extent.jobs == 0 || options.extent.listed < 1000 {
        return Err("--rounds and --jobs want at least 1, --listed at least 1000".into());
    }
    Ok(options)
}

async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let bare = load::bare(extent).await?;
    let here = load::facilitator(extent).await?;
    let shown = f64::NAN;
    let of = |key, name, unit, sample, target| Figure::of(key, name, unit, sample, f64::NAN, target);
    Ok(vec![
        Figure {
            is_floor: true,
            ..of(
                "submissions_per_s",
                "submissions, 50 at a time",
                "/s",
                &here.per_second,
                500.0,
            )
        },
        of("p95_ms", "  one, 95th percentile", "ms", &here.p95_ms, shown),
        of(
            "cpu_ms_per_submission",
            "  CPU of the facilitator",
            "ms",
            &here.cpu_ms,
            shown,
        ),
        ratio::ratio(
            "submissions_ratio",
            "  submissions/s of the bare server ÷ of the facilitator",
            &bare.per_second,
            &here.per_second,
        ),
        of(
            "page_ms",
            "a page of a list of 100,000 jobs",
            "ms",
            &here.page_ms,
            20.0,
        ),
        of("last_page_ms", "  the last one", "ms", &here.last_page_ms, 20.0),
        ratio::ratio(
            "page_ratio",
            "  a page here ÷ an answer of the bare server",
            &here.page_ms,
            &bare.page_ms,
        ),
        of(
            "rss_mb",
            "memory after 1,000 users, 10 validators connected",
            "MB",
            &here.megabytes,
            30.0,
        ),
        of(
            "held_rss_mb",
            "  with a connection of each user held open",
            "MB",
            &here.held_megabytes,
            30.0,
        ),
        of(
            "busy_rss_mb",
            "  after all submissions and pages",
            "MB",
            &here.busy_megabytes,
            shown,
        ),
    ])
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(address) = options.bare {
        return runtime.block_on(bare::run(address));
    }
    let figures = runtime.block_on(async {
        timeout(PATIENCE, measure(options.extent))
            .await
            .map_err(|_| "something hangs")?
    })?;
    let title = format!("median of {} rounds", options.extent.rounds);
    figure::print(&figures, options.json, &title);
    Ok(())
}

fn main() -> ExitCode {
    figure::exit(run())
}
