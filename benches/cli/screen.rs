//! A program on a terminal of its own: what it has drawn, what it has used.

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use tokio::time::Instant;
use vt100::Parser;

use crate::{Failure, accounts};

/// How large the terminal is.
const SIZE: PtySize = PtySize {
    rows: 40,
    cols: 120,
    pixel_width: 0,
    pixel_height: 0,
};

/// How long anything may take to be drawn.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program on a terminal.
pub(crate) struct Screen {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    drawn: Receiver<Vec<u8>>,
    parser: Parser,
    started: Instant,
}

impl Screen {
    /// Starts `horde` with these words.
    pub(crate) fn start(home: &Path, words: &[&str]) -> Result<Self, Failure> {
        let pair = native_pty_system().openpty(SIZE)?;
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_horde"));
        command.env_clear();
        command.env("HOME", home);
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        command.args(words);
        let started = Instant::now();
        let child = pair.slave.spawn_command(command)?;
        let mut reader = pair.master.try_clone_reader()?;
        let keys = pair.master.take_writer()?;
        let (sender, drawn) = sync_channel(1024);
        // A thread of its own: reading a terminal blocks.
        std::thread::spawn(move || {
            // Kept open as long as somebody reads.
            let _terminal = pair.master;
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if sender.send(bytes).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            keys,
            drawn,
            parser: Parser::new(
                NonZero::new(SIZE.rows).ok_or("no rows")?,
                NonZero::new(SIZE.cols).ok_or("no columns")?,
                0,
            ),
            started,
        })
    }

    /// Waits until the screen shows `text`; returns how long that took from the start on, in milliseconds.
    pub(crate) fn until(&mut self, text: &str) -> Result<f64, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.parser.screen().contents().contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.drawn.recv_timeout(left) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {text:?} on\n{}", self.parser.screen().contents()).into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it ended with\n{}", self.parser.screen().contents()).into());
                }
            }
        }
        Ok(self.started.elapsed().as_secs_f64() * 1000.0)
    }

    /// Lets it draw for a while.
    pub(crate) fn watch(&mut self, span: Duration) {
        let deadline = Instant::now() + span;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match self.drawn.recv_timeout(left) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(_) => return,
            }
        }
    }

    /// Types keys.
    pub(crate) fn keys(&mut self, keys: &str) -> Result<(), Failure> {
        self.keys.write_all(keys.as_bytes())?;
        self.keys.flush()?;
        Ok(())
    }

    fn id(&self) -> Result<u32, Failure> {
        Ok(self.child.process_id().ok_or("it has ended")?)
    }

    /// Returns the milliseconds of CPU that it has used.
    pub(crate) fn cpu_ms(&self) -> Result<f64, Failure> {
        accounts::cpu_ms(self.id()?)
    }

    /// Returns its resident memory in MB.
    pub(crate) fn megabytes(&self) -> Result<f64, Failure> {
        Ok(accounts::resident_kb(self.id()?)? / 1000.0)
    }

    /// Ends it with a key and waits.
    pub(crate) fn quit(mut self) -> Result<(), Failure> {
        self.keys("q")?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                return Err("it does not quit".into());
            }
            self.watch(Duration::from_millis(20));
        }
        Ok(())
    }
}
