//! The ledger of this life: steps of jobs and refusals, collected here and written together several times a second.
//!
//! Noting something costs a lock and a push; nobody waits for the disk. What changes a job's row needs no note: the
//! store's schema writes it down with the change.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Miner;
use super::job::Event;
use crate::core::clock::Clock;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::proto::job::InitialJob;
use crate::core::proto::miner_executor::Up;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::ledger::{Batch, Note, Refused, Strangers};
use crate::core::tasks::Tasks;

pub use crate::core::store::miner::ledger::{Step, Subject};

/// Longest time that a note waits for its write.
const WRITE_EVERY: Duration = Duration::from_millis(200);

/// Notes or refusals at which they are written at once.
const WRITE_AT: usize = 512;

/// Steps that wait, at most; what comes while the store does not take them is not noted.
const NOTES_MAX: usize = 16_384;

/// Refusals that wait, at most; further ones are counted only.
const REFUSED_MAX: usize = 1024;

/// Strangers' addresses that wait, at most; further ones are counted without theirs.
const STRANGERS_MAX: usize = 1024;

/// Time for the last jobs of a stopping miner to end before the ledger is closed.
const LAST_WORDS: Duration = Duration::from_secs(9);

/// Receipts that a refusal's evidence lists, at most.
const RECEIPTS_SHOWN: usize = 20;

/// Characters of a peer's text in evidence, at most.
const TEXT_CHARS_MAX: usize = 500;

/// Why something was refused, as validators never see it: a stable code, words, and what shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuff {
    /// What was refused.
    pub subject: Subject,
    /// The job.
    pub job: Option<JobId>,
    /// Its class.
    pub class: Option<ExecutorClass>,
    /// The code; [`meaning`] explains it.
    pub code: &'static str,
    /// What the validator was told.
    pub words: String,
    /// What shows it.
    pub evidence: Value,
}

impl Rebuff {
    /// Makes the refusal of an offer.
    pub fn offer(
        request: &InitialJob,
        code: &'static str,
        words: impl Into<String>,
        evidence: Value,
    ) -> Self {
        Self {
            subject: Subject::Offer,
            job: Some(request.job_uuid.clone()),
            class: Some(request.executor_class),
            code,
            words: words.into(),
            evidence,
        }
    }

    /// Makes the refusal of an authentication; the code follows from the words of the wire.
    pub fn authentication(words: &str, evidence: Value) -> Self {
        const CODES: [(&str, &str); 9] = [
            ("msg too old", "too_old"),
            ("msg too new", "too_new"),
            ("msg replayed", "replayed"),
            ("too many connections", "too_many_connections"),
            ("wrong miner hotkey", "wrong_miner"),
            ("wrong validator hotkey", "wrong_validator"),
            ("Signature mismatches", "bad_signature"),
            ("the first message", "not_first"),
            ("no authentication in time", "too_slow"),
        ];
        let code = CODES.into_iter().find(|(start, _)| words.starts_with(start));
        Self {
            subject: Subject::Authentication,
            job: None,
            class: None,
            code: code.map_or("refused", |(_, code)| code),
            words: words.to_owned(),
            evidence,
        }
    }

    /// Makes the refusal of a receipt.
    pub fn receipt(job: &JobId, words: String, evidence: Value) -> Self {
        Self {
            subject: Subject::Receipt,
            job: Some(job.clone()),
            class: None,
            code: "invalid_receipt",
            words,
            evidence,
        }
    }
}

/// Returns a peer's text at a length that can be kept.
pub fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// Returns the evidence of an occupation: the receipts that excuse the miner, and how many executors there are.
pub fn occupation(receipts: &[crate::core::model::receipt::Receipt], executors: i64) -> Value {
    use crate::core::model::receipt::ReceiptPayload;
    let shown: Vec<Value> = receipts
        .iter()
        .take(RECEIPTS_SHOWN)
        .map(|receipt| {
            let payload = &receipt.payload;
            let ttl = match payload {
                ReceiptPayload::Started(started) => Some(started.ttl),
                ReceiptPayload::Accepted(accepted) => Some(accepted.ttl),
                ReceiptPayload::Finished(_) => None,
            };
            json!({"job": payload.job_uuid(), "validator": payload.validator_hotkey(),
                "timestamp": payload.timestamp(), "ttl_seconds": ttl})
        })
        .collect();
    json!({"executors": executors, "excusing_receipts": receipts.len(), "receipts": shown})
}

/// What a code means and what an operator can do; none for a code that needs no explanation.
pub fn meaning(code: &str) -> Option<(&'static str, &'static str)> {
    const CODES: &[(&str, &str, &str)] = &[
        (
            "busy",
            "all executors of the class were taken",
            "add executors if this happens often; the validator counts it as excused when enough receipts prove it",
        ),
        (
            "not_in_manifest",
            "the class is not offered by this miner",
            "offer it (miner.executors), or ignore it",
        ),
        (
            "invalid_signature",
            "the validator's signature does not match what it sent",
            "nothing here: its software or somebody in between changed the message",
        ),
        (
            "invalid_receipt",
            "the receipt is not about this job, miner or validator, or out of bounds",
            "nothing here: see the evidence",
        ),
        (
            "duplicate",
            "a job of this id is known already",
            "nothing here: ids of jobs are used once",
        ),
        (
            "store_error",
            "the miner could not keep the job",
            "look at the log; `horde miner check` tells whether disk and database are well",
        ),
        (
            "countersign_error",
            "the miner could not sign the receipt",
            "please report it: this is a bug of horde",
        ),
        (
            "no_address",
            "a streaming job came before the miner knew its own address",
            "set miner.address if `horde miner run` logs that services do not agree on it",
        ),
        (
            "not_offered",
            "the class was set to no executors",
            "nothing, if you wanted that; `horde miner manifest set` changes it",
        ),
        (
            "unprofitable",
            "the class earns less than miner.multiplier_min asks for",
            "nothing, if you wanted that; `horde miner manifest show` tells the share of today",
        ),
        (
            "stopping",
            "the miner was about to end",
            "nothing, if you stopped it",
        ),
        (
            "draining",
            "the operator wants no new jobs",
            "`horde miner undrain` lets them come again",
        ),
        (
            "validator_blacklisted",
            "you do not serve this validator",
            "nothing, if you mean it",
        ),
        (
            "too_old",
            "the authentication was made too long ago by this machine's clock",
            "compare the clocks: `horde miner check --only clock`; the evidence holds the measured difference",
        ),
        (
            "wrong_miner",
            "the authentication is meant for another miner",
            "look whether another miner announces this address: `horde miner check --only axon`",
        ),
        (
            "wrong_validator",
            "the authentication is in another name than the address of the connection",
            "nothing here",
        ),
        (
            "bad_signature",
            "whoever connected does not hold the key of that name",
            "nothing here, unless it happens to a validator that you know",
        ),
        (
            "too_new",
            "the authentication was made in the future by this machine's clock",
            "compare the clocks: `horde miner check --only clock`; the evidence holds the measured difference",
        ),
        (
            "replayed",
            "the signature was used for another connection before",
            "nothing here: somebody in between repeats what it has heard, or the validator's software does",
        ),
        (
            "not_first",
            "something else came before the authentication",
            "nothing here",
        ),
        (
            "too_many_jobs",
            "the validator, or its address, brings jobs faster than miner.validator_rate",
            "raise the setting if the validator means it well",
        ),
        (
            "too_slow",
            "no authentication came in time",
            "nothing here, unless the line is slow",
        ),
        (
            "unknown_validator",
            "the hotkey is not registered on the subnet",
            "nothing, if you do not know it: probes and scanners do this",
        ),
        (
            "inactive_validator",
            "the hotkey has no validator's permit",
            "nothing here: it needs stake",
        ),
        (
            "too_many_connections",
            "the validator has too many connections, or opens them faster than miner.validator_rate",
            "raise the setting if the validator means it well",
        ),
    ];
    CODES
        .iter()
        .find(|(known, ..)| *known == code)
        .map(|(_, meaning, remedy)| (*meaning, *remedy))
}

/// Returns the step that an event is, where the store does not see it by itself.
pub(super) fn step_of(event: &Event) -> Option<Step> {
    match event {
        Event::Connected { .. } => Some(Step::ExecutorConnected),
        Event::Said(Up::VolumesReady(_)) => Some(Step::VolumesReady),
        Event::Said(Up::StreamingReady(_)) => Some(Step::StreamingReady),
        Event::Said(Up::ExecutionDone(_)) => Some(Step::ExecutionDone),
        _ => None,
    }
}

#[derive(Debug, Default)]
struct Pending {
    notes: Vec<Note>,
    refused: Vec<Refused>,
    strangers: HashMap<(&'static str, String), Strangers>,
    crowded: HashMap<(Subject, String, Hotkey), u64>,
    /// Whether it was said that steps are lost.
    is_warned: bool,
}

impl Pending {
    fn take(&mut self) -> Batch {
        Batch {
            notes: std::mem::take(&mut self.notes),
            refused: std::mem::take(&mut self.refused),
            strangers: self.strangers.drain().map(|(_, strangers)| strangers).collect(),
            crowded: self
                .crowded
                .drain()
                .map(|((subject, reason, validator), count)| (subject, reason, validator, count))
                .collect(),
        }
    }

    fn refuse(&mut self, refused: Refused) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.push(refused);
        } else {
            self.crowd(refused.subject, refused.reason, refused.validator, 1);
        }
    }

    fn crowd(&mut self, subject: Subject, reason: String, validator: Hotkey, count: u64) {
        *self.crowded.entry((subject, reason, validator)).or_default() += count;
    }
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    store: MinerStore,
    clock: Clock,
    pending: Mutex<Pending>,
    is_full: Notify,
}

impl Ledger {
    /// Opens it on a store.
    pub fn new(store: MinerStore, clock: Clock) -> Self {
        Self {
            store,
            clock,
            pending: Mutex::default(),
            is_full: Notify::new(),
        }
    }

    /// Notes that a job takes a step now.
    pub fn note(&self, job: &JobId, step: Step) {
        self.note_at(job, step, self.clock.now());
    }

    /// Notes that a job took a step at that moment.
    pub fn note_at(&self, job: &JobId, step: Step, at: OffsetDateTime) {
        let job = job.clone();
        self.with(|pending| {
            if pending.notes.len() < NOTES_MAX {
                pending.notes.push(Note { job, step, at });
            } else if !pending.is_warned {
                pending.is_warned = true;
                tracing::warn!("the store does not keep up: steps of jobs are not noted");
            }
        });
    }

    /// Keeps a refusal of somebody who is, or claims to be, a known validator.
    pub fn refuse(&self, validator: &Hotkey, peer: IpAddr, rebuff: Rebuff) {
        let Rebuff {
            subject,
            job,
            class,
            code,
            words,
            evidence,
        } = rebuff;
        let refused = Refused {
            at: self.clock.now(),
            subject,
            validator: validator.clone(),
            address: Some(peer.to_canonical().to_string()),
            job,
            class,
            reason: code.to_owned(),
            words,
            evidence,
        };
        self.with(|pending| pending.refuse(refused));
    }

    /// Counts a stranger that was sent off; a flood of them costs a row for each address and reason.
    pub fn turn_away(&self, validator: &Hotkey, peer: IpAddr, code: &'static str, words: &str) {
        let now = self.clock.now();
        self.with(|pending| {
            let mut address = neighbourhood(peer);
            let is_crowded = pending.strangers.len() >= STRANGERS_MAX;
            if is_crowded && !pending.strangers.contains_key(&(code, address.clone())) {
                address = String::new();
            }
            let strangers = pending
                .strangers
                .entry((code, address.clone()))
                .or_insert_with(|| Strangers {
                    reason: code.to_owned(),
                    address,
                    count: 0,
                    first_at: now,
                    last_at: now,
                    last_validator: validator.clone(),
                    last_words: String::new(),
                });
            strangers.count += 1;
            strangers.last_at = now;
            strangers.last_validator = Hotkey::new(short(validator.as_str()));
            strangers.last_words = short(words);
        });
    }

    fn with(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pending);
        if pending.notes.len() >= WRITE_AT || pending.refused.len() >= WRITE_AT {
            self.is_full.notify_one();
        }
    }

    /// Writes what waits; what the store does not take waits on, as far as there is room.
    async fn write(&self) {
        let batch = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::new(pending.take())
        };
        if batch.is_empty() {
            return;
        }
        match self.store.record(Arc::clone(&batch)).await {
            Ok(()) => self.with(|pending| pending.is_warned = false),
            Err(error) => {
                tracing::error!(%error, "cannot write the ledger");
                let batch = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
                self.with(|pending| put_back(pending, batch));
            }
        }
    }
}

fn put_back(pending: &mut Pending, batch: Batch) {
    let room = NOTES_MAX.saturating_sub(pending.notes.len());
    pending.notes.extend(batch.notes.into_iter().take(room));
    for refused in batch.refused {
        pending.refuse(refused);
    }
    // Their addresses are not worth the room; that they were there is.
    for strangers in batch.strangers {
        let nobody = Hotkey::from("");
        pending.crowd(Subject::Authentication, strangers.reason, nobody, strangers.count);
    }
    for (subject, reason, validator, count) in batch.crowded {
        pending.crowd(subject, reason, validator, count);
    }
}

/// Returns the address under which a stranger is counted: of IPv6 the network of 64 bits, which is one customer's.
fn neighbourhood(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) if address.is_loopback() => address.to_string(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from(network))
        }
    }
}

/// Writes the ledger until the family is told to stop and the last jobs have ended.
pub(super) async fn keep(miner: Arc<Miner>, tasks: Tasks) {
    let ledger = &miner.ledger;
    let mut end = pin!(async {
        tasks.stopped().await;
        drop(timeout(LAST_WORDS, miner.pool.emptied()).await);
    });
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            () = &mut end => is_last = true,
            () = sleep(WRITE_EVERY) => {}
            () = ledger.is_full.notified() => {}
        }
        ledger.write().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        (
            folder,
            Ledger::new(store, Clock::fixed(OffsetDateTime::UNIX_EPOCH)),
        )
    }

    #[test]
    fn a_stranger_is_counted_by_its_address_and_ipv6_by_its_network() {
        for (peer, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::1"),
        ] {
            assert_eq!(neighbourhood(peer.parse().unwrap()), shown);
        }
    }

    #[tokio::test]
    async fn a_flood_of_strangers_takes_bounded_room_and_is_counted_to_the_last() {
        let (_folder, ledger) = ledger();
        for number in 0..100_000_u32 {
            let peer = IpAddr::from(number.to_be_bytes());
            ledger.turn_away(
                &Hotkey::new(format!("key {number}")),
                peer,
                "unknown_validator",
                "no",
            );
        }
        assert!(ledger.pending.lock().unwrap().strangers.len() <= STRANGERS_MAX + 1);
        ledger.write().await;
        let counters = ledger.store.counters().await.unwrap();
        assert_eq!(counters.len(), 1);
        assert_eq!(counters[0].count, 100_000);
        let rows = ledger.store.strangers(None, 10_000).await.unwrap();
        assert_eq!(rows.len(), STRANGERS_MAX + 1);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 100_000);
    }

    #[tokio::test]
    async fn refusals_beyond_the_room_are_counted_and_none_is_lost_while_the_store_does_not_answer() {
        let (_folder, ledger) = ledger();
        let alice = Hotkey::from("alice");
        for _ in 0..REFUSED_MAX + 5 {
            let rebuff = Rebuff::authentication("msg too old", json!({"skew_seconds": 12}));
            ledger.refuse(&alice, IpAddr::from([127, 0, 0, 1]), rebuff);
        }
        let batch = ledger.pending.lock().unwrap().take();
        assert_eq!(batch.refused.len(), REFUSED_MAX);
        put_back(&mut ledger.pending.lock().unwrap(), batch);
        ledger.write().await;
        let counters = ledger.store.counters().await.unwrap();
        assert_eq!(counters.len(), 1);
        assert_eq!(
            (counters[0].reason.as_str(), counters[0].count),
            ("too_old", u64::try_from(REFUSED_MAX).unwrap() + 5)
        );
    }

    #[test]
    fn every_code_of_an_authentication_is_explained() {
        for words in [
            "msg too old",
            "wrong miner hotkey (a!=b)",
            "wrong validator hotkey (a!=b)",
            "Signature mismatches",
            "msg too new (signed 13 s ahead)",
            "msg replayed (this signature was used before)",
            "the first message is not the authentication",
            "the first message is malformed",
            "too many connections (close some first)",
            "no authentication in time",
        ] {
            let code = Rebuff::authentication(words, Value::Null).code;
            assert!(meaning(code).is_some(), "{words}: {code}");
        }
    }
}
