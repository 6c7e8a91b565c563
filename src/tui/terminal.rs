//! The terminal: taken for the dashboard, and given back as it was, whatever happens.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::queue;
use crossterm::style::{Print, ResetColor};
use crossterm::terminal::{
    DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};

use super::loader::keep_panic;

/// Whether the terminal is ours.
static IS_HELD: AtomicBool = AtomicBool::new(false);

/// Whether a thread has panicked while the terminal was ours.
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// Held while frames are written and while the terminal is given back: a frame that another thread is drawing must not
/// land on the screen of the shell. Nothing panics with it.
static WRITING: Mutex<()> = Mutex::new(());

static HOOK: Once = Once::new();

/// Tells terminals that turn text round by themselves not to: the frame knows where everything stands.
const TURNS_NOTHING: &str = "\x1b[8l";
const TURNS_AGAIN: &str = "\x1b[8h";

/// Bytes that are written at once.
const WRITE_MAX: usize = 64 << 10;

/// The terminal while it is ours; given back when this is dropped.
#[derive(Debug)]
pub struct Guard(());

/// Takes the terminal: raw mode, its second screen, no cursor, and the mouse if it is wanted.
pub fn take(mouse: bool) -> io::Result<Guard> {
    HOOK.call_once(restore_at_panics);
    HAS_PANICKED.store(false, Ordering::SeqCst);
    hold(mouse)?;
    Ok(Guard(()))
}

/// Takes the terminal again after [`restore`].
pub fn hold(mouse: bool) -> io::Result<()> {
    enable_raw_mode()?;
    // From here on there is something to be put back.
    IS_HELD.store(true, Ordering::SeqCst);
    let mut bytes = Vec::new();
    queue!(
        bytes,
        EnterAlternateScreen,
        Hide,
        DisableLineWrap,
        EnableBracketedPaste,
        Print(TURNS_NOTHING)
    )?;
    if mouse {
        queue!(bytes, EnableMouseCapture)?;
    }
    write(&bytes)
}

/// Gives the terminal back; what is not held is left alone, so that it may be called by anybody at any time.
pub fn restore() {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if !IS_HELD.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut bytes = Vec::new();
    // A vector takes all that is written; a terminal that is gone takes nothing, and nobody is left to tell.
    drop(queue!(
        bytes,
        DisableMouseCapture,
        DisableBracketedPaste,
        EnableLineWrap,
        Print(TURNS_AGAIN),
        ResetColor,
        LeaveAlternateScreen,
        Show
    ));
    drop(write(&bytes));
    drop(disable_raw_mode());
}

/// Tells whether the terminal is ours.
pub fn is_held() -> bool {
    IS_HELD.load(Ordering::SeqCst)
}

/// Tells whether a thread has panicked since the terminal was taken.
pub fn has_panicked() -> bool {
    HAS_PANICKED.load(Ordering::SeqCst)
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal right before a panic of any thread is told, so that it can be read.
fn restore_at_panics() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if keep_panic(&info.to_string()) {
            return;
        }
        if is_held() {
            HAS_PANICKED.store(true, Ordering::SeqCst);
            restore();
        }
        told(info);
    }));
}

/// Writes past the buffer and the lock of standard output: a panic may hold both.
fn write(bytes: &[u8]) -> io::Result<()> {
    let out = io::stdout();
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(out.as_fd(), rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes the mouse, or leaves it to the terminal.
pub fn set_mouse(mouse: bool) -> io::Result<()> {
    let mut bytes = Vec::new();
    if mouse {
        queue!(bytes, EnableMouseCapture)?;
    } else {
        queue!(bytes, DisableMouseCapture)?;
    }
    write(&bytes)
}

/// The way of frames to the terminal; what comes once it is given back is dropped.
#[derive(Debug)]
pub struct Frames(());

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        if is_held() {
            write(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a buffered way to the terminal.
pub fn writer() -> BufWriter<Frames> {
    BufWriter::with_capacity(WRITE_MAX, Frames(()))
}

/// Gives a text to the clipboard of the terminal (OSC 52), which may be that of another machine.
pub fn copy(text: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    queue!(
        bytes,
        crossterm::clipboard::CopyToClipboard::to_clipboard_from(text.as_bytes())
    )?;
    bytes.flush()?;
    write(&bytes)
}
