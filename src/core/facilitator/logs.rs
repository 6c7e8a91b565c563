//! What running jobs write, as far as their validators pass it on: in memory only, bounded, for their owners to follow.
//!
//! Nothing here is owed to anybody: when a job has ended, its stored result has it all. A restart forgets what was live.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::core::model::job::OutputStream;
use crate::core::model::output::Tape;
use crate::core::model::{Hotkey, JobId};

/// The most bytes of each stream of a job that are kept, the newest (256 KiB).
const STREAM_BYTES_MAX: usize = 256 * 1024;

/// The most bytes of all jobs together (16 MiB); beyond that the job that was silent longest is forgotten.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most jobs that are remembered, running or ended.
const JOBS_MAX: usize = 4096;

/// The most bytes of one answer (256 KiB).
pub(super) const PAGE_BYTES_MAX: usize = 256 * 1024;

/// The characters of each end of a stream that a result keeps, and what stands between them (wire-executor-miner §8).
const END_CHARACTERS: usize = 500_000;
const GAP: &str = " ... ";

#[derive(Debug)]
struct Recording {
    validator: Hotkey,
    stdout: Tape,
    stderr: Tape,
    /// Its place among those that were silent.
    turn: u64,
}

impl Recording {
    fn tape(&mut self, stream: OutputStream) -> &mut Tape {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    fn bytes(&self) -> usize {
        self.stdout.kept() + self.stderr.kept()
    }
}

#[derive(Debug, Default)]
struct State {
    recordings: HashMap<JobId, Recording>,
    /// The jobs by when they were last heard of.
    turns: BTreeMap<u64, JobId>,
    turn: u64,
    bytes: usize,
    /// Who waits for news of a job, and how many.
    waiters: HashMap<JobId, (usize, Arc<Notify>)>,
}

impl State {
    fn forget(&mut self, job: &JobId) {
        if let Some(recording) = self.recordings.remove(job) {
            self.turns.remove(&recording.turn);
            self.bytes = self.bytes.saturating_sub(recording.bytes());
        }
    }

    fn wake(&self, job: &JobId) {
        if let Some((_, notify)) = self.waiters.get(job) {
            notify.notify_waiters();
        }
    }
}

/// The recordings of running jobs; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Logs(Arc<Mutex<State>>);

/// What is known of a part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The place of the first byte.
    pub(super) offset: u64,
    /// The bytes.
    pub(super) bytes: Vec<u8>,
}

/// Somebody who waits for news of a job.
#[derive(Debug)]
pub(super) struct Waiter {
    logs: Logs,
    job: JobId,
    /// Rings when there are some.
    pub(super) news: Arc<Notify>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.logs.state();
        if let Some((count, _)) = state.waiters.get_mut(&self.job) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.waiters.remove(&self.job);
            }
        }
    }
}

impl Logs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a validator's output of a job is recorded: then it is known to be its job.
    pub(super) fn knows(&self, job: &JobId, validator: &Hotkey) -> bool {
        self.state()
            .recordings
            .get(job)
            .is_some_and(|recording| recording.validator == *validator)
    }

    /// Records a piece of a validator's running job.
    pub(super) fn add(
        &self,
        job: &JobId,
        validator: &Hotkey,
        stream: OutputStream,
        offset: u64,
        bytes: &[u8],
    ) {
        let mut state = self.state();
        state.turn = state.turn.wrapping_add(1);
        let turn = state.turn;
        let State {
            recordings, turns, ..
        } = &mut *state;
        let recording = recordings.entry(job.clone()).or_insert_with(|| Recording {
            validator: validator.clone(),
            stdout: Tape::new(STREAM_BYTES_MAX),
            stderr: Tape::new(STREAM_BYTES_MAX),
            turn,
        });
        let before = recording.bytes();
        recording.tape(stream).add(offset, bytes);
        let after = recording.bytes();
        turns.remove(&recording.turn);
        recording.turn = turn;
        turns.insert(turn, job.clone());
        state.bytes = state.bytes.saturating_add(after).saturating_sub(before);
        while (state.bytes > BYTES_MAX || state.recordings.len() > JOBS_MAX)
            && let Some((_, silent)) = state.turns.iter().next().map(|(turn, job)| (*turn, job.clone()))
        {
            state.forget(&silent);
        }
        state.wake(job);
    }

    /// Notes that a job has got further; once it has ended, its result is what counts.
    pub(super) fn step(&self, job: &JobId, has_ended: bool) {
        let mut state = self.state();
        if has_ended && let Some(recording) = state.recordings.get_mut(job) {
            let before = recording.bytes();
            recording.stdout.end();
            recording.stderr.end();
            let after = recording.bytes();
            state.bytes = state.bytes.saturating_add(after).saturating_sub(before);
        }
        state.wake(job);
    }

    /// Returns what a running job has written at or after `offset`, as far as it is kept.
    pub(super) fn read(&self, job: &JobId, stream: OutputStream, offset: u64) -> Option<Part> {
        let mut state = self.state();
        let tape = state.recordings.get_mut(job)?.tape(stream);
        let (offset, bytes) = tape.read(offset, PAGE_BYTES_MAX)?;
        Some(Part { offset, bytes })
    }

    /// Waits for a job from now on.
    pub(super) fn wait_for(&self, job: &JobId) -> Waiter {
        let mut state = self.state();
        let (count, news) = state.waiters.entry(job.clone()).or_default();
        *count = count.saturating_add(1);
        Waiter {
            news: Arc::clone(news),
            logs: self.clone(),
            job: job.clone(),
        }
    }

    /// Returns what the result of an ended job has at or after `offset`, and where it ends.
    pub(super) fn read_result(
        &self,
        job: &JobId,
        stream: OutputStream,
        text: &str,
        offset: u64,
    ) -> (Part, u64) {
        let (head, tail) = halves(text);
        let head_end = length(head.as_bytes());
        let tail_start = match tail {
            None => head_end,
            Some(tail) => {
                let mut state = self.state();
                let seen = state
                    .recordings
                    .get_mut(job)
                    .map(|recording| recording.tape(stream));
                let start = seen.and_then(|tape| tape.start_of_end(tail.as_bytes()));
                start
                    .unwrap_or(0)
                    .max(head_end.saturating_add(length(GAP.as_bytes())))
            }
        };
        let tail = tail.unwrap_or_default().as_bytes();
        let end = tail_start.saturating_add(length(tail));
        let part = |start: u64, bytes: &[u8]| {
            let skipped = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let rest = bytes.get(skipped..).unwrap_or_default();
            let bytes = rest.get(..PAGE_BYTES_MAX).unwrap_or(rest).to_vec();
            let offset = offset.max(start);
            Part { offset, bytes }
        };
        let part = if offset < head_end {
            part(0, head.as_bytes())
        } else {
            part(tail_start, tail)
        };
        (part, end)
    }
}

/// Splits a result into the two ends of a stream that was too long for it; the second is none where it is whole.
fn halves(text: &str) -> (&str, Option<&str>) {
    // A character has one byte at least.
    if text.len() < 2 * END_CHARACTERS + GAP.len() {
        return (text, None);
    }
    let middle = text.char_indices().nth(END_CHARACTERS).map(|(at, _)| at);
    let Some((head, rest)) = middle.and_then(|at| text.split_at_checked(at)) else {
        return (text, None);
    };
    match rest.strip_prefix(GAP) {
        Some(tail) if tail.chars().count() == END_CHARACTERS => (head, Some(tail)),
        Some(_) | None => (text, None),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STDOUT: OutputStream = OutputStream::Stdout;

    fn parties() -> (JobId, Hotkey) {
        (JobId::new("j"), Hotkey::new("v"))
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_learns_of_gaps() {
        let (job, validator) = parties();
        let logs = Logs::default();
        assert_eq!(logs.read(&job, STDOUT, 0), None);
        for (offset, bytes) in [(0, b"abc".as_slice()), (3, b"def"), (10, b"xyz")] {
            logs.add(&job, &validator, STDOUT, offset, bytes);
        }
        assert!(logs.knows(&job, &validator) && !logs.knows(&job, &Hotkey::new("other")));
        let read = |offset| {
            logs.read(&job, STDOUT, offset)
                .map(|part| (part.offset, part.bytes))
        };
        assert_eq!(read(0), Some((0, b"abcdef".to_vec())));
        assert_eq!(read(4), Some((4, b"ef".to_vec())));
        assert_eq!(read(6), Some((10, b"xyz".to_vec())), "four bytes are missing");
        assert_eq!(read(13), None);
    }

    #[test]
    fn memory_stays_bounded_and_the_silent_are_forgotten_first() {
        let (_, validator) = parties();
        let logs = Logs::default();
        let bytes = vec![b'x'; STREAM_BYTES_MAX];
        for number in 0..200 {
            let job = JobId::new(number.to_string());
            logs.add(&job, &validator, STDOUT, 0, &bytes);
            logs.add(&JobId::new("0"), &validator, OutputStream::Stderr, number, b"!");
        }
        let state = logs.state();
        assert!(state.bytes <= BYTES_MAX);
        assert_eq!(
            state.bytes,
            state.recordings.values().map(Recording::bytes).sum::<usize>()
        );
        assert_eq!(state.turns.len(), state.recordings.len());
        let kept = |job: &str| state.recordings.contains_key(&JobId::new(job));
        assert!(kept("0") && kept("199") && !kept("1"));
    }

    #[test]
    fn a_result_goes_on_where_the_live_stream_was() {
        let (job, validator) = parties();
        let logs = Logs::default();
        let read = |text: &str, offset| {
            let (part, end) = logs.read_result(&job, STDOUT, text, offset);
            (part.offset, String::from_utf8(part.bytes).unwrap(), end)
        };
        assert_eq!(read("hello", 0), (0, "hello".to_owned(), 5));
        assert_eq!(read("hello", 3), (3, "lo".to_owned(), 5));
        assert_eq!(read("hello", 9), (9, String::new(), 5));
        // Of a long stream the ends are kept; where the second one begins is seen from what was live.
        let numbers: Vec<String> = (0..400_000).map(|number| format!("{number}\n")).collect();
        let numbers = numbers.concat();
        let (head, _) = numbers.split_at(END_CHARACTERS);
        let (_, tail) = numbers.split_at(numbers.len() - END_CHARACTERS);
        let text = format!("{head}{GAP}{tail}");
        let unseen = END_CHARACTERS as u64 + 5;
        let (offset, _, end) = read(&text, END_CHARACTERS as u64);
        assert_eq!((offset, end), (unseen, unseen + END_CHARACTERS as u64));
        let seen = numbers.len() - 100;
        logs.add(
            &job,
            &validator,
            STDOUT,
            (seen - 1000) as u64,
            &numbers.as_bytes()[seen - 1000..seen],
        );
        logs.step(&job, true);
        let start = (numbers.len() - END_CHARACTERS) as u64;
        let (offset, _, end) = read(&text, END_CHARACTERS as u64);
        assert_eq!((offset, end), (start, numbers.len() as u64));
        assert_eq!(read(&text, seen as u64).1, numbers.split_at(seen).1);
    }

    #[tokio::test]
    async fn a_waiter_hears_of_output_and_of_steps_and_leaves_nothing_behind() {
        let (job, validator) = parties();
        let logs = Logs::default();
        let adds = || logs.add(&job, &validator, STDOUT, 0, b"a");
        let steps = || logs.step(&job, false);
        for rings in [&adds as &dyn Fn(), &steps] {
            let waiter = logs.wait_for(&job);
            let mut news = std::pin::pin!(waiter.news.notified());
            news.as_mut().enable();
            rings();
            news.await;
        }
        assert!(logs.state().waiters.is_empty());
    }
}
