//! The image of the running binary: what helpers of a job run in, since no registry is needed to have it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::image::{ImageError, make_executor_image};
use super::reference::ImageReference;
use super::{Engine, ImageId};

/// The kernel's link to the binary of this process, also when its file was replaced or lies in another root.
const THIS_BINARY: &str = "/proc/self/exe";

/// The repository of images of ourselves; never pulled, never pushed.
const REPOSITORY: &str = "horde-self";

/// How much of the binary is read at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// How long another process may take to make the same image before this one makes it too. Making it twice costs
/// an image without a name, no more.
const TURN_PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks whether the other process is done.
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// Returns an image whose entry point is the running binary; makes it when the engine does not hold it.
///
/// Its tag names the version and the content of the binary, so a replaced binary never runs the image of its
/// predecessor, and two builds on one engine do not fight over one name. The way of [`make_executor_image`] works
/// inside a container too: what this process has loaded is what the image needs.
pub async fn own_image(engine: &dyn Engine) -> Result<ImageId, ImageError> {
    let image = tokio::task::spawn_blocking(own_reference)
        .await
        .map_err(|error| ImageError::Write(io::Error::other(error)))??;
    if let Some(id) = engine.find_image(&image).await? {
        return Ok(id);
    }
    let _turn = take_turn().await?;
    if let Some(id) = engine.find_image(&image).await? {
        return Ok(id);
    }
    tracing::info!(%image, "making an image of this binary");
    make_executor_image(engine, &image).await
}

/// Returns the name of the running binary's image; blocks while it reads the binary.
fn own_reference() -> Result<ImageReference, ImageError> {
    let mut file = File::open(THIS_BINARY).map_err(reading)?;
    reference_of(&mut file).map_err(reading)
}

fn reference_of(binary: &mut dyn Read) -> io::Result<ImageReference> {
    let mut digest = Blake2b::<U16>::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match binary.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => digest.update(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let fingerprint = hex::encode(digest.finalize());
    let name = format!("{REPOSITORY}:{}-{fingerprint}", env!("CARGO_PKG_VERSION"));
    ImageReference::parse(&name).map_err(io::Error::other)
}

/// Waits until no other process makes an image of this binary; the binary itself is the lock, so that no file has
/// to be agreed on, and the kernel drops it with the process.
async fn take_turn() -> Result<OwnedFd, ImageError> {
    let lock = OwnedFd::from(File::open(THIS_BINARY).map_err(reading)?);
    let patience = Instant::now() + TURN_PATIENCE;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < patience => sleep(TURN_PAUSE).await,
            Err(Errno::INTR) => {}
            Ok(()) | Err(Errno::WOULDBLOCK) => return Ok(lock),
            Err(error) => {
                // Some file systems have no locks; see the patience.
                tracing::debug!(%error, "cannot lock this binary");
                return Ok(lock);
            }
        }
    }
}

fn reading(source: io::Error) -> ImageError {
    ImageError::Read {
        path: PathBuf::from(THIS_BINARY),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_changes_with_the_content_and_with_nothing_else() {
        let name = |mut bytes: &[u8]| reference_of(&mut bytes).unwrap();
        assert_eq!(name(b"one"), name(b"one"));
        assert_ne!(name(b"one"), name(b"two"));
        let image = name(b"one");
        let (repository, tag) = image.repository_and_tag();
        assert_eq!(repository, REPOSITORY);
        assert!(tag.starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")));
    }

    #[test]
    fn the_running_binary_has_a_name() {
        assert_eq!(own_reference().unwrap(), own_reference().unwrap());
    }
}
