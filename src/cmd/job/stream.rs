//! `--stream`: the user's certificate, and how to connect once the job is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client_error;
use super::follow::{InterruptArgs, Interrupts, interrupted};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::table::printable;
use crate::core::client::Client;
use crate::core::client::certificate::ClientCertificate;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::{JobView, StreamingClient};

/// The pause between two looks at a job that is awaited.
const LOOK: Duration = Duration::from_millis(500);

/// The files by which a user talks to a job.
#[derive(Debug, Clone)]
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    fn certificate(&self) -> PathBuf {
        self.folder.join("client.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("client-key.pem")
    }

    fn server(&self) -> PathBuf {
        self.folder.join("server.pem")
    }
}

/// Makes a certificate and, if it `writes`, writes it with its key into `folder`, which must not have them yet.
pub(super) async fn prepare(folder: &Path, writes: bool) -> Result<(StreamingClient, Files), CmdError> {
    let tried = format!("could not make a certificate in {}", folder.display());
    let made = tokio::task::spawn_blocking(ClientCertificate::make)
        .await
        .or_fail(ExitCode::Bug, tried.clone())?
        .or_fail(ExitCode::Failed, tried.clone())?;
    let files = Files {
        folder: folder.to_owned(),
    };
    let client = StreamingClient {
        public_key: made.pem().to_owned(),
    };
    if !writes {
        return Ok((client, files));
    }
    fs::create_dir_all(folder).or_fail(ExitCode::Failed, tried.clone())?;
    made.write(&files.certificate(), &files.key()).map_err(|error| {
        CmdError::new(ExitCode::Failed, tried)
            .caused_by(&error)
            .hint("--stream-dir names another folder")
    })?;
    Ok((client, files))
}

/// Waits until the job can be talked to and says how, on standard error; returns the job as it is then, or as it ended.
pub(super) async fn connect(
    context: &Context,
    client: &Client,
    mut job: JobView,
    files: &Files,
    interrupt: InterruptArgs,
) -> Result<JobView, CmdError> {
    context.say(format_args!(
        "job {}: waiting until it can be talked to",
        job.uuid
    ));
    let mut interrupts = Interrupts::listen()?;
    while job.streaming_server_port == 0
        && !job.current().is_terminal()
        && job.current() != JobStatus::ExecutionDone
    {
        tokio::select! {
            biased;
            () = interrupts.next() => {
                return Err(interrupted(context, client, &job, &mut interrupts, interrupt).await);
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        job = client.job(&job.uuid).await.map_err(|error| {
            client_error("could not read the job", &error)
                .hint(format!("the job goes on: horde job wait {}", job.uuid))
        })?;
    }
    if job.streaming_server_port == 0 {
        return Ok(job);
    }
    let server = files.server();
    fs::write(&server, &job.streaming_server_cert)
        .or_fail(ExitCode::Failed, format!("could not write {}", server.display()))?;
    say(context, &job, files);
    Ok(job)
}

/// Says how to connect.
fn say(context: &Context, job: &JobView, files: &Files) {
    let address = printable(&job.streaming_server_address);
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address
    };
    for (name, text) in [
        ("server", format!("https://{host}:{}/", job.streaming_server_port)),
        ("server's certificate", files.server().display().to_string()),
        ("your certificate", files.certificate().display().to_string()),
        ("its key", files.key().display().to_string()),
    ] {
        context.say(format_args!("{name:<22}{text}"));
    }
    context.say(format_args!(
        "curl --cacert {} --cert {} --key {} https://{host}:{}/",
        files.server().display(),
        files.certificate().display(),
        files.key().display(),
        job.streaming_server_port
    ));
}

/// Says where the files are, for a job that is not followed.
pub(super) fn say_files(context: &Context, job: &JobView, files: &Files) {
    context.say(format_args!(
        "your certificate is {}, its key {}; `horde job show --json {}` tells the server's address and certificate once \
         it is there",
        files.certificate().display(),
        files.key().display(),
        job.uuid
    ));
}
