//! Carries out what a validator's conversation decides: one task per connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::Miner;
use super::admission::{Refusal, admit};
use super::door::{Denied, Presence, TooManyJobs, seconds};
use super::keeper::{Assignment, Keeper, LETTERS, Letter};
use super::ledger::{Rebuff, Step, occupation};
use super::line::Line;
use super::machine::{self, Conversation, Effect, Parties, declined};
use super::pool::Post;
use super::sharing::{Decision, Terms};
use super::stamps::Stamp;
use super::validators::Standing;
use crate::core::model::job::RejectionReason;
use crate::core::model::receipt::{ReceiptPayload, StartedWord};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::net::{Event, Link, LinkClosed, close_code};
use crate::core::proto::job::{
    Context, EXTENSION_LOGS, ExecutionDone, FullJob, GenericError, InitialJob, JOB_CANCEL, VolumesReady,
};
use crate::core::proto::validator_miner::{Accepted, Declined, EXTENSION_SHARING, Up};
use crate::core::receipts::countersign;
use crate::core::store::miner::ledger::Subject;
use crate::core::store::miner::{Offer, ReceiptFate, Reservation};
use crate::core::tasks::Tasks;

/// Time that a validator has to authenticate (anchors S47). The wire knows no limit; known validators take
/// milliseconds.
pub const AUTH_TIME: Duration = Duration::from_secs(10);

/// Outcomes sent to a validator that comes back, at most; the rest follows at its next authentication.
const OWED_MAX: u32 = 100;

/// How long the connections of a stopping miner stay open for the last words about its jobs, and for receipts.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// Time between two looks whether all last words are said.
const LAST_LOOK: Duration = Duration::from_millis(50);
/// The type of the receipt that comes with a job.
const STARTED: &str = StartedWord::WORD;

/// Serves one connection of a validator that came from `peer`.
pub async fn serve(miner: Arc<Miner>, mut link: Link, validator: Hotkey, peer: IpAddr, tasks: Tasks) {
    let refusal = match miner.standing(&validator, peer).await {
        Standing::Active => None,
        Standing::Inactive => Some(("inactive_validator", machine::inactive_validator(&validator))),
        Standing::Unknown => Some(("unknown_validator", machine::unknown_validator(&validator))),
    };
    if let Some((code, refusal)) = refusal {
        miner.ledger.turn_away(&validator, peer, code, "");
        if link.send(refusal.encode()).await.is_ok() {
            link.close(close_code::NORMAL, "").await;
        }
        return;
    }
    let parties = Parties {
        validator: validator.clone(),
        miner: miner.hotkey(),
    };
    let follows = link.extensions().has(EXTENSION_LOGS);
    let line = Line::new(miner.next_line(), link.sender(), follows);
    let mut desk = Desk {
        conversation: Conversation::new(parties, miner.offered()),
        validator,
        peer,
        line,
        miner,
        knows_sharing: link.extensions().has(EXTENSION_SHARING),
        presence: None,
        tasks,
    };
    let outcome = desk.converse(&mut link).await;
    let is_orderly = outcome.is_ok_and(|code| {
        matches!(
            code,
            Some(close_code::NORMAL | close_code::GOING_AWAY | close_code::NO_STATUS)
        )
    });
    desk.miner.note_end_of(&desk.line, is_orderly).await;
}

/// One connection of a validator.
struct Desk {
    miner: Arc<Miner>,
    validator: Hotkey,
    peer: IpAddr,
    line: Line,
    /// Whether it agreed to be told of best effort.
    knows_sharing: bool,
    conversation: Conversation,
    /// There once it has authenticated.
    presence: Option<Presence>,
    tasks: Tasks,
}

impl Desk {
    /// Converses until the connection ends; returns the code with which the validator closed it, if it did.
    async fn converse(&mut self, link: &mut Link) -> Result<Option<u16>, LinkClosed> {
        let mut counted = self.miner.metrics.connection();
        let mut is_waiting = true;
        let auth_deadline = Instant::now() + AUTH_TIME;
        let stop = self.tasks.token();
        let mut last_words = None;
        while !self.conversation.is_over() {
            let effects = tokio::select! {
                biased;
                () = stop.cancelled(), if last_words.is_none() => {
                    last_words = Some(Instant::now() + LAST_WORDS);
                    Vec::new()
                }
                event = link.recv() => match event {
                    Event::Text(text) => {
                        self.conversation.set_manifest(self.miner.offered());
                        self.conversation.on_text(self.miner.clock.now(), text)
                    }
                    Event::Binary(_) => self.conversation.on_binary(),
                    Event::Closed { code, .. } => {
                        tracing::debug!(validator = %self.validator, code, "validator gone");
                        return Ok(Some(code));
                    }
                },
                () = sleep(LAST_LOOK), if last_words.is_some() => Vec::new(),
                () = sleep_until(auth_deadline), if self.presence.is_none() => self.conversation.on_auth_timeout(),
            };
            for effect in effects {
                if let Effect::Admit(stamp) = effect {
                    let admission = self.admit(link, &stamp);
                    for effect in self.conversation.on_admission(admission) {
                        // Boxed, so that a connection at rest holds no room for what it does once in a while.
                        Box::pin(self.carry_out(effect)).await?;
                    }
                } else {
                    Box::pin(self.carry_out(effect)).await?;
                }
            }
            if last_words.is_some_and(|until| Instant::now() >= until || self.has_said_all()) {
                link.close(close_code::GOING_AWAY, "").await;
                return Ok(None);
            }
            if is_waiting && self.conversation.is_trusted() {
                is_waiting = false;
                counted.authenticate();
            }
        }
        Ok(None)
    }

    /// Tells whether a stopping miner has no more words for this connection, and expects none.
    fn has_said_all(&self) -> bool {
        let is_trusted = self.conversation.is_trusted();
        !is_trusted || (self.miner.pool.is_empty() && !self.miner.tellings.is_waiting(&self.line))
    }

    fn admit(&mut self, link: &Link, stamp: &Stamp) -> Result<(), Denied> {
        let Self { miner, validator, .. } = &*self;
        let unix_now = miner.clock.unix_seconds();
        if self.presence.is_some() {
            return miner.door.admit_again(validator, stamp, unix_now);
        }
        let presence = miner.door.admit(validator, stamp, unix_now, Instant::now())?;
        if !link.trust() {
            return Err(Denied::TooMany);
        }
        tracing::debug!(%validator, "validator authenticated");
        self.presence = Some(presence);
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), LinkClosed> {
        match effect {
            Effect::Note(rebuff) => {
                if rebuff.subject == Subject::Offer {
                    let metrics = &self.miner.metrics;
                    metrics.job_offered(rebuff.class.map_or("unknown", ExecutorClass::as_str));
                    metrics.job_declined(rebuff.code);
                }
                self.miner.ledger.refuse(&self.validator, self.peer, *rebuff);
                Ok(())
            }
            Effect::Say(message) => self.say(message).await,
            Effect::Close(code) => {
                self.line.sender.close(code, "").await;
                Ok(())
            }
            // Answered where the link is at hand.
            Effect::Admit(_) => Ok(()),
            Effect::Resume => self.resume().await,
            Effect::Offer { request, text } => self.offer(request, text).await,
            Effect::Order { order, text } => self.order(order, text).await,
            Effect::Abandon { job, decline } => self.abandon(&job, decline).await,
            Effect::Cancel(job) => self.cancel(&job).await,
            Effect::Keep { payload, signature } => self.keep(*payload, signature).await,
        }
    }

    async fn say(&self, message: Up) -> Result<(), LinkClosed> {
        self.line.sender.send(message.encode()).await
    }

    async fn complain(&self, details: String) -> Result<(), LinkClosed> {
        self.say(GenericError::new(details).into()).await
    }

    async fn resume(&self) -> Result<(), LinkClosed> {
        for post in self.miner.pool.posts_of(&self.validator) {
            // A keeper that has just left needs nobody any more.
            drop(post.letters.send(Letter::Resume(self.line.clone())).await);
        }
        let now = self.miner.clock.now();
        let owed = match self.miner.store.owed(&self.validator, OWED_MAX, now).await {
            Ok(owed) => owed,
            Err(error) => {
                tracing::error!(validator = %self.validator, %error, "cannot look for undelivered outcomes");
                return Ok(());
            }
        };
        for owed in owed {
            if self.miner.pool.post(&owed.job).is_some() {
                // Its keeper knows what else the validator has missed.
                continue;
            }
            if self
                .miner
                .tellings
                .is_fresh(&owed.job, &self.line, Instant::now())
            {
                continue;
            }
            if let Ok(Up::JobFinished(_)) = Up::decode(&owed.outcome) {
                // It waits for these first, and a repetition does no harm.
                let job_uuid = owed.job.clone();
                self.say(VolumesReady { job_uuid }.into()).await?;
                let job_uuid = owed.job.clone();
                self.say(ExecutionDone { job_uuid }.into()).await?;
            }
            self.miner.deliver(&owed.job, &owed.outcome, &self.line).await;
        }
        Ok(())
    }

    async fn offer(&self, request: Box<InitialJob>, text: String) -> Result<(), LinkClosed> {
        let job = request.job_uuid.clone();
        let metrics = &self.miner.metrics;
        metrics.job_offered(request.executor_class.as_str());
        let offered_at = self.miner.clock.now();
        let refuse = |code, words: &str, evidence| {
            let rebuff = Rebuff::offer(&request, code, words, evidence);
            metrics.job_declined(code);
            self.miner.ledger.refuse(&self.validator, self.peer, rebuff);
        };
        let decline = |message: &str| {
            self.say(declined(job.clone(), RejectionReason::Unknown, message.to_owned()).into())
        };
        let admission = admit(&self.miner, &request, self.tasks.is_stopping()).and_then(|()| {
            let taken = self
                .miner
                .door
                .take_job(&self.validator, self.peer.into(), Instant::now());
            taken.map_err(|TooManyJobs { wait }| Refusal::TooManyJobs { wait })
        });
        if let Err(refusal) = admission {
            tracing::info!(%job, class = %request.executor_class, %refusal, validator = %self.validator, "job declined");
            refuse(refusal.code(), &refusal.to_string(), json!({}));
            return self
                .say(declined(job, refusal.reason(), refusal.to_string()).into())
                .await;
        }
        let payload = ReceiptPayload::Started(request.job_started_receipt_payload.clone());
        let signature = request.job_started_receipt_signature.clone();
        let receipt = match countersign(&self.miner.keypair, payload, signature) {
            Ok(receipt) => receipt,
            Err(error) => {
                tracing::error!(%job, %error, "cannot countersign a receipt");
                refuse("countersign_error", &error.to_string(), json!({}));
                return decline("receipt could not be countersigned").await;
            }
        };
        let class = request.executor_class;
        let token = format!("{job}-{}", Uuid::new_v4());
        let decision = self
            .miner
            .shares
            .ask(&self.miner, &self.validator, &request, self.knows_sharing);
        let (best_effort, may_have_one) = match decision {
            None => (None, true),
            Some(Decision::Accept(terms)) => (
                Some(terms == Terms::BestEffort).filter(|_| self.knows_sharing),
                true,
            ),
            // Kept as declined, with whatever excuses it.
            Some(Decision::Busy { .. }) => (None, false),
        };
        let offer = Offer {
            validator: self.validator.clone(),
            job: job.clone(),
            class,
            token: token.clone(),
            request: text,
            receipt,
            // The pool's to say.
            slots: Vec::new(),
        };
        let reservation = if may_have_one {
            self.miner.pool.reserve(offer).await
        } else {
            self.miner.pool.decline(offer).await
        };
        let was_granted = matches!(decision, Some(Decision::Accept(_)));
        if was_granted && !matches!(reservation, Ok(Reservation::Reserved(_))) {
            self.miner.shares.end(&job);
        }
        match reservation {
            Ok(Reservation::Reserved(slot)) => {
                metrics.job_accepted(class.as_str());
                metrics.receipt_stored(STARTED);
                tracing::info!(%job, %class, slot, validator = %self.validator, "job accepted");
                self.miner.ledger.note_at(&job, Step::Offered, offered_at);
                // Sent before the executor is started, so that nothing overtakes it. The job goes on if the
                // validator is gone already: it may come back.
                let accepted = self
                    .say(
                        Accepted {
                            job_uuid: job.clone(),
                            best_effort,
                        }
                        .into(),
                    )
                    .await;
                self.assign(request, slot, token);
                accepted
            }
            Ok(Reservation::Busy(receipts)) => {
                metrics.receipt_stored(STARTED);
                tracing::info!(%job, %class, excuses = receipts.len(), validator = %self.validator, "job declined: busy");
                refuse(
                    "busy",
                    "all executors are taken",
                    occupation(&receipts, self.miner.pool.manifest().count(class)),
                );
                let busy = Declined {
                    receipts,
                    context: self.when_to_come_again(decision),
                    ..declined(job, RejectionReason::Busy, String::new())
                };
                self.say(busy.into()).await
            }
            Ok(Reservation::Draining) => {
                let refusal = Refusal::Draining;
                tracing::info!(%job, %class, %refusal, validator = %self.validator, "job declined");
                refuse(refusal.code(), &refusal.to_string(), json!({}));
                self.say(declined(job, refusal.reason(), refusal.to_string()).into())
                    .await
            }
            // To decline a job that runs would end it at the validator, so only its repetition is refused.
            Ok(Reservation::Known { validator, state }) if validator == self.validator && state.is_open() => {
                refuse(
                    "duplicate",
                    "the job runs already",
                    json!({"status": state.as_str()}),
                );
                self.complain(format!("Received InitialJobRequest twice job_uuid: {job}"))
                    .await
            }
            Ok(Reservation::Known { validator, state }) => {
                let evidence = json!({"status": state.as_str(), "validator": validator});
                refuse("duplicate", "job_uuid is known already", evidence);
                decline("job_uuid is known already").await
            }
            Err(error) => {
                tracing::error!(%job, %error, "cannot keep a job");
                refuse("store_error", &error.to_string(), json!({}));
                decline("miner cannot keep jobs at the moment").await
            }
        }
    }

    /// Returns what a validator that knows of sharing is told with a decline.
    fn when_to_come_again(&self, decision: Option<Decision>) -> Option<Context> {
        let Some(Decision::Busy {
            again_in: Some(again_in),
        }) = decision
        else {
            return None;
        };
        let seconds = seconds(again_in);
        self.knows_sharing
            .then(|| Context::from_iter([("retry_after_seconds".to_owned(), seconds.into())]))
    }

    fn assign(&self, request: Box<InitialJob>, slot: u32, token: String) {
        let (letters, mailbox) = mpsc::channel(LETTERS);
        let post = Post {
            validator: self.validator.clone(),
            class: request.executor_class,
            slot,
            token: token.clone(),
            letters,
            is_leaving: false,
        };
        let job = request.job_uuid.clone();
        self.miner.pool.enter(&job, post);
        let assignment = Assignment {
            request,
            slot,
            token,
            line: self.line.own(),
            address: self.miner.address(),
        };
        let keeper = Keeper::new(Arc::clone(&self.miner), assignment, mailbox);
        self.miner.keep(keeper, &self.tasks);
    }

    /// Returns the way to the keeper of a job of this validator.
    fn keeper_of(&self, job: &JobId) -> Option<mpsc::Sender<Letter>> {
        let post = self.miner.pool.post(job)?;
        (post.validator == self.validator).then_some(post.letters)
    }

    async fn order(&self, order: Box<FullJob>, text: String) -> Result<(), LinkClosed> {
        let job = order.job_uuid.clone();
        let letter = Letter::Order(self.line.own(), order, text);
        let is_taken = match self.keeper_of(&job) {
            Some(letters) => letters.send(letter).await.is_ok(),
            None => false,
        };
        if is_taken {
            return Ok(());
        }
        self.say(GenericError::unknown_job("JobRequest", &job).into())
            .await
    }

    async fn abandon(&self, job: &JobId, decline: Declined) -> Result<(), LinkClosed> {
        let letter = Letter::Abandon(self.line.own(), decline);
        let is_taken = match self.keeper_of(job) {
            Some(letters) => letters.send(letter).await.is_ok(),
            None => false,
        };
        if is_taken {
            return Ok(());
        }
        self.say(GenericError::unknown_job("JobRequest", job).into())
            .await
    }

    async fn cancel(&self, job: &JobId) -> Result<(), LinkClosed> {
        let letter = Letter::Cancelled(Some(self.line.own()));
        let is_taken = match self.keeper_of(job) {
            Some(letters) => letters.send(letter).await.is_ok(),
            None => false,
        };
        if is_taken {
            return Ok(());
        }
        // A job that is over has its end told by the way of all ends; one that is not known here never will.
        self.say(GenericError::unknown_job(JOB_CANCEL, job).into()).await
    }

    async fn keep(&self, payload: ReceiptPayload, signature: String) -> Result<(), LinkClosed> {
        let job = payload.job_uuid().clone();
        let kind = payload.receipt_type();
        let is_last = matches!(payload, ReceiptPayload::Finished(_));
        let receipt = match countersign(&self.miner.keypair, payload, signature) {
            Ok(receipt) => receipt,
            Err(error) => {
                tracing::error!(%job, %error, "cannot countersign a receipt");
                return Ok(());
            }
        };
        match self
            .miner
            .store
            .keep_own_receipt(receipt, self.miner.clock.now())
            .await
        {
            Ok(ReceiptFate::Kept) => {
                self.miner.metrics.receipt_stored(kind);
                tracing::debug!(%job, kind, "receipt kept");
            }
            Ok(ReceiptFate::Repeated) => {
                tracing::warn!(%job, kind, "a second receipt of this kind is ignored");
            }
            Ok(ReceiptFate::UnknownJob) => {
                return self.say(GenericError::unknown_job(kind, &job).into()).await;
            }
            Err(error) => {
                tracing::error!(%job, kind, %error, "cannot keep a receipt");
                return Ok(());
            }
        }
        if is_last {
            self.miner.tellings.settle(&job);
        } else if let Some(letters) = self.keeper_of(&job) {
            // Now it is known which job this connection is for.
            drop(letters.send(Letter::Resume(self.line.own())).await);
        }
        Ok(())
    }
}
