//! `horde job` at a facilitator that charges, the real one as a process of its own: what may cost too much is not sent,
//! what cannot be paid is refused with what is missing, a key is one job, and a user who is kept out is told so.

use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::facilitator::pushed;
use crate::gateway::{Gateway, address};

/// Micro-units of a second.
const PRICE: i64 = 1000;

/// A job of 60 seconds, which may cost 0.06.
const SUBMIT: [&str; 6] = [
    "submit",
    "--detach",
    "--class",
    "always_on.test",
    "--limits",
    "download=10,execution=45,upload=5",
];
const REQUIRED: i64 = 60 * PRICE;

/// An image that needs no warning.
const IMAGE: &str = "busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Runs `horde job …` as //Charlie.
async fn run(gateway: &Gateway, words: &[&str]) -> Output {
    Command::from(gateway.job("//Charlie", words))
        .output()
        .await
        .unwrap()
}

/// Submits the job with further flags.
async fn submit(gateway: &Gateway, flags: &[&str]) -> Output {
    run(gateway, &[&SUBMIT[..], flags, &[IMAGE]].concat()).await
}

/// Checks the exit code and returns both streams.
fn ended(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    (stdout, stderr)
}

async fn charging() -> Gateway {
    let prices = format!("always_on.test={PRICE}");
    let mut gateway = Gateway::make(&[
        ("HORDE_FACILITATOR_ALLOW_ANY_USER", "true"),
        ("HORDE_FACILITATOR_PRICES", &prices),
    ])
    .await;
    gateway.launch().await;
    gateway
}

/// Gives a user credit, in units.
async fn give(gateway: &Gateway, user: &str, units: &str) {
    let added = gateway.asked(&["credit", "add", &address(user), units]).await;
    assert_eq!(added["added"], true);
}

/// What //Charlie has: available and set aside, in micro-units.
async fn account(gateway: &Gateway) -> (i64, i64) {
    let user = gateway.asked(&["user", "show", &address("//Charlie")]).await;
    let micro = |key: &str| user[key].as_i64().unwrap();
    (micro("available_micro"), micro("reserved_micro"))
}

async fn listed(gateway: &Gateway) -> usize {
    let (stdout, _) = ended(&run(gateway, &["list", "--json"]).await, 0);
    let jobs: Value = serde_json::from_str(&stdout).unwrap();
    jobs.as_array().unwrap().len()
}

#[tokio::test]
async fn a_job_that_may_cost_too_much_is_not_sent_and_one_that_may_not_goes() {
    let gateway = charging().await;
    let mut alice = gateway.door.try_validator().await.unwrap();
    give(&gateway, "//Charlie", "0.1").await;

    let (stdout, stderr) = ended(&submit(&gateway, &["--max-cost", "0.059999"]).await, 10);
    assert_eq!(stdout, "");
    assert_eq!(
        stderr,
        "error[H1001]: the job was not submitted: it may cost more than 0.059999\n  \
         caused by: at most 0.06: 60 s at 0.001 a second; 0.1 is available\n\
         hint: shorter limits cost less: --limits download=…,execution=…,upload=…\n"
    );
    assert_eq!(listed(&gateway).await, 0);
    assert_eq!(account(&gateway).await, (100_000, 0));

    // A plan tells the cost, and sets nothing aside.
    let plan = submit(&gateway, &["--max-cost", "0.06", "--dry-run", "--json"]).await;
    let plan: Value = serde_json::from_str(&ended(&plan, 11).0).unwrap();
    assert_eq!(
        plan["plan"]["cost"],
        json!({"charges": true, "reserved_seconds": 60, "micro_per_second": PRICE, "required_micro": REQUIRED,
            "available_micro": 100_000})
    );
    assert_eq!(account(&gateway).await, (100_000, 0));

    let (stdout, stderr) = ended(&submit(&gateway, &["--max-cost", "0.06"]).await, 0);
    assert_eq!(stderr, "");
    // The first job that the validator gets is this one: nothing was sent before.
    let (_, request) = pushed(&mut alice).await;
    assert_eq!(format!("{}\n", request.uuid), stdout);
    assert_eq!(account(&gateway).await, (100_000 - REQUIRED, REQUIRED));
    let shown = run(&gateway, &["show", "--json", request.uuid.as_str()]).await;
    let shown: Value = serde_json::from_str(&ended(&shown, 0).0).unwrap();
    assert_eq!(shown["horde"]["cost"]["reserved_micro"], REQUIRED);

    let shown = ended(&run(&gateway, &["show", request.uuid.as_str()]).await, 0).0;
    assert!(
        shown.contains("cost        reserved 0.06, charged 0, seconds 0\n"),
        "{shown}"
    );

    // A class without a price has no cost that could be compared.
    let args = [
        "submit",
        "--detach",
        "--class",
        "always_on.gpu-24gb",
        "--max-cost",
        "9",
        IMAGE,
    ];
    let (_, stderr) = ended(&run(&gateway, &args).await, 10);
    assert!(stderr.contains("no price for this class"), "{stderr}");
}

#[tokio::test]
async fn a_job_that_cannot_be_paid_is_refused_with_what_is_missing() {
    let gateway = charging().await;
    let _alice = gateway.door.try_validator().await.unwrap();
    give(&gateway, "//Charlie", "0.05").await;
    // It may cost this much, but the user does not have it.
    let (stdout, stderr) = ended(&submit(&gateway, &["--max-cost", "1"]).await, 4);
    assert_eq!(stdout, "");
    assert_eq!(
        stderr,
        "error[H0402]: could not submit the job\n  \
         caused by: the facilitator answered with HTTP status 402: Insufficient credit: With these limits the job may \
         cost 0.06 units, 0.05 are available: 0.01 are missing. Lower the limits, or ask the operator of this \
         facilitator for credit.\n\
         hint: the facilitator's operator adds credit; shorter limits take less of it\n"
    );
    assert_eq!(listed(&gateway).await, 0);
    assert_eq!(account(&gateway).await, (50_000, 0));
    give(&gateway, "//Charlie", "0.01").await;
    ended(&submit(&gateway, &[]).await, 0);
    assert_eq!(account(&gateway).await, (0, REQUIRED));
    // A retry costs what the job did.
    let (stdout, _) = ended(&run(&gateway, &["list", "--quiet"]).await, 0);
    let (_, stderr) = ended(&run(&gateway, &["retry", "--detach", stdout.trim()]).await, 4);
    assert!(stderr.contains("0 are available: 0.06 are missing"), "{stderr}");
}

#[tokio::test]
async fn a_key_is_one_job_paid_once_and_another_job_with_it_is_refused() {
    let mut gateway = charging().await;
    let mut alice = gateway.door.try_validator().await.unwrap();
    give(&gateway, "//Charlie", "1").await;
    let keyed = ["--idempotency-key", "nightly-1"];
    let (first, _) = ended(&submit(&gateway, &keyed).await, 0);
    let (_, request) = pushed(&mut alice).await;
    assert_eq!(format!("{}\n", request.uuid), first);
    assert_eq!(ended(&submit(&gateway, &keyed).await, 0).0, first);
    // The facilitator remembers it over a restart, and whether the validator is there or not.
    gateway.signal(rustix::process::Signal::KILL).await;
    gateway.launch().await;
    let to = address("//Alice");
    let to_alice = [&keyed[..], &["--validator", &to]].concat();
    assert_eq!(ended(&submit(&gateway, &to_alice).await, 0).0, first);
    assert_eq!(listed(&gateway).await, 1);
    assert_eq!(account(&gateway).await, (1_000_000 - REQUIRED, REQUIRED));

    let other = [&to_alice[..], &["--env", "A=other"]].concat();
    let (stdout, stderr) = ended(&submit(&gateway, &other).await, 5);
    assert_eq!(stdout, "");
    assert!(
        stderr.contains("Idempotency-Key already used")
            && stderr.contains("with the key \"nightly-1\"; choose another --idempotency-key"),
        "{stderr}"
    );
    assert_eq!(listed(&gateway).await, 1);
    // A key is a user's own.
    let _alice = gateway.door.try_validator().await.unwrap();
    give(&gateway, "//Dave", "1").await;
    let args = [&SUBMIT[..], &keyed, &[IMAGE]].concat();
    let daves = Command::from(gateway.job("//Dave", &args))
        .output()
        .await
        .unwrap();
    assert_ne!(ended(&daves, 0).0, first);
}

#[tokio::test]
async fn who_is_not_let_in_or_blocked_is_told_so_and_what_to_ask_for() {
    let mut gateway = Gateway::make(&[("HORDE_FACILITATOR_USERS", &address("//Dave"))]).await;
    gateway.launch().await;
    let _alice = gateway.door.try_validator().await.unwrap();
    let charlie = address("//Charlie");
    let refused = format!(
        "error[H0401]: could not choose a validator\n  \
         caused by: the facilitator does not let {charlie} in: Hotkey not allowed\n\
         hint: its operator lets users in (`horde facilitator user add {charlie}`) and keeps them out (`user block`)\n"
    );
    assert_eq!(ended(&submit(&gateway, &[]).await, 4).1, refused);
    gateway.asked(&["user", "add", &charlie]).await;
    let let_in = async || {
        // The facilitator reads its operator's orders within a moment.
        for _ in 0..600 {
            let output = submit(&gateway, &[]).await;
            if output.status.success() {
                return output;
            }
            tokio::time::sleep(crate::gateway::PAUSE).await;
        }
        panic!("never let in")
    };
    let (id, _) = ended(&let_in().await, 0);
    gateway
        .asked(&["user", "block", &charlie, "--reason", "stolen"])
        .await;
    for _ in 0..600 {
        let output = run(&gateway, &["show", id.trim()]).await;
        if !output.status.success() {
            let (stdout, stderr) = ended(&output, 4);
            assert_eq!(stdout, "");
            assert!(stderr.contains(&format!("does not let {charlie} in")), "{stderr}");
            // Why is the operator's business.
            assert!(!stderr.contains("stolen"), "{stderr}");
            return;
        }
        tokio::time::sleep(crate::gateway::PAUSE).await;
    }
    panic!("never kept out");
}
