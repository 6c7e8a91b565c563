//! The loop: what happens, what is to be done, what is drawn.

use std::io::{self, BufWriter};
use std::time::Duration;

use crossterm::event::{Event as TerminalEvent, EventStream, KeyEventKind};
use crossterm::queue;
use crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};
use futures_util::{FutureExt, StreamExt};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::process::{Signal as Sent, kill_current_process_group};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::app::{App, Start};
use super::draw::draw;
use super::event::{Effect, Event, Now};
use super::loader::{Feed, Loader, Reader, Work};
use super::terminal;
use crate::core::clock::Clock;

/// Pause between two looks at the time.
const TICK: Duration = Duration::from_millis(250);

/// Keys and movements of the mouse that are taken before the screen is drawn.
const EVENTS_MAX: usize = 256;

/// The dashboard could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The terminal cannot be used.
    #[error("the terminal cannot be used")]
    Terminal(#[from] io::Error),
    /// A thread has panicked; it has said why.
    #[error("a part of horde has failed")]
    Panicked,
}

/// Why the dashboard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The person quit, or the terminal is gone.
    Quit,
    /// A signal asked for it.
    Signal(u8),
}

/// Where a test wants a panic; debug builds only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// In the loop, once there is something to see.
    Loop,
    /// In another thread.
    Thread,
}

impl Trap {
    /// The variable that sets it.
    pub const VARIABLE: &str = "HORDE_TEST_PANIC";

    /// Reads what a test wants; nothing in release builds.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "loop" if cfg!(debug_assertions) => Some(Self::Loop),
            "thread" if cfg!(debug_assertions) => Some(Self::Thread),
            _ => None,
        }
    }

    #[expect(
        clippy::panic,
        reason = "this is what the tests of a restored terminal ask for"
    )]
    fn spring(self) {
        let fall = || panic!("a test wanted this panic");
        match self {
            Self::Loop => fall(),
            Self::Thread => drop(std::thread::spawn(fall)),
        }
    }
}

/// What the loop needs besides what the dashboard starts with.
#[derive(Debug)]
pub struct Run {
    /// Where pages come from.
    pub feed: Feed,
    /// The feeds of the contexts that one can turn to, by name.
    pub feeds: Vec<(String, Feed)>,
    /// The time.
    pub clock: Clock,
    /// Where a test wants a panic.
    pub trap: Option<Trap>,
}

type Screen = Terminal<CrosstermBackend<BufWriter<terminal::Frames>>>;

/// Runs the dashboard on the terminal until it is quit.
pub async fn run(run: Run, mut start: Start) -> Result<End, RunError> {
    let mut signals = Signals::listen()?;
    let reader = Reader::new(run.feed.clone());
    start.header = reader.header();
    start.size = crossterm::terminal::size()?;
    let guard = terminal::take(start.mouse)?;
    let mut dashboard = Loop {
        screen: Terminal::new(CrosstermBackend::new(terminal::writer()))?,
        app: App::new(start, now(&run.clock, Instant::now())),
        loader: Loader::start(reader)?,
        began: Instant::now(),
        run,
    };
    let end = dashboard.go(&mut signals).await;
    drop(guard);
    if terminal::has_panicked() {
        return Err(RunError::Panicked);
    }
    end
}

fn now(clock: &Clock, began: Instant) -> Now {
    Now {
        wall: clock.now(),
        steady: began.elapsed(),
    }
}

struct Signals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
    stop: Signal,
    go_on: Signal,
}

/// What a signal asks for.
enum Asked {
    End(u8),
    Suspend,
    Resume,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            stop: signal(SignalKind::from_raw(Sent::TSTP.as_raw()))?,
            go_on: signal(SignalKind::from_raw(Sent::CONT.as_raw()))?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End(143),
            _ = self.hang_up.recv() => Asked::End(129),
            _ = self.interrupt.recv() => Asked::End(130),
            _ = self.stop.recv() => Asked::Suspend,
            _ = self.go_on.recv() => Asked::Resume,
        }
    }
}

struct Loop {
    screen: Screen,
    app: App,
    loader: Loader,
    began: Instant,
    run: Run,
}

fn ticks() -> Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Loop {
    async fn go(&mut self, signals: &mut Signals) -> Result<End, RunError> {
        let mut keys = EventStream::new();
        let mut ticks = ticks();
        loop {
            let event = tokio::select! {
                biased;
                asked = signals.next() => match asked {
                    Asked::End(code) => return Ok(End::Signal(code)),
                    Asked::Suspend => {
                        suspend()?;
                        continue;
                    }
                    Asked::Resume => {
                        // Whoever had the terminal meanwhile may have left it in any state.
                        terminal::restore();
                        terminal::hold(self.app.has_mouse)?;
                        Some(Event::Resumed)
                    }
                },
                key = keys.next() => match key {
                    Some(Ok(event)) => translated(event),
                    // The terminal is gone.
                    Some(Err(_)) | None => return Ok(End::Quit),
                },
                Some(event) = self.loader.answers.recv() => Some(event),
                _ = ticks.tick() => Some(Event::Tick),
            };
            if terminal::has_panicked() {
                return Err(RunError::Panicked);
            }
            let mut quits = event.is_some_and(|event| self.take(event));
            for _ in 0..EVENTS_MAX {
                match keys.next().now_or_never() {
                    Some(Some(Ok(event))) if !quits => {
                        quits = translated(event).is_some_and(|event| self.take(event));
                    }
                    _ => break,
                }
            }
            if quits {
                return Ok(End::Quit);
            }
            self.draw()?;
        }
    }

    /// Hands an event to the dashboard and does what it wants; tells whether that is to end.
    fn take(&mut self, event: Event) -> bool {
        if matches!(event, Event::Loaded(_))
            && let Some(trap) = self.run.trap.take()
        {
            trap.spring();
        }
        let now = now(&self.run.clock, self.began);
        let mut quits = false;
        for effect in self.app.update(event, now) {
            match effect {
                Effect::Quit => quits = true,
                effect => self.perform(effect),
            }
        }
        quits
    }

    fn perform(&mut self, effect: Effect) {
        // A terminal that takes nothing more is noticed when the next key is waited for.
        match effect {
            Effect::Load(request) => drop(self.loader.give(Work::Load(request))),
            Effect::Copy(text) => drop(terminal::copy(&text)),
            Effect::Save { path, text } => {
                if !self.loader.give(Work::Save(path, text)) {
                    let busy = Err("too much waits to be saved already".to_owned());
                    self.take(Event::Saved(busy));
                }
            }
            Effect::Mouse(mouse) => drop(terminal::set_mouse(mouse)),
            Effect::Turn(name) => {
                if let Some((_, feed)) = self.run.feeds.iter().find(|(known, _)| *known == name) {
                    self.loader.give(Work::Turn(feed.clone()));
                }
            }
            Effect::Repaint => drop(self.repaint()),
            Effect::Suspend => drop(suspend()),
            Effect::Quit => {}
        }
    }

    /// Forgets what is on the screen. The library's own way to do so asks the terminal where the cursor is, and the
    /// answer would be taken for keys.
    fn repaint(&mut self) -> io::Result<()> {
        let size = self.screen.size()?;
        self.screen.resize(size.into())
    }

    fn draw(&mut self) -> io::Result<()> {
        if !self.app.is_dirty || !terminal::is_held() {
            return Ok(());
        }
        self.app.is_dirty = false;
        queue!(self.screen.backend_mut(), BeginSynchronizedUpdate)?;
        let app = &self.app;
        self.screen.draw(|frame| draw(app, frame.buffer_mut()))?;
        crossterm::execute!(self.screen.backend_mut(), EndSynchronizedUpdate)
    }
}

/// Gives the terminal to the shell; returns when this process is continued, which a signal tells.
fn suspend() -> io::Result<()> {
    terminal::restore();
    // The whole job, as the terminal itself would.
    kill_current_process_group(Sent::STOP).map_err(Into::into)
}

fn translated(event: TerminalEvent) -> Option<Event> {
    match event {
        TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => Some(Event::Key(key)),
        TerminalEvent::Mouse(mouse) => Some(Event::Mouse(mouse)),
        TerminalEvent::Paste(text) => Some(Event::Paste(text)),
        TerminalEvent::Resize(width, height) => Some(Event::Resize(width, height)),
        _ => None,
    }
}
