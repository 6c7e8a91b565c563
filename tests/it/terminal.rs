//! A terminal of a test's own: the real binary on it, what stands on the screen, and keys that are pressed.

use std::io::{Read as _, Write};
use std::num::NonZeroU16;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, NativePtySystem, PtySize, PtySystem as _};
use tokio::time::{Instant, sleep};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at the screen.
const PAUSE: Duration = Duration::from_millis(20);

/// The size of the terminal; lines of jobs' identities fit.
const ROWS: NonZeroU16 = NonZeroU16::new(24).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(120).unwrap();

/// What Ctrl-C sends.
pub(crate) const INTERRUPT: &str = "\x03";

/// A process on a terminal.
pub(crate) struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    seen: Arc<Mutex<Seen>>,
    _master: Box<dyn MasterPty + Send>,
}

/// What takes a line off the screen again, as everything does that moves.
const LINE_CLEARED: &[u8] = b"\x1b[2K";

struct Seen {
    parser: vt100::Parser,
    /// Whether anything has moved.
    has_moved: bool,
    /// Whether all ends of the terminal are closed.
    is_over: bool,
}

impl Terminal {
    /// Runs a command on a new terminal; TERM is `term`, or absent.
    pub(crate) fn start(command: &Command, term: Option<&str>) -> Self {
        let size = PtySize {
            rows: ROWS.get(),
            cols: COLUMNS.get(),
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = NativePtySystem::default().openpty(size).unwrap();
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        builder.env_clear();
        // As a terminal has it: the width is that of the screen.
        for (name, value) in command.get_envs().filter(|(name, _)| *name != "COLUMNS") {
            builder.env(name, value.unwrap());
        }
        if let Some(term) = term {
            builder.env("TERM", term);
        }
        builder.cwd(command.get_current_dir().unwrap());
        let child = pair.slave.spawn_command(builder).unwrap();
        drop(pair.slave);
        let seen = Arc::new(Mutex::new(Seen {
            parser: vt100::Parser::new(ROWS, COLUMNS, 0),
            has_moved: false,
            is_over: false,
        }));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal that nobody holds any more ends with an error.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let bytes = &buffer[..length];
                let mut seen = all.lock().unwrap();
                seen.parser.process(bytes);
                seen.has_moved |= bytes.windows(LINE_CLEARED.len()).any(|few| few == LINE_CLEARED);
            }
            all.lock().unwrap().is_over = true;
        });
        Self {
            child,
            keys: pair.master.take_writer().unwrap(),
            seen,
            _master: pair.master,
        }
    }

    /// Returns what stands on the screen, line by line, without the spaces at their ends.
    pub(crate) fn screen(&self) -> String {
        rows(self.seen.lock().unwrap().parser.screen())
    }

    /// Waits until these words stand on the screen.
    pub(crate) async fn shows(&self, words: &str) {
        let started = Instant::now();
        while !self.screen().contains(words) {
            assert!(
                started.elapsed() < PATIENCE,
                "never shows {words:?}:\n{}",
                self.screen()
            );
            sleep(PAUSE).await;
        }
    }

    /// Tells whether anything has moved so far.
    pub(crate) fn has_moved(&self) -> bool {
        self.seen.lock().unwrap().has_moved
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for the end of the process; returns its exit code and what is left on the screen, after having checked that
    /// the terminal is as it was: a cursor that is seen, no other screen.
    pub(crate) async fn end(mut self) -> (u32, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "never ends:\n{}", self.screen());
            sleep(PAUSE).await;
        };
        while !self.seen.lock().unwrap().is_over {
            assert!(started.elapsed() < PATIENCE * 2, "its terminal stays open");
            sleep(PAUSE).await;
        }
        let seen = self.seen.lock().unwrap();
        let screen = seen.parser.screen();
        assert!(!screen.hide_cursor() && !screen.alternate_screen());
        (status.exit_code(), rows(screen))
    }
}

fn rows(screen: &vt100::Screen) -> String {
    let rows: Vec<_> = screen.rows(0, COLUMNS.get()).collect();
    let lines: Vec<_> = rows.iter().map(|row| row.trim_end()).collect();
    lines.join("\n").trim_end().to_owned()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
