//! Streaming jobs on a real engine: the test plays the miner and the client, who has a certificate of its own.

#![expect(clippy::expect_used, reason = "a test that waits in vain says for what")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use horde::core::docker::{Engine, Label};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::executor::{Miner, PATIENCE, Session, engine, initial, job, kind_of};

/// Leeway, download, execution, upload, start of streaming.
const AMPLE: [i64; 5] = [60, 30, 60, 30, 30];

/// A web server on the port of streaming jobs, with what follows it.
const SERVER: &str = "mkdir -p /tmp/w; echo ok > /tmp/w/health; echo hi > /tmp/w/hello; \
                      busybox httpd -p 8000 -h /tmp/w; ";

/// A client of streaming jobs, made as the SDK makes its own.
struct Client {
    pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// Connects to a server whose certificate is known, showing the one of `client`.
async fn connect(ready: &Value, client: Option<&Client>) -> io::Result<TlsStream<TcpStream>> {
    let server = CertificateDer::from_pem_slice(ready["public_key"].as_str().unwrap().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(server).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some(client) => {
            // Unchecked: whether both belong together is the server's question.
            let key = aws_lc_rs::sign::any_supported_type(&client.key()).unwrap();
            let shown = CertifiedKey::new(vec![client.certificate.clone()], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
        None => builder.with_no_client_auth(),
    };
    let port = u16::try_from(ready["port"].as_u64().unwrap()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Asks for a path; returns status line and body.
async fn get(ready: &Value, client: Option<&Client>, path: &str) -> io::Result<(String, String)> {
    let mut stream = connect(ready, client).await?;
    let question = format!("GET {path} HTTP/1.1\r\nHost: job\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    Ok((
        head.lines().next().unwrap_or_default().to_owned(),
        body.to_owned(),
    ))
}

/// A port that is free at the moment.
/// Lets an executor run a streaming job until its volumes are ready.
async fn begin(
    miner: &mut Miner,
    client: &Client,
    timing: [i64; 5],
    script: &str,
    extra: &[(&str, &str)],
) -> Session {
    let port = crate::support::free_port().to_string();
    let mut variables = vec![("NGINX_PORT", port.as_str())];
    variables.extend(extra);
    let mut session = Session::start(miner, &variables).await;
    let mut initial = initial(json!(null), timing);
    initial["streaming_details"] = json!({ "public_key": client.pem, "executor_ip": "127.0.0.1" });
    session.send(&initial).await;
    let ready = session.next().await.expect("the executor gets ready");
    assert_eq!(kind_of(&ready), "V0ExecutorReadyRequest", "{ready}");
    session.send(&job(&initial, &["sh", "-c", script])).await;
    let ready = session.next().await.expect("the volumes get ready");
    assert_eq!(kind_of(&ready), "V0VolumesReadyRequest", "{ready}");
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_and_nobody_else_reaches_the_job_until_it_ends() {
    let Some(engine) = engine().await else { return };
    let (mut miner, client, other) = (Miner::start().await, Client::new(), Client::new());
    let script = format!("{SERVER} until [ -e /volume/over ]; do sleep 0.1; done; echo done");
    let mut session = begin(&mut miner, &client, AMPLE, &script, &[]).await;
    let ready = session.next().await.expect("the job gets ready");
    assert_eq!(kind_of(&ready), "V0StreamingJobReadyRequest", "{ready}");
    assert_eq!(
        (&ready["ip"], &ready["miner_signature"]),
        (&json!(null), &json!(null))
    );

    let get = |client| get(&ready, client, "/hello");
    assert_eq!(
        get(Some(&client)).await.unwrap(),
        ("HTTP/1.1 200 OK".to_owned(), "hi\n".to_owned())
    );
    let refused = |words: &str| ("HTTP/1.1 400 Bad Request".to_owned(), format!("{words}\n"));
    assert_eq!(
        get(None).await.unwrap(),
        refused("No required SSL certificate was sent")
    );
    assert_eq!(
        get(Some(&other)).await.unwrap(),
        refused("The SSL certificate error")
    );
    let liar = Client {
        pem: client.pem.clone(),
        certificate: client.certificate.clone(),
        key: other.key.clone(),
    };
    assert!(
        get(Some(&liar)).await.is_err(),
        "the certificate of another without its key"
    );

    // One connection in the middle of nothing when the job ends.
    let mut open = connect(&ready, Some(&client)).await.unwrap();
    open.write_all(b"GET /hello HTT").await.unwrap();
    // The job sees its volume; it is how the test tells it to end.
    let work = session.home.path().join("work");
    let workspace = std::fs::read_dir(&work).unwrap().next().unwrap().unwrap().path();
    std::fs::write(workspace.join("volume/over"), "").unwrap();
    let said = session.rest().await;
    assert_eq!(
        said.iter().map(kind_of).collect::<Vec<_>>(),
        ["V0ExecutionDoneRequest", "V0JobFinishedRequest"]
    );
    assert_eq!(said[1]["docker_process_stdout"], "done\n");
    let mut rest = Vec::new();
    drop(
        timeout(PATIENCE, open.read_to_end(&mut rest))
            .await
            .expect("the connection ends"),
    );
    assert!(session.end(&*engine).await.success());
    assert!(get(Some(&client)).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_job_reaches_nothing_but_itself() {
    let Some(engine) = engine().await else { return };
    let (mut miner, client) = (Miner::start().await, Client::new());
    // Something of the host that would answer: at loopback, and at every address of this machine.
    let host = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let port = host.local_addr().unwrap().port();
    let script = format!(
        "{SERVER} until [ -e /volume/over ]; do sleep 0.1; done; \
         busybox ip -o addr | grep -vc ' lo ' ; busybox ip route | busybox wc -l; \
         for a in 127.0.0.1 172.17.0.1 169.254.169.254; do \
           busybox nc -w 1 $a {port} < /bin/busybox > /dev/null 2>&1 && echo reached $a; done; \
         ls /run/horde 2> /dev/null; find / -xdev -name '*.sock' 2> /dev/null; \
         busybox cat /proc/net/unix | grep -v RefCount | busybox wc -l; echo end"
    );
    let mut session = begin(&mut miner, &client, AMPLE, &script, &[]).await;
    let ready = session.next().await.expect("the job gets ready");
    assert_eq!(kind_of(&ready), "V0StreamingJobReadyRequest", "{ready}");
    for container in engine.list(Label::Token(&session.token)).await.unwrap() {
        let kind = container.name.rsplit('-').next().unwrap_or_default();
        assert!(["job", "relay"].contains(&kind), "{}", container.name);
    }
    let work = session.home.path().join("work");
    let workspace = std::fs::read_dir(&work).unwrap().next().unwrap().unwrap().path();
    std::fs::write(workspace.join("volume/over"), "").unwrap();
    let said = session.rest().await;
    let stdout = said.last().unwrap()["docker_process_stdout"].as_str().unwrap();
    // No other interface, no route, none of the three, no folder of ours, no socket; the relay's own socket is seen
    // in the list of the network that both share, but cannot be opened from there.
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"0"), "{stdout}");
    assert_eq!(lines.get(1), Some(&"0"), "{stdout}");
    assert_eq!(lines.get(3), Some(&"end"), "{stdout}");
    let reached = host.accept().unwrap_err();
    assert_eq!(reached.kind(), io::ErrorKind::WouldBlock, "somebody came");
    assert!(session.end(&*engine).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_healthy_server_has_timed_out_and_is_told_why() {
    let Some(engine) = engine().await else { return };
    let client = Client::new();
    // The last is killed after the time that the wire gives it, 25 s, so all go at once.
    let cases = [
        (
            "echo early; exit 0",
            "the job ended before it was ready",
            "early\n",
        ),
        (
            "echo sleepy; exec sleep 100",
            "nothing listens on port 8000",
            "sleepy\n",
        ),
    ];
    let played = cases.map(|(script, reason, stdout)| {
        let (engine, client) = (&engine, &client);
        async move {
            let mut miner = Miner::start().await;
            let mut session = begin(&mut miner, client, AMPLE, script, &[]).await;
            let said = session.rest().await;
            assert_eq!(
                said.iter().map(kind_of).collect::<Vec<_>>(),
                ["V0JobFailedRequest"]
            );
            assert_eq!(
                (&said[0]["reason"], &said[0]["stage"]),
                (&json!("timeout"), &json!("execution"))
            );
            assert_eq!(said[0]["message"], "Streaming job health check failed");
            assert_eq!(said[0]["context"]["error"], reason);
            assert_eq!(said[0]["docker_process_stdout"], stdout);
            assert!(session.end(&**engine).await.success());
        }
    });
    futures_util::future::join_all(played).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_in_that_cannot_be_opened_is_a_failed_stream() {
    let Some(engine) = engine().await else { return };
    let client = Client::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (certificate, words) in [
        ("PEM".to_owned(), "the client's certificate is not PEM".to_owned()),
        (client.pem, format!("could not listen on port {port}")),
    ] {
        let mut miner = Miner::start().await;
        let mut session = Session::start(&mut miner, &[("NGINX_PORT", &port.to_string())]).await;
        let mut initial = initial(json!(null), AMPLE);
        initial["streaming_details"] = json!({ "public_key": certificate, "executor_ip": "127.0.0.1" });
        session.send(&initial).await;
        let said = session.rest().await;
        let failed = said.last().unwrap();
        assert_eq!(kind_of(failed), "V0HordeFailedRequest");
        assert_eq!(failed["reason"], "streaming_failed");
        let message = failed["message"].as_str().unwrap();
        assert!(message.contains(&words), "{message}");
        assert!(session.end(&*engine).await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_of_an_executor_that_was_killed_end_by_themselves() {
    let Some(engine) = engine().await else { return };
    let (mut miner, client) = (Miner::start().await, Client::new());
    let script = format!("{SERVER} sleep 100");
    let mut session = begin(&mut miner, &client, AMPLE, &script, &[]).await;
    let ready = session.next().await.expect("the job gets ready");
    assert_eq!(kind_of(&ready), "V0StreamingJobReadyRequest", "{ready}");
    session.child.kill().await.unwrap();
    let relay_runs = async |engine: &dyn Engine| {
        let found = engine.list(Label::Token(&session.token)).await.unwrap();
        found
            .iter()
            .any(|container| container.name.ends_with("-relay") && container.is_running)
    };
    let ended = timeout(Duration::from_secs(60), async {
        while relay_runs(&*engine).await {
            sleep(Duration::from_millis(100)).await;
        }
    });
    ended.await.expect("the relay ends with its executor");
    horde::core::docker::sweep(&*engine, Label::Token(&session.token))
        .await
        .unwrap();
}
