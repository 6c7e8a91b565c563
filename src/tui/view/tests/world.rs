//! A machine with all roles, made by the stores' own functions, at a moment that stands still.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, json};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::core::clock::Clock;
use crate::core::model::job::JobStatus;
use crate::core::model::receipt::{Receipt, ReceiptPayload};
use crate::core::model::subnet::{Axon, Block as BlockNumber};
use crate::core::model::{ExecutorClass, Hotkey, JobId, Manifest};
use crate::core::money::{Bill, Micro};
use crate::core::store::facilitator::{
    Delivery, FacilitatorStore, Grant, Job, JobSignature, JobSpec, KeptSpecs, Step, Submission,
};
use crate::core::store::local_chain::{Genesis, LocalChainStore, Registration, Step as ChainStep};
use crate::core::store::miner::ledger::{Batch, Note, Refused, Step as MinerStep, Subject};
use crate::core::store::miner::manifest::{ManifestState, OfferedClass};
use crate::core::store::miner::validators::{Block, ListedValidator};
use crate::core::store::miner::{JobState, MinerStore, Offer};
use crate::core::store::validator::{CheatReport, Entry, ValidatorStore};
use crate::core::store::{Holder, holder};
use crate::tui::source::Source;

/// The moment.
pub(super) const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);

/// Well-known addresses of development keys: Alice, Bob, Charlie and Dave.
pub(super) const USER: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
pub(super) const VALIDATOR: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";
pub(super) const MINER: &str = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y";
pub(super) const STRANGER: &str = "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy";

const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// How a job goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Completes,
    Fails,
    Declined,
    Runs,
}

/// The jobs of the world: number, how long ago it was sent, how it goes.
pub(super) const JOBS: [(u32, i64, Fate); 5] = [
    (1, 5400, Fate::Completes),
    (2, 1800, Fate::Completes),
    (3, 900, Fate::Fails),
    (4, 240, Fate::Declined),
    (5, 20, Fate::Runs),
];

pub(super) fn job_id(number: u32) -> JobId {
    JobId::new(format!("3f2a9c0{number}-52bd-4a8c-9d63-8f1d0a7b4e0{number}"))
}

/// Opens what is in a directory at the moment.
pub(super) fn source(dir: &Path) -> Source {
    let mut source = Source::of(dir);
    source.clock = Clock::fixed(NOW);
    source
}

/// Waits until nobody holds the databases any more: a process that another test has just started has their locks too, for as
/// long as it takes to become a program.
pub(super) async fn left(source: &Source) {
    for place in &source.places {
        while matches!(holder(&place.database()), Holder::Process(_)) {
            tokio::task::yield_now().await;
        }
    }
}

/// Fills a directory with a facilitator, a validator and a miner that have had [`JOBS`].
pub(super) async fn fill(dir: &Path) {
    let facilitator = FacilitatorStore::open(&dir.join("facilitator/facilitator.sqlite")).unwrap();
    let validator = ValidatorStore::open(&dir.join("validator/validator.sqlite")).unwrap();
    let miner = MinerStore::open(&dir.join("miner-1/miner.sqlite")).unwrap();
    people(&facilitator, &miner).await;
    for (number, ago, fate) in JOBS {
        let sent = NOW - Duration::seconds(ago);
        facilitator_job(&facilitator, number, sent, fate).await;
        validator_job(&validator, number, sent, fate).await;
        miner_job(&miner, number, sent, fate).await;
    }
    validator
        .judge_cheat(
            CheatReport {
                job: job_id(1),
                trusted_job: job_id(2),
                details: json!({"diff": 1}),
                signature: None,
            },
            None,
            Duration::HOUR,
            NOW - Duration::seconds(30),
        )
        .await
        .unwrap();
    chain(dir).await;
    files(dir);
}

async fn people(facilitator: &FacilitatorStore, miner: &MinerStore) {
    let start = NOW - Duration::hours(3);
    facilitator
        .add_user(&Hotkey::new(USER), Some("the first".to_owned()), start)
        .await
        .unwrap();
    facilitator
        .block_user(&Hotkey::new(STRANGER), "key was stolen".to_owned(), start)
        .await
        .unwrap();
    let grant = Grant {
        hotkey: Hotkey::new(USER),
        amount: Micro::new(25_000_000),
        note: "invoice 1043".to_owned(),
        key: Some("invoice-1043".to_owned()),
    };
    facilitator.grant(grant, start).await.unwrap();
    let heard = NOW - Duration::seconds(4);
    facilitator
        .heard(&Hotkey::new(VALIDATOR), (Some("1.2.0".to_owned()), None), heard)
        .await
        .unwrap();
    facilitator
        .keep_specs(KeptSpecs {
            validator: Hotkey::new(VALIDATOR),
            miner: Hotkey::new(MINER),
            batch_id: "b".to_owned(),
            specs: json!({"gpu": {"count": 1, "details": [{"name": "NVIDIA RTX A6000"}]}}),
            received_at: heard,
        })
        .await
        .unwrap();
    let listed = ListedValidator {
        hotkey: Hotkey::new(VALIDATOR),
        stake_rao: 12_345_000_000_000,
    };
    miner.keep_validators(vec![listed], start).await.unwrap();
    let block = Block {
        reason: "pays for nothing".to_owned(),
        until: None,
    };
    miner
        .block_validator(&Hotkey::new(STRANGER), block, start)
        .await
        .unwrap();
    let manifest = |count| Manifest(IndexMap::from([(CLASS, count)]));
    let state = ManifestState {
        counted: manifest(2),
        changed_at: None,
        setting: manifest(2),
        setting_at: start,
    };
    miner.keep_manifest(state).await.unwrap();
    let offered = OfferedClass {
        class: CLASS,
        count: 1,
        reason: Some("one fails its check".to_owned()),
    };
    miner.keep_offered(vec![offered], start).await.unwrap();
}

async fn facilitator_job(store: &FacilitatorStore, number: u32, sent: OffsetDateTime, fate: Fate) {
    let step = |status, after: i64, metadata| Step {
        status,
        metadata,
        created_at: sent + Duration::milliseconds(after),
    };
    let mut environment = IndexMap::new();
    environment.insert("SECRET".to_owned(), "do-not-show".to_owned());
    let job = Job {
        uuid: job_id(number),
        owner: Hotkey::new(USER),
        created_at: sent,
        spec: JobSpec {
            target_validator: Hotkey::new(VALIDATOR),
            executor_class: CLASS,
            docker_image: "horde-sample:latest".to_owned(),
            job_namespace: None,
            tag: "nightly".to_owned(),
            args: vec!["work".to_owned()],
            env: environment,
            use_gpu: false,
            artifacts_dir: String::new(),
            on_trusted_miner: false,
            download_time_limit: 10,
            execution_time_limit: 60,
            streaming_start_time_limit: 0,
            upload_time_limit: 10,
            streaming_client_cert: None,
            volumes: Vec::new(),
            uploads: Vec::new(),
        },
        history: vec![step(JobStatus::Sent, 0, Map::new())],
        cost: None,
        cancel: None,
        wait: None,
    };
    let submission = Submission {
        job,
        signature: JobSignature {
            signatory: Hotkey::new(USER),
            timestamp_ns: 1,
            signature: "c2ln".to_owned(),
            scope: "SignedFields".to_owned(),
        },
        bill: Some(Bill {
            price: Micro::new(1500),
            seconds_max: 80,
        }),
        request: None,
        unfinished_max: 100,
        delivery: Delivery {
            is_pushed: true,
            deliver_until: sent + Duration::MINUTE,
            budget: Duration::minutes(5),
        },
    };
    store.insert(submission).await.unwrap();
    let words = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
    let mut steps = vec![step(JobStatus::Received, 40, Map::new())];
    if fate == Fate::Declined {
        let why = json!({"job_rejection_details": {"rejected_by": "miner", "reason": "busy", "message": "all are taken"}});
        steps.push(step(JobStatus::Rejected, 900, words(why)));
    } else {
        steps.push(step(JobStatus::Accepted, 350, Map::new()));
        steps.push(step(JobStatus::ExecutorReady, 1600, Map::new()));
        steps.push(step(JobStatus::VolumesReady, 2100, Map::new()));
    }
    match fate {
        Fate::Completes => {
            let response = json!({"miner_response": {"docker_process_stdout": "one\ntwo\nthree\n",
                "docker_process_stderr": "a warning\n"}});
            steps.push(step(JobStatus::ExecutionDone, 9400, Map::new()));
            steps.push(step(JobStatus::Completed, 9900, words(response)));
        }
        Fate::Fails => {
            let why = json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution",
                "message": "the container ended with 3", "docker_process_exit_status": 3,
                "docker_process_stdout": "began\n", "docker_process_stderr": "broke\n"}});
            steps.push(step(JobStatus::Failed, 5000, words(why)));
        }
        Fate::Declined | Fate::Runs => {}
    }
    for step in steps {
        let agree = |_: &[JobStatus]| Ok::<_, ()>(());
        store
            .append(&job_id(number), &Hotkey::new(VALIDATOR), step, agree)
            .await
            .unwrap();
    }
}

async fn validator_job(store: &ValidatorStore, number: u32, sent: OffsetDateTime, fate: Fate) {
    let job = job_id(number);
    let after = |millis: i64| sent + Duration::milliseconds(millis);
    store
        .admit(job.clone(), CLASS, String::new(), after(40))
        .await
        .unwrap();
    let miner = Hotkey::new(MINER);
    let axon = Axon {
        ip: Ipv4Addr::LOCALHOST.into(),
        port: 8001,
    };
    let receipt = |payload| Entry::Receipt {
        payload,
        signature: "0x01".to_owned(),
    };
    let status = |status: JobStatus| Entry::Status {
        status,
        frame: String::new(),
    };
    let assigned = Entry::Assigned {
        miner: miner.clone(),
        axon,
    };
    let started = receipt(started(number, sent).payload);
    store
        .record(job.clone(), vec![assigned, started], after(100))
        .await
        .unwrap();
    let end = match fate {
        Fate::Completes => JobStatus::Completed,
        Fate::Fails => JobStatus::Failed,
        Fate::Declined => JobStatus::Rejected,
        Fate::Runs => {
            store
                .record(job, vec![status(JobStatus::VolumesReady)], after(2050))
                .await
                .unwrap();
            return;
        }
    };
    let mut entries = vec![status(end), Entry::Ended];
    if fate != Fate::Declined {
        entries.push(receipt(finished(number, sent, fate).payload));
    }
    if fate == Fate::Fails {
        entries.push(Entry::Incident {
            miner,
            class: CLASS,
            reason: "nonzero_return_code".to_owned(),
        });
    }
    store.record(job, entries, after(9850)).await.unwrap();
    while let Some(owed) = store.next_owed(0).await.unwrap() {
        store.answered(owed.id).await.unwrap();
    }
}

async fn miner_job(store: &MinerStore, number: u32, sent: OffsetDateTime, fate: Fate) {
    let job = job_id(number);
    let after = |millis: i64| sent + Duration::milliseconds(millis);
    if fate == Fate::Declined {
        let refused = Refused {
            at: after(300),
            subject: Subject::Offer,
            validator: Hotkey::new(VALIDATOR),
            address: Some("127.0.0.1".to_owned()),
            job: Some(job),
            class: Some(CLASS),
            reason: "busy".to_owned(),
            words: "all are taken".to_owned(),
            evidence: json!({}),
        };
        let batch = Batch {
            refused: vec![refused],
            ..Batch::default()
        };
        store.record(batch.into()).await.unwrap();
        return;
    }
    let offer = Offer {
        validator: Hotkey::new(VALIDATOR),
        job: job.clone(),
        class: CLASS,
        token: format!("token {number}"),
        request: "{}".to_owned(),
        receipt: started(number, sent),
        slots: vec![0, 1],
    };
    store.reserve(offer, after(300)).await.unwrap();
    store
        .started(&job, Some(format!("{number} 4711")), after(320))
        .await
        .unwrap();
    store
        .executor_ready(&job, "127.0.0.1".to_owned(), true, after(1500))
        .await
        .unwrap();
    store.ordered(&job, "{}".to_owned(), after(1650)).await.unwrap();
    let mut notes = vec![
        (MinerStep::Offered, 290),
        (MinerStep::ExecutorConnected, 1200),
        (MinerStep::VolumesReady, 2000),
    ];
    if fate == Fate::Completes {
        notes.push((MinerStep::ExecutionDone, 9300));
    }
    let notes = notes.into_iter().map(|(step, millis)| Note {
        job: job.clone(),
        step,
        at: after(millis),
    });
    let batch = Batch {
        notes: notes.collect(),
        ..Batch::default()
    };
    store.record(batch.into()).await.unwrap();
    let (state, outcome) = match fate {
        Fate::Completes => (
            JobState::Finished,
            json!({"docker_process_stdout": "one\ntwo\nthree\n", "docker_process_stderr": "a warning\n"}),
        ),
        Fate::Fails => (
            JobState::Failed,
            json!({"reason": "nonzero_return_code", "message": "the container ended with 3", "stage": "execution",
                "docker_process_exit_status": 3, "docker_process_stdout": "began\n", "docker_process_stderr": "broke\n"}),
        ),
        Fate::Declined | Fate::Runs => return,
    };
    let ended = if fate == Fate::Completes { 9600 } else { 4900 };
    store
        .end(&job, state, outcome.to_string(), false, after(ended))
        .await
        .unwrap();
    store.reported(&job, after(ended + 50)).await.unwrap();
    store.release(&job, after(ended + 200)).await.unwrap();
    store
        .keep_receipt(finished(number, sent, fate), after(9860))
        .await
        .unwrap();
}

fn started(number: u32, sent: OffsetDateTime) -> Receipt {
    receipt(
        number,
        sent + Duration::milliseconds(100),
        &json!({"receipt_type": "JobStartedReceipt",
        "executor_class": CLASS.as_str(), "is_organic": true, "ttl": 7}),
    )
}

fn finished(number: u32, sent: OffsetDateTime, fate: Fate) -> Receipt {
    let score = if fate == Fate::Completes {
        "1.000000"
    } else {
        "0.000000"
    };
    receipt(
        number,
        sent + Duration::milliseconds(9800),
        &json!({"receipt_type": "JobFinishedReceipt",
        "time_started": stamp(sent), "time_took_us": 9_700_000, "score_str": score, "block_numbers": []}),
    )
}

fn stamp(moment: OffsetDateTime) -> String {
    crate::core::model::Timestamp::new(moment).to_string()
}

fn receipt(number: u32, made: OffsetDateTime, more: &serde_json::Value) -> Receipt {
    let mut payload = json!({"job_uuid": job_id(number).as_str(), "miner_hotkey": MINER, "validator_hotkey": VALIDATOR,
        "timestamp": stamp(made)});
    for (key, value) in more.as_object().unwrap() {
        payload[key] = value.clone();
    }
    let payload: ReceiptPayload = serde_json::from_value(payload).unwrap();
    Receipt {
        payload,
        validator_signature: "0x01".to_owned(),
        miner_signature: "0x02".to_owned(),
    }
}

/// A local chain of subnet 12 that began an hour ago, with weights of ten blocks ago.
async fn chain(dir: &Path) {
    let store = LocalChainStore::open(&dir.join("chain.sqlite")).unwrap();
    let start = NOW - Duration::HOUR;
    let genesis = Genesis {
        unix_millis: start.unix_timestamp() * 1000,
        block_millis: 12_000,
    };
    store.genesis(genesis).await.unwrap();
    for hotkey in [VALIDATOR, MINER] {
        let registration = Registration {
            hotkey: Hotkey::new(hotkey),
            coldkey: Hotkey::new(hotkey),
            stake_rao: 1,
            validator_permit: hotkey == VALIDATOR,
        };
        store.register(12, registration, BlockNumber(1)).await.unwrap();
    }
    let weigh = |_: &_| {
        Ok::<_, ()>(ChainStep::Weigh {
            uid: 0,
            weights: vec![(1, 65_535)],
        })
    };
    store.apply(12, BlockNumber(290), weigh).await.unwrap().unwrap();
}

/// What the roles leave beside their databases.
fn files(dir: &Path) {
    let log = dir.join("miner-1/logs");
    fs::create_dir_all(&log).unwrap();
    let lines = [
        r#"{"ts":"2026-01-15T12:15:45.350Z","level":"INFO","target":"horde::miner","message":"job accepted","fields":{"job":"3f2a9c03"}}"#,
        r#"{"ts":"2026-01-15T12:15:50Z","level":"WARN","target":"horde::miner","message":"job failed","fields":{"job":"3f2a9c03","reason":"nonzero_return_code"}}"#,
        r#"{"ts":"2026-01-15T12:20:00Z","level":"ERROR","target":"horde::net","message":"the other side has gone","fields":{"peer":"127.0.0.1"}}"#,
        r#"{"ts":"2026-01-15T12:3"#,
    ];
    fs::write(log.join("miner.jsonl"), lines.join("\n")).unwrap();
    let checks = json!({"at": "2026-01-15T12:00:00Z", "findings": [
        {"id": "docker", "status": "pass", "actual": "Docker 20.10.24", "required": "20.10 or newer",
            "purpose": "jobs run in containers", "remedy": "", "duration_us": 12_000},
        {"id": "disk", "status": "fail", "actual": "2 GiB free", "required": "20 GiB free", "purpose": "images need room",
            "remedy": "docker image prune", "duration_us": 800},
        {"id": "clock", "status": "warn", "actual": "off by 900 ms", "required": "within 500 ms",
            "purpose": "receipts are dated", "remedy": "run chrony", "duration_us": 150_000}]});
    fs::write(dir.join("miner-1/checks.json"), checks.to_string()).unwrap();
}
