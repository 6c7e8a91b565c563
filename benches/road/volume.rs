//! A zip volume of 1 GiB against `curl` and `unzip`, from one server on loopback.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use horde::core::model::volume::{Volume, ZipUrlVolume};
use horde::core::transfer::address::Policy;
use horde::core::transfer::download::Downloader;
use horde::core::transfer::folder::Folder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::Instant;

use crate::Failure;
use crate::figure::Sample;

/// The word that makes this program fetch a volume, so that its memory is that of nothing else.
pub(crate) const FETCH: &str = "--fetch";

/// Files in the zip, and bytes of each: 1 GiB together.
const FILES: usize = 16;
const FILE_BYTES: usize = 64 << 20;

/// How often it is measured at most: each time a gibibyte is written twice.
const RUNS_MAX: usize = 5;

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// Seconds of ours.
    pub(crate) ours: Sample,
    /// Seconds of `curl` and `unzip`.
    pub(crate) tools: Sample,
    /// The most memory that ours had resident, in MB (10^6 bytes).
    pub(crate) megabytes: Sample,
}

/// Measures; returns nothing where `curl` or `unzip` is missing.
pub(crate) async fn volumes(runs: usize) -> Result<Option<Volumes>, Failure> {
    for tool in ["curl", "unzip"] {
        let mut command = Command::new(tool);
        command.arg("-h").stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().await.is_err() {
            return Ok(None);
        }
    }
    let directory = tempfile::tempdir()?;
    let zip = directory.path().join("volume.zip");
    let made = zip.clone();
    tokio::task::spawn_blocking(move || make_zip(&made)).await??;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut volumes = Volumes::default();
    let measured = async {
        for _ in 0..runs.min(RUNS_MAX) {
            volumes.tools.add(by_tools(directory.path(), address).await?);
            let (seconds, megabytes) = by_us(directory.path(), address).await?;
            volumes.ours.add(seconds);
            volumes.megabytes.add(megabytes);
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        measured = measured => measured?,
        served = serve(listener, &zip) => served?,
    }
    Ok(Some(volumes))
}

/// Writes a zip of what a job's input is like: text that packs to a third, and weights that hardly pack.
fn make_zip(path: &Path) -> Result<(), Failure> {
    let mut zip = zip::ZipWriter::new(File::create(path)?);
    let options = zip::write::SimpleFileOptions::default().compression_level(Some(1));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1 << 20];
    for file in 0..FILES {
        zip.start_file(format!("part-{file:02}"), options)?;
        for _ in 0..FILE_BYTES / block.len() {
            for chunk in block.chunks_mut(8) {
                // The xorshift of Marsaglia: repeatable, and without a pattern that deflate would find.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let bits = if file % 2 == 0 {
                    state & 0x0707_0707_0707_0707
                } else {
                    state
                };
                chunk.copy_from_slice(&bits.to_le_bytes());
            }
            zip.write_all(&block)?;
        }
    }
    zip.finish()?;
    Ok(())
}

async fn serve(listener: TcpListener, zip: &Path) -> Result<(), Failure> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        answer(stream, zip).await?;
    }
}

async fn answer(mut stream: TcpStream, zip: &Path) -> Result<(), Failure> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let mut file = tokio::fs::File::open(zip).await?;
    file.set_max_buf_size(1 << 20);
    let length = file.metadata().await?.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut reader = tokio::io::BufReader::with_capacity(1 << 20, file);
    tokio::io::copy_buf(&mut reader, &mut stream).await?;
    // The client may have gone as soon as it had all.
    drop(stream.shutdown().await);
    Ok(())
}

async fn by_tools(directory: &Path, address: SocketAddr) -> Result<f64, Failure> {
    let target = directory.join("tools");
    std::fs::create_dir(&target)?;
    let fetched = directory.join("fetched.zip");
    let started = Instant::now();
    let url = format!("http://{address}/");
    let mut curl = Command::new("curl");
    done(
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output"])
            .arg(&fetched)
            .arg(url),
    )
    .await?;
    done(
        Command::new("unzip")
            .arg("-q")
            .arg(&fetched)
            .arg("-d")
            .arg(&target),
    )
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&target)?;
    std::fs::remove_file(&fetched)?;
    Ok(seconds)
}

async fn done(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdin(Stdio::null()).kill_on_drop(true).status().await?;
    if status.success() {
        Ok(())
    } else {
        let program = command.as_std().get_program().display();
        Err(format!("{program} ended with {status}").into())
    }
}

async fn by_us(directory: &Path, address: SocketAddr) -> Result<(f64, f64), Failure> {
    let target = directory.join("ours");
    std::fs::create_dir(&target)?;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg(FETCH).arg(format!("http://{address}/")).arg(&target);
    let started = Instant::now();
    let output = child.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("our own download ended with {}", output.status).into());
    }
    let kilobytes: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    std::fs::remove_dir_all(&target)?;
    Ok((seconds, kilobytes * 1024.0 / 1e6))
}

/// Fetches a volume as an executor does; returns the most memory that this process had resident, in KiB.
pub(crate) async fn fetch(url: String, target: &Path) -> Result<u64, Failure> {
    for name in ["volume", "scratch"] {
        std::fs::create_dir(target.join(name))?;
    }
    let policy = Policy::new(vec!["127.0.0.0/8".parse()?]);
    let zip = ZipUrlVolume {
        contents: url,
        relative_path: None,
    };
    let volume = Volume::ZipUrl(zip);
    let folder = Folder::open(&target.join("volume"))?;
    Downloader::new(2 << 30, Arc::new(policy))
        .fetch(volume, &folder, &target.join("scratch"))
        .await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next());
    Ok(peak.ok_or("/proc/self/status has no VmHWM")?.parse()?)
}
