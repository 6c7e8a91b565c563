//! A miner in local mode, a validator's own trusted miner: one validator, no chain, no hotkey.

use std::time::Duration;

use horde::core::chain::Chain as _;
use horde::core::chain::local::LocalChain;
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::model::{ExecutorClass, Hotkey, JobId};
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::net::{Event, Link};
use horde::core::proto::job::InitialJob;
use horde::core::proto::validator_miner::{Authenticate, Down};
use horde::core::receipts::{self, About};
use horde::core::tasks::Tasks;
use serde_json::Value;
use tokio::time::timeout;

use crate::miner::{Miner, PATIENCE};

const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

/// Connects as a validator and authenticates to whom it believes to be there; it says nothing if it is nobody.
async fn knock(miner: &Miner, uri: &str, believed: &str, tasks: &Tasks) -> (Link, Value) {
    let keypair = Keypair::from_uri(uri).unwrap();
    let url = format!(
        "ws://127.0.0.1:{}/v0.1/validator_interface/{}",
        miner.port,
        keypair.hotkey()
    );
    let mut link = connect(&url, &ConnectOptions::default(), tasks).await.unwrap();
    let now = Clock::system().unix_seconds();
    let hello = Authenticate::signed(&keypair, Hotkey::from(believed), now);
    // One that is turned away at the door may have closed it already.
    drop(link.send(Down::Authenticate(hello).encode()).await);
    let answer = hears(&mut link).await;
    (link, answer)
}

async fn hears(link: &mut Link) -> Value {
    match timeout(PATIENCE, link.recv()).await.unwrap() {
        Event::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A request of //Alice for a class that is not offered, with a receipt for this miner.
fn request(miner: &str) -> String {
    let alice = Keypair::from_uri("//Alice").unwrap();
    let class = ExecutorClass::AlwaysOnLlmA6000;
    let job = JobId::new("2a91e0a0-deec-4c8a-b3ac-777a6afbbbb9");
    let about = About {
        job_uuid: &job,
        miner: &Hotkey::from(miner),
        now: Clock::system().now(),
    };
    let receipt = receipts::sign_started(&alice, about, class, true, 7).unwrap();
    let mut message = InitialJob {
        validator_signature: None,
        job_uuid: job,
        executor_class: class,
        docker_image: None,
        timeout_seconds: None,
        volume: None,
        job_started_receipt_payload: receipt.payload,
        job_started_receipt_signature: receipt.signature,
        streaming_details: None,
        executor_timing: None,
    };
    message.sign(&alice);
    Down::InitialJob(message).encode()
}

#[tokio::test]
async fn a_trusted_miner_serves_its_validator_alone_and_is_not_on_the_chain() {
    let mut miner = Miner::make("127.0.0.1", vec!["--local-validator", ALICE]).await;
    // Were a key asked for, this would be none.
    miner.variables.push(("HORDE_WALLET_URI", "no key".to_owned()));
    miner.launch().await;
    let tasks = Tasks::new();
    let details = |answer: &Value| answer["details"].as_str().unwrap_or_default().to_owned();

    // An active validator of the chain is nobody here.
    let (_, answer) = knock(&miner, "//Charlie", Hotkey::TRUSTED_MINER, &tasks).await;
    assert!(details(&answer).starts_with("Unknown validator: "), "{answer}");
    // Who means a miner of the chain has the wrong door.
    let bob = miner.keypair.hotkey().as_str().to_owned();
    let (_, answer) = knock(&miner, "//Alice", &bob, &tasks).await;
    assert!(details(&answer).contains("wrong miner hotkey (000"), "{answer}");
    let (mut link, answer) = knock(&miner, "//Alice", Hotkey::TRUSTED_MINER, &tasks).await;
    assert_eq!(answer["message_type"], "V0ExecutorManifestRequest");
    for (receipt_for, reason, words) in [
        (bob.as_str(), "invalid_receipt", "receipt is for miner"),
        (Hotkey::TRUSTED_MINER, "unknown", "is not in the manifest"),
    ] {
        link.send(request(receipt_for)).await.unwrap();
        let answer = hears(&mut link).await;
        assert_eq!(answer["message_type"], "V0DeclineJobRequest");
        assert_eq!(answer["reason"], reason, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
    let chain = LocalChain::open(
        &miner.home.path().join("chain.sqlite"),
        12,
        Duration::from_secs(12),
        Clock::system(),
    )
    .await
    .unwrap();
    let metagraph = chain.metagraph().await.unwrap();
    assert!(
        metagraph.neurons.iter().all(|neuron| neuron.axon.is_none()),
        "announced"
    );
    // Its operator sees whom it serves.
    let listed = miner
        .home
        .told(&miner.command(&["validator", "list"]).output().unwrap());
    assert!(listed.contains(ALICE) && listed.contains("active"), "{listed}");
}

#[test]
fn a_trusted_miner_of_nobody_does_not_start() {
    let home = crate::support::Home::new();
    let told = home.run(["--dir", "d", "miner", "run", "--local-validator", "nobody"]);
    assert!(
        told.contains("exit code: 9") && told.contains("miner.local_validator is no address of a hotkey"),
        "{told}"
    );
}
