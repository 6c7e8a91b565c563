//! The miner's pages of receipts under a fetcher that behaves as the published one: catch up, keep up by ranges from
//! its checkpoints, refuse what is wrong; and the operator's commands over the same receipts.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use flate2::read::GzDecoder;
use horde::core::chain::local::{LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::crypto::signed::auth_blob;
use horde::core::model::receipt::{Receipt, ReceiptPayload, page_at};
use horde::core::model::{ExecutorClass, JobId};
use horde::core::net::ws::{self, ConnectOptions};
use horde::core::net::{Event, Link};
use horde::core::proto::job::InitialJob;
use horde::core::proto::validator_miner::{Authenticate, Down, Up};
use horde::core::receipts::{self, About, Work, countersign, verify_receipt};
use horde::core::store::miner::MinerStore;
use horde::core::tasks::Tasks;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, RANGE};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::support::Home;

const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn alice() -> Keypair {
    Keypair::from_uri("//Alice").unwrap()
}

fn bob() -> Keypair {
    Keypair::from_uri("//Bob").unwrap()
}

pub(crate) fn new_job() -> JobId {
    JobId::new(Uuid::new_v4().to_string())
}

/// The receipts of a whole job, signed by both.
fn receipts_of(job: &JobId, now: OffsetDateTime) -> [Receipt; 3] {
    let (alice, bob) = (alice(), bob());
    let about = About {
        job_uuid: job,
        miner: bob.hotkey(),
        now,
    };
    let started = receipts::sign_started(&alice, about, CLASS, true, 7).unwrap();
    let accepted = receipts::sign_accepted(&alice, about, now, 80).unwrap();
    let work = Work {
        started: now,
        took: time::Duration::milliseconds(1500),
        score: 35.0,
        block_numbers: vec![1, 2],
    };
    let finished = receipts::sign_finished(&alice, about, work).unwrap();
    [
        (ReceiptPayload::Started(started.payload), started.signature),
        (ReceiptPayload::Accepted(accepted.payload), accepted.signature),
        (ReceiptPayload::Finished(finished.payload), finished.signature),
    ]
    .map(|(payload, signature)| countersign(&bob, payload, signature).unwrap())
}

/// Makes a chain in a folder, on which //Alice validates and //Bob mines.
pub(crate) async fn register(folder: &Path) {
    let file = folder.join("chain.sqlite");
    let chain = LocalChain::open(&file, 12, Duration::from_secs(12), Clock::system())
        .await
        .unwrap();
    for (keypair, validator_permit) in [(alice(), true), (bob(), false)] {
        let hotkey = keypair.hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao: 1_000_000_000,
            validator_permit,
        };
        chain.register(registration).await.unwrap();
    }
}

/// A miner that runs, with receipts from before its start.
struct Miner {
    home: Home,
    port: u16,
    process: Option<Child>,
}

impl Miner {
    /// Prepares a miner whose receipts were stored at these times, three at each; returns their lines as well.
    async fn with_past(times: &[OffsetDateTime]) -> (Self, Vec<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let miner = Self {
            home: Home::new(),
            port: listener.local_addr().unwrap().port(),
            process: None,
        };
        drop(listener);
        register(miner.home.path()).await;
        let store = MinerStore::open(&miner.home.path().join("miner/miner.sqlite")).unwrap();
        let mut lines = Vec::new();
        for time in times {
            for receipt in receipts_of(&new_job(), *time) {
                lines.push(serde_json::to_string(&receipt).unwrap() + "\n");
                assert!(store.keep_receipt(receipt, *time).await.unwrap());
            }
        }
        (miner, lines)
    }

    async fn launch(&mut self, publish: &str) {
        let directory = self.home.path().join("miner");
        let process = self
            .home
            .horde(["--dir", directory.to_str().unwrap(), "miner", "run"])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--executors", &format!("{CLASS}=1")])
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .env("HORDE_WALLET_URI", "//Bob")
            .env("HORDE_MINER_METRICS_LISTEN", "off")
            .env("HORDE_MINER_PUBLISH_RECEIPTS", publish)
            .env("HORDE_MINER_DOCKER_HOST", "unix:///nowhere/docker.sock")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let login = format!("http://127.0.0.1:{}/admin/login/", self.port);
        timeout(PATIENCE, async {
            while !reqwest::get(&login)
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
    }

    fn url(&self, page: i64) -> String {
        format!("http://127.0.0.1:{}/receipts/{page}.jsonl", self.port)
    }

    async fn request(&self, method: Method, page: i64, headers: &[(HeaderName, &str)]) -> Answer {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut request = client.request(method, self.url(page));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let answer = request.send().await.unwrap();
        Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    }

    /// Runs a command of the operator and returns its exit code and standard output.
    fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let directory = self.home.path().join("miner");
        let output = self
            .home
            .horde(["--dir", directory.to_str().unwrap(), "miner"])
            .args(arguments)
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The published fetcher's way with one miner (wire-receipts-http §2).
#[derive(Default)]
struct Fetcher {
    checkpoints: HashMap<i64, usize>,
    jobs: BTreeSet<(String, String)>,
    bytes: HashMap<i64, Vec<u8>>,
    statuses: Vec<u16>,
    packed: usize,
}

impl Fetcher {
    async fn fetch(&mut self, miner: &Miner, page: i64) {
        let checkpoint = self.checkpoints.get(&page).copied().unwrap_or(0);
        let range = format!("bytes={checkpoint}-");
        let headers = if checkpoint == 0 {
            vec![(ACCEPT_ENCODING, "gzip")]
        } else {
            vec![(ACCEPT_ENCODING, ""), (RANGE, range.as_str())]
        };
        let answer = miner.request(Method::GET, page, &headers).await;
        self.statuses.push(answer.status.as_u16());
        let is_packed = answer.header("content-encoding") == "gzip";
        let mut body = Vec::new();
        match answer.status.as_u16() {
            404 | 416 => return,
            200 if checkpoint == 0 && is_packed => {
                self.packed += 1;
                GzDecoder::new(&*answer.body).read_to_end(&mut body).unwrap();
            }
            200 if checkpoint == 0 => body.extend(&answer.body),
            206 if checkpoint > 0 => body.extend(&answer.body),
            other => panic!("status {other} at checkpoint {checkpoint}"),
        }
        let next = match answer.headers.get(CONTENT_RANGE) {
            Some(range) => range
                .to_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .parse()
                .unwrap(),
            None => body.len(),
        };
        self.checkpoints.insert(page, next);
        for line in std::str::from_utf8(&body).unwrap().lines() {
            let receipt: Receipt = serde_json::from_str(line).unwrap();
            verify_receipt(&receipt).unwrap();
            let key = (
                receipt.payload.job_uuid().to_string(),
                receipt.payload.receipt_type().to_owned(),
            );
            assert!(self.jobs.insert(key), "a line came twice");
        }
        self.bytes.entry(page).or_default().extend(body);
        assert_eq!(self.bytes[&page].len(), next);
    }

    async fn catch_up(&mut self, miner: &Miner, newest: i64) {
        for page in (newest - 60..=newest).rev() {
            self.fetch(miner, page).await;
        }
    }
}

/// Connects as //Alice to the miner of //Bob and authenticates.
pub(crate) async fn connect(port: u16, tasks: &Tasks) -> Link {
    let (alice, bob) = (alice(), bob());
    let url = format!(
        "ws://127.0.0.1:{}/v0.1/validator_interface/{}",
        port,
        alice.hotkey()
    );
    let link = ws::connect(&url, &ConnectOptions::default(), tasks)
        .await
        .unwrap();
    let timestamp = Clock::system().unix_seconds();
    let blob = auth_blob(alice.hotkey(), bob.hotkey(), timestamp);
    let auth = Authenticate {
        validator_hotkey: alice.hotkey().clone(),
        miner_hotkey: bob.hotkey().clone(),
        timestamp,
        signature: alice.sign(&blob).to_hex_prefixed(),
    };
    link.send(Down::from(auth).encode()).await.unwrap();
    link
}

/// Brings a job and returns the answer; its started receipt is public by then if the job was not refused.
pub(crate) async fn bring_job(link: &mut Link, job: &JobId) -> Up {
    let bob = bob();
    let about = About {
        job_uuid: job,
        miner: bob.hotkey(),
        now: Clock::system().now(),
    };
    let receipt = receipts::sign_started(&alice(), about, CLASS, true, 30).unwrap();
    let request = InitialJob {
        validator_signature: None,
        job_uuid: job.clone(),
        executor_class: CLASS,
        docker_image: None,
        timeout_seconds: Some(300),
        volume: None,
        job_started_receipt_payload: receipt.payload,
        job_started_receipt_signature: receipt.signature,
        streaming_details: None,
        executor_timing: None,
    };
    link.send(Down::from(request).encode()).await.unwrap();
    loop {
        let message = expect(link).await;
        if matches!(message, Up::Accepted(_) | Up::Declined(_)) {
            return message;
        }
    }
}

/// Returns the next message.
pub(crate) async fn expect(link: &mut Link) -> Up {
    match timeout(PATIENCE, link.recv()).await.unwrap() {
        Event::Text(text) => Up::decode(&text).unwrap(),
        other => panic!("expected a message, got {other:?}"),
    }
}

#[tokio::test]
async fn a_fetcher_catches_up_and_keeps_up_without_losing_or_repeating_a_line() {
    let now = Clock::system().now();
    let minutes = |count| now - time::Duration::minutes(count);
    let times = [minutes(61), minutes(60), minutes(20), minutes(19)];
    let (mut miner, lines) = Miner::with_past(&times).await;
    miner.launch("on").await;
    // Old pages are packed soon after the start.
    let old = page_at(times[0]);
    timeout(PATIENCE, async {
        let gzip = [(ACCEPT_ENCODING, "gzip")];
        while miner
            .request(Method::GET, page_at(times[3]), &gzip)
            .await
            .header("content-encoding")
            != "gzip"
        {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let mut fetcher = Fetcher::default();
    fetcher.catch_up(&miner, page_at(now)).await;
    assert_eq!(fetcher.jobs.len(), 12);
    assert!(fetcher.packed >= 2);
    let pages: BTreeSet<i64> = times.iter().map(|time| page_at(*time)).collect();
    let all: Vec<u8> = pages
        .iter()
        .flat_map(|page| fetcher.bytes[page].clone())
        .collect();
    assert_eq!(String::from_utf8(all).unwrap(), lines.concat());

    // Once more: nothing new anywhere.
    fetcher.statuses.clear();
    fetcher.catch_up(&miner, page_at(now)).await;
    assert!(fetcher.statuses.iter().all(|status| [404, 416].contains(status)));
    assert_eq!(
        fetcher.statuses.iter().filter(|status| **status == 416).count(),
        pages.len()
    );

    // Keep up: two active pages, whatever page is current when a receipt comes.
    let tasks = Tasks::new();
    let mut link = connect(miner.port, &tasks).await;
    for round in 1..=3 {
        drop(bring_job(&mut link, &new_job()).await);
        let current = page_at(Clock::system().now());
        for page in [current, current - 1] {
            fetcher.fetch(&miner, page).await;
        }
        assert_eq!(fetcher.jobs.len(), 12 + round);
    }
    assert!(!fetcher.bytes[&old].is_empty());
}

/// Every exchange of the recording, with the recorded page in the place of one of ours.
#[tokio::test]
async fn the_recorded_transfer_gets_the_recorded_answers() {
    const RECORDED_PAGE: i64 = 5_984_461;
    const RECORDED_BYTES: usize = 3966;
    let now = Clock::system().now();
    let (mut miner, lines) = Miner::with_past(&[now]).await;
    miner.launch("on").await;
    let (page, text) = (page_at(now), lines.concat());
    let recording = include_str!("../golden/traces/receipts-transfer.jsonl");
    let messages: Vec<Value> = recording
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["msg"].clone())
        .collect();
    let mut seen = BTreeSet::new();
    for exchange in messages.chunks(2) {
        let (request, response) = (&exchange[0], &exchange[1]);
        let path = request["path"].as_str().unwrap();
        let number = path.trim_start_matches("/receipts/").trim_end_matches(".jsonl");
        let number: i64 = number.parse().unwrap();
        let ours = |text: &str| text.replace(&RECORDED_BYTES.to_string(), &lines.concat().len().to_string());
        let range = request["headers"]["Range"].as_str().map(ours);
        let mut headers = vec![(
            ACCEPT_ENCODING,
            request["headers"]["Accept-Encoding"].as_str().unwrap(),
        )];
        headers.extend(range.as_deref().map(|range| (RANGE, range)));
        let answer = miner
            .request(Method::GET, page + number - RECORDED_PAGE, &headers)
            .await;
        let status = answer.status.as_u16();
        assert_eq!(response["status"], status, "{request}");
        for name in ["Content-Range", "Accept-Ranges", "Content-Encoding"] {
            let recorded = response["headers"][name].as_str().map_or(String::new(), ours);
            assert_eq!(answer.header(&name.to_lowercase()), recorded, "{request}");
        }
        if status == 200 {
            assert_eq!(response["body"].as_str().unwrap().len(), RECORDED_BYTES);
            assert_eq!(answer.body, text.as_bytes());
        }
        seen.insert(status);
    }
    assert_eq!(Vec::from_iter(seen), [200, 404, 416]);
}

#[tokio::test]
async fn a_page_is_named_conditioned_and_cut_as_a_static_file() {
    let now = Clock::system().now();
    let (mut miner, lines) = Miner::with_past(&[now - time::Duration::minutes(1)]).await;
    miner.launch("on").await;
    let page = page_at(now - time::Duration::minutes(1));
    let text = lines.concat();
    let whole = miner.request(Method::GET, page, &[]).await;
    assert_eq!((whole.status.as_u16(), &*whole.body), (200, text.as_bytes()));
    assert_eq!(whole.header("content-type"), "text/plain");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-length"), text.len().to_string());
    let (etag, date) = (whole.header("etag"), whole.header("last-modified"));
    assert!(etag.starts_with('"') && date.ends_with(" GMT"), "{etag} {date}");

    let header = |name| HeaderName::from_static(name);
    let head = miner.request(Method::HEAD, page, &[(RANGE, "bytes=5-")]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), text.len().to_string());
    assert_eq!(head.header("etag"), etag);

    for condition in [
        (header("if-none-match"), etag),
        (header("if-modified-since"), date),
    ] {
        let same = miner.request(Method::GET, page, &[condition]).await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
        assert_eq!(same.header("etag"), etag);
    }
    let part = |if_range| [(RANGE, "bytes=5-9"), (header("if-range"), if_range)];
    for fits in [etag, date] {
        let answer = miner.request(Method::GET, page, &part(fits)).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (206, &text.as_bytes()[5..10])
        );
        assert_eq!(
            answer.header("content-range"),
            format!("bytes 5-9/{}", text.len())
        );
    }
    let other = miner.request(Method::GET, page, &part("\"other\"")).await;
    assert_eq!(other.status, 200);
    let end = format!("bytes={}-", text.len());
    let behind = miner.request(Method::GET, page, &[(RANGE, end.as_str())]).await;
    assert_eq!(behind.status, 416);
    assert_eq!(behind.header("content-range"), format!("bytes */{}", text.len()));
    assert_eq!(behind.header("content-type"), "text/html");

    // What is not there, and what is no page, is not found; nothing redirects, nothing lists, nothing is taken in.
    let absent = miner.request(Method::GET, page - 9, &[]).await;
    assert_eq!(
        (absent.status.as_u16(), absent.header("content-type")),
        (404, "text/html")
    );
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = miner.url(page);
    for odd in ["", "x.jsonl", "1.jsonl.gz"] {
        let odd = format!("http://127.0.0.1:{}/receipts/{odd}", miner.port);
        assert_eq!(client.get(&odd).send().await.unwrap().status(), 404, "{odd}");
    }
    assert_eq!(client.post(&url).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn nothing_is_published_unless_publishing_is_on() {
    let now = Clock::system().now();
    for publish in ["off", "auto"] {
        let (mut miner, _) = Miner::with_past(&[now]).await;
        miner.launch(publish).await;
        assert_eq!(miner.request(Method::GET, page_at(now), &[]).await.status, 404);
    }
}

#[tokio::test]
async fn the_operator_lists_checks_and_exports_receipts_of_a_running_miner() {
    let now = Clock::system().now();
    let old = now - time::Duration::hours(3);
    let (mut miner, lines) = Miner::with_past(&[old, now]).await;
    {
        // One that a broken disk, or a hand, has changed.
        let store = MinerStore::open(&miner.home.path().join("miner/miner.sqlite")).unwrap();
        let [mut receipt, _, _] = receipts_of(&new_job(), now);
        receipt.miner_signature.replace_range(2..10, "00000000");
        store.keep_receipt(receipt, now).await.unwrap();
    }
    miner.launch("off").await;
    let (code, text) = miner.ask(&["receipts"]);
    assert_eq!((code, text.lines().count()), (0, 7));
    assert!(
        text.contains(" finished ") && text.contains("took=1.500s score=35.000000"),
        "{text}"
    );
    let (code, text) = miner.ask(&["receipts", "--since", "1h", "--type", "started"]);
    assert_eq!((code, text.lines().count()), (0, 2));
    let (code, text) = miner.ask(&["receipts", "--limit", "6", "--json", "--verify"]);
    assert_eq!(code, 10);
    let listed: Value = serde_json::from_str(&text).unwrap();
    let listed = listed["receipts"].as_array().unwrap();
    let valid: Vec<_> = listed.iter().map(|row| row["valid"].as_bool().unwrap()).collect();
    assert_eq!(valid, [true, true, true, true, true, false]);
    assert_eq!(
        listed[5]["error"],
        "miner's signature of the receipt is not valid: signature does not match"
    );
    let job = listed[0]["receipt"]["payload"]["job_uuid"].as_str().unwrap();
    let (code, text) = miner.ask(&["receipts", "--job", job, "--verify"]);
    assert_eq!((code, text.lines().count()), (0, 3));
    assert!(text.lines().all(|line| line.ends_with(" valid")));

    let (code, text) = miner.ask(&["receipts", "export", "--since", "4h"]);
    assert_eq!(code, 0);
    let exported: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(exported[..6], lines);
    let (code, _) = miner.ask(&["receipts", "--since", "yesterday"]);
    assert_eq!(code, 2);
}
