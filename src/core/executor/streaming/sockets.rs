//! Unix sockets in a folder, and the short talk over one between the executor and a helper.
//!
//! The path of a socket may have 107 bytes, that of a work directory many more: so a folder is opened once and its
//! sockets are named by its handle.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The longest line of the talk, in bytes: an order with two certificates and a key has about 20 KiB.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Who may connect to a socket: whoever can enter its folder, which is for the folder to say. A helper on an engine
/// that maps users is somebody else than the executor.
const SOCKET_MODE: u32 = 0o666;

/// A folder of sockets.
#[derive(Debug)]
pub(super) struct SocketFolder(OwnedFd);

impl SocketFolder {
    /// Opens a folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Makes a socket and listens on it.
    pub(super) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let path = self.path(name);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(listener)
    }

    /// Connects to a socket.
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        UnixStream::connect(self.path(name)).await
    }
}

/// Sends one message as a line.
pub(super) async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &(impl Serialize + Sync),
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Receives one message.
pub(super) async fn hear<M: DeserializeOwned>(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<M> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_work_however_long_the_path_of_their_folder_is() {
        let outside = tempfile::tempdir().unwrap();
        let deep = outside.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let folder = SocketFolder::open(&deep).unwrap();
        let listener = folder.listen("s").unwrap();
        let (near, far) = tokio::join!(folder.connect("s"), listener.accept());
        let (mut near, mut far) = (near.unwrap(), tokio::io::BufReader::new(far.unwrap().0));
        say(&mut near, &"one").await.unwrap();
        near.write_all(b"\"tw").await.unwrap();
        drop(near);
        assert_eq!(hear::<String>(&mut far).await.unwrap(), "one");
        assert!(hear::<String>(&mut far).await.is_err());
    }
}
