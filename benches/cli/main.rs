//! The figures of the command line and the dashboard: the real program on a terminal of its own, over databases of
//! 1,000,000 jobs. `sh scripts/bench.sh cli` sets the machine up and runs it.
//!
//! Prints a table, or with `--json` one line per figure. `--rounds N` says how often each thing is measured; a figure
//! is the median of the rounds; `--make DIR` only makes the databases there. Beside each start stands that of `/bin/true`: what any program costs here.

#[path = "../common/accounts.rs"]
mod accounts;
#[path = "../common/figure.rs"]
mod figure;
mod ground;
#[path = "../common/old_job.rs"]
mod old_job;
#[path = "../common/ratio.rs"]
mod ratio;
mod screen;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use figure::{Figure, Sample};
use screen::Screen;
use tokio::time::Instant;

/// Why something could not be measured.
type Failure = Box<dyn Error + Send + Sync>;

/// How often each thing is measured unless `--rounds` says otherwise.
const ROUNDS: usize = 11;

/// Jobs in each database unless `--jobs` says otherwise.
const JOBS: u32 = 1_000_000;

/// Lines of log that the dashboard reads while its memory is watched.
const LINES: usize = 100_000;

/// How long an idle dashboard is watched.
const IDLE: Duration = Duration::from_secs(20);

/// Time for the dashboard to calm down after its first frame, and after the last line of log.
const SETTLE: Duration = Duration::from_secs(3);

struct Options {
    json: bool,
    rounds: usize,
    jobs: u32,
    make: Option<PathBuf>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        json: false,
        rounds: ROUNDS,
        jobs: JOBS,
        make: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = next()?.parse()?,
            "--jobs" => options.jobs = next()?.parse()?,
            "--make" => options.make = Some(next()?.into()),
            // Cargo tells every benchmark that it is one.
            "--bench" => {}
            other => {
                return Err(format!(
                    "unknown argument {other}; known are --json, --rounds N, --jobs N and --make DIR"
                )
                .into());
            }
        }
    }
    if options.rounds == 0 || options.jobs < 1000 {
        return Err("--rounds wants at least 1, --jobs at least 1000".into());
    }
    Ok(options)
}

/// Measures how long a command takes from its start to its end, in milliseconds.
fn timed(program: &str, home: &Path, environment: &[(&str, &str)], words: &[&str]) -> Result<f64, Failure> {
    let started = Instant::now();
    let output = Command::new(program)
        .env_clear()
        .env("HOME", home)
        .envs(environment.iter().copied())
        .args(words)
        .stdin(Stdio::null())
        .output()?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    if output.status.success() {
        Ok(took)
    } else {
        let words = words.join(" ");
        Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

#[derive(Debug, Default)]
struct Measured {
    bare_ms: Sample,
    help_ms: Sample,
    completion_ms: Sample,
    once_ms: Sample,
    first_frame_ms: Sample,
    idle_percent: Sample,
    soaked_megabytes: Sample,
}

fn measure(options: &Options) -> Result<Measured, Failure> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    // By a process of its own: whoever holds that much memory starts others slowly.
    let jobs = options.jobs.to_string();
    let made = Command::new(std::env::current_exe()?)
        .arg("--make")
        .arg(&data)
        .args(["--jobs", &jobs])
        .status()?;
    if !made.success() {
        return Err(format!("the databases were not made: {made}").into());
    }
    let dir = data.to_str().ok_or("a directory that is no text")?;
    let horde = env!("CARGO_BIN_EXE_horde");
    let mut measured = Measured::default();
    let asks_for_jobs = [
        ("COMPLETE", "bash"),
        ("HORDE_DIR", dir),
        ("_CLAP_COMPLETE_INDEX", "5"),
        ("_CLAP_COMPLETE_COMP_TYPE", "9"),
        ("_CLAP_COMPLETE_SPACE", "true"),
    ];
    for _ in 0..options.rounds {
        measured.bare_ms.add(timed("/bin/true", home.path(), &[], &[])?);
        measured.help_ms.add(timed(horde, home.path(), &[], &["--help"])?);
        let words = ["--", "horde", "--dir", dir, "job", "show", ""];
        measured
            .completion_ms
            .add(timed(horde, home.path(), &asks_for_jobs, &words)?);
        let words = ["dashboard", "--dir", dir, "--view", "jobs", "--once"];
        measured.once_ms.add(timed(horde, home.path(), &[], &words)?);
        measured.first_frame_ms.add(first_frame(home.path(), dir)?);
    }
    measured.idle_percent.add(idle(home.path(), dir)?);
    measured.soaked_megabytes.add(soak(home.path(), &data, dir)?);
    Ok(measured)
}

/// What a screen of the newest job shows of it at least: tables may cut the rest off.
fn newest() -> &'static str {
    ground::NEWEST.split('-').next().unwrap_or(ground::NEWEST)
}

fn first_frame(home: &Path, dir: &str) -> Result<f64, Failure> {
    let mut screen = Screen::start(home, &["dashboard", "--dir", dir, "--view", "jobs"])?;
    let took = screen.until(newest())?;
    screen.quit()?;
    Ok(took)
}

/// Measures the share of one core that a dashboard uses while nothing happens, in percent.
fn idle(home: &Path, dir: &str) -> Result<f64, Failure> {
    let mut screen = Screen::start(home, &["dashboard", "--dir", dir, "--view", "jobs"])?;
    screen.until(newest())?;
    screen.watch(SETTLE);
    let before = screen.cpu_ms()?;
    screen.watch(IDLE);
    let used = screen.cpu_ms()? - before;
    screen.quit()?;
    Ok(used / IDLE.as_secs_f64() / 10.0)
}

/// Writes many lines of log while the dashboard shows them; returns its memory afterwards, in MB.
fn soak(home: &Path, data: &Path, dir: &str) -> Result<f64, Failure> {
    let folder = data.join("miner").join("logs");
    fs::create_dir_all(&folder)?;
    let mut file = fs::File::create(folder.join("miner.jsonl"))?;
    let mut screen = Screen::start(home, &["dashboard", "--dir", dir, "--view", "logs"])?;
    screen.watch(SETTLE);
    for hundred in 0..LINES / 100 {
        let mut text = String::new();
        for line in 0..100 {
            let number = hundred * 100 + line;
            let second = number / 1000;
            writeln!(
                text,
                r#"{{"ts":"2026-01-01T00:{:02}:{:02}.{:03}Z","level":"INFO","target":"horde::core::miner","message":"line {number} of a job that goes on as it should","fields":{{"job_id":"{}"}}}}"#,
                second / 60 % 60,
                second % 60,
                number % 1000,
                ground::NEWEST,
            )?;
        }
        file.write_all(text.as_bytes())?;
        screen.watch(Duration::from_millis(10));
    }
    screen.until(&format!("line {}", LINES - 1))?;
    screen.watch(SETTLE);
    let megabytes = screen.megabytes()?;
    screen.quit()?;
    Ok(megabytes)
}

fn figures(measured: &Measured) -> Vec<Figure> {
    let of = |key, name, unit, sample, target| Figure::of(key, name, unit, sample, f64::NAN, target);
    let shown = f64::NAN;
    vec![
        of(
            "first_frame_ms",
            "dashboard to its first frame, 1,000,000 jobs",
            "ms",
            &measured.first_frame_ms,
            150.0,
        ),
        of(
            "once_ms",
            "  one frame without a terminal",
            "ms",
            &measured.once_ms,
            shown,
        ),
        of(
            "idle_percent",
            "dashboard while nothing happens, of one core",
            "%",
            &measured.idle_percent,
            1.0,
        ),
        of(
            "soaked_rss_mb",
            "its memory after 100,000 lines of log",
            "MB",
            &measured.soaked_megabytes,
            80.0,
        ),
        of("help_ms", "horde --help", "ms", &measured.help_ms, 20.0),
        of(
            "completion_ms",
            "completion of a job's id, 1,000,000 jobs",
            "ms",
            &measured.completion_ms,
            100.0,
        ),
        of("bare_ms", "  /bin/true beside it", "ms", &measured.bare_ms, shown),
        ratio::ratio(
            "help_ratio",
            "  horde --help ÷ /bin/true",
            &measured.help_ms,
            &measured.bare_ms,
        ),
    ]
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    if let Some(directory) = &options.make {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(ground::make(directory, options.jobs));
    }
    let measured = measure(&options)?;
    let figures = figures(&measured);
    let title = format!("median of {} rounds", options.rounds);
    figure::print(&figures, options.json, &title);
    Ok(())
}

fn main() -> ExitCode {
    figure::exit(run())
}
