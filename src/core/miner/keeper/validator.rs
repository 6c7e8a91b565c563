//! The keeper towards the validator: what is said to whom, and said again.

use tokio::time::timeout;

use super::super::job::Event;
use super::super::line::{Line, Lines};
use super::{Keeper, SEND_TIME};
use crate::core::crypto::signed::streaming_blob;
use crate::core::proto::job::StreamingReady;
use crate::core::proto::validator_miner;

impl Keeper {
    /// Lets a connection of the validator hear of the job, from the beginning.
    pub(super) async fn resume(&mut self, line: Line) {
        let (id, is_new_word) = (line.id, line.is_own);
        if self.lines.is_settled_on(id) {
            if !is_new_word {
                // It has authenticated anew.
                self.say_again().await;
            }
            return;
        }
        let is_known = self.lines.knows(id);
        let mut only = Lines::default();
        only.add(line.clone());
        if !self.lines.add(line) || (is_known && is_new_word && !self.has_missed) {
            return;
        }
        // The others know it.
        let all = std::mem::replace(&mut self.lines, only);
        self.say_again().await;
        self.lines = all;
        if self.has_missed {
            self.lines.remove(id);
            self.has_missed = self.lines.audience().is_empty();
        }
    }

    /// Makes `line` the job's own connection and says what could not be said before.
    pub(super) async fn take(&mut self, line: Line) {
        self.lines.add(line);
        if self.has_missed {
            self.say_again().await;
        }
    }

    pub(super) async fn say_again(&mut self) {
        self.has_missed = false;
        let (store, job) = (self.miner.store.clone(), self.order.job.clone());
        if self.job.is_over() && !store.is_owed(&job).unwrap_or(true) {
            return;
        }
        // Said once too often is better than not at all.
        let knows_acceptance = store.is_acceptance_known(&job).await.unwrap_or(false);
        self.happen(Event::Resumed { knows_acceptance }).await;
        self.deliver_outcome().await;
    }

    pub(super) async fn tell(&mut self, message: validator_miner::Up) {
        if !self.send(message.encode()).await {
            // The job knows what is to be said again.
            self.has_missed = true;
        }
    }

    /// Sends to whoever may wait for it; false if nobody does.
    pub(super) async fn send(&mut self, text: String) -> bool {
        let mut is_sent = false;
        for line in self.lines.audience() {
            if matches!(
                timeout(SEND_TIME, line.sender.send(text.clone())).await,
                Ok(Ok(()))
            ) {
                is_sent = true;
            } else {
                self.lines.remove(line.id);
            }
        }
        is_sent
    }

    pub(super) fn vouch(&self, message: StreamingReady) -> StreamingReady {
        let ip = self.address.clone();
        let blob = streaming_blob(
            self.order.job.as_str(),
            Some(&ip),
            message.port,
            &message.public_key,
        );
        StreamingReady {
            executor_token: None,
            ip: Some(ip),
            miner_signature: Some(self.miner.keypair.sign(&blob).to_hex_prefixed()),
            ..message
        }
    }

    pub(super) async fn deliver_outcome(&mut self) {
        if self.has_missed {
            // The validator waits for the steps in their order.
            return;
        }
        let Some(outcome) = &self.outcome else {
            return;
        };
        let mut is_told = false;
        for line in self.lines.audience() {
            let delivered = self.miner.deliver(&self.order.job, &outcome.message, &line);
            if delivered.await {
                is_told = true;
            } else {
                self.lines.remove(line.id);
            }
        }
        self.has_missed = !is_told;
    }
}
