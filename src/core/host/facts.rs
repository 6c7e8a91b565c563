//! What is read about the machine: from the engine, from `/proc`, and by asking NVIDIA's own program for its version.
//!
//! Nothing here starts a container, and nothing needs a privilege.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::gpu::Gpus;
use crate::core::docker::info::{EngineInfo, EngineVersion};
use crate::core::docker::{Engine, EngineError};

/// The runtime that brings GPUs into containers, as engines know it.
pub const NVIDIA_RUNTIME: &str = "nvidia";

/// The most that is read of a file of `/proc`, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// The longest that a program may take to tell its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);

/// Folders in which NVIDIA's toolkit is installed; the one of the engine's runtime is looked into first.
const TOOLKIT_FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/local/nvidia/toolkit"];

/// Programs of the toolkit that tell its version; the second is that of old ones.
const TOOLKIT_PROGRAMS: [&str; 2] = ["nvidia-ctk", "nvidia-container-toolkit"];

/// A fact that may not be readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// What it is.
    Known(String),
    /// Why it is not known.
    Unreadable(String),
}

/// What is known of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its release, as in `6.1.0-13-amd64`.
    pub release: String,
    /// How it was built, `/proc/version`; Debian writes its own version here.
    pub build: String,
    /// `/proc/version_signature`, where Ubuntu names the release that its kernel began from.
    pub signature: Option<String>,
    /// How many user namespaces may exist.
    pub user_namespaces_max: Option<u64>,
    /// Whether users without privileges may make user namespaces, where Debian's switch exists.
    pub unprivileged_user_namespaces: Option<bool>,
}

/// What is known of GPUs and what brings them into containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvidiaFacts {
    /// How many GPUs the driver shows.
    pub count: Result<usize, String>,
    /// The driver's version.
    pub driver: Reading,
    /// The version of the container toolkit.
    pub toolkit: Reading,
}

/// What is known of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its versions.
    pub version: EngineVersion,
    /// What it says of itself and its machine.
    pub info: EngineInfo,
}

impl EngineFacts {
    /// Returns whether the engine can bring GPUs into containers.
    pub fn has_nvidia_runtime(&self) -> bool {
        self.info.runtimes.contains_key(NVIDIA_RUNTIME)
    }
}

/// Everything that checks look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The engine.
    pub engine: EngineFacts,
    /// The kernel.
    pub kernel: KernelFacts,
    /// GPUs; none when jobs get none and nothing was read.
    pub nvidia: Option<NvidiaFacts>,
}

/// Reads facts once and keeps them: a machine does not change while a process of ours runs.
#[derive(Debug)]
pub struct Host {
    engine: Arc<dyn Engine>,
    gpus: Arc<dyn Gpus>,
    facts: OnceCell<(EngineFacts, KernelFacts)>,
    nvidia: OnceCell<NvidiaFacts>,
}

impl Host {
    /// Makes a reader; nothing is read before it is asked.
    pub fn new(engine: Arc<dyn Engine>, gpus: Arc<dyn Gpus>) -> Self {
        Self {
            engine,
            gpus,
            facts: OnceCell::new(),
            nvidia: OnceCell::new(),
        }
    }

    /// Returns the GPUs of the machine.
    pub fn gpus(&self) -> &Arc<dyn Gpus> {
        &self.gpus
    }

    /// Returns what the engine says; two short questions, once.
    pub async fn engine(&self) -> Result<&EngineFacts, EngineError> {
        Ok(&self.basics().await?.0)
    }

    /// Returns all facts; those about GPUs only when jobs get some.
    pub async fn facts(&self, with_gpus: bool) -> Result<Facts, EngineError> {
        let (engine, kernel) = self.basics().await?.clone();
        let nvidia = if with_gpus {
            Some(
                self.nvidia
                    .get_or_init(|| self.read_nvidia(&engine))
                    .await
                    .clone(),
            )
        } else {
            None
        };
        Ok(Facts {
            engine,
            kernel,
            nvidia,
        })
    }

    async fn basics(&self) -> Result<&(EngineFacts, KernelFacts), EngineError> {
        self.facts
            .get_or_try_init(|| async {
                // The first question settles the API's version; the second would settle it again.
                let version = self.engine.version().await?;
                let info = self.engine.info().await?;
                Ok((EngineFacts { version, info }, KernelFacts::read()))
            })
            .await
    }

    async fn read_nvidia(&self, engine: &EngineFacts) -> NvidiaFacts {
        let gpus = Arc::clone(&self.gpus);
        let count = tokio::task::spawn_blocking(move || gpus.devices().map(|devices| devices.len()))
            .await
            .map_err(|error| error.to_string())
            .and_then(|count| count.map_err(|error| error.to_string()));
        let runtime = engine.info.runtimes.get(NVIDIA_RUNTIME);
        NvidiaFacts {
            count,
            driver: driver_version(&read("/proc/driver/nvidia/version")),
            toolkit: toolkit_version(runtime.and_then(Option::as_deref)).await,
        }
    }
}

impl KernelFacts {
    /// Reads `/proc`; what is not there stays empty.
    fn read() -> Self {
        let text = |path: &str| read(path).unwrap_or_default();
        Self {
            release: text("/proc/sys/kernel/osrelease"),
            build: text("/proc/version"),
            signature: read("/proc/version_signature").ok(),
            user_namespaces_max: text("/proc/sys/user/max_user_namespaces").parse().ok(),
            unprivileged_user_namespaces: read("/proc/sys/kernel/unprivileged_userns_clone")
                .ok()
                .map(|text| text != "0"),
        }
    }
}

/// Reads the beginning of a small file, without the space around it.
fn read(path: &str) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Finds the driver's version in `/proc/driver/nvidia/version`:
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat …`.
fn driver_version(text: &io::Result<String>) -> Reading {
    let text = match text {
        Ok(text) => text,
        Err(error) => return Reading::Unreadable(format!("/proc/driver/nvidia/version: {error}")),
    };
    let line = text.lines().next().unwrap_or_default();
    let is_version = |word: &&str| word.starts_with(|sign: char| sign.is_ascii_digit()) && word.contains('.');
    match line.split_whitespace().find(is_version) {
        Some(version) => Reading::Known(version.to_owned()),
        None => Reading::Unreadable("/proc/driver/nvidia/version names no version".to_owned()),
    }
}

/// Asks the toolkit's programs for their version.
async fn toolkit_version(runtime: Option<&str>) -> Reading {
    let beside_runtime = runtime
        .and_then(|path| Path::new(path).parent())
        .filter(|folder| folder.is_absolute());
    let folders = beside_runtime
        .into_iter()
        .chain(TOOLKIT_FOLDERS.iter().map(Path::new));
    let programs: Vec<PathBuf> = folders
        .flat_map(|folder| TOOLKIT_PROGRAMS.map(|program| folder.join(program)))
        .filter(|program| program.is_file())
        .collect();
    let mut why = "no program nvidia-ctk is seen from here".to_owned();
    for program in programs {
        match timeout(VERSION_PATIENCE, first_line(&program)).await {
            Ok(Ok(line)) => match line.split_whitespace().next_back() {
                Some(version) => return Reading::Known(version.to_owned()),
                None => why = format!("{} says nothing", program.display()),
            },
            Ok(Err(error)) => why = format!("{}: {error}", program.display()),
            Err(_elapsed) => why = format!("{} does not answer", program.display()),
        }
    }
    Reading::Unreadable(why)
}

/// Runs a program with `--version` and returns the first line that it writes.
async fn first_line(program: &Path) -> io::Result<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await?;
    }
    child.wait().await?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_driver_tells_its_version_in_either_flavour() {
        for (text, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat Feb 17 22:55:48 UTC 2024\nGCC",
                "535.161.07",
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (dvs-builder@U16)",
                "570.86.10",
            ),
        ] {
            assert_eq!(
                driver_version(&Ok(text.to_owned())),
                Reading::Known(version.to_owned())
            );
        }
        for text in ["", "NVRM version", "\u{fffd}"] {
            assert!(
                matches!(driver_version(&Ok(text.to_owned())), Reading::Unreadable(_)),
                "{text}"
            );
        }
        let missing = Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(matches!(driver_version(&missing), Reading::Unreadable(_)));
    }

    #[tokio::test]
    async fn the_toolkit_is_asked_where_the_engines_runtime_lies() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nvidia-ctk");
        std::fs::write(
            &program,
            "#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version 1.17.8'\necho commit: x",
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = folder.path().join("nvidia-container-runtime");
        let version = toolkit_version(runtime.to_str()).await;
        assert_eq!(version, Reading::Known("1.17.8".to_owned()));
    }

    #[test]
    fn this_kernel_tells_its_release() {
        let kernel = KernelFacts::read();
        assert!(!kernel.release.is_empty() && kernel.build.contains(&kernel.release));
    }
}
