//! What a process has used, by the kernel's accounts.

use crate::Failure;

/// Milliseconds of one tick: the kernel shows hundredths of a second to every program.
const TICK_MS: f64 = 10.0;

/// Returns the milliseconds of CPU that a process has used, user and system.
pub(crate) fn cpu_ms(process: u32) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the program's name in parentheses; the times are fields 14 and 15.
    let (_, fields) = text.rsplit_once(") ").ok_or("an unknown stat")?;
    let mut fields = fields.split(' ').skip(11);
    let user: f64 = fields.next().ok_or("no user time")?.parse()?;
    let system: f64 = fields.next().ok_or("no system time")?.parse()?;
    Ok((user + system) * TICK_MS)
}

/// Returns a process' resident memory in KB (1000 bytes).
pub(crate) fn resident_kb(process: u32) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in its status")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1.024)
}
