//! How far packing, uploads and downloads are: a bar for a person, a line every five seconds otherwise.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::cmd::context::Context;

/// The shortest time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far something is.
pub(super) struct Progress<'a> {
    context: &'a Context,
    what: String,
    bar: Option<ProgressBar>,
    plain: Option<Mutex<Plain>>,
}

struct Plain {
    done: u64,
    total: Option<u64>,
    said: Instant,
}

impl<'a> Progress<'a> {
    /// Begins; `what` is what is done, as in `uploading data.bin`. Says nothing at all if `quiet`.
    pub(super) fn new(context: &'a Context, what: String, total: Option<u64>, quiet: bool) -> Self {
        // Hidden where nobody watches, and on a terminal that can move nothing.
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let bar = (!quiet && !bar.is_hidden()).then(|| {
            let template = if total.is_some() {
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
            } else {
                "{msg} {bytes} {bytes_per_sec}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.clone());
            bar
        });
        let plain = Plain {
            done: 0,
            total,
            said: Instant::now(),
        };
        Self {
            context,
            what,
            plain: (bar.is_none() && !quiet).then(|| Mutex::new(plain)),
            bar,
        }
    }

    /// So many more bytes are done.
    pub(super) fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        self.line(|plain| plain.done = plain.done.saturating_add(bytes));
    }

    /// So many bytes are done, of so many if that is known.
    pub(super) fn set(&self, bytes: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            if let Some(total) = total {
                bar.set_length(total);
            }
        }
        self.line(|plain| {
            plain.done = bytes;
            plain.total = total.or(plain.total);
        });
    }

    fn line(&self, change: impl FnOnce(&mut Plain)) {
        let Some(plain) = &self.plain else { return };
        let mut plain = plain.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut plain);
        if plain.said.elapsed() < LINE_EVERY {
            return;
        }
        plain.said = Instant::now();
        let of = plain
            .total
            .map(|total| format!(" of {}", HumanBytes(total)))
            .unwrap_or_default();
        self.context
            .say(format_args!("{}: {}{of}", self.what, HumanBytes(plain.done)));
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
