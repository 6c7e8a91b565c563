//! The way to a streaming job from outside: TLS, and only for the one client whose certificate is known.
//!
//! Who is let in gets a tunnel to the job's port. Nothing of what they say to each other is read here, so streams,
//! long polls and web sockets go through, and neither can confuse this process. Who is not let in gets status 400,
//! as the reference's proxy answers.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};

use super::certificate::{ClientCertificate, ServerIdentity};
use super::relay;
use super::sockets::SocketFolder;
use crate::core::tasks::Tasks;

/// Connections of the client at once; further ones are answered 503.
pub(super) const CONNECTIONS_MAX: usize = 256;

/// Connections at once of those who have not shown a certificate yet; further ones wait in the kernel's queue.
const STRANGERS_MAX: usize = 64;

/// How long a stranger may take for the handshake, and again for the question that is answered 400.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// How long neither side may send anything. Long polls of a quarter of an hour are rarer than forgotten connections.
const IDLE_MAX: Duration = Duration::from_secs(15 * 60);

/// How long the client may keep its half of a connection whose other half the job has ended.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes read from one side before they are written to the other.
const CHUNK_BYTES: usize = 32 * 1024;

/// The longest head of a question that is refused, in bytes; what follows is not waited for.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Pause after a connection could not be accepted for want of handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The only protocol above TLS that is agreed on: what ordinary servers on a plain port speak.
const PROTOCOL: &[u8] = b"http/1.1";

/// Returns where to listen for the clients of a server that is reached at `address`: one that can only be reached
/// from this machine need not be seen from others.
pub(super) fn listening_addresses(address: Option<&str>, port: u16) -> [SocketAddr; 2] {
    let ip = address.and_then(|address| address.parse::<IpAddr>().ok());
    match ip {
        Some(ip) if ip.is_loopback() => [(ip, port).into(); 2],
        // A socket for both families, or for the old one where the kernel has no other.
        _ => [
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ],
    }
}

/// Binds the first of the addresses that can be bound.
pub(super) async fn listen(addresses: [SocketAddr; 2]) -> io::Result<TcpListener> {
    let [first, second] = addresses;
    match TcpListener::bind(first).await {
        Ok(listener) => Ok(listener),
        // Taken is taken; a family that is not there is another matter.
        Err(error) if first == second || error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(second).await,
    }
}

/// What the front knows.
pub(super) struct Front {
    acceptor: TlsAcceptor,
    client: ClientCertificate,
    job: SocketFolder,
    strangers: Arc<Semaphore>,
    guests: Arc<Semaphore>,
}

impl Front {
    /// Prepares the handshake; `job` is the folder of the relay's socket.
    pub(super) fn new(
        identity: &ServerIdentity,
        client: ClientCertificate,
        job: SocketFolder,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyClient(provider.signature_verification_algorithms));
        let (certificate, key) = identity.parts();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Every connection shows its certificate anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            client,
            job,
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            guests: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    /// Serves until the family is told to stop.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, tasks: Tasks) {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&self.strangers).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                biased;
                () = tasks.stopped() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (front, stop) = (Arc::clone(&self), tasks.token());
                    tasks.spawn("streaming connection", async move {
                        let outcome = tokio::select! {
                            biased;
                            () = stop.cancelled() => Ok(()),
                            outcome = front.meet(stream, place) => outcome,
                        };
                        if let Err(error) = outcome {
                            tracing::debug!(%peer, %error, "a streaming connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn meet(&self, stream: TcpStream, place: tokio::sync::OwnedSemaphorePermit) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = timeout(STRANGER_PATIENCE, self.acceptor.accept(stream)).await??;
        match admit(stream.get_ref().1.peer_certificates(), &self.client) {
            Ok(()) => drop(place),
            // Keeps its place among the strangers until it is gone.
            Err(refusal) => return refuse(&mut stream, refusal).await,
        }
        let Ok(_guest) = Arc::clone(&self.guests).try_acquire_owned() else {
            return refuse(&mut stream, Refusal::TooMany).await;
        };
        match relay::reach(&self.job).await {
            Ok(Some(job)) => tunnel(stream, job, IDLE_MAX).await,
            Ok(None) => refuse(&mut stream, Refusal::NobodyListens).await,
            Err(error) => {
                tracing::debug!(%error, "the relay does not answer");
                refuse(&mut stream, Refusal::NobodyListens).await
            }
        }
    }
}

/// Why a connection is answered by us instead of by the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NoCertificate,
    OtherCertificate,
    TooMany,
    NobodyListens,
}

impl Refusal {
    /// Status, reason and words; those of the first two are the reference's (`streaming_tls.json`).
    fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::NoCertificate => (400, "Bad Request", "No required SSL certificate was sent"),
            Self::OtherCertificate => (400, "Bad Request", "The SSL certificate error"),
            Self::TooMany => (503, "Service Unavailable", "Too many connections to this job"),
            Self::NobodyListens => (502, "Bad Gateway", "The job does not listen on port 8000"),
        }
    }
}

/// Decides who may talk to the job. The handshake has proved that the peer holds the key of what it shows first.
fn admit(shown: Option<&[CertificateDer<'_>]>, wanted: &ClientCertificate) -> Result<(), Refusal> {
    match shown.and_then(|chain| chain.first()) {
        None => Err(Refusal::NoCertificate),
        Some(certificate) if wanted.is(certificate) => Ok(()),
        Some(_) => Err(Refusal::OtherCertificate),
    }
}

/// Answers one question, whatever it is, and ends the connection.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, refusal: Refusal) -> io::Result<()> {
    timeout(STRANGER_PATIENCE, async {
        let mut head = Vec::new();
        while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        let (status, reason, words) = refusal.answer();
        let length = words.len() + 1;
        let answer = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{words}\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with something unread, the answer might be lost on its way.
        let mut rest = [0; 1024];
        let mut left = HEAD_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// When something was last heard from either side.
struct Activity {
    begin: Instant,
    /// Milliseconds since `begin`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let passed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Waits until nothing has been heard for so long.
    async fn silence(&self, limit: Duration) {
        loop {
            let last = self.begin + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let due = last + limit;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Hands bytes on between the client and the job until one of them has ended, or both are silent for too long.
async fn tunnel<C, J>(client: C, job: J, idle: Duration) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    J: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_job, mut to_job) = tokio::io::split(job);
    let activity = Activity::new();
    let mut answering = pin!(copy(&mut from_job, &mut to_client, &activity));
    let asking = async {
        match copy(&mut from_client, &mut to_job, &activity).await {
            // The client has said all; the answer is still to come.
            Ok(()) => pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        outcome = answering.as_mut() => outcome?,
        error = asking => {
            // A job that does not want to hear the rest may have answered already.
            drop(timeout(LINGER, answering).await);
            return Err(error);
        }
        () = activity.silence(idle) => return Err(io::ErrorKind::TimedOut.into()),
    }
    // Closed with something unread, the end of the answer might be lost on its way.
    let mut rest = [0; 1024];
    let drain = async { while matches!(from_client.read(&mut rest).await, Ok(count) if count > 0) {} };
    drop(timeout(LINGER, drain).await);
    Ok(())
}

async fn copy<R, W>(reader: &mut R, writer: &mut W, activity: &Activity) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = reader.read(&mut chunk).await?;
        activity.note();
        if count == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(chunk.get(..count).unwrap_or_default()).await?;
        writer.flush().await?;
        activity.note();
    }
}

/// Lets every certificate through the handshake whose key the peer holds; who is admitted is decided after it, so
/// that others can be answered.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn only_the_very_same_certificate_is_admitted() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../../tests/golden/streaming_tls.json")).unwrap();
        let [wanted, other] = [0, 1].map(|index| {
            let pem = golden["certificates"][index]["certificate_pem"].as_str().unwrap();
            ClientCertificate::parse(pem).unwrap()
        });
        let [mine, other] = [&wanted, &other].map(|one| CertificateDer::from(one.der().to_vec()));
        assert_eq!(admit(None, &wanted), Err(Refusal::NoCertificate));
        assert_eq!(admit(Some(&[]), &wanted), Err(Refusal::NoCertificate));
        assert_eq!(
            admit(Some(std::slice::from_ref(&other)), &wanted),
            Err(Refusal::OtherCertificate)
        );
        assert_eq!(
            admit(Some(&[other.clone(), mine.clone()]), &wanted),
            Err(Refusal::OtherCertificate)
        );
        assert_eq!(admit(Some(std::slice::from_ref(&mine)), &wanted), Ok(()));
    }

    #[test]
    fn a_server_of_this_machine_is_not_seen_from_others() {
        assert_eq!(
            listening_addresses(Some("127.0.0.1"), 6),
            ["127.0.0.1:6".parse().unwrap(); 2]
        );
        assert_eq!(
            listening_addresses(Some("::1"), 6),
            ["[::1]:6".parse().unwrap(); 2]
        );
        for address in [None, Some("203.0.113.7"), Some("executor.example.com")] {
            let everywhere = ["[::]:6".parse().unwrap(), "0.0.0.0:6".parse().unwrap()];
            assert_eq!(listening_addresses(address, 6), everywhere);
        }
    }

    #[tokio::test]
    async fn a_refusal_answers_after_the_question_and_ends() {
        let (mut near, mut far) = duplex(1024);
        let client = async {
            near.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            drop(near);
            answer
        };
        let server = async {
            let outcome = refuse(&mut far, Refusal::NoCertificate).await;
            drop(far);
            outcome
        };
        let (answer, outcome) = tokio::join!(client, server);
        outcome.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nNo required SSL certificate was sent\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_tunnel_ends_when_both_sides_are_silent_and_not_before() {
        let (mut client, near) = duplex(64);
        let (far, mut job) = duplex(64);
        let (pause, idle) = (Duration::from_millis(300), Duration::from_millis(500));
        let talk = async {
            for _ in 0..3 {
                sleep(pause).await;
                client.write_all(b"x").await.unwrap();
                assert_eq!(job.read_u8().await.unwrap(), b'x');
            }
            pending::<()>().await;
        };
        let begin = Instant::now();
        let outcome = tokio::select! {
            outcome = tunnel(near, far, idle) => outcome,
            () = talk => unreachable!(),
        };
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= 3 * pause);
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_still_gets_its_answer() {
        let (mut client, near) = duplex(64);
        let (far, mut job) = duplex(64);
        let client = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let job = async {
            let mut question = String::new();
            job.read_to_string(&mut question).await.unwrap();
            job.write_all(&[b'a'; 1000]).await.unwrap();
            drop(job);
            question
        };
        let (answer, question, outcome) = tokio::join!(client, job, tunnel(near, far, IDLE_MAX));
        outcome.unwrap();
        assert_eq!((answer.len(), question.as_str()), (1000, "question"));
    }
}
