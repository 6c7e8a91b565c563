//! Every path of a job, without a socket or a clock.

use serde_json::{Value, json};

use super::*;

const JOB: &str = "2a91e0a0-deec-4c8a-b3ac-777a6afbbbb9";

fn limits() -> Limits {
    Limits {
        reservation: Duration::from_secs(7),
        startup: Duration::from_secs(5),
        leeway: Duration::from_secs(5),
        whole: Duration::from_secs(600),
    }
}

fn request(job: &str, streaming: bool) -> JobRequest {
    let streaming = streaming.then(|| json!({"public_key": "PEM", "executor_ip": null}));
    serde_json::from_value(json!({
        "uuid": job, "executor_class": "always_on.llm.a6000", "docker_image": "image", "args": ["echo"], "env": {},
        "volume": {"volume_type": "inline", "contents": "UEs="},
        "download_time_limit": 10, "execution_time_limit": 20, "upload_time_limit": 30,
        "streaming_start_time_limit": 40, "streaming_details": streaming,
    }))
    .unwrap()
}

/// A job whose time is moved by hand.
struct Play {
    machine: Machine,
    now: Now,
}

impl Play {
    fn of(request: JobRequest) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: OffsetDateTime::UNIX_EPOCH,
        };
        let machine = Machine::new(request, limits(), now);
        Self { machine, now }
    }

    fn new() -> Self {
        Self::of(request(JOB, false))
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
    }

    fn does(&mut self, event: Event) -> Vec<Effect> {
        self.machine.handle(self.now, event)
    }

    fn hears(&mut self, message: &Value) -> Vec<Effect> {
        self.does(Event::Message(Up::decode(&message.to_string()).unwrap()))
    }

    fn hears_type(&mut self, kind: &str) -> Vec<Effect> {
        self.hears(&sample(kind))
    }

    /// Comes to the stage in which the job waits for the message of this type.
    fn waiting_for(kind: &str) -> Self {
        let mut play = Self::of(request(JOB, kind == "V0StreamingJobReadyRequest"));
        play.does(Event::Connected { cancels: true });
        for answered in ROAD.iter().take_while(|answer| **answer != kind) {
            play.hears_type(answered);
        }
        play
    }
}

/// The answers that a job waits for, in order.
const ROAD: [&str; 6] = [
    "V0AcceptJobRequest",
    "V0ExecutorReadyRequest",
    "V0VolumesReadyRequest",
    "V0StreamingJobReadyRequest",
    "V0ExecutionDoneRequest",
    "V0JobFinishedRequest",
];

/// Everything else that a miner may say.
const OTHERS: [&str; 10] = [
    "V0DeclineJobRequest",
    "V0JobFailedRequest",
    "V0HordeFailedRequest",
    "V0ExecutorFailedRequest",
    "V0StreamingJobNotReadyRequest",
    "V0MachineSpecsRequest",
    "V0ExecutorManifestRequest",
    "V0MainHotkeyMessage",
    "GenericError",
    "UnauthorizedError",
];

fn sample(kind: &str) -> Value {
    let mut message = match kind {
        "V0StreamingJobReadyRequest" => json!({"public_key": "CERT", "ip": "203.0.113.5", "port": 443}),
        "V0JobFinishedRequest" => json!({"docker_process_stdout": "out", "docker_process_stderr": "err"}),
        "V0DeclineJobRequest" => json!({"reason": "busy"}),
        "V0JobFailedRequest" => {
            json!({"reason": "nonzero_return_code", "stage": "execution", "message": "m"})
        }
        "V0HordeFailedRequest" => {
            json!({"reported_by": "miner", "reason": "executor_disconnected", "message": "m"})
        }
        "V0MachineSpecsRequest" => json!({"specs": {"specs": {}}}),
        "V0ExecutorManifestRequest" => json!({"manifest": {"always_on.llm.a6000": 1}}),
        "V0MainHotkeyMessage" => json!({"main_hotkey": null}),
        "GenericError" => json!({"details": "no"}),
        "UnauthorizedError" => json!({"code": "UNKNOWN_VALIDATOR"}),
        _ => json!({}),
    };
    message["message_type"] = kind.into();
    message["job_uuid"] = JOB.into();
    message
}

fn outcome(effects: &[Effect]) -> Option<Outcome> {
    let mut ends = effects.iter().filter_map(|effect| match effect {
        Effect::End(outcome) => Some(*outcome),
        _ => None,
    });
    let end = ends.next();
    assert!(ends.next().is_none(), "a job ends once");
    assert!(
        end.is_none() || matches!(effects.last(), Some(Effect::End(_))),
        "the end comes last"
    );
    end
}

/// The reported statuses with their metadata.
fn reports(effects: &[Effect]) -> Vec<(String, Value)> {
    let report = |effect: &Effect| match effect {
        Effect::Report { status, frame } => {
            let frame: Value = serde_json::from_str(frame).unwrap();
            assert_eq!(frame["message_type"], "V0JobStatusUpdate");
            assert_eq!(frame["status"], status.as_str());
            Some((status.as_str().to_owned(), frame["metadata"].clone()))
        }
        _ => None,
    };
    effects.iter().filter_map(report).collect()
}

fn the_report(effects: &[Effect]) -> (String, Value) {
    let mut reports = reports(effects);
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports.remove(0)
}

fn work(effects: &[Effect]) -> Option<&Work> {
    effects.iter().find_map(|effect| match effect {
        Effect::HandOverFinished(work) => Some(work),
        _ => None,
    })
}

/// The messages that effects put on the miner's wire.
fn sent(effects: &[Effect]) -> Vec<&'static str> {
    let sent = |effect: &Effect| match effect {
        Effect::Authenticate => Some("ValidatorAuthForMiner"),
        Effect::RequestExecutor { .. } => Some("V0InitialJobRequest"),
        Effect::HandOverAccepted { .. } => Some("V0JobAcceptedReceiptRequest"),
        Effect::SendOrder(_) => Some("V0JobRequest"),
        Effect::HandOverFinished(_) => Some("V0JobFinishedReceiptRequest"),
        Effect::Cancel => Some("H0JobCancel"),
        Effect::Report { .. }
        | Effect::RefuseCancel(_)
        | Effect::PassOutput(_)
        | Effect::Learn(_)
        | Effect::End(_) => None,
    };
    effects.iter().filter_map(sent).collect()
}

#[test]
fn recorded_sessions_of_the_reference_are_played_message_by_message() {
    for (trace, statuses) in [
        (
            include_str!("../../../../tests/golden/traces/miner-validator-organic.jsonl"),
            "accepted executor_ready volumes_ready execution_done completed",
        ),
        (
            include_str!("../../../../tests/golden/traces/miner-validator-organic-via-nginx.jsonl"),
            "accepted executor_ready volumes_ready execution_done completed",
        ),
        (
            include_str!("../../../../tests/golden/traces/miner-validator-streaming.jsonl"),
            "accepted executor_ready volumes_ready streaming_ready execution_done completed",
        ),
        (
            include_str!("../../../../tests/golden/traces/miner-validator-job-failed.jsonl"),
            "accepted executor_ready volumes_ready failed",
        ),
        (
            include_str!("../../../../tests/golden/traces/miner-validator-busy.jsonl"),
            "rejected",
        ),
    ] {
        let lines: Vec<Value> = trace
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let job = lines[1]["msg"]["job_uuid"].as_str().unwrap();
        let streaming = !lines[1]["msg"]["streaming_details"].is_null();
        let mut play = Play::of(request(job, streaming));
        let mut effects = play.does(Event::Connected { cancels: true });
        let mut theirs = Vec::new();
        for line in &lines {
            let kind = line["msg"]["message_type"].as_str().unwrap_or_default();
            match line["dir"].as_str().unwrap() {
                "validator->miner" => theirs.push(kind),
                "miner->validator" => {
                    assert_eq!(sent(&effects), theirs, "before {kind}");
                    effects.extend(play.hears(&line["msg"]));
                }
                _ => {}
            }
        }
        assert_eq!(sent(&effects), theirs);
        let told: Vec<_> = reports(&effects).into_iter().map(|(status, _)| status).collect();
        assert_eq!(told.join(" "), statuses);
    }
}

#[test]
fn every_stage_answers_every_event_and_ends_once() {
    let stages = ROAD.iter().map(|kind| Some(*kind)).chain([None]);
    for stage in stages {
        let events = (0..6)
            .map(Err)
            .chain(ROAD.iter().chain(&OTHERS).map(|kind| Ok(*kind)));
        for event in events {
            let mut play = stage.map_or_else(Play::new, Play::waiting_for);
            let event_of = |number| match number {
                0 => Event::Connected { cancels: true },
                1 => Event::Unreachable("x".to_owned()),
                2 => Event::Tick,
                3 => Event::Stopping,
                4 => asked(Some(true)),
                _ => Event::Broken("x".to_owned()),
            };
            let effects = match event {
                Ok(kind) => play.hears_type(kind),
                Err(number) => play.does(event_of(number)),
            };
            let ended = outcome(&effects).is_some();
            assert_eq!(ended, play.machine.stage == Stage::Over, "{stage:?} {event:?}");
            if ended {
                let connected = stage.is_some();
                assert_eq!(work(&effects).is_some(), connected, "{stage:?} {event:?}");
                for kind in ROAD.iter().chain(&OTHERS) {
                    assert_eq!(play.hears_type(kind), []);
                }
                assert_eq!(play.does(Event::Tick), []);
            } else {
                // What did not end it now does so in time.
                play.pass(600);
                assert!(outcome(&play.does(Event::Tick)).is_some(), "{stage:?} {event:?}");
            }
        }
    }
}

#[test]
fn each_wait_has_its_limit_and_its_reason() {
    for (kind, limit, reason) in [
        ("V0AcceptJobRequest", 7, "initial_response_timed_out"),
        (
            "V0ExecutorReadyRequest",
            30 + 5,
            "executor_readiness_response_timed_out",
        ),
        ("V0VolumesReadyRequest", 5 + 10, "volumes_timed_out"),
        (
            "V0StreamingJobReadyRequest",
            5 + 10 + 40,
            "streaming_job_ready_timed_out",
        ),
        ("V0ExecutionDoneRequest", 5 + 10 + 20, "execution_timed_out"),
        (
            "V0JobFinishedRequest",
            5 + 10 + 20 + 30,
            "final_response_timed_out",
        ),
    ] {
        let mut play = Play::waiting_for(kind);
        assert_eq!(
            play.machine.deadline() - play.now.instant,
            Duration::from_secs(limit),
            "{kind}"
        );
        play.pass(limit - 1);
        assert_eq!(play.does(Event::Tick), [], "{kind}");
        play.pass(1);
        let effects = play.does(Event::Tick);
        let expected = HordeReason::from_word(reason);
        assert_eq!(
            outcome(&effects),
            Some(Outcome::HordeFailed(Participant::Validator, expected))
        );
        let (status, metadata) = the_report(&effects);
        assert_eq!(
            status, "failed",
            "what the validator notices is reported as failed"
        );
        let details = &metadata["horde_failure_details"];
        assert_eq!(
            (&details["reported_by"], &details["reason"]),
            (&json!("validator"), &json!(reason))
        );
        assert!(work(&effects).unwrap().score.abs() < f64::EPSILON);
    }
}

#[test]
fn time_that_a_stage_leaves_unused_is_there_for_the_next() {
    let mut play = Play::waiting_for("V0VolumesReadyRequest");
    play.pass(1);
    play.hears_type("V0VolumesReadyRequest");
    assert_eq!(
        play.machine.deadline() - play.now.instant,
        Duration::from_secs(5 + 10 + 20 - 1)
    );
}

#[test]
fn the_limit_of_the_whole_job_is_a_failure_of_the_horde() {
    let mut slow = request(JOB, false);
    slow.execution_time_limit = i64::MAX;
    slow.download_time_limit = i64::MIN;
    let mut play = Play::of(slow);
    play.does(Event::Connected { cancels: true });
    for kind in ROAD.iter().take(3) {
        play.hears_type(kind);
    }
    play.pass(599);
    assert_eq!(play.does(Event::Tick), []);
    play.pass(1);
    let effects = play.does(Event::Tick);
    let (status, metadata) = the_report(&effects);
    assert_eq!(status, "horde_failed");
    assert_eq!(metadata["horde_failure_details"]["reason"], "unhandled_exception");
}

#[test]
fn answers_that_come_early_are_kept_and_taken_in_order() {
    let mut play = Play::new();
    play.does(Event::Connected { cancels: true });
    for kind in [
        "V0JobFinishedRequest",
        "V0ExecutionDoneRequest",
        "V0VolumesReadyRequest",
        "V0ExecutorReadyRequest",
    ] {
        assert_eq!(play.hears_type(kind), []);
    }
    let effects = play.hears_type("V0AcceptJobRequest");
    let told: Vec<_> = reports(&effects).into_iter().map(|(status, _)| status).collect();
    assert_eq!(
        told,
        [
            "accepted",
            "executor_ready",
            "volumes_ready",
            "execution_done",
            "completed"
        ]
    );
    assert_eq!(
        sent(&effects),
        [
            "V0JobAcceptedReceiptRequest",
            "V0JobRequest",
            "V0JobFinishedReceiptRequest"
        ]
    );
    assert_eq!(outcome(&effects), Some(Outcome::Completed));
}

#[test]
fn duplicates_and_messages_about_other_jobs_change_nothing() {
    let mut play = Play::waiting_for("V0VolumesReadyRequest");
    assert_eq!(play.hears_type("V0AcceptJobRequest"), []);
    assert_eq!(play.hears_type("V0ExecutorReadyRequest"), []);
    for kind in [
        "V0VolumesReadyRequest",
        "V0JobFailedRequest",
        "V0HordeFailedRequest",
        "V0DeclineJobRequest",
    ] {
        let mut other = sample(kind);
        other["job_uuid"] = "another".into();
        assert_eq!(play.hears(&other), []);
    }
    assert_eq!(
        the_report(&play.hears_type("V0VolumesReadyRequest")).0,
        "volumes_ready"
    );
}

#[test]
fn a_full_order_lost_with_its_connection_is_sent_again_when_asked_for() {
    let mut play = Play::waiting_for("V0VolumesReadyRequest");
    assert_eq!(
        sent(&play.does(Event::Connected { cancels: true })),
        ["ValidatorAuthForMiner"]
    );
    assert_eq!(sent(&play.hears_type("V0ExecutorReadyRequest")), ["V0JobRequest"]);
    assert_eq!(play.hears_type("V0ExecutorReadyRequest"), []);
    play.hears_type("V0VolumesReadyRequest");
    play.does(Event::Connected { cancels: true });
    assert_eq!(play.hears_type("V0ExecutorReadyRequest"), [], "the miner has it");
}

#[test]
fn the_messages_hold_what_the_wire_wants() {
    let mut play = Play::new();
    let effects = play.does(Event::Connected { cancels: true });
    assert_eq!(effects[1], Effect::RequestExecutor { ttl: 7 });
    let receipt = Signed {
        payload: serde_json::from_value(json!({
            "job_uuid": JOB, "miner_hotkey": "m", "validator_hotkey": "v", "timestamp": "2026-11-22T09:26:14Z",
            "executor_class": "always_on.llm.a6000", "is_organic": true, "ttl": 7,
        }))
        .unwrap(),
        signature: "0x00".to_owned(),
    };
    let message = play.machine.initial_job(receipt);
    assert_eq!(message.timeout_seconds, Some(300));
    assert!(message.volume.is_some());
    let timing = message.executor_timing.unwrap();
    assert_eq!(
        (timing.allowed_leeway, timing.streaming_start_time_limit),
        (5, 40)
    );

    let effects = play.hears_type("V0AcceptJobRequest");
    let ttl = 30 + 5 + 5 + 10 + 20 + 30 + 40;
    assert!(matches!(&effects[0], Effect::HandOverAccepted { ttl: given, .. } if *given == ttl));

    let effects = play.hears_type("V0ExecutorReadyRequest");
    let Effect::SendOrder(order) = &effects[0] else {
        panic!("{effects:?}");
    };
    assert_eq!(order.volume, None);
    assert_eq!(order.docker_run_options_preset, RunPreset::NvidiaAll);

    play.hears_type("V0VolumesReadyRequest");
    play.hears_type("V0ExecutionDoneRequest");
    play.pass(3);
    let effects = play.hears_type("V0JobFinishedRequest");
    let work = work(&effects).unwrap();
    assert!((work.score - 60.0).abs() < f64::EPSILON);
    assert_eq!(
        (work.started, work.took),
        (OffsetDateTime::UNIX_EPOCH, time::Duration::seconds(3))
    );
    let (status, metadata) = the_report(&effects);
    assert_eq!(status, "completed");
    assert_eq!(
        metadata,
        json!({
            "miner_response": {
                "docker_process_stderr": "err", "docker_process_stdout": "out",
                "artifacts": null, "upload_results": null,
            },
            "job_rejection_details": null, "job_failure_details": null, "horde_failure_details": null,
            "streaming_details": null,
        })
    );
}

#[test]
fn failures_of_the_miner_are_passed_on_as_they_are() {
    let mut play = Play::waiting_for("V0AcceptJobRequest");
    let effects = play.hears_type("V0DeclineJobRequest");
    let (status, metadata) = the_report(&effects);
    let details = &metadata["job_rejection_details"];
    assert_eq!(
        (status.as_str(), &details["rejected_by"], &details["reason"]),
        ("rejected", &json!("miner"), &json!("busy"))
    );
    assert!(!outcome(&effects).unwrap().blames_miner());

    let mut play = Play::waiting_for("V0ExecutionDoneRequest");
    let effects = play.hears_type("V0JobFailedRequest");
    let (status, metadata) = the_report(&effects);
    assert_eq!(
        (status.as_str(), &metadata["job_failure_details"]["stage"]),
        ("failed", &json!("execution"))
    );
    assert!(!outcome(&effects).unwrap().blames_miner());

    let mut play = Play::waiting_for("V0ExecutorReadyRequest");
    let effects = play.hears_type("V0HordeFailedRequest");
    let (status, metadata) = the_report(&effects);
    assert_eq!(
        (status.as_str(), &metadata["horde_failure_details"]["reported_by"]),
        ("horde_failed", &json!("miner"))
    );
    assert!(outcome(&effects).unwrap().blames_miner());
}

#[test]
fn an_unreachable_miner_gets_no_receipt_and_a_complaint_is_passed_on() {
    let mut play = Play::new();
    let effects = play.does(Event::Unreachable("refused".to_owned()));
    assert_eq!(work(&effects), None);
    let (status, metadata) = the_report(&effects);
    assert_eq!(
        (status.as_str(), &metadata["horde_failure_details"]["reason"]),
        ("failed", &json!("miner_connection_failed"))
    );

    let mut play = Play::waiting_for("V0AcceptJobRequest");
    play.hears_type("GenericError");
    play.pass(7);
    let (_, metadata) = the_report(&play.does(Event::Tick));
    assert_eq!(
        metadata["horde_failure_details"]["context"],
        json!({"miner_error": "no"})
    );
}

#[test]
fn results_that_the_facilitator_would_choke_on_fail_the_job_but_pay_the_miner() {
    let mut play = Play::waiting_for("V0JobFinishedRequest");
    let mut finished = sample("V0JobFinishedRequest");
    finished["docker_process_stdout"] = "x".repeat(FACILITATOR_FRAME_BYTES_MAX).into();
    let effects = play.hears(&finished);
    assert!(work(&effects).unwrap().score > 0.0);
    assert_eq!(the_report(&effects).0, "failed");

    let mut play = Play::waiting_for("V0ExecutionDoneRequest");
    let mut failed = sample("V0JobFailedRequest");
    failed["docker_process_stdout"] = "x".repeat(FACILITATOR_FRAME_BYTES_MAX).into();
    let (_, metadata) = the_report(&play.hears(&failed));
    assert_eq!(
        metadata["job_failure_details"]["docker_process_stdout"],
        Value::Null
    );
    assert_eq!(metadata["job_failure_details"]["reason"], "nonzero_return_code");
}

fn asked(cancels: Option<bool>) -> Event {
    Event::CancelAsked { cancels }
}

#[test]
fn a_cancelled_job_ends_with_what_its_miner_reports_and_blames_nobody() {
    let mut play = Play::waiting_for("V0ExecutionDoneRequest");
    assert_eq!(play.does(asked(Some(true))), [Effect::Cancel]);
    assert_eq!(play.does(asked(Some(true))), [], "said again");
    // On a new connection it is said again.
    assert_eq!(
        play.does(Event::Connected { cancels: true }),
        [Effect::Authenticate, Effect::Cancel]
    );
    let report = json!({"message_type": "V0JobFailedRequest", "job_uuid": JOB, "reason": "unknown",
        "stage": "execution", "message": "cancelled by the user", "docker_process_stdout": "so far",
        "context": {"cancelled": true}});
    let effects = play.hears(&report);
    assert_eq!(outcome(&effects), Some(Outcome::Cancelled));
    assert!(!Outcome::Cancelled.blames_miner());
    assert!(work(&effects).is_some(), "the finished receipt frees the slot");
    let (status, metadata) = the_report(&effects);
    assert_eq!(status, "failed");
    assert_eq!(metadata["job_failure_details"]["context"]["cancelled"], true);
    assert_eq!(metadata["job_failure_details"]["docker_process_stdout"], "so far");
    // Nobody asked: then a miner does not get away with it.
    let mut play = Play::waiting_for("V0ExecutionDoneRequest");
    let effects = play.hears(&report);
    assert!(outcome(&effects).unwrap().blames_miner());
    let (_, metadata) = the_report(&effects);
    assert_eq!(
        metadata["job_failure_details"]["context"]["cancelled"],
        Value::Null
    );
}

#[test]
fn a_job_that_ends_by_itself_before_its_cancelling_has_ended_as_it_did() {
    let mut play = Play::waiting_for("V0JobFinishedRequest");
    play.does(asked(Some(true)));
    let effects = play.hears_type("V0JobFinishedRequest");
    assert_eq!(outcome(&effects), Some(Outcome::Completed));
    assert_eq!(play.does(asked(Some(true))), []);
}

#[test]
fn a_job_that_has_not_reached_its_miner_is_cancelled_at_once() {
    let mut play = Play::new();
    let effects = play.does(asked(None));
    assert_eq!(outcome(&effects), Some(Outcome::Cancelled));
    assert!(work(&effects).is_none(), "nobody holds a receipt of it");
}

#[test]
fn a_job_that_its_miner_has_not_got_is_cancelled_by_its_word() {
    let unknown = |job: &str| {
        let error = crate::core::proto::job::GenericError::unknown_job("JobCancel", &JobId::new(job));
        Event::Message(Up::GenericError(error))
    };
    let mut play = Play::waiting_for("V0AcceptJobRequest");
    assert_eq!(play.does(unknown(JOB)), [], "nobody asked");
    play.does(asked(Some(true)));
    assert_eq!(play.does(unknown("other")), []);
    assert_eq!(outcome(&play.does(unknown(JOB))), Some(Outcome::Cancelled));
}

#[test]
fn a_miner_that_cannot_cancel_goes_on_and_the_user_is_told() {
    let mut play = Play::waiting_for("V0ExecutorReadyRequest");
    let refused = Effect::RefuseCancel(cancel::MINER_CANNOT.to_owned());
    assert_eq!(play.does(asked(Some(false))), std::slice::from_ref(&refused));
    assert_eq!(sent(&play.hears_type("V0ExecutorReadyRequest")), ["V0JobRequest"]);
    // Asked while the connection is lost, the job waits for what the next one knows.
    let mut play = Play::waiting_for("V0ExecutorReadyRequest");
    assert_eq!(play.does(asked(None)), []);
    assert_eq!(play.hears_type("V0ExecutorReadyRequest"), []);
    let effects = play.does(Event::Connected { cancels: false });
    assert_eq!(effects[1], refused);
    assert_eq!(sent(&effects), ["ValidatorAuthForMiner", "V0JobRequest"]);
}

#[test]
fn a_cancelled_job_whose_end_nobody_reports_does_not_count_as_cancelled() {
    let mut play = Play::waiting_for("V0ExecutionDoneRequest");
    play.does(asked(Some(true)));
    assert_eq!(play.machine.deadline() - play.now.instant, cancel::CANCEL_WITHIN);
    // Whatever limit of a stage passes meanwhile.
    play.pass(cancel::CANCEL_WITHIN.as_secs() - 1);
    assert_eq!(play.does(Event::Tick), []);
    play.pass(1);
    let effects = play.does(Event::Tick);
    let expected = Outcome::HordeFailed(Participant::Validator, HordeReason::FinalResponseTimedOut);
    assert_eq!(outcome(&effects), Some(expected));
}
