//! What a job can leave behind for the executor to stumble over.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::super::probe::{Orders, Step};
use super::step;

pub(super) fn attempt(name: &str, orders: &Orders) -> Option<Vec<Step>> {
    let canary = Path::new(&orders.canary);
    let folder = canary.parent().unwrap_or(canary);
    let output = Path::new("/output");
    let artifacts = Path::new("/artifacts");
    Some(match name {
        "output-link" => vec![
            link(canary, &output.join("secret")),
            link(folder, &output.join("folder")),
            link(Path::new("/proc/self/environ"), &output.join("environment")),
            link(
                Path::new("../../../../../../../../etc/hostname"),
                &output.join("climbing"),
            ),
            pipe(&output.join("pipe")),
        ],
        "stream-link" => vec![
            link(canary, &output.join("stdout.txt")),
            link(canary, &output.join("stderr.txt")),
        ],
        "artifact-link" => vec![
            link(canary, &artifacts.join("secret")),
            link(folder, &artifacts.join("folder")),
            pipe(&artifacts.join("pipe")),
            hard_link(Path::new("/etc/hostname"), &artifacts.join("hard")),
        ],
        "single-file-link" => vec![link(canary, &output.join("secret"))],
        _ => return None,
    })
}

fn link(target: &Path, at: &Path) -> Step {
    planted(at, "a link", symlink(target, at))
}

fn pipe(at: &Path) -> Step {
    let made = mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    planted(at, "a pipe", made.map_err(io::Error::from))
}

fn hard_link(target: &Path, at: &Path) -> Step {
    planted(at, "a hard link", fs::hard_link(target, at))
}

fn planted(at: &Path, what: &str, result: io::Result<()>) -> Step {
    step(format!("plant {what} at {}", at.display()), result, "planted")
}
