//! What a job writes, passed on while it runs: newest first served, lossy, never in the way of anything else.
//!
//! A miner that agreed to the extension gets chunks with their place in the stream. When the job writes faster than
//! chunks may go out, the older part is dropped, and the next chunk's place says how much is missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::core::docker::StreamName;
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;
use crate::core::net::LinkSender;
use crate::core::proto::job::JobOutput;
use crate::core::proto::miner_executor::Up;

/// The most bytes of a stream that wait, and that one message carries.
const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Time between two messages: ten in a second, of both streams together.
const PAUSE: Duration = Duration::from_millis(100);

/// The end of one stream that was not passed on yet.
#[derive(Debug, Default)]
struct Window {
    /// Bytes written so far.
    written: u64,
    /// The newest of them.
    waiting: VecDeque<u8>,
}

impl Window {
    fn push(&mut self, bytes: &[u8]) {
        self.written = self
            .written
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let newest = bytes.len().saturating_sub(CHUNK_BYTES_MAX);
        let bytes = bytes.get(newest..).unwrap_or_default();
        let excess = (self.waiting.len() + bytes.len()).saturating_sub(CHUNK_BYTES_MAX);
        self.waiting.drain(..excess);
        self.waiting.extend(bytes);
    }
}

#[derive(Debug, Default)]
struct Windows {
    stdout: Window,
    stderr: Window,
    /// Whose turn was last, so that a loud stream does not silence the other.
    was_stdout: bool,
    is_over: bool,
}

impl Windows {
    /// Hands the next chunk over; what is not taken goes on waiting.
    fn hand_over(&mut self, take: impl FnOnce(OutputStream, u64, &[u8]) -> bool) -> Handed {
        let order = if self.was_stdout {
            [OutputStream::Stderr, OutputStream::Stdout]
        } else {
            [OutputStream::Stdout, OutputStream::Stderr]
        };
        for stream in order {
            let window = match stream {
                OutputStream::Stdout => &mut self.stdout,
                OutputStream::Stderr => &mut self.stderr,
            };
            if window.waiting.is_empty() {
                continue;
            }
            let bytes: &[u8] = window.waiting.make_contiguous();
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if !take(stream, window.written.saturating_sub(length), bytes) {
                return Handed::Refused;
            }
            window.waiting.clear();
            self.was_stdout = stream == OutputStream::Stdout;
            return Handed::Taken;
        }
        Handed::Nothing
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handed {
    Taken,
    Refused,
    Nothing,
}

/// The way from a container's streams to the miner; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    windows: Arc<Mutex<Windows>>,
    news: Arc<Notify>,
}

impl Live {
    /// Takes what the job wrote; never waits.
    pub(super) fn push(&self, stream: StreamName, bytes: &[u8]) {
        self.with(|windows| match stream {
            StreamName::Stdout => windows.stdout.push(bytes),
            StreamName::Stderr => windows.stderr.push(bytes),
        });
        self.news.notify_one();
    }

    /// Says that nothing more will come.
    pub(super) fn end(&self) {
        self.with(|windows| windows.is_over = true);
        self.news.notify_one();
    }

    /// Passes everything on until the end of the streams; nothing is sent while anything else waits for the
    /// link, and nothing while there is none.
    pub(super) async fn pass_on(self, job_uuid: JobId, link: watch::Receiver<LinkSender>) {
        loop {
            let (handed, is_over) = self.with(|windows| {
                let handed = windows.hand_over(|stream, offset, bytes| {
                    let message = Up::from(JobOutput {
                        job_uuid: job_uuid.clone(),
                        stream,
                        offset,
                        data: STANDARD.encode(bytes),
                    });
                    link.borrow().offer(message.encode())
                });
                (handed, windows.is_over)
            });
            match (handed, is_over) {
                // The report will have it all.
                (Handed::Nothing | Handed::Refused, true) => return,
                (Handed::Nothing, false) => self.news.notified().await,
                (Handed::Taken | Handed::Refused, _) => sleep(PAUSE).await,
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Windows) -> T) -> T {
        look(&mut self.windows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::net::ws::{Limits, pair};
    use crate::core::net::{Event, Link};
    use crate::core::tasks::Tasks;

    type Chunk = (OutputStream, u64, Vec<u8>);

    fn take_all(windows: &mut Windows) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while windows.hand_over(|stream, offset, bytes| {
            chunks.push((stream, offset, bytes.to_vec()));
            true
        }) == Handed::Taken
        {}
        chunks
    }

    #[test]
    fn a_chunk_that_nobody_takes_waits_and_both_streams_get_their_turn() {
        let mut windows = Windows::default();
        windows.stdout.push(b"a");
        windows.stderr.push(b"b");
        assert_eq!(windows.hand_over(|_, _, _| false), Handed::Refused);
        assert_eq!(windows.hand_over(|_, _, _| true), Handed::Taken);
        windows.stdout.push(b"c");
        let stderr_first = [
            (OutputStream::Stderr, 0, b"b".to_vec()),
            (OutputStream::Stdout, 1, b"c".to_vec()),
        ];
        assert_eq!(take_all(&mut windows), stderr_first);
    }

    proptest! {
        #[test]
        fn a_chunk_is_what_was_written_at_its_place_and_the_newest_is_never_lost(
            pieces in proptest::collection::vec((0_usize..50_000, any::<bool>()), 1..12),
        ) {
            let mut windows = Windows::default();
            let mut written = Vec::new();
            let mut end = 0;
            for (index, (length, is_taken)) in pieces.iter().enumerate() {
                let piece: Vec<u8> = (0..*length).map(|at| u8::try_from((at + index) % 251).unwrap()).collect();
                windows.stdout.push(&piece);
                written.extend_from_slice(&piece);
                if *is_taken {
                    for (_, offset, bytes) in take_all(&mut windows) {
                        let offset = usize::try_from(offset).unwrap();
                        prop_assert!(bytes.len() <= CHUNK_BYTES_MAX && offset >= end);
                        prop_assert_eq!(&written[offset..offset + bytes.len()], &bytes[..]);
                        end = offset + bytes.len();
                    }
                    prop_assert_eq!(end, written.len());
                }
            }
        }
    }

    async fn hear(link: &mut Link) -> JobOutput {
        let Event::Text(text) = link.recv().await else {
            panic!("the link has ended")
        };
        let Ok(Up::JobOutput(output)) = Up::decode(&text) else {
            panic!("{text}")
        };
        output
    }

    #[tokio::test]
    async fn a_loud_job_neither_waits_nor_floods_and_its_last_words_arrive() {
        let tasks = Tasks::new();
        let (mut miner, executor) = pair(&tasks, &Limits::default()).await;
        let live = Live::default();
        let sender = watch::Sender::new(executor.sender());
        let passing = live.clone().pass_on(JobId::new("j"), sender.subscribe());
        let job = async {
            live.push(StreamName::Stdout, b"first");
            let first = hear(&mut miner).await;
            assert_eq!((first.offset, first.data.as_str()), (0, "Zmlyc3Q="));
            for _ in 0..1000 {
                live.push(StreamName::Stdout, &[b'x'; 10_000]);
            }
            live.push(StreamName::Stdout, b"last");
            live.end();
            let last = hear(&mut miner).await;
            let bytes = STANDARD.decode(&last.data).unwrap();
            assert_eq!(bytes.len(), CHUNK_BYTES_MAX);
            assert!(bytes.ends_with(b"last"));
            assert_eq!(last.offset + bytes.len() as u64, 5 + 10_000_000 + 4);
        };
        tokio::join!(passing, job);
    }
}
