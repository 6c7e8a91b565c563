//! A job that its user cancelled: its executor is asked to end it, and is ended itself where that does not help.
//!
//! The order is on the disk before anything is done about it. What is told of the end is what the executor reports, so
//! a job that ended by itself just before has ended as it did.

use std::time::Duration;

use super::{Effect, Job, State};
use crate::core::model::job::JobStage;
use crate::core::proto::job::{JobCancel, JobFailed};

/// What the job knows of its cancelling.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    /// Whether its user has cancelled it.
    pub(super) is_asked: bool,
    /// Whether the executor can be asked to end it; none while it is not connected.
    pub(super) known: Option<bool>,
}

impl Job {
    /// Keeps the order, then sees to it; said again it changes nothing.
    pub(super) fn on_cancelled(&mut self) -> Vec<Effect> {
        if self.cancel.is_asked {
            return Vec::new();
        }
        self.cancel.is_asked = true;
        let mut effects = vec![Effect::NoteCancel];
        effects.extend(self.pursue_cancel());
        effects
    }

    /// Does what can be done now for the end of a cancelled job.
    pub(super) fn pursue_cancel(&mut self) -> Vec<Effect> {
        if matches!(self.state, State::Starting { .. }) {
            // It has nothing of the job yet.
            return self.oust();
        }
        match self.cancel.known {
            Some(true) => {
                let job_uuid = self.id.clone();
                vec![
                    Effect::Instruct(Box::new(JobCancel { job_uuid }.into())),
                    Effect::AwaitCancel,
                ]
            }
            Some(false) => self.oust(),
            // It comes back, or is missed in time.
            None => vec![Effect::AwaitCancel],
        }
    }

    /// Ends a cancelled job whose executor has not ended it in `limit`.
    pub(super) fn on_cancel_overdue(&mut self, limit: Duration) -> Vec<Effect> {
        if !self.cancel.is_asked {
            return Vec::new();
        }
        tracing::warn!(job = %self.id, seconds = limit.as_secs(), "the executor has not ended a cancelled job");
        self.oust()
    }

    fn oust(&mut self) -> Vec<Effect> {
        let stage = match self.state {
            State::Starting { .. } | State::Preparing { .. } => JobStage::ExecutorStartup,
            State::Ready => JobStage::VolumeDownload,
            State::Running { .. } => JobStage::Execution,
            State::Over => JobStage::Unknown,
        };
        self.state = State::Over;
        let mut failed = JobFailed::cancelled(self.id.clone(), stage);
        // All that is known of what it wrote.
        failed
            .context
            .get_or_insert_default()
            .extend(self.output.context().unwrap_or_default());
        vec![Effect::Oust(Box::new(failed))]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ID, back, connected, event, job, ready, words};
    use super::super::{Event, Job};
    use super::*;
    use crate::core::model::JobId;
    use crate::core::proto::miner_executor::Up;

    /// A job whose executor runs it.
    fn running(resumes: bool, cancels: bool) -> Job {
        let mut job = job();
        for event in [
            connected(resumes, cancels),
            Event::Said(ready()),
            event(11).unwrap(),
        ] {
            job.on(event);
        }
        job
    }

    #[test]
    fn an_executor_that_knows_how_ends_the_job_and_what_it_reports_is_told() {
        let mut job = running(true, true);
        let effects = job.on(Event::Cancelled);
        assert_eq!(words(&effects), ["note cancel", "H0JobCancel", "await cancel"]);
        assert_eq!(job.on(Event::Cancelled), [], "said again");
        let report = JobFailed::cancelled(JobId::new(ID), JobStage::Execution);
        let effects = job.on(Event::Said(Up::JobFailed(report)));
        assert_eq!(words(&effects), ["end", "thank"]);
        assert_eq!(job.on(Event::CancelOverdue(Duration::ZERO)), []);
    }

    #[test]
    fn one_that_lost_its_link_is_asked_when_it_is_back_and_missed_in_time() {
        let mut job = running(true, true);
        job.on(Event::Disconnected(1006));
        assert_eq!(words(&job.on(Event::Cancelled)), ["note cancel", "await cancel"]);
        job.on(connected(true, true));
        let effects = job.on(Event::Said(back(true).into()));
        assert_eq!(words(&effects), ["H0JobCancel", "await cancel"]);
        assert_eq!(words(&job.on(Event::CancelOverdue(Duration::ZERO))), ["oust"]);
        assert!(job.is_over());
    }

    #[test]
    fn one_that_does_not_know_how_or_has_not_come_yet_is_ended_itself() {
        assert_eq!(
            words(&running(false, false).on(Event::Cancelled)),
            ["note cancel", "oust"]
        );
        let mut waiting = job();
        assert_eq!(words(&waiting.on(Event::Cancelled)), ["note cancel", "oust"]);
        assert!(waiting.is_over());
        assert_eq!(waiting.on(Event::Cancelled), [], "it has ended");
    }
}
