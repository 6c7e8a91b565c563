//! The facilitator over TLS: users and validators by the real binary, old protocols refused, a new certificate without
//! cutting anybody off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use horde::core::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::facilitator::World;
use crate::support::Home;

/// Longest wait for something that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// An authority of a test's own.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self {
            issuer,
            folder: folder.to_owned(),
        }
    }

    /// Writes a certificate for this machine, in place of the one before; returns its bytes.
    fn certify(&self) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let files = self.files();
        std::fs::write(files.certificate, certificate.pem()).unwrap();
        std::fs::write(files.key, key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    fn files(&self) -> TlsConfig {
        TlsConfig {
            certificate: self.folder.join("server.pem"),
            key: self.folder.join("server.key"),
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    async fn connect(
        &self,
        address: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.root()).unwrap())
            .unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
    }
}

fn certificate_of(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

/// Asks for something small on an open connection.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

async fn world(home: &Home) -> (World, Authority) {
    let authority = Authority::new(home.path());
    authority.certify();
    let files = authority.files();
    let world = World::start_with(|config| config.tls = Some(files)).await;
    (world, authority)
}

/// A role that is killed when the test ends.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.0.id()).unwrap()) {
            kill_process(pid, Signal::KILL).unwrap();
        }
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_validators_speak_tls_by_the_real_program() {
    let home = Home::new();
    let (world, authority) = world(&home).await;
    let port = world.address.port();
    let url = format!("https://localhost:{port}");
    let root = authority.root();
    let list = |root: Option<&Path>| {
        let mut command = home.horde(["job", "list", "--facilitator", &url, "--json"]);
        command.env("HORDE_WALLET_URI", "//Charlie");
        if let Some(root) = root {
            command.env("SSL_CERT_FILE", root);
        }
        command.output().unwrap()
    };
    let good = list(Some(&root));
    assert!(good.status.success(), "{}", home.told(&good));
    // A stranger's certificate is refused.
    let bad = list(None);
    assert!(!bad.status.success(), "{}", home.told(&bad));

    let chain = world.config.chain.path.clone();
    let validator = home
        .horde(["validator", "run"])
        .env("HORDE_WALLET_URI", "//Alice")
        .env("HORDE_CHAIN_PATH", &chain)
        .env(
            "HORDE_VALIDATOR_FACILITATOR_URL",
            format!("wss://localhost:{port}/ws/v0/"),
        )
        .env("SSL_CERT_FILE", &root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let validator = Role(validator);
    let deadline = Instant::now() + PATIENCE;
    while !seats(&authority, &world).await {
        assert!(Instant::now() < deadline, "the validator never came");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(validator);
}

/// Tells whether a validator is there.
async fn seats(authority: &Authority, world: &World) -> bool {
    let root = std::fs::read(authority.root()).unwrap();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
        .build()
        .unwrap();
    let url = format!("https://localhost:{}", world.address.port());
    let nonce: serde_json::Value = http
        .get(format!("{url}/auth/nonce"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let nonce = nonce["nonce"].as_str().unwrap().to_owned();
    let login =
        horde::core::proto::sdk_facilitator::Login::signed(&crate::facilitator::key("//Charlie"), nonce);
    let token: serde_json::Value = http
        .post(format!("{url}/auth/login"))
        .json(&login)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let validators: serde_json::Value = http
        .get(format!("{url}/api/v1/validators/"))
        .bearer_auth(token["token"].as_str().unwrap())
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    !validators["validators"].as_array().unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_and_nobody_is_cut_off() {
    let home = Home::new();
    let (world, authority) = world(&home).await;
    let mut older = authority.connect(world.address, &[&TLS13]).await.unwrap();
    let before = certificate_of(&older);
    assert!(ask(&mut older).await.starts_with("HTTP/1.1 200"));
    let after = authority.certify();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let newer = authority.connect(world.address, &[&TLS13]).await.unwrap();
        if certificate_of(&newer) == after {
            break;
        }
        assert_eq!(certificate_of(&newer), before);
        assert!(Instant::now() < deadline, "the new certificate is never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Within the time that a connection may be idle.
    assert!(ask(&mut older).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let home = Home::new();
    let (world, authority) = world(&home).await;
    for version in [&TLS12, &TLS13] {
        let mut stream = authority.connect(world.address, &[version]).await.unwrap();
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"), "{version:?}");
    }
    // The head of a TLS 1.1 hello, and plain HTTP, get an alert or nothing, and are closed.
    let hello: &[u8] = &[
        0x16, 0x03, 0x01, 0x00, 0x2d, 0x01, 0x00, 0x00, 0x29, 0x03, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x02, 0x00, 0x2f, 0x01, 0x00,
    ];
    for said in [hello, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(
            read.is_err() || answer.first().is_none_or(|first| *first == 0x15),
            "{answer:?}"
        );
    }
}
