//! The lines around a view: roles, context and clock; tabs; alerts and news; keys.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::tui::app::App;
use crate::tui::keys::Action;
use crate::tui::tame::{put, width};
use crate::tui::theme::Part;
use crate::tui::view::{Tone, View};

/// A page that is older than this is marked: as many seconds as three readings may take.
const STALE: Duration = Duration::from_secs(3);

/// Parts of a second that reading may take before the person is told that it goes on.
pub(super) const SLOW: Duration = Duration::from_millis(300);

fn columns(text: &str) -> u16 {
    u16::try_from(width(text, usize::from(u16::MAX))).unwrap_or(u16::MAX)
}

/// Writes a span of time as people say it: `0.4 s`, `12 s`, `3 min`, `2 h`, `5 d`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns how fresh the shown page is, in words.
pub fn freshness(app: &App) -> (String, Tone) {
    let screen = app.screen();
    let age = screen.read.map(|read| app.now.steady.saturating_sub(read.steady));
    let waits = app
        .reading_since()
        .map(|since| app.now.steady.saturating_sub(since))
        .filter(|waits| *waits > SLOW);
    match (age, waits) {
        _ if app.is_frozen => ("frozen".to_owned(), Tone::Warning),
        (Some(age), _) if screen.failure.is_some() => (format!("stale, {} old", span(age)), Tone::Bad),
        (None, _) if screen.failure.is_some() => ("cannot be read".to_owned(), Tone::Bad),
        (None, waits) => {
            let waits = waits.map(|waits| format!(" {}", span(waits)));
            (format!("reading{}", waits.unwrap_or_default()), Tone::Busy)
        }
        (Some(_), Some(waits)) => (format!("reading {}", span(waits)), Tone::Busy),
        _ if screen.ask.at.is_some() => ("past".to_owned(), Tone::Warning),
        _ if screen.ask.before.is_some() => ("older rows".to_owned(), Tone::Warning),
        (Some(age), None) if age > STALE.max(screen.rest.saturating_mul(2)) => {
            (format!("{} old", span(age)), Tone::Warning)
        }
        _ => ("live".to_owned(), Tone::Good),
    }
}

/// Draws the line at the top.
pub(super) fn header(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = app.theme;
    let (fresh, tone) = freshness(app);
    let time = app.now.wall.time();
    let clock = format!("{:02}:{:02}:{:02} UTC", time.hour(), time.minute(), time.second());
    let right = columns(&clock) + 3 + columns(&fresh);
    let x = area.right().saturating_sub(right);
    let after = put(buffer, area, x, area.y, &fresh, theme.tone(tone));
    put(buffer, area, after + 3, area.y, &clock, theme.part(Part::Header));
    let left = Rect {
        width: x.saturating_sub(area.x + 2),
        ..area
    };
    let mut x = put(buffer, left, left.x, area.y, "horde", theme.part(Part::Header));
    if let Some((name, is_main)) = &app.header.context {
        x = put(
            buffer,
            left,
            x + 1,
            area.y,
            &format!("[{name}]"),
            theme.tone(Tone::Busy),
        );
        if *is_main {
            x = put(
                buffer,
                left,
                x + 1,
                area.y,
                " MAINNET ",
                theme.part(Part::Mainnet),
            );
        }
    }
    let roles = if app.header.roles.is_empty() {
        "no role here".to_owned()
    } else {
        app.header.roles.join(" · ")
    };
    x = put(buffer, left, x + 2, area.y, &roles, theme.base());
    put(
        buffer,
        left,
        x + 2,
        area.y,
        &app.header.dir,
        theme.tone(Tone::Faint),
    );
}

/// A tab at its place.
#[derive(Clone, Debug)]
pub struct Tab {
    /// The view that it shows.
    pub view: &'static View,
    /// Where it is.
    pub area: Rect,
    /// Its words.
    label: String,
    /// Whether it, or what it opened, is shown.
    pub is_on: bool,
}

/// Returns the tabs that have room; the shown one always has.
pub fn tabs(app: &App) -> Vec<Tab> {
    let Some(layout) = app.layout() else {
        return Vec::new();
    };
    let base = app.screens().next().map_or("", |screen| screen.view.name);
    let all: Vec<_> = app.tabs().collect();
    let numbered = all
        .iter()
        .enumerate()
        .map(|(at, view)| columns(&label(view, at, true)) + 1);
    let has_numbers = numbered.fold(0, u16::saturating_add) <= layout.tabs.width;
    let name_width = |view: &View, at| columns(&label(view, at, has_numbers)) + 1;
    let on = all.iter().position(|view| view.name == base).unwrap_or(0);
    // Scrolled so far that the shown one has room.
    let mut first = 0;
    let ends = |first: usize| {
        let shown = all.iter().enumerate().take(on + 1).skip(first);
        shown
            .map(|(at, view)| name_width(view, at))
            .fold(0, u16::saturating_add)
    };
    while first < on && ends(first) > layout.tabs.width {
        first += 1;
    }
    let mut x = layout.tabs.x;
    let mut tabs = Vec::new();
    for (at, view) in all.iter().enumerate().skip(first) {
        let label = label(view, at, has_numbers);
        let wide = columns(&label);
        if x.saturating_add(wide) > layout.tabs.right() {
            break;
        }
        tabs.push(Tab {
            view,
            area: Rect::new(x, layout.tabs.y, wide, 1),
            label,
            is_on: at == on,
        });
        x += wide + 1;
    }
    tabs
}

/// Returns the words of a tab: the key that opens it, where there is room for that, and its name.
fn label(view: &View, at: usize, has_number: bool) -> String {
    match view.key {
        Some(key) => format!(" {key} {} ", view.name),
        None if has_number && at < 9 => format!(" {} {} ", at + 1, view.name),
        None => format!(" {} ", view.name),
    }
}

/// Draws the line of tabs.
pub(super) fn draw_tabs(app: &App, buffer: &mut Buffer) {
    for tab in tabs(app) {
        let part = if tab.is_on { Part::TabOn } else { Part::TabOff };
        put(
            buffer,
            tab.area,
            tab.area.x,
            tab.area.y,
            &tab.label,
            app.theme.part(part),
        );
    }
}

/// Columns of the line that shows a day.
const SCRUBBER: u16 = 24;

/// Draws the line above the bottom: news, failures, the time that is shown, alerts.
pub(super) fn alerts(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = app.theme;
    let mut x = area.x;
    if let Some(at) = app.at {
        x = scrubber(app, at.moment(), area, buffer) + 2;
    }
    if let Some(notice) = &app.notice {
        put(buffer, area, x, area.y, &notice.text, theme.tone(notice.tone));
    } else if let Some(failure) = app
        .screen()
        .failure
        .as_ref()
        .filter(|_| app.screen().page.is_some())
    {
        let text = format!("reading failed, trying again: {failure}");
        put(buffer, area, x, area.y, &text, theme.tone(Tone::Bad));
    } else if let Some(first) = app.alerts.first() {
        let more = match app.alerts.len() {
            1 => String::new(),
            count => format!("  (+{} more)", count - 1),
        };
        let key = app.keys.first(Action::Acknowledge);
        let text = format!("! {}{more}  [{key} puts it away]", first.text);
        put(buffer, area, x, area.y, &text, theme.tone(first.tone));
    }
}

/// Draws where in the last day the shown moment lies; returns the column after it.
fn scrubber(app: &App, at: time::OffsetDateTime, area: Rect, buffer: &mut Buffer) -> u16 {
    let theme = app.theme;
    let ago = Duration::try_from(app.now.wall - at).unwrap_or_default();
    let day = Duration::from_secs(86_400);
    let from_now = ago.as_secs().min(day.as_secs()) * u64::from(SCRUBBER - 1) / day.as_secs();
    let place = SCRUBBER - 1 - u16::try_from(from_now).unwrap_or(SCRUBBER - 1);
    for step in 0..SCRUBBER {
        let (symbol, style) = if step == place {
            ("●", theme.tone(Tone::Warning))
        } else {
            ("─", theme.part(Part::Border))
        };
        put(buffer, area, area.x + step, area.y, symbol, style);
    }
    let time = at.time();
    let text = format!(
        " as of {} {:02}:{:02}:{:02}, {} ago",
        at.date(),
        time.hour(),
        time.minute(),
        time.second(),
        span(ago)
    );
    put(
        buffer,
        area,
        area.x + SCRUBBER,
        area.y,
        &text,
        theme.tone(Tone::Warning),
    )
}

/// Keys in the line at the bottom, in the order in which they are left out last.
const HINTS: &[(Action, &str)] = &[
    (Action::Help, "keys"),
    (Action::Palette, "command"),
    (Action::Filter, "filter"),
    (Action::Open, "open"),
    (Action::Back, "back"),
    (Action::Sort, "sort"),
    (Action::Freeze, "freeze"),
    (Action::StepBack, "past"),
    (Action::CopyKey, "copy"),
    (Action::Quit, "quit"),
];

/// Draws the keys at the bottom.
pub(super) fn footer(app: &App, area: Rect, buffer: &mut Buffer) {
    let mut x = area.x;
    for (action, word) in HINTS {
        let key = app.keys.first(*action);
        if key.is_empty() || x + columns(&key) + columns(word) + 1 > area.right() {
            continue;
        }
        x = put(buffer, area, x, area.y, &key, app.theme.part(Part::Key));
        x = put(buffer, area, x + 1, area.y, word, app.theme.tone(Tone::Faint)) + 2;
    }
}
