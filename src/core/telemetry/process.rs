//! What the kernel tells about this process.

use std::fs;

/// Figures of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    /// Memory, in bytes; 0 where the kernel does not tell.
    pub memory_bytes: u64,
    /// Open files.
    pub open_files: u64,
}

/// Asks the kernel.
pub fn figures() -> Process {
    Process {
        memory_bytes: memory_bytes().unwrap_or(0),
        open_files: fs::read_dir("/proc/self/fd")
            .map_or(0, |files| u64::try_from(files.count()).unwrap_or(u64::MAX)),
    }
}

fn memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_memory_and_the_files_of_the_process() {
        let process = figures();
        assert!(process.memory_bytes > 1024 * 1024);
        assert!(process.open_files > 2);
    }
}
