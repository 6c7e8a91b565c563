//! The way to an engine on another machine: its socket as a socket of ours, through an `ssh` of this machine that is
//! started again whenever it ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::core::clock::Backoff;
use crate::core::config::engines::{Ssh, USUAL_SOCKET};

/// Shortest and longest pause before ssh is started again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A tunnel that lived so long was one: the next pause is the shortest again.
const LIVED: Duration = Duration::from_secs(60);

/// Most bytes of ssh's last words that are kept for the log.
const WORDS_BYTES_MAX: usize = 1024;

/// Returns the arguments with which ssh brings the engine's socket of a machine to `socket`.
///
/// The times are those of wire-executor-miner §3. The machine's key is kept at the first visit and looked at from then
/// on, where the reference never looks.
fn arguments(ssh: &Ssh, socket: &Path) -> Vec<OsString> {
    const OPTIONS: [&str; 9] = [
        "BatchMode=yes",
        "ConnectTimeout=15",
        "ServerAliveInterval=30",
        "ServerAliveCountMax=3",
        "StrictHostKeyChecking=accept-new",
        "ExitOnForwardFailure=yes",
        "StreamLocalBindUnlink=yes",
        "IdentitiesOnly=yes",
        // A connection of its own, whatever the user's settings share.
        "ControlPath=none",
    ];
    let mut forward = socket.as_os_str().to_owned();
    forward.push(":");
    forward.push(USUAL_SOCKET);
    let options = OPTIONS.iter().flat_map(|option| ["-o", option]);
    let mut arguments: Vec<OsString> = ["-NT"].into_iter().chain(options).map(OsString::from).collect();
    arguments.extend([OsString::from("-p"), ssh.port.to_string().into()]);
    arguments.extend([OsString::from("-i"), ssh.key_path.clone().into_os_string()]);
    arguments.extend([OsString::from("-l"), ssh.username.clone().into()]);
    arguments.extend([
        OsString::from("-L"),
        forward,
        "--".into(),
        ssh.host.clone().into(),
    ]);
    arguments
}

/// Keeps a tunnel open until `stop`.
pub(super) async fn keep(name: String, ssh: Ssh, socket: PathBuf, stop: CancellationToken) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = run(&ssh, &socket) => ended,
        };
        tracing::warn!(
            server = name,
            reason = ended,
            "the ssh tunnel to an engine ended; it is opened again"
        );
        if started.elapsed() > LIVED {
            backoff.reset();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(backoff.pause()) => {}
        }
    }
}

/// Runs ssh once; returns why it ended. It goes with the future.
async fn run(ssh: &Ssh, socket: &Path) -> String {
    let child = Command::new("ssh")
        .args(arguments(ssh, socket))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            return format!("could not start ssh: {error} (Debian: apt-get install openssh-client)");
        }
    };
    let words = match child.stderr.take() {
        Some(stderr) => last_words(stderr).await,
        None => String::new(),
    };
    match child.wait().await {
        Ok(status) => format!("{status}: {}", words.trim().escape_debug()),
        Err(error) => error.to_string(),
    }
}

/// Reads to the end and returns the last of it.
async fn last_words(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; WORDS_BYTES_MAX];
    while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
        kept.extend_from_slice(chunk.get(..read).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(WORDS_BYTES_MAX));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_asks_nobody_gives_up_in_time_and_takes_no_host_for_an_option() {
        let ssh = Ssh {
            host: "gpu.example".to_owned(),
            port: 2222,
            username: "ubuntu".to_owned(),
            key_path: "/keys/id".into(),
        };
        let line: Vec<_> = arguments(&ssh, Path::new("/tmp/t/0.sock"))
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        let line = line.join(" ");
        assert!(
            line.starts_with("-NT -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=30 "),
            "{line}"
        );
        assert!(line.contains("-o StrictHostKeyChecking=accept-new "), "{line}");
        let end = "-p 2222 -i /keys/id -l ubuntu -L /tmp/t/0.sock:/var/run/docker.sock -- gpu.example";
        assert!(line.ends_with(end), "{line}");
    }
}
