//! `horde job logs`: what a job wrote and writes, by offset.

use std::cell::Cell;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::follow::{Interrupts, until_ended};
use super::reader::{Look, PAUSE, Reader, WAIT};
use super::tame::Sink;
use super::{UserArgs, client_error, end, find};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::cmd::table::stamp;
use crate::core::client::Client;
use crate::core::client::explain::status_word;
use crate::core::client::logs::stream_word;
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job logs 3f2a
  horde job logs 3f2a --follow
  horde job logs 3f2a --stream stderr --tail 20 | grep -i error
  horde job logs 3f2a --follow --json";

/// Most bytes of a stream that are held for `--tail` and `--json` (64 MiB); of more, the last count.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// `horde job logs …`
#[derive(Args, Debug)]
pub struct LogsArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Go on until the job has ended; before it starts, wait for it
    #[arg(long, short)]
    follow: bool,
    /// Print one stream only, on standard output [default: both, each where it belongs]
    #[arg(long, value_name = "STREAM")]
    stream: Option<StreamArg>,
    /// Begin with the last so many lines of each stream
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Print control characters as they are, also on a terminal
    #[arg(long)]
    raw: bool,
    /// The job; the beginning of its identity is enough
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StreamArg {
    Stdout,
    Stderr,
}

/// Where the pieces of one stream go.
struct Printer<'a> {
    context: &'a Context,
    job: &'a JobId,
    stream: OutputStream,
    sink: Sink,
    sequence: &'a Cell<u64>,
    /// The beginning of a character, for JSON.
    pending: Vec<u8>,
}

impl Printer<'_> {
    fn print(&mut self, offset: u64, data: &[u8]) -> Result<(), CmdError> {
        if !self.context.json {
            return self.sink.print(self.context, data);
        }
        let offset = offset.saturating_sub(u64::try_from(self.pending.len()).unwrap_or_default());
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(data);
        self.pending = all.split_off(whole_characters(&all));
        self.record(offset, &all)
    }

    /// Prints what waits for its rest, which does not come any more.
    fn finish(&mut self, offset: u64) -> Result<(), CmdError> {
        let rest = std::mem::take(&mut self.pending);
        let length = u64::try_from(rest.len()).unwrap_or_default();
        self.record(offset.saturating_sub(length), &rest)
    }

    fn record(&self, offset: u64, bytes: &[u8]) -> Result<(), CmdError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut record = json!({"type": "output", "ts": stamp(self.context.clock.now()),
            "seq": next(self.sequence), "schema": 1, "job": self.job, "stream": stream_word(self.stream),
            "offset": offset});
        insert_bytes(&mut record, bytes);
        self.context.print_json(&record)
    }

    fn lost(&self, bytes: u64) -> Result<(), CmdError> {
        let stream = stream_word(self.stream);
        if !self.context.json {
            self.context
                .say(format_args!("[{bytes} bytes of {stream} are lost here]"));
            return Ok(());
        }
        self.context
            .print_json(&json!({"type": "gap", "ts": stamp(self.context.clock.now()),
            "seq": next(self.sequence), "schema": 1, "job": self.job, "stream": stream, "bytes": bytes}))
    }
}

fn next(sequence: &Cell<u64>) -> u64 {
    sequence.set(sequence.get() + 1);
    sequence.get()
}

/// Returns how many bytes there are before a character that has only begun.
fn whole_characters(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        Some(chunk)
            if std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none()) =>
        {
            bytes.len() - chunk.invalid().len()
        }
        _ => bytes.len(),
    }
}

/// Puts bytes into a record: as text if they are, else as base64.
fn insert_bytes(record: &mut Value, bytes: &[u8]) {
    let Value::Object(fields) = record else {
        return;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert("text".to_owned(), text.into()),
        Err(_) => fields.insert("base64".to_owned(), STANDARD.encode(bytes).into()),
    };
}

/// Returns the last so many lines.
fn tail(bytes: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    // The end of the last line begins no other.
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = ends.map(|(index, _)| index + 1).nth(lines - 1);
    bytes.get(start.unwrap_or(0)..).unwrap_or_default()
}

/// The last bytes of a stream, a bounded number.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
}

impl Held {
    fn add(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        if self.bytes.len() > HELD_BYTES_MAX {
            self.bytes.drain(..self.bytes.len() - HELD_BYTES_MAX);
        }
    }
}

const TRIED: &str = "could not read what the job wrote";

/// Tells the bytes that nobody has kept.
fn say_omitted(context: &Context, reader: &Reader<'_>) {
    if reader.omitted > 0 {
        context.say(format_args!(
            "{} bytes of {} were not kept: the job wrote more than is passed on",
            reader.omitted,
            stream_word(reader.stream)
        ));
    }
}

impl LogsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        if !self.follow {
            return self.show(context, &client, &job).await;
        }
        let mut interrupts = Interrupts::listen()?;
        tokio::select! {
            biased;
            () = interrupts.next() => Err(CmdError::quiet(ExitCode::Passed(130))),
            outcome = self.follow(context, &client, &job) => outcome,
        }
    }

    fn streams(&self) -> Vec<OutputStream> {
        match self.stream {
            None => vec![OutputStream::Stdout, OutputStream::Stderr],
            Some(StreamArg::Stdout) => vec![OutputStream::Stdout],
            Some(StreamArg::Stderr) => vec![OutputStream::Stderr],
        }
    }

    /// A single stream is the result of the command, so it goes to standard output whichever it is.
    fn sink(&self, stream: OutputStream) -> Sink {
        let place = if self.stream.is_some() {
            OutputStream::Stdout
        } else {
            stream
        };
        Sink::of(place, self.raw)
    }

    /// Prints what there is now.
    async fn show(&self, context: &Context, client: &Client, job: &JobView) -> Result<(), CmdError> {
        let mut told = Vec::new();
        let mut is_complete = true;
        let mut is_live = true;
        for stream in self.streams() {
            let mut reader = Reader::new(client, &job.uuid, stream);
            let mut sink = self.sink(stream);
            let is_held = context.json || self.tail.is_some();
            let mut held = Held::default();
            loop {
                let look = reader.look(Duration::ZERO).await;
                match look.map_err(|error| client_error(TRIED, &error))? {
                    Look::More { gap, data, .. } => {
                        reader.omitted = reader.omitted.max(gap);
                        if is_held {
                            held.add(&data);
                        } else {
                            sink.print(context, &data)?;
                        }
                    }
                    Look::Nothing => {
                        is_complete = false;
                        is_live = reader.is_live;
                        break;
                    }
                    Look::Ended => break,
                    Look::NotShown => {
                        let bytes = stored(job, stream).ok_or_else(|| not_shown(job))?;
                        reader.offset = u64::try_from(bytes.len()).unwrap_or_default();
                        if is_held {
                            held.add(&bytes);
                        } else {
                            sink.print(context, &bytes)?;
                        }
                        break;
                    }
                }
            }
            let bytes = self
                .tail
                .map_or(held.bytes.as_slice(), |lines| tail(&held.bytes, lines));
            if context.json {
                let mut record = json!({"stream": stream_word(stream), "bytes": reader.offset,
                    "omitted_bytes": reader.omitted});
                insert_bytes(&mut record, bytes);
                told.push(record);
            } else {
                sink.print(context, bytes)?;
                say_omitted(context, &reader);
            }
        }
        if !is_complete {
            let words = if is_live { "goes on with" } else { "waits for" };
            context.say(format_args!(
                "the job is {}; --follow {words} what it writes",
                status_word(job)
            ));
        }
        if context.json {
            context.print_json(
                &json!({"job": job.uuid, "status": status_word(job), "complete": is_complete,
                "streams": told}),
            )?;
        }
        Ok(())
    }

    /// Prints what there is and what comes, until the job has ended.
    async fn follow(&self, context: &Context, client: &Client, job: &JobView) -> Result<(), CmdError> {
        let sequence = Cell::new(0);
        let streams = self.streams();
        let mut ways = streams
            .iter()
            .map(|stream| Box::pin(self.follow_stream(context, client, job, *stream, &sequence)));
        match (ways.next(), ways.next()) {
            (Some(one), Some(other)) => {
                tokio::try_join!(one, other)?;
            }
            (Some(one), None) => one.await?,
            _ => {}
        }
        if context.json {
            let job = client
                .job(&job.uuid)
                .await
                .map_err(|error| client_error(TRIED, &error))?;
            let code = end(&job).map(|end| end.code.number());
            context.print_json(
                &json!({"type": "end", "ts": stamp(context.clock.now()), "seq": next(&sequence),
                "schema": 1, "job": job.uuid, "status": status_word(&job), "exit_code": code}),
            )?;
        }
        Ok(())
    }

    async fn follow_stream(
        &self,
        context: &Context,
        client: &Client,
        job: &JobView,
        stream: OutputStream,
        sequence: &Cell<u64>,
    ) -> Result<(), CmdError> {
        let mut reader = Reader::new(client, &job.uuid, stream);
        let mut printer = Printer {
            context,
            job: &job.uuid,
            stream,
            sink: self.sink(stream),
            sequence,
            pending: Vec::new(),
        };
        // With --tail, what there is already is held until it is known where its last lines begin.
        let mut held = self.tail.map(|lines| (lines, Held::default()));
        loop {
            let wait = if held.is_some() { Duration::ZERO } else { WAIT };
            let look = reader.look_on(context, wait).await;
            let look = look.map_err(|error| client_error(TRIED, &error))?;
            if let (Some((_, held)), Look::More { data, .. }) = (&mut held, &look) {
                held.add(data);
                continue;
            }
            if let Some((lines, held)) = held.take() {
                let last = tail(&held.bytes, lines);
                let length = u64::try_from(last.len()).unwrap_or_default();
                printer.print(reader.offset.saturating_sub(length), last)?;
            }
            match look {
                Look::More { gap, offset, data } => {
                    if gap > 0 {
                        printer.lost(gap)?;
                    }
                    printer.print(offset, &data)?;
                }
                Look::Nothing => sleep(PAUSE).await,
                Look::Ended => break,
                Look::NotShown => {
                    if stream == OutputStream::Stdout && !job.current().is_terminal() {
                        context.say(
                            "this facilitator does not show what a job writes while it runs: it comes when the job \
                             has ended",
                        );
                    }
                    let job = until_ended(context, client, job.clone()).await?;
                    let bytes = stored(&job, stream).unwrap_or_default();
                    let last = self.tail.map_or(bytes.as_slice(), |lines| tail(&bytes, lines));
                    printer.print(0, last)?;
                    reader.offset = u64::try_from(last.len()).unwrap_or_default();
                    break;
                }
            }
        }
        if context.json {
            printer.finish(reader.offset)?;
        }
        say_omitted(context, &reader);
        Ok(())
    }
}

/// Returns what a job that has ended wrote, from its result.
fn stored(job: &JobView, stream: OutputStream) -> Option<Vec<u8>> {
    let end = end(job)?;
    Some(match stream {
        OutputStream::Stdout => end.stdout.into_bytes(),
        OutputStream::Stderr => end.stderr.into_bytes(),
    })
}

fn not_shown(job: &JobView) -> CmdError {
    CmdError::new(
        ExitCode::Conflict,
        format!(
            "this facilitator does not show what a job writes before it has ended; the job is {}",
            status_word(job)
        ),
    )
    .hint(format!("horde job logs --follow {} waits for its end", job.uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            assert_eq!(
                tail(text.as_bytes(), lines),
                expected.as_bytes(),
                "{text:?} {lines}"
            );
        }
    }

    #[test]
    fn a_character_that_has_only_begun_waits_for_its_rest() {
        let text = "aż".as_bytes();
        assert_eq!(whole_characters(&text[..2]), 1);
        assert_eq!(whole_characters(text), 3);
        assert_eq!(whole_characters(b"a\xff"), 2, "no character begins so");
        assert_eq!(whole_characters(b""), 0);
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let mut record = json!({});
        insert_bytes(&mut record, b"\xff");
        assert_eq!(record, json!({"base64": "/w=="}));
    }
}
