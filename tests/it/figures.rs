//! The miner's figures for Prometheus, and the address that it finds out: what is served where, and who is believed.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use horde::core::chain::Chain as _;
use horde::core::chain::local::LocalChain;
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::net::http;
use horde::core::proto::validator_miner::Up;
use horde::core::tasks::Tasks;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::dynamic::Miner;
use crate::receipts::{bring_job, connect, new_job, register};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn status(url: &str) -> Option<u16> {
    Some(reqwest::get(url).await.ok()?.status().as_u16())
}

async fn up(miner: &Miner) {
    let login = format!("http://127.0.0.1:{}/admin/login/", miner.port);
    timeout(PATIENCE, async {
        while status(&login).await != Some(200) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

/// Reads the figures until one of them reads so.
async fn figure(url: &str, line: &str) {
    let mut text = String::new();
    let look = async {
        loop {
            if let Ok(answer) = reqwest::get(url).await {
                text = answer.text().await.unwrap();
                if text.lines().any(|found| found == line) {
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let found = timeout(PATIENCE, look).await;
    assert!(found.is_ok(), "{line} is not in\n{text}");
}

#[tokio::test]
async fn figures_are_served_on_a_listener_of_their_own_and_count_what_happens() {
    let port = crate::support::free_port();
    let mut miner = Miner::new(vec![
        ("HORDE_MINER_EXECUTORS", "always_on.test=1".to_owned()),
        ("HORDE_MINER_METRICS_LISTEN", format!("127.0.0.1:{port}")),
        ("HORDE_MINER_PUBLISH_RECEIPTS", "on".to_owned()),
    ]);
    register(miner.home.path()).await;
    miner.launch();
    up(&miner).await;
    let figures = format!("http://127.0.0.1:{port}/metrics");
    figure(
        &figures,
        r#"horde_miner_executors{class="always_on.test",state="offered"} 1"#,
    )
    .await;
    let tasks = Tasks::new();
    let mut link = connect(miner.port, &tasks).await;
    assert!(matches!(bring_job(&mut link, &new_job()).await, Up::Accepted(_)));
    figure(&figures, r#"horde_miner_connections{state="authenticated"} 1"#).await;
    figure(&figures, r#"horde_miner_connections{state="waiting"} 0"#).await;
    figure(
        &figures,
        r#"horde_miner_jobs_offered_total{class="always_on.test"} 1"#,
    )
    .await;
    figure(
        &figures,
        r#"horde_miner_jobs_accepted_total{class="always_on.test"} 1"#,
    )
    .await;
    figure(
        &figures,
        r#"horde_miner_receipts_stored_total{kind="JobStartedReceipt"} 1"#,
    )
    .await;
    let page = format!("http://127.0.0.1:{}/receipts/1.jsonl", miner.port);
    assert_eq!(status(&page).await, Some(404));
    figure(&figures, r#"horde_miner_page_requests_total{status="404"} 1"#).await;
    let text = reqwest::get(&figures).await.unwrap().text().await.unwrap();
    for name in ["chain", "orders", "manifest", "forget", "reap", "pack"] {
        let beat = format!("horde_loop_last_turn_timestamp_seconds{{name=\"{name}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&beat));
        let turned: f64 = line
            .unwrap_or_else(|| panic!("{beat} in {text}"))
            .parse()
            .unwrap();
        assert!(turned > 1.7e9);
    }
    assert!(text.contains("process_resident_memory_bytes "));
    assert!(text.ends_with("# EOF\n"));
    // The operator's figures are not on the public port.
    let public = format!("http://127.0.0.1:{}/metrics", miner.port);
    assert_eq!(status(&public).await, Some(404));
}

#[tokio::test]
async fn a_port_of_figures_that_is_taken_does_not_keep_a_miner_from_serving() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut miner = Miner::new(vec![("HORDE_MINER_METRICS_LISTEN", address)]);
    register(miner.home.path()).await;
    miner.launch();
    up(&miner).await;
    let shown = miner.home.run(["config", "show", "miner", "--json"]);
    assert!(shown.contains(r#""miner.metrics_listen":{"value":"127.0.0.1:9464","origin":"default""#));
}

/// Serves answers of services, one path each.
async fn services(answers: &[&'static str], tasks: &Tasks) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut router = Router::new();
    let mut urls = Vec::new();
    for (number, answer) in answers.iter().copied().enumerate() {
        router = router.route(&format!("/{number}"), get(move || async move { answer }));
        urls.push(format!("http://{address}/{number}"));
    }
    let family = tasks.clone();
    tasks.spawn(
        "services",
        async move { http::serve(listener, router, &family).await },
    );
    urls
}

#[tokio::test]
async fn an_address_is_announced_once_two_services_agree_on_it() {
    let tasks = Tasks::new();
    let urls = services(
        &["<html>", "198.51.100.9", "203.0.113.7\n", "203.0.113.7"],
        &tasks,
    )
    .await;
    let mut miner = Miner::new(vec![
        ("HORDE_MINER_ADDRESS", "auto".to_owned()),
        ("HORDE_MINER_ADDRESS_SERVICES", urls.join(",")),
    ]);
    register(miner.home.path()).await;
    miner.launch();
    let file = miner.home.path().join("chain.sqlite");
    let chain = LocalChain::open(&file, 12, Duration::from_secs(12), Clock::system())
        .await
        .unwrap();
    let bob = Keypair::from_uri("//Bob").unwrap().hotkey().clone();
    timeout(PATIENCE, async {
        loop {
            let metagraph = chain.metagraph().await.unwrap();
            if let Some(axon) = metagraph.neuron(&bob).unwrap().axon {
                assert_eq!(axon.ip.to_string(), "203.0.113.7");
                assert_eq!(axon.port, miner.port);
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_address_that_is_to_be_found_out_needs_two_services_to_ask() {
    for services in ["", "http://127.0.0.1:1", "ftp://a,ftp://b"] {
        let miner = Miner::new(vec![
            ("HORDE_MINER_ADDRESS", "auto".to_owned()),
            ("HORDE_MINER_ADDRESS_SERVICES", services.to_owned()),
        ]);
        let output = miner.command(&["run"]).output().unwrap();
        assert_eq!(output.status.code(), Some(9), "{services}");
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains("miner.address_services: "), "{words}");
    }
}
