//! The line that moves while a job is followed, beside what the job writes on the same terminal.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::cmd::context::Context;

/// The moving line: what is waited for, since when, under the times of the stages. The cursor is put back to its
/// beginning, so that the `^C` that a terminal writes for an interrupt stands in it, and goes with it.
const TEMPLATE: &str = "{spinner} {elapsed:>8}  {wide_msg}\x1b[G";

/// Time between two pictures of it.
const TICK: Duration = Duration::from_millis(100);

/// The last line of a terminal: it moves while nothing else stands in it. Nothing moves where no person watches, or on a
/// terminal that cannot.
pub(super) struct Moving<'a> {
    context: &'a Context,
    bar: RefCell<Option<ProgressBar>>,
    message: Cell<&'static str>,
    since: Instant,
    /// Whether the job has written a line whose end has not come: nothing else may stand in it.
    is_open: Cell<bool>,
    is_over: Cell<bool>,
}

impl<'a> Moving<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self {
            context,
            bar: RefCell::new(None),
            message: Cell::new(""),
            since: Instant::now(),
            is_open: Cell::new(false),
            is_over: Cell::new(false),
        }
    }

    /// Says from now on what is waited for.
    pub(super) fn tell(&self, message: &'static str) {
        self.message.set(message);
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_message(message);
        }
        self.go_on();
    }

    /// Writes a line of ours.
    pub(super) fn say(&self, line: &str) {
        self.end_line();
        match &*self.bar.borrow() {
            Some(bar) => bar.suspend(|| self.context.say(line)),
            None => self.context.say(line),
        }
        self.go_on();
    }

    /// Lets `print` print what the job wrote.
    pub(super) fn beside<E>(&self, bytes: &[u8], print: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let Some(last) = bytes.last() else {
            return Ok(());
        };
        let is_open = self.context.interactive && !matches!(last, b'\n' | b'\r');
        if is_open {
            self.clear();
        }
        let printed = match &*self.bar.borrow() {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
        self.is_open.set(is_open);
        self.go_on();
        printed
    }

    /// Ends the line that the job has left open, so that another can follow.
    pub(super) fn end_line(&self) {
        if self.is_open.replace(false) {
            self.context.say("");
        }
    }

    /// Takes the moving line away for good.
    pub(super) fn end(&self) {
        self.is_over.set(true);
        self.clear();
    }

    fn clear(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn go_on(&self) {
        let is_idle = self.is_over.get() || self.is_open.get() || self.message.get().is_empty();
        if is_idle || !self.context.interactive || !self.context.moves() || self.bar.borrow().is_some() {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // Such as TERM=dumb: lines are lines there.
        if bar.is_hidden() {
            return;
        }
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_elapsed(self.since.elapsed());
        bar.set_message(self.message.get());
        bar.enable_steady_tick(TICK);
        self.bar.replace(Some(bar));
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.end();
        // What comes now begins a line of its own, such as an error.
        self.end_line();
    }
}
