//! What a job writes, passed on while it runs: lossy, never in the way of anything else.
//!
//! A miner that agreed to the extension gets pieces with their place in the stream. When the job writes faster than
//! pieces may go out, the oldest are dropped, and the next one's place says how much is missing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::core::docker::StreamName;
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;
use crate::core::model::output::{Handed, Windows};
use crate::core::net::LinkSender;
use crate::core::proto::job::JobOutput;
use crate::core::proto::miner_executor::Up;

/// The most bytes of a stream that wait (256 KiB): what a job writes at once, as a rule.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Time between two messages: ten in a second, of both streams together.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct State {
    windows: Windows,
    is_over: bool,
}

/// The way from a container's streams to the miner; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Live {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

impl Default for Live {
    fn default() -> Self {
        let state = State {
            windows: Windows::new(WAITING_BYTES_MAX),
            is_over: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            news: Arc::default(),
        }
    }
}

impl Live {
    /// Takes what the job wrote; never waits.
    pub(super) fn push(&self, stream: StreamName, bytes: &[u8]) {
        let stream = match stream {
            StreamName::Stdout => OutputStream::Stdout,
            StreamName::Stderr => OutputStream::Stderr,
        };
        self.with(|state| state.windows.push(stream, bytes));
        self.news.notify_one();
    }

    /// Says that nothing more will come.
    pub(super) fn end(&self) {
        self.with(|state| state.is_over = true);
        self.news.notify_one();
    }

    /// Passes everything on until the end of the streams; nothing is sent while anything else waits for the
    /// link, and nothing while there is none.
    pub(super) async fn pass_on(self, job_uuid: JobId, link: watch::Receiver<LinkSender>) {
        loop {
            let (handed, is_over) = self.with(|state| {
                let handed = state.windows.hand_over(|stream, offset, bytes| {
                    let message = Up::from(JobOutput {
                        job_uuid: job_uuid.clone(),
                        stream,
                        offset,
                        data: STANDARD.encode(bytes),
                    });
                    link.borrow().offer(message.encode())
                });
                (handed, state.is_over)
            });
            match (handed, is_over) {
                // The report will have it all.
                (Handed::Nothing | Handed::Refused, true) => return,
                (Handed::Nothing, false) => self.news.notified().await,
                (Handed::Taken | Handed::Refused, _) => sleep(PAUSE).await,
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::net::ws::{Limits, pair};
    use crate::core::net::{Event, Link};
    use crate::core::tasks::Tasks;

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
            let mut total = 0;
            let last = loop {
                let piece = hear(&mut miner).await;
                let bytes = STANDARD.decode(&piece.data).unwrap();
                total += bytes.len();
                if bytes.ends_with(b"last") {
                    break piece.offset + bytes.len() as u64;
                }
            };
            assert!(total <= WAITING_BYTES_MAX);
            assert_eq!(last, 5 + 10_000_000 + 4);
        };
        tokio::join!(passing, job);
    }
}
