//! The recorded sessions of the reference's miner, played again with ours: the same frames in the same order, byte for
//! byte, and the same close codes. Where ours does something else on purpose, [`DIFFERENCES`] says what and why.
//!
//! The transcripts were made with the development keys and are played as recorded, signatures and all, at the recorded
//! time. The miner is the real one behind a real listener; its executors are played by the test, as they were then.

mod keys;
mod script;
mod stage;

use std::collections::BTreeSet;

use time::OffsetDateTime;

use self::script::{ADDRESS, Peer, Script, Step, trace, transcripts};
use self::stage::Stage;

/// What the reference did at the place where ours does something else.
#[derive(Debug, Clone, Copy, PartialEq)]
enum There {
    /// The first frame of this type.
    Frame(&'static str),
    /// The second frame of this type.
    Again(&'static str),
    /// The end of the connection, with this code.
    Closed(u16),
    /// Silence.
    Silence,
}

/// What ours does instead.
#[derive(Debug, Clone, Copy)]
enum Here {
    /// Says the frame that was recorded, with one piece of its text changed to another.
    Changed(&'static str, &'static str),
    /// Says this.
    Says(&'static str),
    /// Says these, and then what was recorded.
    SaysFirst(&'static [&'static str]),
    /// Says this and closes with this code; what was said on the connection after that falls away.
    SaysAndCloses(&'static str, u16),
    /// Closes with this code.
    Closes(u16),
    /// Says nothing.
    Nothing,
}

/// One difference: the scenario, what the reference did there, what ours does, and why.
struct Difference {
    scenario: &'static str,
    there: There,
    here: Here,
    why: &'static str,
}

/// All differences. A row that fits nowhere fails the test.
const DIFFERENCES: &[Difference] = &[
    Difference {
        scenario: "auth 11 s old",
        there: There::Frame("GenericError"),
        here: Here::Changed(
            "msg too old",
            "msg too old (signed 11 s ago by the miner's clock, 10 s are allowed)",
        ),
        why: "whoever reads the refusal learns that a clock is wrong, and by how much",
    },
    Difference {
        scenario: "oldauth",
        there: There::Frame("GenericError"),
        here: Here::Changed(
            "msg too old",
            "msg too old (signed 99 s ago by the miner's clock, 10 s are allowed)",
        ),
        why: "whoever reads the refusal learns that a clock is wrong, and by how much",
    },
    Difference {
        scenario: "auth timestamp one day in the future is accepted",
        there: There::Frame("V0ExecutorManifestRequest"),
        here: Here::SaysAndCloses(
            r#"{"message_type":"GenericError","details":"Validator 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY not authenticated due to: msg too new (signed 86400 s ahead of the miner's clock, 12 s are allowed)"}"#,
            1000,
        ),
        why: "the window of time has two sides: what was signed for tomorrow could be used again until then",
    },
    Difference {
        scenario: "messages sent before auth are queued and answered after the manifest",
        there: There::Silence,
        here: Here::SaysAndCloses(
            r#"{"message_type":"GenericError","details":"Validator 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY not authenticated due to: the first message is not the authentication"}"#,
            1000,
        ),
        why: "nothing is kept for strangers: one small message before authentication, as no known validator sends more",
    },
    Difference {
        scenario: "blacklisted validator",
        there: There::Frame("V0DeclineJobRequest"),
        here: Here::Changed(
            r#""message":"","#,
            r#""message":"validator is blacklisted: sends what it does not pay for","#,
        ),
        why: "no rejection is silent: the operator's reason is told",
    },
    Difference {
        scenario: "auth undecodable signature",
        there: There::Closed(1011),
        here: Here::SaysAndCloses(
            r#"{"message_type":"GenericError","details":"Validator 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY not authenticated due to: Signature mismatches"}"#,
            1000,
        ),
        why: "a signature that cannot be read gets the words of one that does not match, not a crash of the session",
    },
    Difference {
        scenario: "streaming job without a known executor address: peer IP is used",
        there: There::Frame("V0InitialJobRequest"),
        here: Here::Changed("127.0.0.1", "203.0.113.9"),
        why: "clients are told the address that the operator announces, which is always known, not where a local \
              executor happens to connect from",
    },
    Difference {
        scenario: "busy: second validator is declined with the first job's receipt as excuse",
        there: There::Frame("V0DeclineJobRequest"),
        here: Here::Changed(
            r#""receipts":["#,
            r#""receipts":[{"payload":{"job_uuid":"0c29c013-afa6-48b1-a4d6-1acb89c02139","miner_hotkey":"5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty","validator_hotkey":"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY","timestamp":"2026-11-22T09:16:52.081347Z","receipt_type":"JobStartedReceipt","executor_class":"always_on.llm.a6000","is_organic":true,"ttl":7},"validator_signature":null,"miner_signature":null},"#,
        ),
        why: "validators count an excuse for two seconds longer than the reference's miner sends it",
    },
    Difference {
        scenario: "executor class missing from the manifest",
        there: There::Closed(1011),
        here: Here::Says(
            r#"{"message_type":"V0DeclineJobRequest","job_uuid":"5ddedf7b-e166-4024-8d13-d6ff6a46ee3f","message":"executor class always_on.test is not in the manifest","reason":"unknown","receipts":[],"context":null}"#,
        ),
        why: "no rejection is silent",
    },
    Difference {
        scenario: "executor with unknown token",
        there: There::Silence,
        here: Here::Closes(1000),
        why: "a connection that is of no use to anybody is not left open",
    },
    Difference {
        scenario: "executor token reused after the job left WAITING_FOR_EXECUTOR",
        there: There::Silence,
        here: Here::Closes(1000),
        why: "a connection that is of no use to anybody is not left open",
    },
    Difference {
        scenario: "executor token reused after the job left WAITING_FOR_EXECUTOR",
        there: There::Frame("V0HordeFailedRequest"),
        here: Here::Nothing,
        why: "an intruder does not end somebody else's job",
    },
    Difference {
        scenario: "validator reconnects while the job runs: later frames reach the new connection",
        there: There::Frame("V0ExecutionDoneRequest"),
        here: Here::SaysFirst(&[
            r#"{"message_type":"V0VolumesReadyRequest","job_uuid":"ea346b68-a578-40c4-bf3a-c4092a47aca9"}"#,
        ]),
        why: "a validator that comes back hears all that it may have missed, in order; it ignores what it knows",
    },
    Difference {
        scenario: "validator reconnects after executor_ready: readiness is re-sent after the manifest",
        there: There::Again("V0ExecutorReadyRequest"),
        here: Here::SaysFirst(&[
            r#"{"message_type":"V0AcceptJobRequest","job_uuid":"ebf978a8-3960-4167-932e-6232c7c6e710"}"#,
        ]),
        why: "a validator that comes back hears all that it may have missed, in order; it ignores what it knows",
    },
    Difference {
        scenario: "started receipt with a bad signature: the job is accepted anyway, no receipt is stored",
        there: There::Frame("V0AcceptJobRequest"),
        here: Here::Says(
            r#"{"message_type":"V0DeclineJobRequest","job_uuid":"d1a2ce60-0469-42cd-8c10-218afc0a05a6","message":"validator's signature of the receipt is not valid","reason":"invalid_signature","receipts":[],"context":null}"#,
        ),
        why: "a job without a receipt is work without a proof",
    },
    Difference {
        scenario: "same job_uuid twice",
        there: There::Closed(1011),
        here: Here::Says(
            r#"{"message_type":"GenericError","details":"Received InitialJobRequest twice job_uuid: f4cf6452-23e4-4309-97ec-dc6df9ff8551"}"#,
        ),
        why: "the repetition is refused; the job that runs, and the connection, are not disturbed",
    },
    Difference {
        scenario: "accepted receipt with a bad signature is ignored; finished receipt for an unknown job closes the connection",
        there: There::Closed(1011),
        here: Here::Says(
            r#"{"message_type":"GenericError","details":"Received JobFinishedReceipt for unknown job_uuid: a6115f67-6598-48b0-a152-16cde501fcb8"}"#,
        ),
        why: "a message about an unknown job is answered and does not end the connection of others",
    },
    Difference {
        scenario: "job_uuid that is not a UUID",
        there: There::Closed(1011),
        here: Here::Says(
            r#"{"message_type":"V0DeclineJobRequest","job_uuid":"not-a-uuid","message":"job_uuid \"not-a-uuid\" is not a lower-case UUID","reason":"invalid_receipt","receipts":[],"context":null}"#,
        ),
        why: "no rejection is silent, and 0.0.27 has a word for this one",
    },
];

/// Puts what ours does in the place of what the reference did; returns the numbers of the rows that fitted.
fn adapt(script: &mut Script) -> BTreeSet<usize> {
    let mut used = BTreeSet::new();
    for (row, difference) in DIFFERENCES.iter().enumerate() {
        if difference.scenario == script.name && replace(&mut script.steps, difference) {
            used.insert(row);
        }
    }
    used
}

fn replace(steps: &mut Vec<Step>, difference: &Difference) -> bool {
    let fits = |step: &Step| match (difference.there, step) {
        (There::Frame(word) | There::Again(word), Step::Hear(..)) => step.heard().as_deref() == Some(word),
        (There::Closed(expected), Step::Closed(_, code)) => *code == expected,
        (There::Silence, Step::Silence(_)) => true,
        _ => false,
    };
    let before = usize::from(matches!(difference.there, There::Again(_)));
    let mut places = (0..steps.len()).filter(|place| fits(&steps[*place]));
    let Some(place) = places.nth(before) else {
        return false;
    };
    let there = steps.remove(place);
    let (Step::Hear(peer, _) | Step::Closed(peer, _) | Step::Silence(peer)) = there else {
        return false;
    };
    let says = |text: &str| Step::Hear(peer, text.to_owned());
    let here = match (difference.here, &there) {
        (Here::Changed(from, to), Step::Hear(_, text)) => vec![says(&text.replace(from, to))],
        (Here::Changed(..), _) => return false,
        // The reference closed; ours is still there.
        (Here::Says(text), Step::Closed(..)) => vec![says(text), Step::Open(peer)],
        (Here::Says(text), _) => vec![says(text)],
        (Here::SaysFirst(texts), _) => {
            let mut first: Vec<Step> = texts.iter().map(|text| says(text)).collect();
            first.push(there.clone());
            first
        }
        (Here::SaysAndCloses(text, code), _) => vec![says(text), Step::Closed(peer, code)],
        (Here::Closes(code), _) => vec![Step::Closed(peer, code)],
        (Here::Nothing, _) => Vec::new(),
    };
    if matches!(difference.here, Here::SaysAndCloses(..)) {
        let later = steps.split_off(place);
        steps.extend(later.into_iter().filter(|step| !step.is_talk_with(peer)));
    }
    steps.splice(place..place, here);
    true
}

/// What an executor hears of the request's receipt: the reference cuts its time to milliseconds, after which its
/// signature is wrong; ours passes it on as it came. Of all scenarios, so no row of the table.
fn with_whole_timestamps(steps: &mut [Step]) {
    let said: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Say(Peer::Validator(_), text) => Some(text.clone()),
            _ => None,
        })
        .collect();
    for step in steps {
        let Step::Hear(Peer::Executor(_), text) = step else {
            continue;
        };
        let mut heard: serde_json::Value = serde_json::from_str(text).unwrap();
        if heard["message_type"] != "V0InitialJobRequest" {
            continue;
        }
        let whole = said.iter().find_map(|text| {
            let said: serde_json::Value = serde_json::from_str(text).ok()?;
            let payload = said.get("job_started_receipt_payload")?;
            (said["job_uuid"] == heard["job_uuid"]).then(|| payload["timestamp"].clone())
        });
        heard["job_started_receipt_payload"]["timestamp"] = whole.unwrap();
        *text = heard.to_string();
    }
}

/// The second before the transcripts begin: that of their first authentication in time.
const TRANSCRIPTS_BEGIN: i64 = 1_795_339_009;

/// The scenario that was recorded with other executors than the rest.
const OTHER_EXECUTORS: &str = "manifest follows the executor manager";

#[tokio::test]
async fn the_transcripts_of_the_reference_replay_but_for_the_differences_in_the_table() {
    let now = OffsetDateTime::from_unix_timestamp(TRANSCRIPTS_BEGIN).unwrap();
    let mut stage = Stage::start("always_on.llm.a6000=1", "203.0.113.9", now, false).await;
    let mut used = BTreeSet::new();
    for mut script in transcripts() {
        with_whole_timestamps(&mut script.steps);
        used.extend(adapt(&mut script));
        if script.name == OTHER_EXECUTORS {
            let executors = "always_on.llm.a6000=2,spin_up-4min.gpu-24gb=1,always_on.test=0";
            let mut stage = Stage::start(executors, "203.0.113.9", now, false).await;
            stage.play(&script.name, &script.steps).await;
        } else {
            stage.play(&script.name, &script.steps).await;
        }
    }
    // Those of the traces are looked for there.
    for names in TRACES {
        used.extend(adapt(&mut trace(names)));
    }
    for (row, difference) in DIFFERENCES.iter().enumerate() {
        let Difference { scenario, why, .. } = difference;
        assert!(
            used.contains(&row),
            "no scenario has this difference: {scenario} ({why})"
        );
    }
}

/// The recorded traces; two that were made at the same time are one script.
const TRACES: &[&[&str]] = &[
    &["badauth"],
    &["busy-first", "busy"],
    &["garbage"],
    &["job-failed"],
    &["mainhotkey"],
    &["oldauth"],
    &["organic"],
    &["organic-via-nginx"],
    &["refvalidator"],
    &["refvalidator-sdk2"],
    &["streaming"],
    &["unknown"],
];

#[tokio::test]
async fn the_traces_of_the_reference_replay() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/traces");
    let recorded = std::fs::read_dir(folder)
        .unwrap()
        .filter(|file| {
            let name = file.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("miner-validator-")
        })
        .count();
    assert_eq!(recorded, TRACES.iter().map(|names| names.len()).sum::<usize>());
    for names in TRACES {
        let mut script = trace(names);
        adapt(&mut script);
        let began = script.steps.iter().find_map(|step| match step {
            Step::Say(_, text) => serde_json::from_str::<serde_json::Value>(text).ok()?["timestamp"].as_i64(),
            _ => None,
        });
        let now = OffsetDateTime::from_unix_timestamp(began.unwrap()).unwrap();
        let mut stage = Stage::start("always_on.llm.a6000=1", ADDRESS, now, true).await;
        stage.play(&script.name, &script.steps).await;
    }
}
