//! How far something is, on standard error: a bar or a turning sign for a person, a line every five seconds otherwise.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::context::Context;

/// The shortest time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What takes no longer is not worth a word; also the time between two looks at what takes longer.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// Time between two pictures of a turning sign.
const TICK: Duration = Duration::from_millis(100);

/// How far something is; nothing of it stays on a terminal when it is dropped.
pub(super) struct Progress<'a> {
    context: &'a Context,
    is_quiet: bool,
    since: Instant,
    state: Mutex<State>,
}

struct State {
    what: String,
    bytes: Option<Bytes>,
    /// When the last line was said; none may be said sooner than it is worth a word.
    said: Option<Instant>,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Copy)]
struct Bytes {
    done: u64,
    total: Option<u64>,
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("what", &self.state().what)
            .finish_non_exhaustive()
    }
}

impl<'a> Progress<'a> {
    /// Begins to move bytes; `what` is what is done, as in `uploading data.bin`. Says nothing at all if `is_quiet`.
    pub(super) fn of_bytes(context: &'a Context, what: String, total: Option<u64>, is_quiet: bool) -> Self {
        let progress = Self::new(context, what, is_quiet);
        let mut state = progress.state();
        state.bytes = Some(Bytes { done: 0, total });
        // Most are moved before that.
        state.said = Some(progress.since);
        progress.show(&mut state);
        drop(state);
        progress
    }

    /// Begins something of which only the time is known; it is shown while [`Progress::during`] waits for it.
    pub(super) fn of_time(context: &'a Context, what: impl Into<String>) -> Self {
        Self::new(context, what.into(), false)
    }

    fn new(context: &'a Context, what: String, is_quiet: bool) -> Self {
        let since = Instant::now();
        let state = State {
            what,
            bytes: None,
            said: None,
            bar: None,
        };
        Self {
            context,
            is_quiet,
            since,
            state: Mutex::new(state),
        }
    }

    /// So many more bytes are done.
    pub(super) fn add(&self, bytes: u64) {
        self.change(|known| known.done = known.done.saturating_add(bytes));
    }

    /// So many bytes are done, of so many if that is known.
    pub(super) fn set(&self, bytes: u64, total: Option<u64>) {
        self.change(|known| {
            known.done = bytes;
            known.total = total.or(known.total);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Bytes)) {
        let mut state = self.state();
        let mut bytes = state.bytes.unwrap_or(Bytes { done: 0, total: None });
        change(&mut bytes);
        state.bytes = Some(bytes);
        if let Some(bar) = &state.bar {
            bar.set_position(bytes.done);
            if let Some(total) = bytes.total {
                bar.set_length(total);
            }
        }
        self.line(&mut state);
    }

    /// Says what is done from now on.
    pub(super) fn tell(&self, what: impl Into<String>) {
        let mut state = self.state();
        state.what = what.into();
        if let Some(bar) = &state.bar {
            bar.set_message(state.what.clone());
        }
    }

    /// Waits for something, and shows how long that takes once it is more than a second.
    pub(super) async fn during<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut future => break outcome,
                () = sleep(WORTH_A_WORD) => self.turn(),
            }
        };
        self.clear();
        outcome
    }

    /// Prints something else, on whichever stream of the same terminal.
    pub(super) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.state().bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn turn(&self) {
        let mut state = self.state();
        self.show(&mut state);
        self.line(&mut state);
    }

    /// Shows the bar, where a person watches a terminal on which something may move.
    fn show(&self, state: &mut State) {
        if self.is_quiet || state.bar.is_some() || !self.context.moves() {
            return;
        }
        let total = state.bytes.and_then(|bytes| bytes.total);
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match state.bytes {
            Some(Bytes { total: Some(_), .. }) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            Some(_) => "{msg} {bytes} {bytes_per_sec}",
            None => "{spinner} {elapsed:>4}  {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_elapsed(self.since.elapsed());
        bar.set_message(state.what.clone());
        if state.bytes.is_none() {
            bar.enable_steady_tick(TICK);
        }
        state.bar = Some(bar);
    }

    /// Says a line, where there is no bar.
    fn line(&self, state: &mut State) {
        if !self.is_quiet
            && state.bar.is_none()
            && let Some(line) = self.due(state, Instant::now())
        {
            self.context.say(line);
        }
    }

    /// Returns the line that says how far it is, unless the last one was said a moment ago.
    fn due(&self, state: &mut State, now: Instant) -> Option<String> {
        let is_fresh = |said| now.saturating_duration_since(said) < LINE_EVERY;
        if state.said.is_some_and(is_fresh) {
            return None;
        }
        state.said = Some(now);
        let far = match state.bytes {
            Some(Bytes { done, total: None }) => HumanBytes(done).to_string(),
            Some(Bytes {
                done,
                total: Some(total),
            }) => format!("{} of {}", HumanBytes(done), HumanBytes(total)),
            None => format!("{} s", now.saturating_duration_since(self.since).as_secs()),
        };
        Some(format!("{}: {far}", state.what))
    }

    fn clear(&self) {
        if let Some(bar) = self.state().bar.take() {
            bar.finish_and_clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::context::GlobalArgs;
    use crate::cmd::contract::HIDDEN;
    use crate::core::config::Environment;

    fn context() -> Context {
        Context::new(GlobalArgs::default(), Environment::default(), &HIDDEN).unwrap()
    }

    #[test]
    fn a_line_is_said_every_five_seconds_at_most() {
        let context = context();
        let bytes = Progress::of_bytes(&context, "packing x".to_owned(), None, true);
        let due = |progress: &Progress<'_>, seconds: u64| {
            let now = progress.since + Duration::from_secs(seconds);
            progress.due(&mut progress.state(), now)
        };
        bytes.add(1024);
        assert_eq!(due(&bytes, 4), None, "most are moved before that");
        assert_eq!(due(&bytes, 5).unwrap(), "packing x: 1.00 KiB");
        bytes.set(2048, Some(4096));
        assert_eq!(due(&bytes, 9), None);
        assert_eq!(due(&bytes, 10).unwrap(), "packing x: 2.00 KiB of 4.00 KiB");

        let time = Progress::of_time(&context, "waiting");
        time.tell("waiting for the miner");
        assert_eq!(due(&time, 1).unwrap(), "waiting for the miner: 1 s");
        assert_eq!(due(&time, 5), None);
        assert_eq!(due(&time, 6).unwrap(), "waiting for the miner: 6 s");
    }

    #[tokio::test]
    async fn what_is_waited_for_comes_back() {
        let context = context();
        let progress = Progress::new(&context, "x".to_owned(), true);
        assert_eq!(progress.during(async { 7 }).await, 7);
        let slow = async {
            sleep(WORTH_A_WORD + TICK).await;
            progress.beside(|| 8)
        };
        assert_eq!(progress.during(slow).await, 8);
    }
}
