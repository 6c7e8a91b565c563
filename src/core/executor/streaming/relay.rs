//! The way into a job that has no network: a helper that shares the job's loopback takes connections from a Unix
//! socket, which the job does not see, and hands them to the job's port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::front::CONNECTIONS_MAX;
use super::sockets::SocketFolder;
use crate::core::tasks::Tasks;

/// The port that a streaming job listens on (wire-executor-miner §9).
const JOB_PORT: u16 = 8000;

/// The relay's socket in its folder.
pub(super) const SOCKET: &str = "job.sock";

/// The first byte of a connection: the job has taken it.
const TAKEN: u8 = 1;

/// The first byte of a connection: nobody listens in the job.
const REFUSED: u8 = 0;

/// How long the job may take to take a connection; its kernel does so at once unless its queue is full.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted for want of handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a connection to the job's port from outside; `None` when nobody listens there.
pub(super) async fn reach(folder: &SocketFolder) -> io::Result<Option<UnixStream>> {
    let reached = timeout(CONNECT_PATIENCE * 2, async {
        let mut stream = folder.connect(SOCKET).await?;
        let answer = stream.read_u8().await?;
        Ok((answer == TAKEN).then_some(stream))
    });
    reached
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Hands connections on until the family is told to stop; runs inside the job's network.
pub(super) async fn serve(listener: UnixListener, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed; see the bound of the front, which comes first.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            biased;
            () = tasks.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn("relayed connection", async move {
                    // Whoever broke it: both sides see the end.
                    hand_on(stream, &loopback(JOB_PORT)).await.unwrap_or_default();
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The addresses at which a program of the job may listen: any that it binds is one of these.
fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ]
}

async fn hand_on(mut near: UnixStream, addresses: &[SocketAddr]) -> io::Result<()> {
    let connected = timeout(CONNECT_PATIENCE, TcpStream::connect(addresses)).await;
    let Ok(Ok(mut job)) = connected else {
        return near.write_u8(REFUSED).await;
    };
    job.set_nodelay(true)?;
    near.write_u8(TAKEN).await?;
    copy_bidirectional(&mut near, &mut job).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn relayed(addresses: Vec<SocketAddr>) -> (tempfile::TempDir, io::Result<Option<UnixStream>>) {
        let outside = tempfile::tempdir().unwrap();
        let folder = SocketFolder::open(outside.path()).unwrap();
        let listener = folder.listen(SOCKET).unwrap();
        let relay = async {
            let (stream, _) = listener.accept().await.unwrap();
            Tasks::new().spawn("relayed connection", async move {
                hand_on(stream, &addresses).await.unwrap();
            });
        };
        let (reached, ()) = tokio::join!(reach(&folder), relay);
        (outside, reached)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_an_end_is_passed_on() {
        let job = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Nobody listens at the first address.
        let addresses = vec!["127.0.0.1:1".parse().unwrap(), job.local_addr().unwrap()];
        let (_outside, reached) = relayed(addresses).await;
        let mut near = reached.unwrap().unwrap();
        let (mut far, _) = job.accept().await.unwrap();
        near.write_all(b"ask").await.unwrap();
        near.shutdown().await.unwrap();
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!((asked.as_str(), answer.as_str()), ("ask", "answer"));
    }

    #[tokio::test]
    async fn a_job_that_does_not_listen_is_told_apart_from_one_that_says_nothing() {
        let (_outside, reached) = relayed(vec!["127.0.0.1:1".parse().unwrap()]).await;
        assert!(reached.unwrap().is_none());
    }
}
