//! `horde job logs`: what a job wrote and writes, by offset.

use std::cell::Cell;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::sleep;

use super::follow::{Interrupts, until_ended};
use super::reader::{Look, PAUSE, Reader, WAIT};
use super::tame::Sink;
use super::{UserArgs, client_error, end, find};
use crate::cmd::context::Context;
use crate::cmd::contract::OUTPUT_VERSION;
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
        if !self.context.wants_data() {
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
        let record = LogEvent {
            stream: Some(stream_word(self.stream)),
            offset: Some(offset),
            content: Content::of(bytes),
            ..self.event("output")
        };
        self.context.print_data(&record)
    }

    fn lost(&self, bytes: u64) -> Result<(), CmdError> {
        let stream = stream_word(self.stream);
        if !self.context.wants_data() {
            self.context
                .say(format_args!("[{bytes} bytes of {stream} are lost here]"));
            return Ok(());
        }
        self.context.print_data(&LogEvent {
            stream: Some(stream),
            bytes: Some(bytes),
            ..self.event("gap")
        })
    }

    fn event(&self, kind: &'static str) -> LogEvent<'_> {
        LogEvent::new(kind, self.context, self.sequence, self.job)
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

/// What a stream holds: text, or base64 where it is no UTF-8.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
struct Content {
    /// The text, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The bytes in base64, if they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                text: Some(text.to_owned()),
                base64: None,
            },
            Err(_) => Self {
                text: None,
                base64: Some(STANDARD.encode(bytes)),
            },
        }
    }
}

/// What a job has written so far.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Logs<'a> {
    /// The job.
    job: &'a JobId,
    /// Its status.
    status: &'static str,
    /// Whether nothing more can come.
    complete: bool,
    /// Its streams.
    streams: Vec<LogStream>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LogStream {
    /// `stdout` or `stderr`.
    stream: &'static str,
    /// How many bytes it holds.
    bytes: u64,
    /// How many of them are not kept anywhere.
    omitted_bytes: u64,
    #[serde(flatten)]
    content: Content,
}

/// One event of `--follow`; the last is of the type `end`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LogEvent<'a> {
    /// `output`, `gap` (bytes were lost) or `end`.
    r#type: &'static str,
    /// When it was told.
    ts: String,
    /// Its number, from 1 on.
    seq: u64,
    /// The version of this form.
    schema: u32,
    /// The job.
    job: &'a JobId,
    /// `stdout` or `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    /// Where in the stream an output begins, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(flatten)]
    content: Content,
    /// How many bytes a gap has.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(flatten)]
    end: Option<LogEnd>,
}

/// How a job ended.
#[derive(Debug, Serialize, JsonSchema)]
struct LogEnd {
    /// The job's status.
    status: &'static str,
    /// The exit code of commands that wait for the job.
    exit_code: Option<u8>,
}

impl<'a> LogEvent<'a> {
    fn new(kind: &'static str, context: &Context, sequence: &Cell<u64>, job: &'a JobId) -> Self {
        Self {
            r#type: kind,
            ts: stamp(context.clock.now()),
            seq: next(sequence),
            schema: OUTPUT_VERSION,
            job,
            stream: None,
            offset: None,
            content: Content::default(),
            bytes: None,
            end: None,
        }
    }
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
            let is_held = context.wants_data() || self.tail.is_some();
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
            if context.wants_data() {
                told.push(LogStream {
                    stream: stream_word(stream),
                    bytes: reader.offset,
                    omitted_bytes: reader.omitted,
                    content: Content::of(bytes),
                });
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
        if context.wants_data() {
            context.print_data(&Logs {
                job: &job.uuid,
                status: status_word(job),
                complete: is_complete,
                streams: told,
            })?;
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
        if context.wants_data() {
            let job = client
                .job(&job.uuid)
                .await
                .map_err(|error| client_error(TRIED, &error))?;
            let end = LogEnd {
                status: status_word(&job),
                exit_code: end(&job).map(|end| end.code.number()),
            };
            context.print_data(&LogEvent {
                end: Some(end),
                ..LogEvent::new("end", context, &sequence, &job.uuid)
            })?;
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
        if context.wants_data() {
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
        let record = serde_json::to_value(Content::of(b"\xff")).unwrap();
        assert_eq!(record, serde_json::json!({"base64": "/w=="}));
    }
}
