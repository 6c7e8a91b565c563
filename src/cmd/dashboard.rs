//! `horde dashboard`: the screen that an operator leaves open.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::catalogue;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::config::contexts::Contexts;
use crate::core::config::{MAINNET, Scope, read_bounded};
use crate::core::model::Timestamp;
use crate::tui::app::Start;
use crate::tui::app::command::moment_of;
use crate::tui::app::take::json_of;
use crate::tui::event::Header;
use crate::tui::headless::{self, Still};
use crate::tui::keys::KeyMap;
use crate::tui::loader::{Feed, Reader};
use crate::tui::run::{self, End, Run, RunError, Trap};
use crate::tui::theme::{Depth, Theme};
use crate::tui::view::{LoadError, Page, VIEWS, View};
use crate::tui::{plain, svg};

/// Columns and rows of a frame without a terminal.
const SIZE: Size = Size(120, 40);

/// Columns and rows that a frame has at most.
const SIZE_MAX: u16 = 1000;

/// Pause between two looks at what has changed.
const PLAIN_PAUSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "Examples:
  horde dashboard                        Watch the roles of the data directory
  horde dashboard --view jobs --theme light
  horde dashboard --once                 Print one frame, also without a terminal
  horde dashboard --once --json          Print what the view shows as JSON
  horde dashboard --demo                 Look around with recorded data

Keys: ? shows them all, : takes commands, / filters, q quits.
They can be changed in horde/keys.toml in the configuration directory, as in: quit = [\"q\", \"f10\"]";

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "dashboard",
    Prints::Under("rows", of::<Shown>),
    &[ExitCode::NotFound],
)];

/// `horde dashboard …`
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags are what they are")]
#[command(after_help = EXAMPLES)]
pub struct DashboardArgs {
    /// Show this view first
    #[arg(long, value_name = "NAME")]
    view: Option<String>,
    /// Show this one, for views of one thing: a job's id, a hotkey
    #[arg(long, value_name = "KEY", requires = "view")]
    key: Option<String>,
    /// Use these colours: dark, light, high-contrast, colour-blind, 16, none
    #[arg(long, value_name = "THEME")]
    theme: Option<String>,
    /// Print one frame as text and end
    #[arg(long)]
    once: bool,
    /// Print lines, and then what changes: for screen readers
    #[arg(long, conflicts_with = "once")]
    plain: bool,
    /// Write one frame as text to this file and end
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Write one frame as a picture to this file and end
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Columns and rows of a frame without a terminal
    #[arg(long, value_name = "COLUMNSxROWS")]
    size: Option<Size>,
    /// Show this moment, where a view keeps the past: 12:30, 2026-11-25T12:00:00Z, -15m, -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Show recorded data
    #[arg(long)]
    demo: bool,
    /// Leave the mouse to the terminal
    #[arg(long)]
    no_mouse: bool,
    /// Change nothing; the dashboard never does, so this is always so
    #[arg(long)]
    readonly: bool,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug)]
struct Size(u16, u16);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once(['x', '×']).and_then(|(width, height)| {
            let within = |text: &str| text.parse().ok().filter(|n| (1..=SIZE_MAX).contains(n));
            Some(Self(within(width)?, within(height)?))
        });
        parsed.ok_or_else(|| format!("a size is COLUMNSxROWS, each up to {SIZE_MAX}, as in 120x40"))
    }
}

/// What a view shows, as data.
#[derive(Debug, Serialize, JsonSchema)]
struct Shown {
    /// The name of the view.
    view: &'static str,
    /// What was asked for, for views of one thing.
    key: Option<String>,
    /// The moment that is shown, if it is not the present.
    at: Option<String>,
    /// Names and values.
    facts: serde_json::Map<String, serde_json::Value>,
    /// Charts.
    charts: Vec<ShownChart>,
    /// The rows of the table; each an object with `key` and the columns.
    rows: Vec<serde_json::Map<String, serde_json::Value>>,
    /// The columns in their order.
    columns: Vec<&'static str>,
    /// Whether there are older rows than these.
    has_older: bool,
    /// Lines of text.
    text: Vec<ShownLine>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownChart {
    /// What it shows.
    title: &'static str,
    /// Its bars, in their order.
    bars: Vec<ShownBar>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownBar {
    /// What it stands for.
    label: String,
    /// Its length, in the chart's unit.
    value: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownLine {
    /// When it was written, where that is known.
    at: Option<String>,
    /// What it says.
    text: String,
}

impl DashboardArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (feed, feeds) = if self.demo {
            (Feed::Demo, Vec::new())
        } else {
            feeds(context)?
        };
        let mut start = self.start(context)?;
        start.contexts = feeds.iter().map(|(name, _)| name.clone()).collect();
        let is_file = self.snapshot.is_some() || self.svg.is_some();
        if self.once || context.wants_data() || is_file {
            return self.once(context, start, feed).await;
        }
        let is_dumb = context.environment.get("TERM") == Some("dumb");
        if self.plain || (is_dumb && context.interactive) {
            return Box::pin(self.plain(context, start, feed)).await;
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(CmdError::new(
                catalogue::TERMINAL,
                "the dashboard needs a terminal to be drawn on",
            )
            .hint("`horde dashboard --once` prints one frame, `--plain` lines that change, `--json` data"));
        }
        let run = Run {
            feed,
            feeds,
            clock: context.clock.clone(),
            trap: context.environment.get(Trap::VARIABLE).and_then(Trap::parse),
        };
        match run::run(run, start).await {
            Ok(End::Quit) => Ok(()),
            Ok(End::Signal(code)) => Err(CmdError::quiet(ExitCode::Passed(code))),
            Err(RunError::Panicked) => Err(CmdError::new(
                ExitCode::Bug,
                "this is a bug of horde; please report it with the lines above",
            )),
            Err(error) => Err(CmdError::new(ExitCode::Failed, "the dashboard ended").caused_by(&error)),
        }
    }

    fn start(&self, context: &Context) -> Result<Start, CmdError> {
        let depth = Depth::of(|name| context.environment.get(name));
        let (keys, notice) = key_map(context);
        let size = self.size.unwrap_or_else(|| {
            let columns = context
                .environment
                .get("COLUMNS")
                .and_then(|text| text.parse().ok());
            Size(columns.unwrap_or(SIZE.0).clamp(1, SIZE_MAX), SIZE.1)
        });
        Ok(Start {
            views: VIEWS,
            view: self.view.as_deref().map(found).transpose()?,
            key: self.key.clone(),
            keys,
            theme: self.theme()?,
            // A picture has all colours; what was asked for by name is meant.
            depth: if self.svg.is_some() { Depth::Many } else { depth },
            ascii: !context.speaks_utf8(),
            mouse: !self.no_mouse,
            at: self.moment(context)?,
            header: Header::default(),
            contexts: Vec::new(),
            notice,
            size: (size.0, size.1),
        })
    }

    fn theme(&self) -> Result<Theme, CmdError> {
        let Some(word) = &self.theme else {
            return Ok(Theme::default());
        };
        Theme::find(word).ok_or_else(|| {
            let words = Theme::ALL.map(Theme::word).join(", ");
            CmdError::new(ExitCode::Usage, format!("there is no theme {word:?}"))
                .hint(format!("there are {words}"))
        })
    }

    fn moment(&self, context: &Context) -> Result<Option<Timestamp>, CmdError> {
        let Some(text) = &self.at else { return Ok(None) };
        let now = context.clock.now();
        let moment = moment_of(text, now).ok_or_else(|| {
            CmdError::new(ExitCode::Usage, format!("{text:?} is no moment"))
                .hint("a moment is 12:30 (UTC), 2026-11-25T12:00:00Z, or as long ago as -15m, -2h, -1d")
        })?;
        Ok((moment < now).then(|| Timestamp::new(moment)))
    }

    /// Prints or writes one frame.
    async fn once(&self, context: &Context, start: Start, feed: Feed) -> Result<(), CmdError> {
        let clock = context.clock.clone();
        let theme = start.theme;
        let still = tokio::task::spawn_blocking(move || {
            let mut reader = Reader::new(feed);
            Still::take(start, &mut reader, &clock)
        })
        .await
        .or_fail(ExitCode::Bug, "could not draw the dashboard")?;
        let frame = still.frame();
        for (file, content) in [
            (&self.snapshot, headless::text(&frame)),
            (&self.svg, svg::svg(&frame, theme)),
        ] {
            if let Some(file) = file {
                std::fs::write(file, content)
                    .or_fail(ExitCode::Failed, format!("could not write {}", file.display()))?;
            }
        }
        if context.wants_data() {
            let page = still.page().map_err(|error| load_error(&error))?;
            return context.print_data(&shown(&still, &page));
        }
        if self.once {
            context.bytes(headless::text(&frame).as_bytes())?;
        }
        Ok(())
    }

    /// Prints what the view shows as lines, and then what changes, until it is stopped.
    async fn plain(&self, context: &Context, start: Start, feed: Feed) -> Result<(), CmdError> {
        let clock = context.clock.clone();
        let mut reader = Reader::new(feed);
        let mut before: Option<Arc<Page>> = None;
        let mut problem: Option<LoadError> = None;
        loop {
            let (start, clock) = (start.clone(), clock.clone());
            let (still, kept) = tokio::task::spawn_blocking(move || {
                let still = Still::take(start, &mut reader, &clock);
                (still, reader)
            })
            .await
            .or_fail(ExitCode::Bug, "could not read the view")?;
            reader = kept;
            match (still.page(), &before) {
                (Ok(page), None) => {
                    for line in plain::lines(still.app().screen(), &page) {
                        context.line(line)?;
                    }
                    before = Some(page);
                    problem = None;
                }
                (Ok(page), Some(last)) => {
                    for line in plain::changes(last, &page) {
                        context.line(line)?;
                    }
                    before = Some(page);
                    problem = None;
                }
                (Err(error), None) => return Err(load_error(&error)),
                (Err(error), Some(_)) if problem.as_ref() != Some(&error) => {
                    context.say(format_args!("reading failed, trying again: {error}"));
                    problem = Some(error);
                }
                (Err(_), Some(_)) => {}
            }
            tokio::time::sleep(PLAIN_PAUSE).await;
        }
    }
}

/// Returns what is read, and by name what the contexts with directories of their own keep.
fn feeds(context: &Context) -> Result<(Feed, Vec<(String, Feed)>), CmdError> {
    let settings = context.settings(Scope::Tool, Vec::new())?;
    let is_mainnet = settings.is_mainnet();
    let name = settings.context().map(str::to_owned);
    // The main network is marked also where no context names it.
    let named = name.clone().or_else(|| is_mainnet.then(|| MAINNET.to_owned()));
    let feed = Feed::Directory(settings.dir()?.to_owned(), named.map(|name| (name, is_mainnet)));
    let contexts = Contexts::read(&context.environment)?;
    let mut feeds: Vec<_> = contexts
        .all()
        .filter(|other| name.as_ref() != Some(&other.name))
        .filter_map(|other| {
            let of = (other.name.clone(), other.is_mainnet());
            Some((other.name.clone(), Feed::Directory(other.dir.clone()?, Some(of))))
        })
        .collect();
    // So that one can turn back.
    feeds.extend(name.map(|name| (name, feed.clone())));
    Ok((feed, feeds))
}

fn found(name: &str) -> Result<&'static View, CmdError> {
    VIEWS.iter().find(|view| view.name == name).ok_or_else(|| {
        let names: Vec<_> = VIEWS.iter().map(|view| view.name).collect();
        CmdError::new(ExitCode::Usage, format!("there is no view {name:?}"))
            .hint(format!("there are {}", names.join(", ")))
    })
}

fn load_error(error: &LoadError) -> CmdError {
    let code = match error {
        LoadError::NotKept(_) | LoadError::NotFound(_) => ExitCode::NotFound,
        LoadError::Database { .. } => ExitCode::Failed,
    };
    CmdError::new(code, "could not read the view").caused_by(error)
}

/// Reads the key map file, if there is one; what is wrong with it is told, and the built-in keys are taken.
fn key_map(context: &Context) -> (KeyMap, Option<String>) {
    let file = context
        .environment
        .config_home()
        .map(|home| home.join("horde/keys.toml"));
    let Some(file) = file.filter(|file| file.exists()) else {
        return (KeyMap::built_in(), None);
    };
    let read = read_bounded(&file)
        .map_err(|error| vec![error.to_string()])
        .and_then(|text| {
            KeyMap::read(&text, VIEWS).map_err(|problems| problems.iter().map(ToString::to_string).collect())
        });
    match read {
        Ok(keys) => (keys, None),
        Err(problems) => {
            let words = format!("{} is not used: {}", file.display(), problems.join("; "));
            (KeyMap::built_in(), Some(words))
        }
    }
}

fn shown(still: &Still, page: &Page) -> Shown {
    let screen = still.app().screen();
    let facts = page.facts.iter();
    let charts = page.charts.iter().map(|chart| ShownChart {
        title: chart.title,
        bars: chart
            .bars
            .iter()
            .map(|(label, value)| ShownBar {
                label: label.clone(),
                value: *value,
            })
            .collect(),
    });
    let rows = page.rows.iter().map(|row| {
        let cells = page.columns.iter().zip(&row.cells);
        let key = std::iter::once(("key".to_owned(), serde_json::Value::from(&*row.key)));
        key.chain(cells.map(|(column, cell)| (column.name.to_owned(), json_of(cell))))
            .collect()
    });
    Shown {
        view: screen.view.name,
        key: screen.ask.key.clone(),
        at: screen.ask.at.map(|at| at.to_string()),
        facts: facts
            .map(|(name, cell)| ((*name).to_owned(), json_of(cell)))
            .collect(),
        charts: charts.collect(),
        rows: rows.collect(),
        columns: page.columns.iter().map(|column| column.name).collect(),
        has_older: page.older.is_some(),
        text: page
            .text
            .iter()
            .map(|line| ShownLine {
                at: line.at.map(|at| at.to_string()),
                text: line.text.clone(),
            })
            .collect(),
    }
}
