//! A job of the recording: when it was sent, how it goes, and what each role keeps of it at a moment.

use time::{Duration, OffsetDateTime};

use super::{ALICE, BOB, CHARLIE};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::glance::{JobGlance, Standing};

/// How a job goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Completes,
    Fails,
    Declined,
    Runs,
}

/// A job of the recording.
pub(super) struct Take {
    pub(super) job: JobId,
    pub(super) sent: OffsetDateTime,
    pub(super) fate: Fate,
    /// How long its container runs, in milliseconds.
    pub(super) runs: i64,
}

/// A step: the role that notes it, what, milliseconds after the job was sent, how it is meant.
pub(super) type Step = (usize, &'static str, i64, Standing);

impl Take {
    pub(super) fn of(number: u32, anchor: OffsetDateTime) -> Self {
        // Far apart and not in rows, as identities are.
        let mixed = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = i64::from(number);
        let fate = match number {
            0 | 1 => Fate::Runs,
            _ if number % 9 == 4 => Fate::Fails,
            _ if number % 13 == 6 => Fate::Declined,
            _ => Fate::Completes,
        };
        Self {
            job: JobId::new(format!(
                "{:08x}-{:04x}-4c1e-9a70-{:012x}",
                mixed >> 32,
                mixed & 0xffff,
                mixed & 0xffff_ffff_ffff
            )),
            sent: anchor - Duration::seconds(9 + number * 41 + number * number * 45),
            fate,
            runs: 4000 + number * 7919 % 41_000,
        }
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        const OPEN: Standing = Standing::Open;
        let mut steps = vec![
            (0, "sent", 0, OPEN),
            (1, "received", 40, OPEN),
            (0, "received", 55, OPEN),
        ];
        steps.extend([(1, "assigned", 120, OPEN), (2, "offered", 190, OPEN)]);
        if self.fate == Fate::Declined {
            steps.extend([
                (2, "declined", 200, Standing::Declined),
                (1, "rejected", 240, Standing::Declined),
                (0, "rejected", 260, Standing::Declined),
            ]);
            return steps;
        }
        steps.extend([
            (2, "accepted", 205, OPEN),
            (0, "accepted", 260, OPEN),
            (2, "executor_started", 270, OPEN),
            (2, "executor_connected", 1100, OPEN),
            (2, "ready", 1450, OPEN),
            (0, "executor_ready", 1500, OPEN),
            (2, "order_received", 1520, OPEN),
            (2, "volumes_ready", 2300, OPEN),
            (0, "volumes_ready", 2340, OPEN),
        ]);
        let done = 2300 + self.runs;
        match self.fate {
            Fate::Completes => steps.extend([
                (2, "execution_done", done, OPEN),
                (0, "execution_done", done + 30, OPEN),
                (2, "finished", done + 400, Standing::Good),
                (2, "outcome_delivered", done + 410, OPEN),
                (1, "completed", done + 430, Standing::Good),
                (0, "completed", done + 460, Standing::Good),
                (2, "finished_receipt_kept", done + 470, OPEN),
                (2, "slot_released", done + 900, OPEN),
            ]),
            Fate::Fails => steps.extend([
                (2, "failed", done, Standing::Bad),
                (2, "outcome_delivered", done + 10, OPEN),
                (1, "failed", done + 30, Standing::Bad),
                (0, "failed", done + 60, Standing::Bad),
                (2, "finished_receipt_kept", done + 70, OPEN),
                (2, "slot_released", done + 500, OPEN),
            ]),
            Fate::Declined | Fate::Runs => {}
        }
        steps
    }

    pub(super) fn at(&self, millis: i64) -> OffsetDateTime {
        self.sent + Duration::milliseconds(millis)
    }

    pub(super) const fn reason(&self) -> Option<&'static str> {
        match self.fate {
            Fate::Completes | Fate::Runs => None,
            Fate::Fails => Some("nonzero_return_code"),
            Fate::Declined => Some("busy"),
        }
    }

    /// Returns what a role keeps of it at a moment; none if it had not come to that role.
    pub(super) fn glance(&self, role: usize, moment: OffsetDateTime) -> Option<JobGlance> {
        let steps = self.steps();
        let mut told = steps
            .iter()
            .filter(|(by, _, millis, _)| *by == role && self.at(*millis) <= moment);
        let came = told.clone().next()?;
        let ends = told
            .clone()
            .find(|(_, _, _, standing)| *standing != Standing::Open);
        let state = ends.or_else(|| told.next_back())?;
        let has_ended = ends.is_some();
        Some(JobGlance {
            job: self.job.clone(),
            state: state.1.to_owned(),
            standing: state.3,
            class: ExecutorClass::AlwaysOnLlmA6000.as_str().to_owned(),
            owner: (role == 0).then(|| Hotkey::new(ALICE)),
            validator: (role != 1).then(|| Hotkey::new(BOB)),
            miner: (role == 1).then(|| Hotkey::new(CHARLIE)),
            came: self.at(came.2),
            ended: ends.map(|(_, _, millis, _)| self.at(*millis)),
            exit: match self.fate {
                Fate::Completes if has_ended => Some(0),
                Fate::Fails if has_ended => Some(3),
                _ => None,
            },
            reason: self.reason().filter(|_| has_ended).map(str::to_owned),
            score: self.score().filter(|_| role == 2 && has_ended),
        })
    }

    pub(super) const fn score(&self) -> Option<f64> {
        match self.fate {
            Fate::Completes => Some(1.0),
            Fate::Fails => Some(0.0),
            Fate::Declined | Fate::Runs => None,
        }
    }
}
