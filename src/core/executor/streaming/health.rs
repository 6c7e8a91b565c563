//! When a streaming job is ready: its `/health` answers 200.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::relay;
use super::sockets::SocketFolder;

/// How long a job has to become healthy once it runs: 25 looks with a second between two (wire-executor-miner §9).
pub(super) const PATIENCE: Duration = Duration::from_secs(25);

/// Time between two looks. Shorter than the reference's second: the time for the start of streaming is often 5 s.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the job may think about one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read for its first line, in bytes.
const LINE_BYTES_MAX: usize = 256;

/// What is asked.
const QUESTION: &[u8] =
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// The job is ready.
    Healthy,
    /// Not yet, and why.
    Not(String),
}

/// Asks until the job is healthy; when that takes longer than `patience`, returns what it said last.
pub(super) async fn wait(folder: &SocketFolder, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        let last = match look(folder).await {
            Look::Healthy => return Ok(()),
            Look::Not(why) => why,
        };
        if Instant::now() + PAUSE >= end {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

async fn look(folder: &SocketFolder) -> Look {
    let looked = timeout(ANSWER_PATIENCE, async {
        match relay::reach(folder).await? {
            Some(stream) => ask(stream).await,
            None => Ok(Look::Not("nothing listens on port 8000".to_owned())),
        }
    });
    match looked.await {
        Ok(Ok(look)) => look,
        Ok(Err(error)) => Look::Not(format!("/health could not be asked: {error}")),
        Err(_elapsed) => Look::Not(format!(
            "/health did not answer within {} s",
            ANSWER_PATIENCE.as_secs()
        )),
    }
}

async fn ask(mut job: UnixStream) -> io::Result<Look> {
    job.write_all(QUESTION).await?;
    let mut answer = Vec::with_capacity(LINE_BYTES_MAX);
    let mut limited = (&mut job).take(LINE_BYTES_MAX as u64);
    while !answer.contains(&b'\n') && limited.read_buf(&mut answer).await? > 0 {}
    Ok(verdict(&answer))
}

/// Reads the first line of an answer.
fn verdict(answer: &[u8]) -> Look {
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some("200") => Look::Healthy,
        Some(_) => Look::Not(format!("/health answered `{}`", line.escape_debug())),
        None => Look::Not("/health did not answer in HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_is_healthy() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nok"[..],
            b"HTTP/1.0 200 \r\n",
            b"HTTP/1.1 200\n",
        ] {
            assert_eq!(verdict(answer), Look::Healthy);
        }
        for answer in [
            &b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..],
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1  200 OK\r\n",
            b"SSH-2.0-x\r\n",
            b"200 OK\r\n",
            b"\xff\xfe\n",
            b"",
        ] {
            assert!(matches!(verdict(answer), Look::Not(_)), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_job_that_never_answers_is_given_up_with_the_last_reason() {
        let outside = tempfile::tempdir().unwrap();
        let folder = SocketFolder::open(outside.path()).unwrap();
        let begin = Instant::now();
        let reason = wait(&folder, 2 * PAUSE).await.unwrap_err();
        assert!(reason.contains("could not be asked"), "{reason}");
        assert!(begin.elapsed() >= PAUSE);
    }
}
