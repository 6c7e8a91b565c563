//! A job for a finished network: it reads a real input volume and uploads a real output to a sink of ours.

use std::io::{self, Cursor, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use tokio::net::TcpListener;
use tokio::time::sleep;
use zip::ZipWriter;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;

use crate::core::client::{Client, ClientError};
use crate::core::model::job::JobStatus;
use crate::core::model::upload::{SingleFilePut, SingleFileUpload};
use crate::core::model::volume::{InlineVolume, SimpleVolume};
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::net::http::serve;
use crate::core::proto::sdk_facilitator::{JobView, Submit};
use crate::core::tasks::Tasks;

/// The file of the input volume.
pub const INPUT_NAME: &str = "fruits.txt";
/// The input.
pub const INPUT: &str = "quince\napple\nmedlar\ndamson\nbilberry\n";
/// The file of the output.
pub const OUTPUT_NAME: &str = "sorted.txt";
/// What runs in the container: it needs no more than a shell, `sort`, `tee` and `wc`.
const SCRIPT: &str = "sort /volume/fruits.txt | tee /output/sorted.txt && \
                      echo \"sorted $(wc -l < /volume/fruits.txt) lines\" >&2";

/// Seconds for each stage of the sample job; generous, for machines that are busy building.
const STAGE_SECONDS: i64 = 60;
/// Pause between two looks at the job.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest upload that the sink takes, in bytes.
const UPLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Returns the sample job, ready to be signed.
pub fn job(image: &str, validator: &Hotkey, sink: &Sink) -> Result<Submit, ZipError> {
    Ok(Submit {
        target_validator_hotkey: validator.clone(),
        executor_class: ExecutorClass::AlwaysOnTest,
        docker_image: image.to_owned(),
        job_namespace: None,
        args: ["sh", "-c", SCRIPT].map(str::to_owned).into(),
        env: IndexMap::new(),
        use_gpu: false,
        artifacts_dir: None,
        on_trusted_miner: false,
        download_time_limit: STAGE_SECONDS,
        execution_time_limit: STAGE_SECONDS,
        streaming_start_time_limit: STAGE_SECONDS,
        upload_time_limit: STAGE_SECONDS,
        streaming_details: None,
        volumes: vec![SimpleVolume::Inline(InlineVolume {
            contents: input_zip()?,
            relative_path: None,
        })],
        uploads: vec![SingleFileUpload::Put(SingleFilePut {
            url: sink.url(),
            relative_path: OUTPUT_NAME.to_owned(),
            signed_headers: None,
        })],
        tag: None,
    })
}

/// Returns what the sample job uploads when all went well.
pub fn expected() -> String {
    let mut lines: Vec<_> = INPUT.lines().collect();
    lines.sort_unstable();
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}

/// Submits a job and follows it to its end, calling `told` with each new status; asks every tenth of a second.
///
/// Pends until the job ends: facilitator and validator bound every stage.
pub async fn run(
    client: &Client,
    job: &Submit,
    mut told: impl FnMut(JobStatus),
) -> Result<JobView, ClientError> {
    let mut view = client.submit(job).await?;
    let mut seen = 0;
    loop {
        for entry in view.status_history.iter().skip(seen) {
            told(entry.status);
        }
        seen = view.status_history.len();
        if view.current().is_terminal() {
            return Ok(view);
        }
        sleep(PAUSE).await;
        view = client.job(&view.uuid).await?;
    }
}

/// Returns the input as base64 of a zip.
fn input_zip() -> Result<String, ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    archive.start_file(INPUT_NAME, SimpleFileOptions::default())?;
    archive.write_all(INPUT.as_bytes())?;
    Ok(STANDARD.encode(archive.finish()?.into_inner()))
}

/// A small HTTP server that takes one file by PUT and keeps it in memory.
#[derive(Clone, Debug)]
pub struct Sink {
    address: SocketAddr,
    /// Part of the path, so that nobody else puts something there by chance.
    secret: String,
    received: Arc<Mutex<Option<Bytes>>>,
}

impl Sink {
    /// Serves on a free port of an address until `tasks` stop.
    pub async fn open(ip: IpAddr, tasks: &Tasks) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let sink = Self {
            address: listener.local_addr()?,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            received: Arc::default(),
        };
        let router = Router::new()
            .route("/{secret}", put(receive))
            .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
            .with_state(sink.clone());
        let family = tasks.clone();
        tasks.spawn("sink", async move { serve(listener, router, &family).await });
        Ok(sink)
    }

    /// Returns where to put the file.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.address, self.secret)
    }

    /// Returns what was put last.
    pub fn received(&self) -> Option<Bytes> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn receive(State(sink): State<Sink>, Path(secret): Path<String>, body: Bytes) -> StatusCode {
    if secret != sink.secret {
        return StatusCode::NOT_FOUND;
    }
    *sink.received.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    StatusCode::OK
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::core::net::http::{ClientOptions, client};

    #[tokio::test]
    async fn the_sink_keeps_what_is_put_at_its_secret_place_and_nothing_else() {
        let tasks = Tasks::new();
        let sink = Sink::open(Ipv4Addr::LOCALHOST.into(), &tasks).await.unwrap();
        let client = client(&ClientOptions::default()).unwrap();
        let put = async |url: String, size: usize| {
            client
                .put(url)
                .body(vec![b'x'; size])
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
        };
        assert_eq!(put(format!("http://{}/elsewhere", sink.address), 3).await, 404);
        assert_eq!(put(sink.url(), UPLOAD_BYTES_MAX + 1).await, 413);
        assert_eq!(sink.received(), None);
        assert_eq!(put(sink.url(), 3).await, 200);
        assert_eq!(sink.received().unwrap(), "xxx");
        drop(client);
        assert!(tasks.shut_down(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn the_sample_reads_its_input_and_names_its_output() {
        let tasks = Tasks::new();
        let sink = Sink::open(Ipv4Addr::LOCALHOST.into(), &tasks).await.unwrap();
        let job = job("image", &Hotkey::new("validator"), &sink).unwrap();
        assert!(SCRIPT.contains(INPUT_NAME) && SCRIPT.contains(OUTPUT_NAME));
        let [SimpleVolume::Inline(volume)] = job.volumes.as_slice() else {
            panic!("one inline volume")
        };
        let zip = STANDARD.decode(&volume.contents).unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        assert_eq!(
            io::read_to_string(archive.by_name(INPUT_NAME).unwrap()).unwrap(),
            INPUT
        );
        // The facilitator trims arguments and refuses blank ones, and the signature would no longer match.
        assert!(job.args.iter().all(|arg| !arg.is_empty() && arg.trim() == arg));
    }
}
