//! A program of a hundred bytes that tells whether it runs as root.
//!
//! The attack's image has it as a setuid program of root. It is written here by hand, since the image holds nothing
//! but this binary, and a setuid copy of that would be a hundred megabytes of right.

/// Where the image has it.
pub(super) const SETUID_PATH: &str = "/attack/setuid";

/// Its exit code as root.
pub(super) const IS_ROOT: i32 = 42;

/// Asks for the effective user, compares with 0, exits with 41 plus the answer.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xb8, 0x6b, 0x00, 0x00, 0x00, // mov eax, 107 (geteuid)
    0x0f, 0x05, // syscall
    0x31, 0xff, // xor edi, edi
    0x85, 0xc0, // test eax, eax
    0x40, 0x0f, 0x94, 0xc7, // sete dil
    0x83, 0xc7, 0x29, // add edi, 41
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60 (exit)
    0x0f, 0x05, // syscall
];

/// Asks for the effective user, compares with 0, exits with 41 plus the answer.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xe8, 0x15, 0x80, 0xd2, // mov x8, 175 (geteuid)
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0x1f, 0x00, 0x00, 0xf1, // cmp x0, 0
    0xe0, 0x17, 0x9f, 0x1a, // cset w0, eq
    0x00, 0xa4, 0x00, 0x11, // add w0, w0, 41
    0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93 (exit)
    0x01, 0x00, 0x00, 0xd4, // svc 0
];

/// On other machines the file cannot run, which the attack reports as it is.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CODE: &[u8] = &[];

/// The machine's number in the ELF header.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// Where the kernel is to put it.
const ADDRESS: u64 = 0x40_0000;

/// The bytes of the header and of the one entry of the program table, before the code.
const HEAD_BYTES: u64 = 64 + 56;

/// Returns the file: a static 64-bit program of one segment.
pub(super) fn tell_user() -> Vec<u8> {
    let size = HEAD_BYTES + u64::try_from(CODE.len()).unwrap_or(0);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    // An executable (2), this machine, version 1.
    half(&mut file, 2);
    half(&mut file, MACHINE);
    word(&mut file, 1);
    // Entry; program table behind this header; no section table; no flags.
    long(&mut file, ADDRESS + HEAD_BYTES);
    long(&mut file, 64);
    long(&mut file, 0);
    word(&mut file, 0);
    // Sizes and counts: header, program table, section table.
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut file, value);
    }
    // One segment to load (1), to be read and run (5), from the start of the file.
    word(&mut file, 1);
    word(&mut file, 5);
    for value in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        long(&mut file, value);
    }
    file.extend_from_slice(CODE);
    file
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_program_tells_whether_it_runs_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tell");
        fs::write(&path, tell_user()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let code = std::process::Command::new(&path).status().unwrap().code();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(code, Some(if is_root { IS_ROOT } else { IS_ROOT - 1 }));
    }
}
