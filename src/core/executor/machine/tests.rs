//! What the machine answers, event by event.

use indexmap::IndexMap;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::*;
use crate::core::proto::job::{ArtifactVerdict, JobCancel};

fn initial(change: impl FnOnce(&mut Value)) -> Event {
    let job = "e4227db4-f18c-4ed9-8c9b-a74762c585f6";
    let mut message = json!({
        "message_type": "V0InitialJobRequest", "job_uuid": job, "executor_class": "always_on.test",
        "docker_image": null, "timeout_seconds": null, "volume": null,
        "job_started_receipt_payload": {
            "receipt_type": "JobStartedReceipt", "job_uuid": job, "miner_hotkey": "m", "validator_hotkey": "v",
            "timestamp": "2026-11-22T08:58:34.647364Z", "executor_class": "always_on.test", "is_organic": true,
            "ttl": 30,
        },
        "job_started_receipt_signature": "0x00", "streaming_details": null,
        "executor_timing": {
            "allowed_leeway": 2, "download_time_limit": 3, "execution_time_limit": 4, "upload_time_limit": 5,
            "streaming_start_time_limit": 6,
        },
    });
    change(&mut message);
    Event::Message(Box::new(Down::decode(&message.to_string()).unwrap()))
}

fn full(change: impl FnOnce(&mut Value)) -> Event {
    let mut message = json!({
        "message_type": "V0JobRequest", "job_uuid": "e4227db4-f18c-4ed9-8c9b-a74762c585f6",
        "executor_class": "always_on.test", "docker_image": "bb:1", "docker_run_options_preset": "none",
        "docker_run_cmd": ["echo"],
    });
    change(&mut message);
    Event::Message(Box::new(Down::decode(&message.to_string()).unwrap()))
}

fn ended(exit_code: i64) -> Event {
    let streams = Streams {
        stdout: "out".to_owned(),
        stderr: "err".to_owned(),
    };
    Event::Exited(Ok(Ended {
        exit_code,
        streams,
        shortfall: None,
    }))
}

fn machine(now: Instant) -> Machine {
    Machine::new(now, Duration::from_secs(5), "ws://m")
}

fn kinds(effects: &[Effect]) -> Vec<&'static str> {
    let kind = |effect: &Effect| match effect {
        Effect::Send(message) => message.message_type(),
        Effect::Prepare { .. } => "prepare",
        Effect::OpenStream { .. } => "open stream",
        Effect::Create(_) => "create",
        Effect::Fetch(_) => "fetch",
        Effect::Start => "start",
        Effect::Stop(Signal::Term) => "term",
        Effect::Stop(Signal::Kill) => "kill",
        Effect::Remove => "remove",
        Effect::Upload { .. } => "upload",
        Effect::End(_) => "end",
    };
    effects.iter().map(kind).collect()
}

fn report(effects: &[Effect]) -> Value {
    let mut reports = effects.iter().filter_map(|effect| {
        let Effect::Send(message) = effect else {
            return None;
        };
        serde_json::from_str(&message.encode()).ok()
    });
    reports.next_back().unwrap_or_default()
}

fn cancel() -> Event {
    let job_uuid = JobId::new("e4227db4-f18c-4ed9-8c9b-a74762c585f6");
    Event::Message(Box::new(JobCancel { job_uuid }.into()))
}

/// Brings a machine into the state that follows so many steps of an ordinary job.
fn after(steps: usize, now: Instant) -> Machine {
    let mut machine = machine(now);
    let ordinary = [
        initial(|_| {}),
        Event::Prepared(Ok(())),
        full(|_| {}),
        Event::Fetched(Ok(())),
        ended(0),
        Event::Gone(Ok(())),
        Event::Uploaded(Ok(Results::default())),
    ];
    for event in ordinary.into_iter().take(steps) {
        machine.on(now, event);
    }
    machine
}

#[test]
fn an_ordinary_job_goes_through_all_stages_and_is_reported_once() {
    let now = Instant::now();
    let mut machine = machine(now);
    let mut step = |event| kinds(&machine.on(now, event));
    assert_eq!(step(initial(|_| {})), ["prepare"]);
    assert_eq!(step(Event::Prepared(Ok(()))), ["V0ExecutorReadyRequest"]);
    assert_eq!(step(full(|_| {})), ["create", "fetch"]);
    assert_eq!(step(Event::Fetched(Ok(()))), ["V0VolumesReadyRequest", "start"]);
    assert_eq!(step(ended(0)), ["V0ExecutionDoneRequest", "upload", "remove"]);
    assert_eq!(step(Event::Gone(Ok(()))), [""; 0]);
    assert_eq!(
        step(Event::Uploaded(Ok(Results::default()))),
        ["V0JobFinishedRequest", "end"]
    );
    assert_eq!(step(Event::LinkLost), [""; 0]);
}

#[test]
fn one_deadline_grows_by_stage_and_keeps_what_was_saved() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut machine = after(1, start);
    assert_eq!(machine.deadline(), Some(at(5)));
    machine.on(at(1), Event::Prepared(Ok(())));
    assert_eq!(machine.deadline(), Some(at(1 + 2 + 3)));
    machine.on(at(2), full(|_| {}));
    machine.on(at(3), Event::Fetched(Ok(())));
    // The slack, here 2 s, is kept for the report.
    assert_eq!(machine.deadline(), Some(at(1 + 3 + 4)));
    assert_eq!(kinds(&machine.on(at(7), Event::Tick)), [""; 0]);
    machine.on(at(7), ended(0));
    assert_eq!(machine.deadline(), Some(at(1 + 2 + 3 + 4 + 5)));
    machine.on(at(9), Event::Gone(Ok(())));
    let effects = machine.on(at(15), Event::Tick);
    assert_eq!(report(&effects)["message"], "Upload time exceeded");
    assert_eq!(report(&effects)["docker_process_exit_status"], 0);
    assert_eq!(report(&effects)["docker_process_stdout"], "out");
    assert_eq!(machine.deadline(), None);
}

#[test]
fn a_job_of_the_legacy_kind_has_one_limit() {
    let start = Instant::now();
    let mut machine = machine(start);
    machine.on(
        start,
        initial(|message| {
            message["executor_timing"] = json!(null);
            message["timeout_seconds"] = json!(20);
        }),
    );
    machine.on(start, Event::Prepared(Ok(())));
    machine.on(start, full(|_| {}));
    machine.on(start, Event::Fetched(Ok(())));
    assert_eq!(machine.deadline(), Some(start + Duration::from_secs(18)));
}

#[test]
fn absurd_limits_neither_panic_nor_end_the_job() {
    for limit in [i64::MIN, -1, 0, i64::MAX] {
        let now = Instant::now();
        let mut machine = machine(now);
        machine.on(
            now,
            initial(|message| {
                for limits in message["executor_timing"].as_object_mut().unwrap().values_mut() {
                    *limits = json!(limit);
                }
            }),
        );
        assert_eq!(
            kinds(&machine.on(now, Event::Prepared(Ok(())))),
            ["V0ExecutorReadyRequest"]
        );
        assert!(machine.deadline().unwrap() >= now);
    }
}

#[test]
fn a_container_over_its_time_is_asked_then_killed_and_reported_with_its_streams_once_it_is_gone() {
    let now = Instant::now();
    let late = now + Duration::from_secs(60);
    for (signals, exit_code) in [(1, 143), (2, 137)] {
        let mut machine = after(4, now);
        let mut at = late;
        for word in ["term", "kill"].into_iter().take(signals) {
            assert_eq!(kinds(&machine.on(at, Event::Tick)), [word]);
            assert_eq!(kinds(&machine.on(at, Event::Tick)), [""; 0]);
            at += STOP_GRACE;
        }
        assert_eq!(kinds(&machine.on(at, ended(exit_code))), ["remove"]);
        let effects = machine.on(at, Event::Gone(Ok(())));
        let report = report(&effects);
        assert_eq!(kinds(&effects), ["V0JobFailedRequest", "end"]);
        assert_eq!(
            (&report["reason"], &report["stage"]),
            (&json!("timeout"), &json!("execution"))
        );
        assert_eq!(report["docker_process_exit_status"], json!(null));
        assert_eq!(report["docker_process_stdout"], "out");
        assert_eq!(report["context"]["container_exit_status"], exit_code);
    }
}

#[test]
fn a_job_that_ran_short_says_of_what_and_keeps_the_wires_words_first() {
    let shortfall = |certain: Option<&str>| Shortfall {
        certain: certain.map(str::to_owned),
        context: Context::from_iter([("limit".to_owned(), json!("memory"))]),
    };
    let now = Instant::now();
    let ended = |shortfall| {
        Event::Exited(Ok(Ended {
            exit_code: 137,
            streams: Streams::default(),
            shortfall,
        }))
    };
    for (certain, message) in [
        (
            Some("the job ran out of memory"),
            "Job container exited with non-zero exit code: 137: the job ran out of memory",
        ),
        (None, "Job container exited with non-zero exit code: 137"),
    ] {
        let mut machine = after(4, now);
        let mut effects = machine.on(now, ended(Some(shortfall(certain))));
        effects.extend(machine.on(now, Event::Gone(Ok(()))));
        let report = report(&effects);
        assert_eq!(report["message"], message);
        assert_eq!(report["reason"], "nonzero_return_code");
        assert_eq!(report["context"], json!({ "limit": "memory" }));
    }
    let mut machine = after(4, now);
    let denied = Fault::Denied {
        detail: "no".to_owned(),
        shortfall: Box::new(shortfall(None)),
    };
    let mut effects = machine.on(now, Event::Exited(Err(denied)));
    effects.extend(machine.on(now, Event::Gone(Ok(()))));
    let report = report(&effects);
    assert_eq!(report["reason"], "unhandled_exception");
    assert_eq!(report["context"]["limit"], "memory");
    assert_eq!(report["context"]["detail"], "no");
}

#[test]
fn a_container_that_cannot_be_killed_is_reported_as_soon_as_it_is_gone() {
    let now = Instant::now();
    let mut machine = after(4, now);
    let mut at = now + Duration::from_secs(60);
    machine.on(at, Event::Tick);
    at += STOP_GRACE;
    machine.on(at, Event::Tick);
    at += STOP_PATIENCE;
    assert_eq!(kinds(&machine.on(at, Event::Tick)), ["remove"]);
    let effects = machine.on(at, Event::Gone(Ok(())));
    assert_eq!(report(&effects)["message"], "Execution time exceeded");
    assert_eq!(report(&effects)["docker_process_stdout"], json!(null));
}

#[test]
fn whatever_a_container_that_cannot_be_removed_did_it_is_a_failure_of_ours() {
    let now = Instant::now();
    let late = now + Duration::from_secs(3600);
    let stuck = || Event::Gone(Err("busy".to_owned()));
    let done = || Event::Uploaded(Ok(Results::default()));
    let fault = || Event::Fetched(Err(Fault::Job("bad".to_owned())));
    for (steps, events, withheld) in [
        (3, vec![fault(), stuck()], "V0JobFailedRequest"),
        (4, vec![ended(3), stuck()], "V0JobFailedRequest"),
        (5, vec![done(), stuck()], "V0JobFinishedRequest"),
        (5, vec![stuck(), done()], "V0JobFinishedRequest"),
        (5, vec![done(), Event::Tick], "V0JobFinishedRequest"),
    ] {
        let mut machine = after(steps, now);
        let effects: Vec<_> = events
            .into_iter()
            .flat_map(|event| {
                let at = if matches!(event, Event::Tick) { late } else { now };
                machine.on(at, event)
            })
            .collect();
        let report = report(&effects);
        assert_eq!(report["message_type"], "V0HordeFailedRequest");
        assert_eq!(report["context"]["withheld"], withheld);
        assert_eq!(effects.last(), Some(&Effect::End(Outcome::ContainerLeft)));
    }
}

#[test]
fn a_report_that_waits_for_the_container_is_not_hurried_by_a_stop_but_lost_with_the_link() {
    let now = Instant::now();
    let mut machine = after(4, now);
    assert_eq!(kinds(&machine.on(now, ended(3))), ["remove"]);
    assert_eq!(kinds(&machine.on(now, Event::StopAsked)), [""; 0]);
    let effects = machine.on(now, Event::LinkLost);
    assert_eq!(effects, [Effect::End(Outcome::LinkLost)]);
}

#[test]
fn a_volume_may_come_with_either_request_but_not_with_both() {
    let volume = || json!({ "volume_type": "inline", "contents": "" });
    for (first, second) in [(true, false), (false, true), (true, true)] {
        let now = Instant::now();
        let mut machine = machine(now);
        let give = |is_given: bool, message: &mut Value| {
            if is_given {
                message["volume"] = volume();
            }
        };
        machine.on(now, initial(|message| give(first, message)));
        machine.on(now, Event::Prepared(Ok(())));
        let effects = machine.on(now, full(|message| give(second, message)));
        if first && second {
            assert_eq!(report(&effects)["message"], "Received multiple volumes");
            assert_eq!(report(&effects)["context"]["stage"], "volume_download");
        } else {
            assert!(
                matches!(effects.last(), Some(Effect::Fetch(Some(_)))),
                "{effects:?}"
            );
        }
    }
}

#[test]
fn an_order_that_comes_while_preparing_waits_for_its_turn() {
    let now = Instant::now();
    let mut machine = after(1, now);
    assert_eq!(kinds(&machine.on(now, full(|_| {}))), [""; 0]);
    let effects = machine.on(now, Event::Prepared(Ok(())));
    assert_eq!(kinds(&effects), ["V0ExecutorReadyRequest", "create", "fetch"]);
}

#[test]
fn an_order_out_of_turn_is_answered_and_changes_nothing() {
    let now = Instant::now();
    let mut fresh = machine(now);
    assert_eq!(kinds(&fresh.on(now, full(|_| {}))), ["GenericError"]);
    for steps in 1..=5 {
        let mut machine = after(steps, now);
        let before = machine.deadline();
        assert_eq!(
            kinds(&machine.on(now, initial(|_| {}))),
            ["GenericError"],
            "{steps}"
        );
        let other = full(|message| message["job_uuid"] = json!("another"));
        assert_eq!(kinds(&machine.on(now, other)), ["GenericError"], "{steps}");
        if steps > 2 {
            assert_eq!(kinds(&machine.on(now, full(|_| {}))), ["GenericError"], "{steps}");
        }
        assert_eq!(machine.deadline(), before);
    }
}

fn streaming_initial() -> Event {
    let golden: Value =
        serde_json::from_str(include_str!("../../../../tests/golden/streaming_tls.json")).unwrap();
    let pem = golden["certificates"][0]["certificate_pem"].clone();
    initial(|message| {
        message["streaming_details"] = json!({ "public_key": pem, "executor_ip": "203.0.113.7" });
    })
}

fn server() -> Event {
    Event::Streaming(Ok(StreamServer {
        certificate: "CERT".to_owned(),
        port: 6006,
    }))
}

/// Brings a machine with a streaming job to where its container runs.
fn streaming(now: Instant) -> Machine {
    let mut machine = machine(now);
    for event in [
        streaming_initial(),
        Event::Prepared(Ok(())),
        full(|_| {}),
        Event::Fetched(Ok(())),
    ] {
        machine.on(now, event);
    }
    machine
}

/// Returns what a streaming job's executor reports in the end, after an event of its own.
fn report_after(machine: &mut Machine, now: Instant, event: Event) -> Value {
    machine.on(now, event);
    report(&machine.on(now, Event::Gone(Ok(()))))
}

#[test]
fn a_streaming_job_is_announced_and_has_the_time_for_its_start_besides() {
    let now = Instant::now();
    let effects = machine(now).on(now, streaming_initial());
    assert_eq!(kinds(&effects), ["prepare", "open stream"]);
    let mut machine = streaming(now);
    assert_eq!(machine.deadline(), Some(now + Duration::from_secs(3 + 4 + 6)));
    let effects = machine.on(now, server());
    assert_eq!(
        report(&effects),
        json!({
            "message_type": "V0StreamingJobReadyRequest", "job_uuid": "e4227db4-f18c-4ed9-8c9b-a74762c585f6",
            "executor_token": null, "public_key": "CERT", "ip": null, "port": 6006, "miner_signature": null,
        })
    );
    assert_eq!(
        kinds(&machine.on(now, ended(0))),
        ["V0ExecutionDoneRequest", "upload", "remove"]
    );
}

#[test]
fn a_clients_certificate_that_is_none_fails_the_stream_at_once() {
    let now = Instant::now();
    let event = initial(|message| message["streaming_details"] = json!({ "public_key": "PEM" }));
    let effects = machine(now).on(now, event);
    let report = report(&effects);
    assert_eq!(report["reason"], "streaming_failed");
    assert_eq!(
        report["message"],
        "Failed to start streaming: the client's certificate is not PEM"
    );
    assert_eq!(report["context"]["stage"], "executor_startup");
    assert_eq!(kinds(&effects), ["V0HordeFailedRequest", "end"]);
}

#[test]
fn a_job_that_does_not_become_healthy_is_killed_and_reported_with_its_streams() {
    let now = Instant::now();
    let mut machine = streaming(now);
    let unhealthy = StreamFault::Unhealthy("nothing listens".to_owned());
    assert_eq!(
        kinds(&machine.on(now, Event::Streaming(Err(unhealthy)))),
        ["term"]
    );
    let report = report_after(&mut machine, now, ended(137));
    assert_eq!(report["reason"], "timeout");
    assert_eq!(report["message"], "Streaming job health check failed");
    assert_eq!(report["context"]["error"], "nothing listens");
    assert_eq!(report["docker_process_stdout"], "out");
}

#[test]
fn a_streaming_job_that_ends_before_it_was_ready_has_failed() {
    let now = Instant::now();
    let report_of = |exit_code| report_after(&mut streaming(now), now, ended(exit_code));
    let early = report_of(0);
    assert_eq!(early["message"], "Streaming job health check failed");
    assert_eq!(
        (&early["reason"], &early["docker_process_exit_status"]),
        (&json!("timeout"), &json!(0))
    );
    assert_eq!(report_of(3)["reason"], "nonzero_return_code");
}

#[test]
fn a_way_in_that_breaks_fails_the_job_in_every_stage_before_its_end() {
    let fault = || Event::Streaming(Err(StreamFault::Setup("why".to_owned())));
    let now = Instant::now();
    let mut broken = streaming(now);
    broken.on(now, server());
    let report = report_after(&mut broken, now, fault());
    assert_eq!(report["reason"], "streaming_failed");
    assert_eq!(report["message"], "Failed to start streaming: why");
    assert_eq!(report["context"]["stage"], "execution");
    let mut done = streaming(now);
    done.on(now, server());
    done.on(now, ended(0));
    assert_eq!(kinds(&done.on(now, fault())), [""; 0]);
}

#[test]
fn every_fault_is_reported_with_its_stage() {
    let cases = [
        (
            1,
            Fault::NoImage("x".to_owned()),
            "generic_error",
            "executor_startup",
        ),
        (
            1,
            Fault::Refused("x".to_owned()),
            "generic_error",
            "executor_startup",
        ),
        (
            3,
            Fault::Job("x".to_owned()),
            "download_failed",
            "volume_download",
        ),
        (
            4,
            Fault::NoImage("x".to_owned()),
            "unhandled_exception",
            "execution",
        ),
        (5, Fault::Job("x".to_owned()), "upload_failed", "result_upload"),
        (
            5,
            Fault::Ours {
                kind: "OSError",
                detail: "x".to_owned(),
            },
            "unhandled_exception",
            "result_upload",
        ),
    ];
    for (steps, fault, reason, stage) in cases {
        let now = Instant::now();
        let event = match steps {
            1 => Event::Prepared(Err(fault)),
            3 => Event::Fetched(Err(fault)),
            4 => Event::Exited(Err(fault)),
            _ => Event::Uploaded(Err(fault)),
        };
        let mut machine = after(steps, now);
        let mut effects = machine.on(now, event);
        if steps > 2 && steps < 6 {
            effects.extend(machine.on(now, Event::Gone(Ok(()))));
        }
        let report = report(&effects);
        let told = if report["stage"].is_null() {
            &report["context"]["stage"]
        } else {
            &report["stage"]
        };
        assert_eq!((&report["reason"], told), (&json!(reason), &json!(stage)));
    }
}

#[test]
fn results_too_long_for_a_frame_are_a_failed_upload() {
    let now = Instant::now();
    let uploads = IndexMap::from_iter([("k".to_owned(), "x".repeat(FRAME_BYTES_MAX))]);
    let results = Results {
        uploads,
        ..Results::default()
    };
    let effects = after(6, now).on(now, Event::Uploaded(Ok(results)));
    assert_eq!(report(&effects)["reason"], "upload_failed");
}

#[test]
fn what_was_left_out_is_told_before_the_report() {
    let now = Instant::now();
    let verdict = ArtifactVerdict {
        path: "/artifacts/big".to_owned(),
        verdict: "too_large".to_owned(),
    };
    for (verdicts, more, told) in [
        (vec![verdict], 0, true),
        (Vec::new(), 1, true),
        (Vec::new(), 0, false),
    ] {
        let results = Results {
            verdicts,
            more,
            ..Results::default()
        };
        let effects = after(6, now).on(now, Event::Uploaded(Ok(results)));
        let kinds = kinds(&effects);
        assert_eq!(
            kinds.first() == Some(&"V0ArtifactVerdictsRequest"),
            told,
            "{kinds:?}"
        );
        assert_eq!(
            kinds.contains(&"V0JobFinishedRequest") && !told,
            kinds.first() == Some(&"V0JobFinishedRequest")
        );
    }
}

#[test]
fn the_machines_description_is_told_right_before_a_success_and_not_before_a_failure() {
    let now = Instant::now();
    let described = || Event::Described(Context::from_iter([("os".to_owned(), json!("Debian"))]));
    for is_success in [true, false] {
        let mut machine = after(6, now);
        assert_eq!(machine.on(now, described()), []);
        let result = if is_success {
            Ok(Results::default())
        } else {
            Err(Fault::Job("no".to_owned()))
        };
        let mut effects = machine.on(now, Event::Uploaded(result));
        effects.extend(machine.on(now, Event::Gone(Ok(()))));
        let kinds = kinds(&effects);
        let told = kinds.iter().position(|kind| *kind == "V0MachineSpecsRequest");
        let finished = kinds.iter().position(|kind| *kind == "V0JobFinishedRequest");
        assert_eq!(told.is_some(), is_success, "{kinds:?}");
        assert_eq!(finished.is_some(), is_success, "{kinds:?}");
        assert!(told <= finished, "{kinds:?}");
    }
}

/// Plays random events in random order, with random pauses, and counts the ends.
#[test]
fn every_play_ends_in_exactly_one_outcome_with_at_most_one_report() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut machine = machine(now);
        let (mut ends, mut reports, mut is_there) = (0, 0, false);
        for turn in 0..60 {
            now += Duration::from_millis(random.random_range(0..3000));
            let fault = || Fault::Ours {
                kind: "OSError",
                detail: String::new(),
            };
            let event = match random.random_range(0..21) {
                0 => initial(|_| {}),
                1 | 2 => full(|_| {}),
                3 | 4 => Event::Prepared(Ok(())),
                5 => Event::Prepared(Err(fault())),
                6 | 7 => Event::Fetched(Ok(())),
                8 => Event::Fetched(Err(Fault::Job(String::new()))),
                9 => ended(random.random_range(0..2)),
                10 => Event::Exited(Err(fault())),
                11 => Event::Uploaded(Ok(Results::default())),
                12 => Event::Malformed {
                    text: "{".to_owned(),
                    error: "no".to_owned(),
                },
                13 => Event::Gone(Err("busy".to_owned())),
                14 | 15 => Event::Gone(Ok(())),
                16 => streaming_initial(),
                17 => server(),
                18 => Event::Streaming(Err(StreamFault::Unhealthy(String::new()))),
                19 => cancel(),
                _ => Event::Tick,
            };
            let event = if turn == 59 { Event::LinkLost } else { event };
            is_there &= !matches!(event, Event::Gone(_));
            let effects = machine.on(now, event);
            is_there |= kinds(&effects).contains(&"create");
            ends += effects
                .iter()
                .filter(|effect| matches!(effect, Effect::End(_)))
                .count();
            let is_report = |kind: &&str| {
                [
                    "V0JobFinishedRequest",
                    "V0JobFailedRequest",
                    "V0HordeFailedRequest",
                ]
                .contains(kind)
            };
            let told = kinds(&effects).iter().filter(|kind| is_report(kind)).count();
            let is_given_up = effects.contains(&Effect::End(Outcome::ContainerLeft));
            assert!(told == 0 || !is_there || is_given_up, "seed {seed}: {effects:?}");
            reports += told;
        }
        assert_eq!(ends, 1, "seed {seed}");
        assert!(reports <= 1, "seed {seed}");
    }
}

#[test]
fn a_cancelled_job_is_reported_as_such_once_nothing_of_it_runs() {
    let now = Instant::now();
    // How far it was, what is done at once, and the stage that is told.
    for (steps, at_once, stage) in [
        (1, &["V0JobFailedRequest", "end"][..], "executor_startup"),
        (2, &["V0JobFailedRequest", "end"], "volume_download"),
        (3, &["remove"], "volume_download"),
        (4, &["term"], "execution"),
        (5, &[], "result_upload"),
    ] {
        let mut machine = after(steps, now);
        let mut effects = machine.on(now, cancel());
        assert_eq!(kinds(&effects), at_once, "{steps} steps");
        assert_eq!(kinds(&machine.on(now, cancel())), [""; 0], "said again");
        if steps == 4 {
            effects = machine.on(now, ended(143));
            assert_eq!(kinds(&effects), ["remove"]);
        }
        if steps > 2 {
            effects = machine.on(now, Event::Gone(Ok(())));
            assert_eq!(kinds(&effects), ["V0JobFailedRequest", "end"], "{steps} steps");
        }
        let report = report(&effects);
        assert_eq!(report["message"], "cancelled by the user");
        assert_eq!(
            (&report["reason"], &report["stage"]),
            (&json!("unknown"), &json!(stage))
        );
        assert_eq!(report["context"]["cancelled"], true);
        let stdout = if steps > 3 { json!("out") } else { Value::Null };
        assert_eq!(report["docker_process_stdout"], stdout, "{steps} steps");
        assert!(effects.contains(&Effect::End(Outcome::Failed)));
    }
}

#[test]
fn a_cancelled_container_that_ignores_it_is_killed_and_one_that_stays_is_a_failure_of_ours() {
    let now = Instant::now();
    let mut machine = after(4, now);
    machine.on(now, cancel());
    let later = now + STOP_GRACE;
    assert_eq!(kinds(&machine.on(later, Event::Tick)), ["kill"]);
    machine.on(later, ended(137));
    let effects = machine.on(later, Event::Gone(Err("busy".to_owned())));
    assert_eq!(kinds(&effects), ["V0HordeFailedRequest", "end"]);
    assert_eq!(report(&effects)["context"]["withheld"], "V0JobFailedRequest");
}

#[test]
fn a_job_over_its_time_or_of_another_name_is_not_cancelled() {
    let start = Instant::now();
    let mut machine = after(4, start);
    let late = machine.deadline().unwrap();
    assert_eq!(kinds(&machine.on(late, Event::Tick)), ["term"]);
    assert_eq!(kinds(&machine.on(late, cancel())), [""; 0]);
    machine.on(late, ended(143));
    let effects = machine.on(late, Event::Gone(Ok(())));
    assert_eq!(report(&effects)["message"], "Execution time exceeded");
    let job_uuid = JobId::new("other");
    let other = Event::Message(Box::new(JobCancel { job_uuid }.into()));
    assert_eq!(kinds(&after(4, start).on(start, other)), ["GenericError"]);
    assert_eq!(
        kinds(&after(0, start).on(start, cancel())),
        [""; 0],
        "nothing is known yet"
    );
}
