//! Eyes on the host: what a job takes while it runs, and what is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The most processes that are looked at.
const PROCESSES_MAX: usize = 100_000;

/// The most files and folders of a job that are looked at.
const FILES_MAX: usize = 1000;

/// What was seen over a job's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The most of its processes at once; none when none was ever seen, since the host's are out of sight here.
    pub(super) processes_max: Option<usize>,
    /// By how much the memory of this process grew, in bytes.
    pub(super) resident_growth: u64,
    /// The most that lay in the folder at once, in bytes.
    pub(super) folder_bytes_max: u64,
}

/// Watches the job whose processes carry `marker` and whose executor works in `folder`, until told to stop.
pub(super) async fn watch(marker: String, folder: PathBuf, stop: CancellationToken) -> Seen {
    let before = resident_bytes();
    let mut seen = Seen::default();
    loop {
        let (marker, folder) = (marker.clone(), folder.clone());
        let look = tokio::task::spawn_blocking(move || (processes(&marker), folder_bytes(&folder)));
        if let Ok((processes, bytes)) = look.await {
            if processes > 0 {
                seen.processes_max = seen.processes_max.max(Some(processes));
            }
            seen.folder_bytes_max = seen.folder_bytes_max.max(bytes);
        }
        seen.resident_growth = seen.resident_growth.max(resident_bytes().saturating_sub(before));
        tokio::select! {
            biased;
            () = stop.cancelled() => return seen,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Counts the processes whose command line carries `marker`; blocks.
pub(super) fn processes(marker: &str) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .flatten()
        .take(PROCESSES_MAX)
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter(|entry| {
            // A process that has ended meanwhile is none.
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            command
                .windows(marker.len())
                .any(|window| window == marker.as_bytes())
        })
        .count()
}

/// Sums up the files below `folder`, without following links; blocks.
fn folder_bytes(folder: &Path) -> u64 {
    let mut folders = vec![folder.to_owned()];
    let (mut count, mut bytes) = (0, 0_u64);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            count += 1;
            if count > FILES_MAX {
                return bytes;
            }
            match entry.metadata() {
                Ok(facts) if facts.is_dir() => folders.push(entry.path()),
                Ok(facts) if facts.is_file() => bytes = bytes.saturating_add(facts.len()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    bytes
}

/// Returns the memory that this process has at the moment, in bytes; 0 when it cannot be read.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn processes_are_known_by_what_their_command_line_carries() {
        let marker = format!("horde-test-{}", uuid::Uuid::new_v4());
        assert_eq!(processes(&marker), 0);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo here; read x", &marker])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Spawned means that it is about to have its command line: until it speaks, the kernel may show none.
        let mut word = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert_eq!(processes(&marker), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(processes(&marker), 0);
    }

    #[test]
    fn a_folder_is_weighed_without_what_its_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), [0; 1000]).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", folder.path().join("link")).unwrap();
        assert_eq!(folder_bytes(folder.path()), 1000);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes() > 1 << 20);
    }
}
