//! The executor's image, made from the running binary: no registry, no build, no base image.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::reference::ImageReference;
use super::{Engine, EngineError, ImageId};

/// Where the binary lies in the image.
pub const BINARY_PATH: &str = "/usr/local/bin/horde";

/// Where TLS libraries look for the certificates of authorities; the first that the host has is copied.
const CERTIFICATE_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the bundle lies in the image.
const CERTIFICATE_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Libraries that belong to the driver of the host and never into an image: a container that may see GPUs gets those
/// of its own host from the NVIDIA runtime.
const DRIVER_LIBRARIES: [&str; 2] = ["libnvidia", "libcuda"];

/// Names are looked up in the hosts file first; without this file the C library asks the name server only.
const NAME_SERVICES: &[u8] = b"hosts: files dns\n";

/// Why the executor's image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of this program could not be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("could not write the image's archive")]
    Write(#[source] io::Error),
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Makes an image whose entry point is this very binary and whose command is `executor run`.
///
/// The image holds the binary, the shared objects that this process has loaded, the host's certificate bundle if
/// there is one, and an empty `/tmp`. It works on any engine of the same architecture.
pub async fn make_executor_image(engine: &dyn Engine, image: &ImageReference) -> Result<ImageId, ImageError> {
    make_image_with(engine, image, Vec::new()).await
}

/// A file that an image holds besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// Where, as an absolute path.
    pub path: &'static str,
    /// What.
    pub content: Vec<u8>,
    /// Its mode; its owner is root.
    pub mode: u32,
}

/// Makes the image of [`make_executor_image`] with further files in it.
pub async fn make_image_with(
    engine: &dyn Engine,
    image: &ImageReference,
    extra: Vec<ExtraFile>,
) -> Result<ImageId, ImageError> {
    // Asked first: an archive of many megabytes is not worth writing for an engine that does not answer.
    engine.version().await?;
    let image = image.clone();
    let (archive, changes) = tokio::task::spawn_blocking(move || write_archive(&extra))
        .await
        .map_err(|error| ImageError::Write(io::Error::other(error)))??;
    Ok(engine
        .import(tokio::fs::File::from_std(archive), &image, changes)
        .await?)
}

/// Writes the root file system into an unnamed temporary file; returns it rewound, with the image's settings.
fn write_archive(extra: &[ExtraFile]) -> Result<(fs::File, Vec<String>), ImageError> {
    let binary = fs::read_link("/proc/self/exe").map_err(reading("/proc/self/exe"))?;
    // Read through the kernel's link, so that it is this binary also when its file was replaced meanwhile.
    let binary_content = fs::read("/proc/self/exe").map_err(reading(&binary))?;
    let libraries = loaded_libraries(&binary)?;
    let loader = interpreter(&binary_content);

    let archive = tempfile::tempfile().map_err(ImageError::Write)?;
    let mut root = Archive::new(archive);
    root.folder("tmp", 0o1777)?;
    root.file(BINARY_PATH, &binary_content, 0o755)?;
    root.file("/etc/nsswitch.conf", NAME_SERVICES, 0o644)?;
    for library in &libraries {
        let content = fs::read(library).map_err(reading(library))?;
        root.file(&library.to_string_lossy(), &content, 0o755)?;
    }
    if let Some(loader) = &loader {
        let content = fs::read(loader).map_err(reading(Path::new(loader)))?;
        root.file(loader, &content, 0o755)?;
    }
    if let Some(bundle) = CERTIFICATE_BUNDLES.iter().find(|path| Path::new(path).is_file()) {
        let content = fs::read(bundle).map_err(reading(Path::new(bundle)))?;
        root.file(CERTIFICATE_PATH, &content, 0o644)?;
    }
    for file in extra {
        root.file(file.path, &file.content, file.mode)?;
    }
    Ok((root.finish()?, settings(&libraries)))
}

/// Returns the image's settings as Dockerfile instructions.
fn settings(libraries: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut changes = vec![
        format!("ENTRYPOINT [\"{BINARY_PATH}\"]"),
        "CMD [\"executor\",\"run\"]".to_owned(),
        "ENV PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
    ];
    // The loader has no cache in the image and its built-in folders differ between distributions.
    let folders: BTreeSet<String> = libraries
        .iter()
        .filter_map(|library| library.parent())
        .map(|folder| folder.to_string_lossy().into_owned())
        .collect();
    if !folders.is_empty() {
        let folders: Vec<String> = folders.into_iter().collect();
        changes.push(format!("ENV LD_LIBRARY_PATH={}", folders.join(":")));
    }
    changes
}

/// Returns the files, other than the binary, that this process has mapped to run from.
fn loaded_libraries(binary: &Path) -> Result<BTreeSet<PathBuf>, ImageError> {
    let maps = fs::File::open("/proc/self/maps").map_err(reading("/proc/self/maps"))?;
    let mut libraries = BTreeSet::new();
    for line in BufReader::new(maps).lines() {
        let line = line.map_err(reading("/proc/self/maps"))?;
        if let Some(path) = executable_mapping(&line)
            && path != binary
        {
            libraries.insert(path);
        }
    }
    Ok(libraries)
}

/// Returns the file of a line of `/proc/self/maps`, when it is mapped to run from.
fn executable_mapping(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(6, char::is_whitespace);
    let permissions = fields.nth(1)?;
    let path = fields.nth(3)?.trim_start();
    let is_file = path.starts_with('/') && !path.ends_with(" (deleted)");
    let name = path.rsplit('/').next()?;
    let is_drivers = DRIVER_LIBRARIES.iter().any(|driver| name.starts_with(driver));
    (permissions.contains('x') && is_file && !is_drivers).then(|| PathBuf::from(path))
}

/// Returns the dynamic loader that a 64-bit little-endian ELF file asks for; none for a static binary.
fn interpreter(elf: &[u8]) -> Option<String> {
    const PROGRAM_INTERPRETER: u32 = 3;
    let half = |at: usize| {
        Some(u16::from_le_bytes(
            elf.get(at..at.checked_add(2)?)?.try_into().ok()?,
        ))
    };
    let word = |at: usize| {
        Some(u32::from_le_bytes(
            elf.get(at..at.checked_add(4)?)?.try_into().ok()?,
        ))
    };
    let long = |at: usize| {
        let bytes = elf.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry_bytes, entries) = (long(32)?, usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..entries {
        let header = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if word(header)? == PROGRAM_INTERPRETER {
            let (offset, length) = (long(header.checked_add(8)?)?, long(header.checked_add(32)?)?);
            let text = elf.get(offset..offset.checked_add(length)?)?;
            let text = std::str::from_utf8(text).ok()?.trim_end_matches('\0');
            return text.starts_with('/').then(|| text.to_owned());
        }
    }
    None
}

/// A tar archive in which folders come before what they hold.
struct Archive {
    tar: tar::Builder<fs::File>,
    folders: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Archive {
    fn new(file: fs::File) -> Self {
        Self {
            tar: tar::Builder::new(file),
            folders: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<(), ImageError> {
        if !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        self.tar
            .append_data(&mut header, format!("{path}/"), io::empty())
            .map_err(ImageError::Write)
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), ImageError> {
        let path = path.trim_start_matches('/');
        if !self.files.insert(path.to_owned()) {
            return Ok(());
        }
        for (at, _) in path.match_indices('/') {
            if let Some(folder) = path.get(..at) {
                self.folder(folder, 0o755)?;
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        self.tar
            .append_data(&mut header, path, content)
            .map_err(ImageError::Write)
    }

    fn finish(self) -> Result<fs::File, ImageError> {
        let mut file = self.tar.into_inner().map_err(ImageError::Write)?;
        file.seek(SeekFrom::Start(0)).map_err(ImageError::Write)?;
        Ok(file)
    }
}

fn reading(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.as_ref().to_owned();
    move |source| ImageError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_mapping_that_is_run_from_names_its_file() {
        let line = "7f2a-7f2b r-xp 00028000 08:01 1837   /usr/lib/x86_64-linux-gnu/libc.so.6";
        assert_eq!(
            executable_mapping(line),
            Some(PathBuf::from("/usr/lib/x86_64-linux-gnu/libc.so.6"))
        );
        for line in [
            "7f2a-7f2b r--p 00028000 08:01 1837   /usr/lib/libc.so.6",
            "7ffc-7ffd r-xp 00000000 00:00 0      [vdso]",
            "7ffc-7ffd rwxp 00000000 00:00 0 ",
            "7f2a-7f2b r-xp 00028000 08:01 1837   /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.1",
            "",
        ] {
            assert_eq!(executable_mapping(line), None, "{line}");
        }
    }

    #[test]
    fn the_archive_holds_this_binary_and_what_it_needs_to_start() {
        let (archive, changes) = write_archive(&[]).unwrap();
        let mut names = BTreeSet::new();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().unwrap() {
            names.insert(entry.unwrap().path().unwrap().to_string_lossy().into_owned());
        }
        assert!(names.contains("usr/local/bin/horde"), "{names:?}");
        assert!(names.contains("tmp/"), "{names:?}");
        if let Some(loader) = interpreter(&fs::read("/proc/self/exe").unwrap()) {
            assert!(
                names.contains(loader.trim_start_matches('/')),
                "{loader} in {names:?}"
            );
        }
        assert!(changes.iter().any(|change| change.starts_with("ENTRYPOINT")));
    }

    #[test]
    fn a_file_that_is_no_elf_has_no_loader() {
        for bytes in [
            &b""[..],
            b"\x7fELF",
            b"#!/bin/sh\n",
            &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0],
        ] {
            assert_eq!(interpreter(bytes), None);
        }
    }

    #[test]
    fn reading_the_archive_back_needs_no_rewind() {
        let mut root = Archive::new(tempfile::tempfile().unwrap());
        root.file("/a/b", b"x", 0o644).unwrap();
        let mut bytes = Vec::new();
        root.finish().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(!bytes.is_empty());
    }
}
