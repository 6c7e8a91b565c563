//! The figures of the road: what a miner and an executor cost beside plain `docker run` of the same image in
//! the same run. `scripts/bench.sh` sets the machine up and runs it.
//!
//! Prints a table, or with `--json` one line per figure. `--runs N` says how often each thing is measured; a
//! figure is the median.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints what it measures"
)]

#[path = "../common/figure.rs"]
mod figure;
mod processes;
mod side_by_side;
mod validator;
mod volume;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use figure::Figure;

/// Why something could not be measured.
type Failure = Box<dyn Error + Send + Sync>;

/// How often each thing is measured unless `--runs` says otherwise.
const RUNS: usize = 15;

/// The image of the job and of the plain `docker run`.
const IMAGE: &str = "horde-sample:latest";

struct Options {
    json: bool,
    runs: usize,
    /// Fetch this URL into this folder and measure nothing else.
    fetch: Option<(String, PathBuf)>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        json: false,
        runs: RUNS,
        fetch: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--runs" => options.runs = words.next().ok_or("--runs wants a number")?.parse()?,
            volume::FETCH => {
                let (url, target) = (words.next(), words.next());
                options.fetch = Some((
                    url.ok_or("a URL is missing")?,
                    target.ok_or("a folder is missing")?.into(),
                ));
            }
            // Cargo tells every benchmark that it is one.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}; known are --json and --runs N").into()),
        }
    }
    if options.runs == 0 {
        return Err("--runs wants at least 1".into());
    }
    Ok(options)
}

async fn measure(runs: usize) -> Result<Vec<Figure>, Failure> {
    let (job, docker_run) = validator::job_and_docker_run(runs, IMAGE, 1).await?;
    let ratio = job.median() / docker_run.median();
    let miner = processes::miner_start_and_memory(runs).await?;
    let executor = processes::executor_start(runs).await?;
    let side_by_side = side_by_side::figure(runs, IMAGE).await?;
    let volumes = volume::volumes(runs).await?;
    let mut figures = vec![
        Figure {
            key: "job_ratio",
            name: "job through miner and executor ÷ docker run",
            value: ratio,
            unit: "",
            reference: 8.2,
            target: 1.3,
            is_floor: false,
            note: format!("{} s ÷ {} s", job.summary(3), docker_run.summary(3)),
        },
        Figure::of(
            "miner_start_s",
            "miner, start to listening",
            "s",
            &miner.start,
            5.5,
            0.1,
        ),
        Figure::of(
            "miner_idle_mb",
            "resident memory of an idle miner",
            "MB",
            &miner.megabytes,
            896.0,
            25.0,
        ),
        Figure::of(
            "executor_connect_s",
            "executor, start to connected",
            "s",
            &executor,
            1.7,
            0.05,
        ),
        side_by_side,
    ];
    match volumes {
        Some(volumes) => figures.extend(volume_figures(&volumes)),
        None => eprintln!("SKIPPED the volume of 1 GiB: it needs curl and unzip"),
    }
    Ok(figures)
}

fn volume_figures(volumes: &volume::Volumes) -> [Figure; 2] {
    [
        Figure {
            key: "volume_ratio",
            name: "zip volume of 1 GiB ÷ curl and unzip",
            value: volumes.ours.median() / volumes.tools.median(),
            unit: "",
            reference: f64::NAN,
            target: 1.1,
            is_floor: false,
            note: format!("{} s ÷ {} s", volumes.ours.summary(3), volumes.tools.summary(3)),
        },
        Figure::of(
            "volume_mb",
            "resident memory while it is fetched",
            "MB",
            &volumes.megabytes,
            f64::NAN,
            64.0,
        ),
    ]
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some((url, target)) = options.fetch {
        println!("{}", runtime.block_on(volume::fetch(url, &target))?);
        return Ok(());
    }
    let figures = runtime.block_on(measure(options.runs))?;
    let title = format!("median of {}", options.runs);
    figure::print(&figures, options.json, &title);
    Ok(())
}

fn main() -> ExitCode {
    figure::exit(run())
}
