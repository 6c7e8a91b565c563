//! Cancelling and live output, between peers of our own and beside those of the reference.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::proto::job::{EXTENSION_CANCEL, EXTENSION_LOGS};

use super::*;

const OURS: &[&str] = &[EXTENSION_CANCEL, EXTENSION_LOGS];
const THEIRS: &[&str] = &[];

fn cancel() -> String {
    json!({"message_type": "H0JobCancel", "uuid": JOB}).to_string()
}

/// Brings a job to where it runs; returns what the miner has still to say.
async fn run(stage: &mut Stage, facilitator: &mut Talk) -> (Talk, [Value; 2]) {
    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    let [accept, ready, volumes, done, results] = script(ORGANIC).try_into().unwrap();
    miner.says(&accept.to_string()).await;
    miner.hears("V0JobAcceptedReceiptRequest").await;
    miner.says(&ready.to_string()).await;
    full(&mut miner).await;
    miner.says(&volumes.to_string()).await;
    facilitator.reports("accepted executor_ready volumes_ready").await;
    (miner, [done, results])
}

fn output(offset: u64, words: &str) -> String {
    json!({"message_type": "V0JobOutputRequest", "job_uuid": JOB, "stream": "stdout", "offset": offset,
        "data": STANDARD.encode(words)})
    .to_string()
}

fn ended(more: &Value) -> String {
    let mut ended = json!({"message_type": "V0JobFailedRequest", "job_uuid": JOB, "reason": "unknown",
        "stage": "execution", "message": "cancelled by the user", "docker_process_stdout": "so far"});
    ended["context"] = more.clone();
    ended.to_string()
}

#[tokio::test]
async fn a_cancelled_job_is_ended_by_its_miner_and_its_output_is_passed_on_until_then() {
    let mut stage = Stage::between(OURS, OURS).await;
    let mut facilitator = stage.start().await;
    let (mut miner, _) = run(&mut stage, &mut facilitator).await;
    miner.says(&output(0, "so ")).await;
    let piece = facilitator.hears("H0JobOutput").await;
    assert_eq!((&piece["uuid"], &piece["offset"]), (&json!(JOB), &json!(0)));
    assert_eq!(piece["data"], STANDARD.encode("so "));
    facilitator.says(&cancel()).await;
    let order = miner.hears("H0JobCancel").await;
    assert_eq!(order["job_uuid"], JOB);
    // Said again, it is not passed on again; what is passed on next is the end.
    facilitator.says(&cancel()).await;
    miner.says(&ended(&json!({"cancelled": true}))).await;
    let metadata = facilitator.reports("failed").await;
    let details = &metadata["job_failure_details"];
    assert_eq!(details["context"], json!({"cancelled": true}));
    assert_eq!(details["docker_process_stdout"], "so far");
    finished(&mut miner, "0.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_miner_of_the_reference_gets_no_new_frame_and_its_jobs_user_is_told() {
    let mut stage = Stage::between(OURS, THEIRS).await;
    let mut facilitator = stage.start().await;
    let (mut miner, [done, results]) = run(&mut stage, &mut facilitator).await;
    for _ in 0..2 {
        facilitator.says(&cancel()).await;
        let refused = facilitator.hears("H0JobCancelRefused").await;
        assert_eq!(refused["uuid"], JOB);
        assert!(
            refused["reason"].as_str().unwrap().contains("cannot cancel"),
            "{refused}"
        );
    }
    miner.says(&done.to_string()).await;
    miner.says(&results.to_string()).await;
    facilitator.reports("execution_done completed").await;
    // The next that it hears, and the last.
    finished(&mut miner, "35.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_facilitator_of_the_reference_gets_no_new_frame() {
    let mut stage = Stage::between(THEIRS, OURS).await;
    let mut facilitator = stage.start().await;
    let (mut miner, [done, results]) = run(&mut stage, &mut facilitator).await;
    miner.says(&output(0, "hello")).await;
    miner.says(&done.to_string()).await;
    facilitator.reports("execution_done").await;
    miner.says(&output(5, "hello")).await;
    miner.says(&results.to_string()).await;
    facilitator.reports("completed").await;
    finished(&mut miner, "35.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_miner_cannot_claim_that_the_user_cancelled() {
    let mut stage = Stage::between(OURS, OURS).await;
    let mut facilitator = stage.start().await;
    let (mut miner, _) = run(&mut stage, &mut facilitator).await;
    miner
        .says(&ended(&json!({"cancelled": true, "why": "tired"})))
        .await;
    let metadata = facilitator.reports("failed").await;
    assert_eq!(
        metadata["job_failure_details"]["context"],
        json!({"why": "tired"})
    );
    finished(&mut miner, "0.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_job_that_is_cancelled_before_it_comes_is_not_run() {
    let mut stage = Stage::between(OURS, OURS).await;
    let mut facilitator = stage.start().await;
    facilitator.says(&cancel()).await;
    let metadata = facilitator.reports("failed").await;
    assert_eq!(
        metadata["job_failure_details"]["message"],
        "cancelled by the user"
    );
    // Its validator may have been away when it was pushed.
    facilitator.says(&push(job())).await;
    let metadata = facilitator.reports("failed").await;
    assert!(metadata["refused"].as_str().unwrap().contains("is not run again"));
    stage.stop().await;
}

#[tokio::test]
async fn a_validator_that_is_stopped_and_started_has_a_cancelled_jobs_end_from_the_miner() {
    let mut stage = Stage::between(OURS, OURS).await;
    let mut facilitator = stage.start().await;
    let (mut miner, _) = run(&mut stage, &mut facilitator).await;
    facilitator.says(&cancel()).await;
    miner.hears("H0JobCancel").await;
    // As with kill -9: nothing more is written or said.
    stage.validator.take().unwrap().abort();
    drop((miner, facilitator));
    let mut facilitator = stage.start().await;
    let mut miner = stage.job_connection().await;
    miner.hears("H0JobCancel").await;
    miner.says(&ended(&json!({"cancelled": true}))).await;
    let metadata = facilitator.reports("failed").await;
    assert_eq!(
        metadata["job_failure_details"]["context"],
        json!({"cancelled": true})
    );
    finished(&mut miner, "0.000000").await;
    stage.stop().await;
}
