//! Processes beside the load generator: their start, their end, and what they have used.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::{Failure, accounts};

/// Time that a process has to end what is in hand.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process of ours that is ended with this.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts it and waits until it listens at `address`.
    pub(crate) async fn start(mut command: Command, address: SocketAddr) -> Result<Self, Failure> {
        let mut child = command.spawn()?;
        let attempts = async {
            loop {
                match TcpStream::connect(address).await {
                    Ok(_) => return Ok::<_, Failure>(()),
                    Err(_) if child.try_wait()?.is_some() => return Err("it ended at its start".into()),
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, attempts)
            .await
            .map_err(|_| Failure::from("it does not listen"))??;
        Ok(Self { child, address })
    }

    fn id(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("a process has ended early")?)
    }

    /// Returns the milliseconds of CPU that it has used, user and system.
    pub(crate) fn cpu_ms(&self) -> Result<f64, Failure> {
        accounts::cpu_ms(self.id()?)
    }

    /// Returns its resident memory in KB (1000 bytes).
    pub(crate) fn resident_kb(&self) -> Result<f64, Failure> {
        accounts::resident_kb(self.id()?)
    }

    /// Ends it the way a service manager does and waits for it.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()?)?).ok_or("no process")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "it does not stop")??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("it ended with {status}").into())
        }
    }
}

/// Returns this very program, with nothing of this process's own settings.
pub(crate) fn itself() -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    alone(&mut command);
    Ok(command)
}

/// Keeps this process's own settings and streams from a command.
pub(crate) fn alone(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HORDE_") {
            command.env_remove(name);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
}

/// Returns a loopback address that was free a moment ago.
pub(crate) async fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
