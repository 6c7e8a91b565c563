//! The state of the dashboard, and what each event makes of it: pure, but for nothing.

pub mod command;
pub mod filter;
pub mod mouse;
pub mod prompt;
pub mod screen;
pub mod take;
#[cfg(test)]
mod tests;
mod typing;

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::layout::Rect;
use time::OffsetDateTime;

use self::filter::Filter;
use self::prompt::{Kind, Prompt};
use self::screen::{Panel, Screen};
use super::draw::layout::Layout;
use super::event::{Answer, Effect, Event, Header, Now, Purpose, Request};
use super::keys::{Action, Key, KeyMap};
use super::theme::{Depth, Theme};
use super::view::{Ask, Page, ROWS_MAX, Tone, View};
use crate::core::model::Timestamp;

/// Pause between two readings of a live page at least.
pub const LIVE_PAUSE: Duration = Duration::from_millis(500);

/// How many times as long as reading a page took it is not read again: while the roles write, reading takes one percent of
/// the time at most.
const READING_SHARE: u32 = 100;

/// The same while nobody writes, when only ages change.
const STILL_SHARE: u32 = 300;

/// Pause between two readings at most, and between attempts while reading fails.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Pause between two looks at the alerts at least, and how many times as long as the last look it is.
const ALERTS_PAUSE: Duration = Duration::from_secs(5);
const ALERTS_SHARE: u32 = 400;

/// Pause between two looks at the alerts at most.
const ALERTS_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long news stand in the line above the bottom.
const NOTICE_TIME: Duration = Duration::from_secs(5);

/// Views that lie on each other.
const SCREENS_MAX: usize = 32;

/// Alerts that are kept.
const ALERTS_MAX: usize = 100;

/// The view whose facts of a bad tone are alerts.
const ALERTS_VIEW: &str = "overview";

/// A minute and an hour: steps through time.
const STEP: Duration = Duration::from_secs(60);
const LEAP: Duration = Duration::from_secs(3600);

/// With what the dashboard starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// All views.
    pub views: &'static [View],
    /// The view that is shown first; the first one if none.
    pub view: Option<&'static View>,
    /// What that view is asked for, for views of one thing.
    pub key: Option<String>,
    /// The keys.
    pub keys: KeyMap,
    /// The colours.
    pub theme: Theme,
    /// What the terminal can show.
    pub depth: Depth,
    /// Whether only ASCII can be shown.
    pub ascii: bool,
    /// Whether the mouse is ours at the start.
    pub mouse: bool,
    /// The moment that is shown; now if none.
    pub at: Option<Timestamp>,
    /// What stands at the top.
    pub header: Header,
    /// Names of the contexts that one can turn to.
    pub contexts: Vec<String>,
    /// What the person is told first, such as problems of the key map.
    pub notice: Option<String>,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
}

/// Something that lies over the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The keys.
    Help,
    /// All columns of the selected row.
    Row,
}

/// News for the person, until a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The words.
    pub text: String,
    /// Their weight.
    pub tone: Tone,
    until: Duration,
}

/// Something to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The words.
    pub text: String,
    /// Its weight.
    pub tone: Tone,
}

/// The dashboard.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is switched by a key of its own"
)]
pub struct App {
    /// All views.
    pub views: &'static [View],
    /// The keys.
    pub keys: KeyMap,
    /// The colours.
    pub theme: Theme,
    /// What the terminal can show.
    pub depth: Depth,
    /// Whether only ASCII can be shown.
    pub ascii: bool,
    /// What stands at the top.
    pub header: Header,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// What is typed, if something is.
    pub prompt: Option<Prompt>,
    /// What lies over the view, and how far it is scrolled.
    pub over: Option<(Over, usize)>,
    /// News.
    pub notice: Option<Notice>,
    /// Whether nothing is read until the person lets it go on.
    pub is_frozen: bool,
    /// Whether the mouse is ours.
    pub has_mouse: bool,
    /// Whether long lines are wrapped.
    pub wraps: bool,
    /// Whether lines have their times before them.
    pub shows_times: bool,
    /// The moment that is shown; the present if none.
    pub at: Option<Timestamp>,
    /// The last moment that was told.
    pub now: Now,
    /// What is to be looked at and was not put away.
    pub alerts: Vec<Alert>,
    /// Whether the screen is another one than what was drawn last.
    pub is_dirty: bool,
    base: Screen,
    above: Vec<Screen>,
    contexts: Vec<String>,
    filter_before: Option<Filter>,
    histories: [VecDeque<String>; 4],
    acknowledged: Vec<Alert>,
    last_id: u64,
    reading: Option<(u64, Duration)>,
    watching: Option<u64>,
    /// When the alerts were looked at last, and how long that took.
    watched: Option<(Duration, Duration)>,
}

impl App {
    /// Makes the dashboard.
    pub fn new(start: Start, now: Now) -> Self {
        // A table of views without a row is none of ours.
        let first = start.view.or(start.views.first()).unwrap_or(&NO_VIEW);
        let mut app = Self {
            views: start.views,
            keys: start.keys,
            theme: start.theme.within(start.depth),
            depth: start.depth,
            ascii: start.ascii,
            header: start.header,
            size: start.size,
            prompt: None,
            over: None,
            notice: None,
            is_frozen: false,
            has_mouse: start.mouse,
            wraps: false,
            shows_times: true,
            at: start.at,
            now,
            alerts: Vec::new(),
            is_dirty: true,
            base: Screen::new(first, start.key),
            above: Vec::new(),
            contexts: start.contexts,
            filter_before: None,
            histories: Default::default(),
            acknowledged: Vec::new(),
            last_id: 0,
            reading: None,
            watching: None,
            watched: None,
        };
        if let Some(text) = start.notice {
            app.say(text, Tone::Warning);
        }
        app
    }

    /// Returns the view that is shown.
    pub fn screen(&self) -> &Screen {
        self.above.last().unwrap_or(&self.base)
    }

    /// Returns all views that lie on each other, the shown one last.
    pub fn screens(&self) -> impl Iterator<Item = &Screen> {
        std::iter::once(&self.base).chain(&self.above)
    }

    /// Returns since when a page is being read.
    pub fn reading_since(&self) -> Option<Duration> {
        self.reading.map(|(_, since)| since)
    }

    /// Returns where everything stands; none if the terminal is too small.
    pub fn layout(&self) -> Option<Layout> {
        Layout::new(Rect::new(0, 0, self.size.0, self.size.1), self.screen())
    }

    /// Returns the views that have a tab: all but those that others open.
    pub fn tabs(&self) -> impl Iterator<Item = &'static View> + use<> {
        let views = self.views;
        views
            .iter()
            .filter(move |view| !views.iter().any(|other| other.opens == Some(view.name)))
    }

    /// Takes an event and returns what is to be done.
    pub fn update(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if now.wall.unix_timestamp() != self.now.wall.unix_timestamp() {
            // The clock is on the screen.
            self.is_dirty = true;
        }
        self.now = now;
        match event {
            Event::Key(event) => {
                self.is_dirty = true;
                self.press(Key::of(&event), &mut effects);
            }
            Event::Mouse(event) => self.point(event, &mut effects),
            Event::Paste(text) => self.paste(&text),
            Event::Resize(width, height) => {
                self.size = (width, height);
                self.is_dirty = true;
            }
            Event::Tick => {}
            Event::Loaded(answer) => self.take_answer(*answer),
            Event::Saved(Ok(path)) => self.say(format!("saved to {}", path.display()), Tone::Good),
            Event::Saved(Err(reason)) => self.say(reason, Tone::Bad),
            Event::Turned(header) => self.turn(header),
            Event::Resumed => {
                self.is_dirty = true;
                effects.push(Effect::Repaint);
            }
        }
        if self
            .notice
            .as_ref()
            .is_some_and(|notice| notice.until <= now.steady)
        {
            self.notice = None;
            self.is_dirty = true;
        }
        self.ask(&mut effects);
        self.settle();
        effects
    }

    /// Changes the shown view.
    fn change<T>(&mut self, change: impl FnOnce(&mut Screen) -> T) -> T {
        change(self.above.last_mut().unwrap_or(&mut self.base))
    }

    fn settle(&mut self) {
        let (wraps, times) = (self.wraps, self.shows_times);
        if let Some(layout) = self.layout() {
            self.change(|screen| screen.settle(&layout, wraps, times));
        }
    }

    /// Tells the person something.
    fn say(&mut self, text: impl Into<String>, tone: Tone) {
        self.notice = Some(Notice {
            text: text.into(),
            tone,
            until: self.now.steady + NOTICE_TIME,
        });
        self.is_dirty = true;
    }

    /// Asks for the pages that are due.
    fn ask(&mut self, effects: &mut Vec<Effect>) {
        let at = self.at;
        self.change(|screen| {
            let at = at.filter(|_| screen.view.keeps_past);
            if screen.ask.at != at {
                screen.ask.at = at;
                screen.is_wanted = true;
            }
        });
        if self.screen().is_wanted || (self.reading.is_none() && self.is_due()) {
            self.last_id += 1;
            self.reading = Some((self.last_id, self.now.steady));
            self.change(|screen| screen.is_wanted = false);
            let screen = self.screen();
            effects.push(Effect::Load(Request {
                id: self.last_id,
                purpose: Purpose::Shown,
                view: screen.view,
                ask: screen.ask.clone(),
            }));
        }
        let is_time = self.watched.is_none_or(|(last, took)| {
            let pause = took.saturating_mul(ALERTS_SHARE);
            self.now.steady >= last + pause.clamp(ALERTS_PAUSE, ALERTS_PAUSE_MAX)
        });
        if !is_time || self.watching.is_some() || self.is_frozen || self.screen().page.is_none() {
            return;
        }
        if let Some(view) = self.views.iter().find(|view| view.name == ALERTS_VIEW) {
            self.last_id += 1;
            self.watching = Some(self.last_id);
            effects.push(Effect::Load(Request {
                id: self.last_id,
                purpose: Purpose::Alerts,
                view,
                ask: Ask {
                    rows_max: ROWS_MAX,
                    ..Ask::default()
                },
            }));
        }
    }

    /// Tells whether the shown page is old enough to be read again.
    fn is_due(&self) -> bool {
        let screen = self.screen();
        let Some(tried) = screen.tried else { return true };
        let pause = if screen.failure.is_some() {
            LIVE_PAUSE.saturating_mul(2_u32.saturating_pow(screen.failures.min(16)))
        } else if screen.ask.at.is_some() || screen.ask.before.is_some() || self.is_frozen {
            // The past stays as it was.
            return false;
        } else {
            screen.rest.max(LIVE_PAUSE)
        };
        self.now.steady >= tried + pause.min(PAUSE_MAX)
    }

    fn take_answer(&mut self, answer: Answer) {
        if let Some(header) = answer.header {
            self.header = header;
            self.is_dirty = true;
        }
        if self.watching == Some(answer.id) {
            self.watching = None;
            self.watched = Some((self.now.steady, answer.took));
            if let Ok(page) = answer.result {
                self.watch(&page);
            }
            return;
        }
        // What was asked for by a view that was left since is nobody's.
        if self.reading.is_none_or(|(id, _)| id != answer.id) {
            return;
        }
        self.reading = None;
        let now = self.now;
        let changed = match answer.result {
            Ok(page) => {
                let share = if answer.is_news {
                    READING_SHARE
                } else {
                    STILL_SHARE
                };
                let rest = answer.took.saturating_mul(share);
                self.change(|screen| screen.accept(page, rest, now))
            }
            Err(error) => self.change(|screen| {
                screen.fail(error, now);
                true
            }),
        };
        self.is_dirty |= changed;
    }

    /// Finds the alerts in a page.
    fn watch(&mut self, page: &Page) {
        let found: Vec<Alert> = page
            .facts
            .iter()
            .filter(|(_, cell)| matches!(cell.tone, Tone::Warning | Tone::Bad))
            .map(|(name, cell)| Alert {
                text: format!("{name}: {}", cell.text),
                tone: cell.tone,
            })
            .take(ALERTS_MAX)
            .collect();
        // What has gone away and comes back is told again.
        self.acknowledged.retain(|alert| found.contains(alert));
        let shown: Vec<Alert> = found
            .into_iter()
            .filter(|alert| !self.acknowledged.contains(alert))
            .collect();
        self.is_dirty |= shown != self.alerts;
        self.alerts = shown;
    }

    fn turn(&mut self, header: Header) {
        self.header = header;
        self.alerts.clear();
        self.watched = None;
        self.above.clear();
        self.base = Screen::new(self.base.view, None);
        self.reading = None;
        self.is_dirty = true;
    }

    /// Shows a view in place of all that are open.
    fn show(&mut self, view: &'static View) {
        if !self.above.is_empty() || self.base.view.name != view.name {
            self.base = Screen::new(view, None);
            self.above.clear();
        }
        self.reading = None;
    }

    /// Opens a view on top of the shown one.
    fn open(&mut self, view: &'static View, key: Option<String>) {
        if self.above.len() == SCREENS_MAX {
            self.above.remove(0);
        }
        self.above.push(Screen::new(view, key));
        self.reading = None;
    }

    fn step_view(&mut self, forward: bool) {
        let tabs: Vec<_> = self.tabs().collect();
        let base = self.base.view.name;
        let at = tabs.iter().position(|view| view.name == base).unwrap_or(0);
        let count = tabs.len().max(1);
        let next = if forward { at + 1 } else { at + count - 1 } % count;
        if let Some(view) = tabs.get(next) {
            self.show(view);
        }
    }

    fn press(&mut self, key: Key, effects: &mut Vec<Effect>) {
        if key == Key::INTERRUPT {
            effects.push(Effect::Quit);
            return;
        }
        if self.prompt.is_some() {
            self.type_key(key, effects);
            return;
        }
        if let Some(action) = self.keys.action(key) {
            self.act(action, effects);
            return;
        }
        let Some(c) = key.character() else { return };
        let by_key = self.views.iter().find(|view| view.key == Some(c));
        let number = c.to_digit(10).filter(|number| *number > 0);
        let by_number = || {
            let place = usize::try_from(number?).ok()?;
            self.tabs().nth(place - 1)
        };
        if let Some(view) = by_key.or_else(by_number) {
            self.over = None;
            self.show(view);
        } else {
            let help = self.keys.first(Action::Help);
            self.say(
                format!("{key} does nothing here; {help} shows the keys"),
                Tone::Faint,
            );
        }
    }

    /// Does what a key or a command asks for.
    fn act(&mut self, action: Action, effects: &mut Vec<Effect>) {
        if self.over.is_some() && self.act_over(action) {
            return;
        }
        let page = self.layout().map_or(1, |layout| match self.screen().focus() {
            Panel::Table => layout.table_rows(),
            Panel::Text => layout.text.height,
            Panel::Facts => layout.facts.height,
            Panel::Charts => 1,
        });
        let page = isize::from(i16::try_from(page.max(2) - 1).unwrap_or(i16::MAX));
        match action {
            Action::Quit => effects.push(Effect::Quit),
            Action::Suspend => effects.push(Effect::Suspend),
            Action::Help => self.over = Some((Over::Help, 0)),
            Action::Back => self.back(),
            Action::Open => self.open_selected(),
            Action::Up => self.change(|screen| screen.go(-1)),
            Action::Down => self.change(|screen| screen.go(1)),
            Action::PageUp => self.change(|screen| screen.go(-page)),
            Action::PageDown => self.change(|screen| screen.go(page)),
            Action::Top => self.change(|screen| screen.go(isize::MIN / 2)),
            Action::Bottom => self.change(Screen::go_to_end),
            Action::Left => self.change(|screen| screen.scroll(-1)),
            Action::Right => self.change(|screen| screen.scroll(1)),
            Action::NextView => self.step_view(true),
            Action::PreviousView => self.step_view(false),
            Action::NextPanel => self.change(Screen::next_panel),
            Action::Expand => self.change(|screen| screen.is_expanded = !screen.is_expanded),
            Action::Palette => self.prompt(Kind::Palette, ""),
            Action::Filter => self.prompt_filter(),
            Action::Search => self.prompt(Kind::Search, ""),
            Action::NextMatch => self.next_match(true),
            Action::PreviousMatch => self.next_match(false),
            Action::Sort => self.sort_next(),
            Action::Reverse => self.reverse(),
            Action::Older => self.older(),
            Action::Newer => self.newer(),
            Action::Mark => self.mark(),
            Action::Unmark => self.change(|screen| screen.marks.clear()),
            Action::CopyKey | Action::CopyRow | Action::CopyJson => self.copy(action, effects),
            Action::Save => self.prompt_save(),
            Action::Follow => self.change(|screen| screen.follows = !screen.follows),
            Action::Wrap => self.wraps = !self.wraps,
            Action::Times => self.shows_times = !self.shows_times,
            Action::Freeze => self.is_frozen = !self.is_frozen,
            Action::Reload => self.change(|screen| screen.is_wanted = true),
            Action::StepBack => self.travel(STEP, true),
            Action::StepForward => self.travel(STEP, false),
            Action::LeapBack => self.travel(LEAP, true),
            Action::LeapForward => self.travel(LEAP, false),
            Action::Present => self.at = None,
            Action::Acknowledge => self.acknowledged.append(&mut self.alerts),
            Action::Theme => self.turn_theme(None),
            Action::Mouse => {
                self.has_mouse = !self.has_mouse;
                effects.push(Effect::Mouse(self.has_mouse));
            }
        }
    }

    /// Does what a key does to what lies over the view; tells whether that was all.
    fn act_over(&mut self, action: Action) -> bool {
        let Some((_, top)) = &mut self.over else {
            return false;
        };
        let page = usize::from(self.size.1 / 2).max(1);
        match action {
            Action::Up => *top = top.saturating_sub(1),
            Action::Down => *top = top.saturating_add(1),
            Action::PageUp => *top = top.saturating_sub(page),
            Action::PageDown => *top = top.saturating_add(page),
            Action::Top => *top = 0,
            Action::Bottom => *top = usize::MAX,
            Action::Quit | Action::Suspend | Action::Theme | Action::Freeze | Action::Mouse => return false,
            Action::Back | Action::Help | Action::Open => self.over = None,
            _ => {
                self.over = None;
                return false;
            }
        }
        let most = super::draw::over::rows(self).saturating_sub(1);
        if let Some((_, top)) = &mut self.over {
            *top = (*top).min(most);
        }
        true
    }

    fn back(&mut self) {
        let peeled = self.change(|screen| {
            if screen.is_expanded {
                screen.is_expanded = false;
            } else if screen.filter.take().is_some() || screen.search.take().is_some() {
                screen.rearrange();
            } else {
                return false;
            }
            true
        });
        if peeled {
            return;
        }
        if self.above.pop().is_some() {
            self.reading = None;
        } else if self.at.is_some() {
            self.at = None;
        } else {
            let quit = self.keys.first(Action::Quit);
            self.say(format!("{quit} quits"), Tone::Faint);
        }
    }

    fn open_selected(&mut self) {
        let screen = self.screen();
        let Some(id) = screen.row_at(screen.cursor).map(|row| row.id().to_owned()) else {
            return;
        };
        let opens = screen.view.opens;
        match opens.and_then(|name| self.views.iter().find(|view| view.name == name)) {
            Some(view) if !id.is_empty() => self.open(view, Some(id)),
            _ => self.over = Some((Over::Row, 0)),
        }
    }

    fn sort_next(&mut self) {
        let sorted = self.change(|screen| {
            let count = screen.page.as_deref().map_or(0, |page| page.columns.len());
            let next = screen.sort.map_or(0, |(column, _)| column + 1);
            screen.sort = (next < count).then_some((next, false));
            screen.rearrange();
            let page = screen.page.as_deref()?;
            let (column, _) = screen.sort?;
            page.columns.get(column).map(|column| column.name)
        });
        match sorted {
            Some(name) => self.say(format!("sorted by {name}"), Tone::Faint),
            None => self.say("in the view's own order", Tone::Faint),
        }
    }

    fn reverse(&mut self) {
        self.change(|screen| {
            screen.sort = Some(
                screen
                    .sort
                    .map_or((0, true), |(column, descends)| (column, !descends)),
            );
            screen.rearrange();
        });
    }

    fn older(&mut self) {
        let done = self.change(|screen| {
            let older = screen.page.as_deref()?.older.clone()?;
            screen.newer.push(screen.ask.before.replace(older));
            screen.turn();
            Some(())
        });
        if done.is_none() {
            self.say("there are no older rows", Tone::Faint);
        }
    }

    fn newer(&mut self) {
        let done = self.change(|screen| {
            screen.ask.before = screen.newer.pop()?;
            screen.turn();
            Some(())
        });
        if done.is_none() {
            self.say("these are the newest rows", Tone::Faint);
        }
    }

    fn mark(&mut self) {
        self.change(|screen| {
            if let Some(key) = screen.selected.clone() {
                if !screen.marks.remove(&key) {
                    screen.marks.insert(key);
                }
                screen.go(1);
            }
        });
    }

    /// Goes through time; the future is the present.
    fn travel(&mut self, by: Duration, back: bool) {
        if !self.screen().view.keeps_past {
            self.say("this view keeps no past: it shows the present", Tone::Warning);
        }
        let from = self.at.map_or(self.now.wall, Timestamp::moment);
        let to = if back {
            from.checked_sub(time::Duration::seconds_f64(by.as_secs_f64()))
        } else {
            from.checked_add(time::Duration::seconds_f64(by.as_secs_f64()))
        };
        self.go_to(to.unwrap_or(from));
    }

    /// Shows a moment.
    fn go_to(&mut self, moment: OffsetDateTime) {
        self.at = (moment < self.now.wall).then(|| Timestamp::new(moment));
    }

    fn turn_theme(&mut self, theme: Option<Theme>) {
        let mut next = theme.unwrap_or_else(|| self.theme.next());
        if theme.is_none() {
            // Goes past those that look like another one here.
            while next.within(self.depth) != next && next != self.theme {
                next = next.next();
            }
        }
        self.theme = next.within(self.depth);
        self.say(format!("colours: {}", self.theme.word()), Tone::Faint);
    }
}

/// Stands where there is no view at all.
static NO_VIEW: View = View {
    name: "nothing",
    key: None,
    title: "nothing",
    about: "Show nothing",
    opens: None,
    keeps_past: false,
    load: |_, _| Ok(Page::default()),
    draw: None,
};
