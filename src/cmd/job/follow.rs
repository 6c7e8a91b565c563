//! Following a job to its end: its stages on standard error, its output on standard output.

use std::io::{self, IsTerminal as _};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::client_error;
use super::end::end;
use super::live::{REST_WITHIN, Told, live};
use super::moving::Moving;
use super::reader::is_passing;
use super::tame::Sink;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail as _};
use crate::cmd::table::printable;
use crate::core::client::cancel::Cancelled;
use crate::core::client::explain::status_word;
use crate::core::client::{Client, ClientError};
use crate::core::model::job::{JobStatus, OutputStream};
use crate::core::proto::sdk_facilitator::{JobView, StatusEntry, is_cancelled};

/// Pauses between two looks at a job: the first, the longest, and how much longer each is than the last, in percent.
const LOOK: (Duration, Duration, u32) = (Duration::from_millis(200), Duration::from_secs(1), 125);

/// How long a facilitator may be away before following a job is given up, besides the client's own attempts.
const AWAY_MAX: Duration = Duration::from_secs(120);

/// Time within which a second interrupt means the job, and not only this command.
const AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// What follows a job on an interrupt.
#[derive(Args, Debug, Clone, Copy, Default)]
pub(in crate::cmd) struct InterruptArgs {
    /// Cancel the job on a second Ctrl-C within 3 s, without asking; the first only leaves it alone
    #[arg(long)]
    pub(super) cancel_on_interrupt: bool,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The end; its output is printed then.
    Ended,
    /// The container has been started.
    Running,
    /// A state has been reached.
    Status(JobStatus),
}

impl Goal {
    fn is_reached(self, job: &JobView) -> bool {
        let has = |status: JobStatus| job.status_history.iter().any(|entry| entry.status == status);
        match self {
            Self::Ended => job.current().is_terminal(),
            Self::Status(status) => has(status),
            // A streaming job is told to run by being reachable, any other by having its input in place.
            Self::Running => {
                let begins = if job.streaming_client_cert.is_empty() {
                    JobStatus::VolumesReady
                } else {
                    JobStatus::StreamingReady
                };
                has(begins) || has(JobStatus::ExecutionDone) || has(JobStatus::Completed)
            }
        }
    }
}

/// How a job is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) goal: Goal,
    /// How long; for ever if none.
    pub(super) patience: Option<Duration>,
    pub(super) interrupt: InterruptArgs,
}

impl Plan {
    /// To the end, however long that takes.
    pub(super) const fn to_the_end(interrupt: InterruptArgs) -> Self {
        Self {
            goal: Goal::Ended,
            patience: None,
            interrupt,
        }
    }
}

/// Interrupts by the person at the terminal, none of which is lost while something else is waited for.
#[derive(Debug)]
pub(super) struct Interrupts(Signal);

impl Interrupts {
    pub(super) fn listen() -> Result<Self, CmdError> {
        let signal = signal(SignalKind::interrupt());
        signal
            .map(Self)
            .or_fail(ExitCode::Failed, "could not listen for signals")
    }

    pub(super) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // There are no more signals; nobody can interrupt.
            std::future::pending::<()>().await;
        }
    }
}

/// Looks at a job again and again.
#[derive(Debug)]
struct Watch<'c> {
    client: &'c Client,
    pause: Duration,
    away_since: Option<Instant>,
}

impl<'c> Watch<'c> {
    const fn new(client: &'c Client) -> Self {
        Self {
            client,
            pause: LOOK.0,
            away_since: None,
        }
    }

    /// Waits a little and returns the job as it is then; a facilitator may be away for [`AWAY_MAX`].
    async fn next(&mut self, job: &JobView) -> Result<JobView, ClientError> {
        loop {
            sleep(self.pause).await;
            self.pause = (self.pause * LOOK.2 / 100).min(LOOK.1);
            let error = match self.client.job(&job.uuid).await {
                Ok(job) => {
                    self.away_since = None;
                    return Ok(job);
                }
                Err(error) if is_passing(&error) => error,
                Err(error) => return Err(error),
            };
            if self.away_since.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX {
                return Err(error);
            }
        }
    }
}

fn lost(job: &JobView, error: &ClientError) -> CmdError {
    client_error("could not read the job", error)
        .hint(format!("the job goes on: horde job wait {}", job.uuid))
}

/// Waits for the end of a job without a word.
pub(super) async fn until_ended(
    _context: &Context,
    client: &Client,
    mut job: JobView,
) -> Result<JobView, CmdError> {
    let mut watch = Watch::new(client);
    while !job.current().is_terminal() {
        job = watch.next(&job).await.map_err(|error| lost(&job, &error))?;
    }
    Ok(job)
}

/// Shows a job's stages until what is waited for has come; if that is its end, prints its output and ends as it did.
pub(super) async fn follow(
    context: &Context,
    client: &Client,
    mut job: JobView,
    plan: Plan,
) -> Result<(), CmdError> {
    let started = Instant::now();
    let mut interrupts = Interrupts::listen()?;
    let moving = Moving::new(context);
    let mut stages = Stages::new(&moving, &job);
    let mut watch = Watch::new(client);
    let told = [Told::default(), Told::default()];
    let id = job.uuid.clone();
    let mut live = pin!(live(context, client, &id, &moving, &told));
    let mut is_live = false;
    loop {
        stages.show(&job);
        // What a job writes is worth asking for once it runs.
        let begins =
            plan.goal == Goal::Ended && !job.current().is_terminal() && Goal::Running.is_reached(&job);
        is_live = !context.wants_data() && (is_live || begins) && told.iter().any(Told::is_open);
        if plan.goal != Goal::Ended && plan.goal.is_reached(&job) {
            moving.end();
            return if context.wants_data() {
                context.print_data(&job)
            } else {
                Ok(())
            };
        }
        if job.current().is_terminal() {
            if is_live {
                // The rest of what it wrote; what does not come in time is taken from the result.
                drop(timeout(REST_WITHIN, &mut live).await);
            }
            moving.end();
            return finish(context, &job, &moving, &told);
        }
        let left = plan
            .patience
            .map(|patience| patience.saturating_sub(started.elapsed()));
        let patience = async {
            match left {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = interrupts.next() => {
                moving.end();
                moving.end_line();
                return Err(interrupted(context, client, &job, &mut interrupts, plan.interrupt).await);
            }
            () = patience => {
                moving.end();
                let words = format!("the job is still {} and goes on", job.current());
                return Err(CmdError::new(ExitCode::TooLong, words).hint(format!("horde job wait {}", job.uuid)));
            }
            outcome = &mut live, if is_live => outcome?,
            next = watch.next(&job) => job = next.map_err(|error| lost(&job, &error))?,
        }
    }
}

/// Leaves a job alone, or cancels it if the person says so by a second interrupt.
pub(super) async fn interrupted(
    context: &Context,
    client: &Client,
    job: &JobView,
    interrupts: &mut Interrupts,
    args: InterruptArgs,
) -> CmdError {
    let left = CmdError::quiet(ExitCode::Passed(130));
    context.say(format_args!(
        "the job goes on; `horde job wait {}` follows it",
        job.uuid
    ));
    let can_ask = context.interactive && io::stdin().is_terminal();
    if !args.cancel_on_interrupt && !can_ask {
        return left;
    }
    let words = if args.cancel_on_interrupt {
        "cancels it"
    } else {
        "asks whether to cancel it"
    };
    context.say(format_args!(
        "another Ctrl-C within {} s {words}",
        AGAIN_WITHIN.as_secs()
    ));
    tokio::select! {
        () = interrupts.next() => {}
        () = sleep(AGAIN_WITHIN) => return left,
    }
    if !args.cancel_on_interrupt {
        let asked = dialoguer::Confirm::new()
            .with_prompt("Cancel the job?")
            .default(false)
            .interact_opt();
        if !matches!(asked, Ok(Some(true))) {
            return left;
        }
    }
    match client.cancel(&job.uuid).await {
        Ok(Cancelled::UnderWay(_)) => {
            context.say(
                "the cancel is under way: the job ends when its executor has reported the container dead",
            );
        }
        Ok(Cancelled::Ended(job)) => context.say(format_args!("the job is {}", status_word(&job))),
        Ok(Cancelled::Cannot { words }) => {
            context.say(format_args!(
                "the job cannot be cancelled and goes on: {}",
                printable(&words)
            ));
        }
        Ok(Cancelled::NotKnown) => {
            context.say("this facilitator cannot cancel jobs; the job goes on");
        }
        Err(error) => {
            return client_error("could not cancel the job, which goes on", &error)
                .known_as(ExitCode::Passed(130));
        }
    }
    left
}

/// The stages of a job as they come.
struct Stages<'a> {
    moving: &'a Moving<'a>,
    shown: usize,
}

impl<'a> Stages<'a> {
    fn new(moving: &'a Moving<'a>, job: &JobView) -> Self {
        moving.say(&format!("job {}", job.uuid));
        Self { moving, shown: 0 }
    }

    fn show(&mut self, job: &JobView) {
        for entry in job.status_history.iter().skip(self.shown) {
            self.moving.say(&history_line(job, entry));
        }
        self.shown = job.status_history.len();
        self.moving.tell(waiting_for(job.current()));
    }
}

/// Returns a step with its time since the submission.
pub(super) fn history_line(job: &JobView, entry: &StatusEntry) -> String {
    let since = entry.created_at.moment() - job.created_at.moment();
    let word = if is_cancelled(entry) {
        "cancelled"
    } else {
        entry.status.as_str()
    };
    format!("{:>8.2} s  {word}", since.as_seconds_f64())
}

/// Returns what happens next to a job in this state.
const fn waiting_for(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Sent => "waiting for the validator",
        JobStatus::Received => "looking for a miner",
        JobStatus::Accepted => "starting the executor",
        JobStatus::ExecutorReady => "fetching the input",
        JobStatus::VolumesReady | JobStatus::StreamingReady => "running",
        JobStatus::ExecutionDone => "delivering the output",
        JobStatus::Completed | JobStatus::Rejected | JobStatus::Failed | JobStatus::HordeFailed => "ended",
        JobStatus::Unknown => "in a state that this program does not know",
    }
}

/// Prints a job that has ended and ends as it did.
fn finish(context: &Context, job: &JobView, moving: &Moving<'_>, told: &[Told; 2]) -> Result<(), CmdError> {
    let Some(end) = end(job) else {
        return Err(CmdError::new(ExitCode::Bug, "the job has not ended"));
    };
    if context.wants_data() {
        context.print_data(job)?;
    } else {
        let [stdout, stderr] = told;
        for (stream, rest) in [
            (OutputStream::Stdout, stdout.rest(&end.stdout)),
            (OutputStream::Stderr, stderr.rest(&end.stderr)),
        ] {
            moving.beside(rest, || Sink::of(stream, false).print(context, rest))?;
        }
        moving.end_line();
        for path in job.artifacts.keys() {
            context.say(format_args!("artifact {}", printable(path)));
        }
        for path in job.upload_results.keys() {
            context.say(format_args!("uploaded /output/{}", printable(path)));
        }
    }
    match end.words {
        None => Ok(()),
        Some(words) => Err(CmdError::new(end.code, printable(&words))
            .hint(format!("horde job explain {}", printable(job.uuid.as_str())))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: &str, metadata: &Value) -> JobView {
        serde_json::from_value(json!({
            "uuid": "u", "executor_class": "always_on.test", "created_at": "2026-11-22T09:13:22.5Z", "docker_image": "i",
            "args": [], "env": {}, "stdout": "out", "stderr": "err",
            "status_history": [{"status": "sent", "metadata": {}, "created_at": "2026-11-22T09:13:22.5Z"},
                {"status": status, "metadata": metadata, "created_at": "2026-11-22T09:13:24Z"}],
        }))
        .unwrap()
    }

    #[test]
    fn a_step_is_shown_with_its_time_since_the_submission() {
        let job = job("received", &json!({}));
        assert_eq!(history_line(&job, job.last().unwrap()), "    1.50 s  received");
    }
}
