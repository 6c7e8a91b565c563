//! What the facilitator is told besides reports: that a job cannot be cancelled, and what running jobs write.
//!
//! Nobody answers these. A refusal that is lost is made again, as the facilitator asks again on each connection; a piece
//! of output that is lost is missing, which the next one's place shows. Output goes out only when the connection
//! carries nothing else, a piece of one job at a time, so it never holds a report up for longer than one piece takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::machine::cut;
use crate::core::model::JobId;
use crate::core::model::output::{Handed, PIECE_BYTES_MAX, Windows};
use crate::core::net::LinkSender;
use crate::core::proto::facilitator_validator::{CancelRefused, JobOutput, Up};
use crate::core::proto::job;

/// Refusals that wait; a further one is made again at the next connection.
const REFUSALS_MAX: usize = 1024;

/// The most bytes of each stream of a job that wait (64 KiB).
const JOB_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of all jobs that wait (16 MiB); beyond that pieces are dropped as they come.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time between two pieces: fifty in a second, of all jobs together.
const PAUSE: Duration = Duration::from_millis(20);

/// The most characters of a piece as it travels, in base64.
const DATA_MAX: usize = PIECE_BYTES_MAX * 2;

#[derive(Debug)]
struct State {
    refusals: VecDeque<String>,
    /// Whether the facilitator takes output.
    is_followed: bool,
    outputs: BTreeMap<JobId, Windows>,
    /// Bytes in all windows.
    waiting: usize,
    /// The job that had its turn last.
    last: Option<JobId>,
    /// When the next piece may go out.
    next: Instant,
}

/// What waits for the facilitator.
#[derive(Debug)]
pub(super) struct Asides {
    state: Mutex<State>,
    news: Notify,
}

impl Default for Asides {
    fn default() -> Self {
        let state = State {
            refusals: VecDeque::new(),
            is_followed: false,
            outputs: BTreeMap::new(),
            waiting: 0,
            last: None,
            next: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            news: Notify::new(),
        }
    }
}

impl Asides {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends a connection: what waited for the last one is dropped.
    pub(super) fn listen(&self, is_followed: bool) {
        let mut state = self.state();
        state.is_followed = is_followed;
        state.outputs.clear();
        state.waiting = 0;
        if !is_followed {
            state.refusals.clear();
        }
    }

    /// Says that a job cannot be cancelled.
    pub(super) fn refuse_cancel(&self, job: &JobId, reason: String) {
        let uuid = job.clone();
        let mut state = self.state();
        if state.refusals.len() < REFUSALS_MAX {
            let refused = CancelRefused { uuid, reason };
            state.refusals.push_back(Up::CancelRefused(refused).encode());
            drop(state);
            self.news.notify_one();
        }
    }

    /// Takes in what a job has written; never waits.
    pub(super) fn pass_output(&self, piece: &job::JobOutput) {
        let mut state = self.state();
        if !state.is_followed || state.waiting >= BYTES_MAX || piece.data.len() > DATA_MAX {
            return;
        }
        let Ok(bytes) = STANDARD.decode(&piece.data) else {
            let data = cut(&piece.data);
            tracing::debug!(job = %piece.job_uuid, data, "output that is no base64 is ignored");
            return;
        };
        let windows = state
            .outputs
            .entry(piece.job_uuid.clone())
            .or_insert_with(|| Windows::new(JOB_BYTES_MAX));
        let before = windows.waiting();
        windows.add(piece.stream, piece.offset, &bytes);
        let after = windows.waiting();
        state.waiting = state.waiting.saturating_add(after).saturating_sub(before);
        drop(state);
        self.news.notify_one();
    }

    /// Forgets the output of a job that has ended: its report has it all.
    pub(super) fn forget(&self, job: &JobId) {
        let mut state = self.state();
        if let Some(windows) = state.outputs.remove(job) {
            state.waiting = state.waiting.saturating_sub(windows.waiting());
        }
    }

    /// Waits until there is something to say. Cancel-safe.
    pub(super) async fn due(&self) {
        loop {
            let next = {
                let state = self.state();
                if !state.refusals.is_empty() {
                    return;
                }
                (state.waiting > 0).then_some(state.next)
            };
            match next {
                Some(next) => {
                    tokio::select! {
                        () = sleep_until(next) => return,
                        () = self.news.notified() => {}
                    }
                }
                None => self.news.notified().await,
            }
        }
    }

    /// Returns the next refusal, which has to go out.
    pub(super) fn next_refusal(&self) -> Option<String> {
        self.state().refusals.pop_front()
    }

    /// Offers one piece of output, the jobs in turn.
    pub(super) fn offer_output(&self, link: &LinkSender) {
        let mut state = self.state();
        let now = Instant::now();
        if state.waiting == 0 || now < state.next {
            return;
        }
        state.next = now + PAUSE;
        let after = |last: &JobId| {
            let range = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            state
                .outputs
                .range::<JobId, _>(range)
                .next()
                .map(|(job, _)| job.clone())
        };
        let first = || state.outputs.keys().next().cloned();
        let Some(job) = state.last.as_ref().and_then(after).or_else(first) else {
            return;
        };
        let Some(windows) = state.outputs.get_mut(&job) else {
            return;
        };
        let before = windows.waiting();
        let handed = windows.hand_over(|stream, offset, bytes| {
            let piece = JobOutput {
                uuid: job.clone(),
                stream,
                offset,
                data: STANDARD.encode(bytes),
            };
            link.offer(Up::JobOutput(piece).encode())
        });
        let freed = before.saturating_sub(windows.waiting());
        state.waiting = state.waiting.saturating_sub(freed);
        if handed != Handed::Refused {
            state.last = Some(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::job::OutputStream;
    use crate::core::net::ws::{Limits, pair};
    use crate::core::net::{Event, Link};
    use crate::core::tasks::Tasks;

    fn piece(job: &str, offset: u64, bytes: &[u8]) -> job::JobOutput {
        job::JobOutput {
            job_uuid: JobId::new(job),
            stream: OutputStream::Stdout,
            offset,
            data: STANDARD.encode(bytes),
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
    async fn jobs_have_their_turns_and_nothing_waits_that_nobody_follows() {
        let tasks = Tasks::new();
        let (mut facilitator, validator) = pair(&tasks, &Limits::default()).await;
        let asides = Asides::default();
        asides.pass_output(&piece("a", 0, b"unheard"));
        asides.listen(true);
        for _ in 0..2 {
            let loud = vec![b'x'; PIECE_BYTES_MAX];
            let offset = asides
                .state()
                .outputs
                .get(&JobId::new("a"))
                .map_or(0, |_| loud.len());
            asides.pass_output(&piece("a", offset as u64, &loud));
        }
        asides.pass_output(&piece("b", 5, b"quiet"));
        let mut told = Vec::new();
        for _ in 0..3 {
            asides.due().await;
            asides.offer_output(&validator.sender());
            let output = hear(&mut facilitator).await;
            told.push((output.uuid.as_str().to_owned(), output.offset));
        }
        let size = PIECE_BYTES_MAX as u64;
        assert_eq!(
            told,
            [("a".to_owned(), 0), ("b".to_owned(), 5), ("a".to_owned(), size)]
        );
        assert_eq!(asides.state().waiting, 0);
        asides.pass_output(&piece("b", 10, b"more"));
        asides.forget(&JobId::new("b"));
        assert_eq!(asides.state().waiting, 0);
    }

    #[test]
    fn memory_stays_bounded_whatever_miners_send() {
        let asides = Asides::default();
        asides.listen(true);
        let bytes = vec![b'x'; PIECE_BYTES_MAX];
        for job in 0..2000 {
            asides.pass_output(&piece(&job.to_string(), 0, &bytes));
        }
        assert!(asides.state().waiting <= BYTES_MAX + PIECE_BYTES_MAX);
    }
}
