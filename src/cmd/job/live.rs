//! Printing what a job writes while it is followed; what does not come that way is taken from its result.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::sleep;

use super::moving::Moving;
use super::reader::{Look, PAUSE, Reader, WAIT};
use super::tame::Sink;
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::core::client::Client;
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;

/// How long the rest of the output of a job that has ended is waited for before it is taken from the result.
pub(super) const REST_WITHIN: Duration = Duration::from_secs(10);

/// What was printed of a stream while its job ran.
#[derive(Debug)]
pub(super) struct Told {
    bytes: Cell<u64>,
    /// Whether more may come; the result of the job has the rest.
    is_open: Cell<bool>,
    /// Whether all of it was printed.
    is_whole: Cell<bool>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            bytes: Cell::new(0),
            is_open: Cell::new(true),
            is_whole: Cell::new(false),
        }
    }
}

impl Told {
    /// Tells whether more may come.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Returns what of a stream is still to be printed.
    pub(super) fn rest<'t>(&self, all: &'t str) -> &'t [u8] {
        let told = usize::try_from(self.bytes.get()).unwrap_or(usize::MAX);
        let is_whole = self.is_whole.get();
        all.as_bytes()
            .get(told..)
            .filter(|_| !is_whole)
            .unwrap_or_default()
    }
}

/// Prints what a job writes while it runs, where its facilitator shows that.
pub(super) async fn live(
    context: &Context,
    client: &Client,
    job: &JobId,
    moving: &Moving<'_>,
    told: &[Told; 2],
) -> Result<(), CmdError> {
    let [stdout, stderr] = told;
    let stdout = live_stream(
        context,
        Reader::new(client, job, OutputStream::Stdout),
        moving,
        stdout,
    );
    let stderr = live_stream(
        context,
        Reader::new(client, job, OutputStream::Stderr),
        moving,
        stderr,
    );
    tokio::try_join!(stdout, stderr).map(drop)
}

async fn live_stream(
    context: &Context,
    mut reader: Reader<'_>,
    moving: &Moving<'_>,
    told: &Told,
) -> Result<(), CmdError> {
    let mut sink = Sink::of(reader.stream, false);
    // An error is none here: the job's result has what was written, and its own calls say what is wrong.
    while let Ok(look) = reader.look_on(context, WAIT).await {
        match look {
            // A gap would be hidden in a stream that goes on: the result is printed from there.
            Look::More { gap: 1.., .. } | Look::NotShown => break,
            Look::More { data, .. } => {
                moving.beside(&data, || sink.print(context, &data))?;
                told.bytes.set(reader.offset);
            }
            Look::Nothing => sleep(PAUSE).await,
            Look::Ended => {
                told.is_whole.set(true);
                break;
            }
        }
    }
    told.is_open.set(false);
    Ok(())
}
