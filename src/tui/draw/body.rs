//! The shown view: facts, charts, table, text, or why there is nothing.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::bars::{SLOW, span};
use super::layout::{CHART_ROWS, GUTTER, Layout, Placed, TIME_COLUMNS};
use super::{border, clear};
use crate::tui::app::App;
use crate::tui::app::filter::Filter;
use crate::tui::app::screen::{LINE_COLUMNS_MAX, Panel, Screen};
use crate::tui::tame::{columns, put, put_tame, tame};
use crate::tui::theme::{Part, Theme};
use crate::tui::view::{Cell, Chart, Line, Page, Tone};

/// Draws the shown view with its border.
pub(super) fn draw(app: &App, layout: &Layout, buffer: &mut Buffer) {
    let screen = app.screen();
    border(buffer, layout.body, &title(app), &place(screen), app.theme);
    let Some(page) = screen.page.as_deref() else {
        nothing(app, layout.inner, buffer);
        return;
    };
    if let Some(own) = screen.view.draw {
        own(page, layout.inner, buffer, &app.theme);
        return;
    }
    facts(app, page, layout, buffer);
    charts(app, page, layout, buffer);
    if layout.table.height > 0 {
        table(app, page, layout, buffer);
    } else if screen.panels().is_empty() {
        say(page.empty, layout.inner, app.theme.tone(Tone::Faint), buffer);
    }
    text(app, page, layout, buffer);
}

/// Returns where one is, and what was made of the view.
fn title(app: &App) -> String {
    let screen = app.screen();
    let path: Vec<String> = app
        .screens()
        .map(|screen| match &screen.ask.key {
            Some(key) => format!("{} {}", screen.view.title, tame(key, 40)),
            None => screen.view.title.to_owned(),
        })
        .collect();
    let shown = path.len().saturating_sub(3);
    let mut title = path.into_iter().skip(shown).collect::<Vec<_>>().join(" › ");
    if let (Some((at, descends)), Some(page)) = (screen.sort, screen.page.as_deref())
        && let Some(column) = page.columns.get(at)
    {
        let arrow = if descends { "▼" } else { "▲" };
        title = format!("{title}  {}{arrow}", column.name);
    }
    if let Some(filter) = &screen.filter {
        title = format!("{title}  /{}", filter.text());
    }
    if let Some(search) = &screen.search {
        title = format!("{title}  search {}", search.text());
    }
    if app.at.is_some() && !screen.view.keeps_past {
        title.push_str("  (the present: this view keeps no past)");
    }
    title
}

/// Returns how much there is, and where in it one is.
fn place(screen: &Screen) -> String {
    let Some(page) = screen.page.as_deref() else {
        return String::new();
    };
    let mut words = Vec::new();
    if !screen.marks.is_empty() {
        words.push(format!("{} marked", screen.marks.len()));
    }
    let all = page.rows.len();
    if all > 0 {
        let more = if page.older.is_some() { "+" } else { "" };
        let place = if screen.order.is_empty() {
            0
        } else {
            screen.cursor + 1
        };
        let of = if screen.order.len() == all {
            String::new()
        } else {
            format!(" of {all}{more}")
        };
        let more = if of.is_empty() { more } else { "" };
        words.push(format!("{place}/{}{more}{of}", screen.order.len()));
    }
    if screen.ask.before.is_some() {
        words.push("older rows".to_owned());
    }
    words.join(" · ")
}

/// Says why there is no page yet.
fn nothing(app: &App, area: Rect, buffer: &mut Buffer) {
    let screen = app.screen();
    if let Some(failure) = &screen.failure {
        let words = format!("cannot show this: {failure}");
        say(&words, area, app.theme.tone(Tone::Bad), buffer);
        let again = Rect {
            y: area.y.saturating_add(4).min(area.bottom()),
            height: area.height.saturating_sub(4),
            ..area
        };
        let words = format!("attempt {}, trying again by itself", screen.failures);
        say(&words, again, app.theme.tone(Tone::Faint), buffer);
        return;
    }
    let waits = app.reading_since();
    let waits = waits.map(|since| app.now.steady.saturating_sub(since));
    let words = match waits.filter(|waits| *waits > SLOW) {
        Some(waits) => format!("reading … {}", span(waits)),
        None => "reading …".to_owned(),
    };
    say(&words, area, app.theme.tone(Tone::Faint), buffer);
}

/// Writes words into a rectangle, wrapped between words where that is possible.
pub(super) fn say(words: &str, area: Rect, style: Style, buffer: &mut Buffer) {
    let area = Rect::new(
        area.x + 1.min(area.width),
        area.y,
        area.width.saturating_sub(2),
        area.height,
    );
    for (line, y) in wrapped(words, usize::from(area.width))
        .iter()
        .zip(area.top()..area.bottom())
    {
        put(buffer, area, area.x, y, line, style);
    }
}

/// Breaks a text into lines of at most `width` columns, between words where they fit.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in tame(text, LINE_COLUMNS_MAX).split(' ') {
        let mut word = word.to_owned();
        while let Some(line) = lines.last_mut() {
            let gap = usize::from(!line.is_empty());
            if columns(line) + gap + columns(&word) <= width {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(&word);
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            // A word that is longer than a line.
            let head = tame(&word, width);
            if head.is_empty() {
                break;
            }
            word = word.split_off(head.len());
            line.push_str(&head);
            lines.push(String::new());
        }
    }
    lines
}

fn facts(app: &App, page: &Page, layout: &Layout, buffer: &mut Buffer) {
    let area = layout.facts;
    if area.height == 0 {
        return;
    }
    let wide = area.width / layout.fact_columns.max(1);
    let per_column = layout.fact_rows(page).max(1);
    let top = app.screen().top_of(Panel::Facts);
    let most = page
        .facts
        .iter()
        .map(|(name, _)| columns(&tame(name, LINE_COLUMNS_MAX)))
        .max()
        .unwrap_or(0);
    let name_wide = u16::try_from(most).unwrap_or(u16::MAX).min(wide / 2);
    for (at, (name, cell)) in page.facts.iter().enumerate() {
        let (column, row) = (at / per_column, at % per_column);
        let Some(row) = row.checked_sub(top).and_then(|row| u16::try_from(row).ok()) else {
            continue;
        };
        let column = u16::try_from(column).unwrap_or(u16::MAX);
        if row >= area.height {
            continue;
        }
        let x = area.x + 1 + column.saturating_mul(wide);
        let slot = Rect::new(x, area.y + row, wide.saturating_sub(2), 1).intersection(area);
        let names = Rect {
            width: name_wide.min(slot.width),
            ..slot
        };
        put(buffer, names, x, slot.y, name, app.theme.part(Part::Heading));
        cut(
            buffer,
            slot,
            x + name_wide + 1,
            &cell.text,
            app.theme.tone(cell.tone),
        );
    }
    if layout.fact_rows(page) > usize::from(area.height) + top {
        put(
            buffer,
            area,
            area.right().saturating_sub(2),
            area.bottom() - 1,
            "▼",
            app.theme.part(Part::Border),
        );
    }
}

/// Writes a text into the rest of a line, with an ellipsis where it is cut.
fn cut(buffer: &mut Buffer, area: Rect, x: u16, text: &str, style: Style) {
    let room = usize::from(area.right().saturating_sub(x));
    let whole = tame(text, room + 1);
    if columns(&whole) <= room {
        put_tame(buffer, area, x, area.y, &whole, style);
    } else if room > 0 {
        let head = tame(&whole, room - 1);
        let x = put_tame(buffer, area, x, area.y, &head, style);
        put_tame(buffer, area, x, area.y, "…", style);
    }
}

fn charts(app: &App, page: &Page, layout: &Layout, buffer: &mut Buffer) {
    let area = layout.charts;
    if area.height == 0 {
        return;
    }
    let per_row = usize::from(layout.chart_columns.max(1)).min(page.charts.len().max(1));
    let wide = area.width / u16::try_from(per_row).unwrap_or(1).max(1);
    let skipped = app.screen().top_of(Panel::Charts);
    for (at, one) in page.charts.iter().skip(skipped).enumerate() {
        let row = u16::try_from(at / per_row).unwrap_or(u16::MAX);
        let column = u16::try_from(at % per_row).unwrap_or(u16::MAX);
        let slot = Rect::new(
            area.x + column * wide,
            area.y.saturating_add(row.saturating_mul(CHART_ROWS)),
            wide,
            CHART_ROWS,
        );
        chart(one, slot.intersection(area), app.theme, buffer);
    }
}

/// Bars up to which a chart has them lie, each with its label; more stand beside each other.
const LYING_MAX: usize = 6;

fn chart(chart: &Chart, area: Rect, theme: Theme, buffer: &mut Buffer) {
    if area.height < 2 || area.width < 8 {
        return;
    }
    let title = Rect { height: 1, ..area };
    put(
        buffer,
        title,
        area.x + 1,
        area.y,
        chart.title,
        theme.part(Part::Heading),
    );
    let body = Rect::new(area.x + 1, area.y + 1, area.width - 2, area.height - 1);
    let values = chart.bars.iter().map(|(_, value)| *value);
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    if chart.bars.is_empty() {
        put(buffer, body, body.x, body.y, "no data", theme.tone(Tone::Faint));
    } else if chart.bars.len() <= LYING_MAX {
        lying(chart, body, most, theme, buffer);
    } else {
        standing(chart, body, most, theme, buffer);
    }
}

/// Returns how many of `steps` a value has of the greatest one.
fn share(value: f64, most: f64, steps: u16) -> u16 {
    if !value.is_finite() || value <= 0.0 || most <= 0.0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and steps"
    )]
    let share = (value / most * f64::from(steps))
        .round()
        .clamp(0.0, f64::from(steps)) as u16;
    share.max(1)
}

/// Writes a number as short as it can be read.
fn number(value: f64) -> String {
    if !value.is_finite() {
        "-".to_owned()
    } else if value.abs() >= 1e6 {
        format!("{:.1}M", value / 1e6)
    } else if value.abs() >= 1e4 {
        format!("{:.1}k", value / 1e3)
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn lying(chart: &Chart, area: Rect, most: f64, theme: Theme, buffer: &mut Buffer) {
    let label = usize::from(area.width / 3);
    let widest = chart
        .bars
        .iter()
        .map(|(text, _)| columns(&tame(text, label)))
        .max();
    let label = u16::try_from(widest.unwrap_or(0)).unwrap_or(0);
    let room = area.width.saturating_sub(label + 9);
    for ((text, value), y) in chart.bars.iter().zip(area.top()..area.bottom()) {
        let line = Rect::new(area.x, y, area.width, 1);
        let labels = Rect { width: label, ..line };
        put(buffer, labels, area.x, y, text, theme.base());
        let bar = "█".repeat(usize::from(share(*value, most, room)));
        let x = put(buffer, line, area.x + label + 1, y, &bar, theme.part(Part::Bar));
        put(buffer, line, x + 1, y, &number(*value), theme.tone(Tone::Faint));
    }
}

/// Parts of a cell that a bar fills.
const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

fn standing(chart: &Chart, area: Rect, most: f64, theme: Theme, buffer: &mut Buffer) {
    let scale = number(most);
    let rows = area.height.saturating_sub(1).max(1);
    let room = usize::from(area.width.saturating_sub(1));
    // The newest stand at the right and stay.
    let skipped = chart.bars.len().saturating_sub(room);
    let shown: Vec<_> = chart.bars.iter().skip(skipped).collect();
    let wide = (room / shown.len().max(1)).clamp(1, 6);
    for (at, (_, value)) in shown.iter().enumerate() {
        let eighths = share(*value, most, rows * 8);
        let x = area.x + u16::try_from(at * wide).unwrap_or(u16::MAX);
        for row in 0..rows {
            let fill = eighths.saturating_sub((rows - 1 - row) * 8).min(8);
            let symbol = EIGHTHS.get(usize::from(fill)).copied().unwrap_or(" ");
            let bar = symbol.repeat(wide.saturating_sub(usize::from(wide > 2)));
            put(buffer, area, x, area.y + row, &bar, theme.part(Part::Bar));
        }
    }
    let line = Rect {
        y: area.bottom().saturating_sub(1),
        height: 1,
        ..area
    };
    let first = shown.first().map_or("", |(label, _)| label.as_str());
    let last = shown.last().map_or("", |(label, _)| label.as_str());
    let words = format!("{first} … {last}   max {scale}");
    put(buffer, line, line.x, line.y, &words, theme.tone(Tone::Faint));
}

fn table(app: &App, page: &Page, layout: &Layout, buffer: &mut Buffer) {
    let screen = app.screen();
    let area = layout.table;
    let placed = layout.columns(page, screen);
    for column in &placed {
        let Some(head) = page.columns.get(column.at) else {
            continue;
        };
        let arrow = match screen.sort {
            Some((at, false)) if at == column.at => "▲",
            Some((at, true)) if at == column.at => "▼",
            _ => "",
        };
        let words = format!("{}{arrow}", head.name);
        aligned(
            buffer,
            column,
            area.y,
            &words,
            head.right,
            app.theme.part(Part::Heading),
        );
    }
    if screen.order.is_empty() {
        let rest = Rect::new(area.x, area.y + 1, area.width, area.height.saturating_sub(1));
        let words = match &screen.filter {
            Some(filter) if !page.rows.is_empty() => {
                format!("none of {} rows matches {}", page.rows.len(), filter.text())
            }
            _ => page.empty.to_owned(),
        };
        say(&words, rest, app.theme.tone(Tone::Faint), buffer);
        return;
    }
    let top = screen.top_of(Panel::Table);
    for (place, y) in (top..screen.order.len()).zip(area.top() + 1..area.bottom()) {
        row(
            app,
            page,
            place,
            &placed,
            Rect::new(area.x, y, area.width, 1),
            buffer,
        );
    }
}

fn row(app: &App, page: &Page, place: usize, placed: &[Placed], line: Rect, buffer: &mut Buffer) {
    let screen = app.screen();
    let Some(row) = screen.row_at(place) else { return };
    for column in placed {
        let Some(cell) = row.cells.get(column.at) else {
            continue;
        };
        let right = page.columns.get(column.at).is_some_and(|head| head.right);
        let style = app.theme.tone(cell.tone);
        aligned(buffer, column, line.y, &cell.text, right, style);
        if let Some(search) = &screen.search {
            let slot = Rect::new(column.x, line.y, column.width, 1);
            if !right {
                mark_found(buffer, slot, cell, search, app.theme);
            }
        }
    }
    if screen.marks.contains(&row.key) {
        put(buffer, line, line.x, line.y, "●", app.theme.tone(Tone::Warning));
    }
    if place == screen.cursor && screen.focus() == Panel::Table {
        buffer.set_style(line, app.theme.part(Part::Selected));
        if app.theme == Theme::None {
            put(
                buffer,
                line,
                line.x + GUTTER - 1,
                line.y,
                ">",
                app.theme.part(Part::Selected),
            );
        }
    }
}

fn mark_found(buffer: &mut Buffer, slot: Rect, cell: &Cell, search: &Filter, theme: Theme) {
    let text = tame(&cell.text, usize::from(slot.width));
    highlight(buffer, slot, slot.x, &text, search, theme);
}

/// Marks what was found in a tame text that stands at `x`.
fn highlight(buffer: &mut Buffer, area: Rect, x: u16, text: &str, search: &Filter, theme: Theme) {
    for range in search.found(text) {
        let (Some(before), Some(found)) = (text.get(..range.start), text.get(range)) else {
            continue;
        };
        let start = u16::try_from(columns(before)).unwrap_or(u16::MAX);
        let width = u16::try_from(columns(found)).unwrap_or(u16::MAX);
        let hit = Rect::new(x.saturating_add(start), area.y, width, 1);
        buffer.set_style(hit.intersection(area), theme.part(Part::Match));
    }
}

/// Writes a text into a column, at its left or right edge.
fn aligned(buffer: &mut Buffer, column: &Placed, y: u16, text: &str, right: bool, style: Style) {
    let slot = Rect::new(column.x, y, column.width, 1);
    let wide = u16::try_from(columns(&tame(text, usize::from(column.width) + 1))).unwrap_or(u16::MAX);
    let x = if right && wide <= column.width {
        column.x + column.width - wide
    } else {
        column.x
    };
    cut(buffer, slot, x, text, style);
}

fn text(app: &App, page: &Page, layout: &Layout, buffer: &mut Buffer) {
    let screen = app.screen();
    if layout.text.height == 0 {
        return;
    }
    rule(app, page, layout.rule, buffer);
    let with_times = app.shows_times && page.text.iter().any(|line| line.at.is_some());
    let mut area = layout.text;
    let mut places = screen.lines.iter().skip(screen.top_of(Panel::Text));
    while area.height > 0 {
        let Some(line) = places.next().and_then(|at| page.text.get(*at)) else {
            break;
        };
        let used = text_line(app, line, area, with_times, buffer).max(1);
        area.y += used.min(area.height);
        area.height -= used.min(area.height);
    }
    if screen.lines.is_empty() {
        let words = "no line matches the filter";
        say(words, layout.text, app.theme.tone(Tone::Faint), buffer);
    }
}

/// Draws one line of text; returns the rows that it takes.
fn text_line(app: &App, line: &Line, area: Rect, with_times: bool, buffer: &mut Buffer) -> u16 {
    let screen = app.screen();
    let mut body = area;
    if with_times {
        if let Some(at) = line.at {
            let time = at.moment().time();
            let words = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
            put(buffer, area, area.x, area.y, &words, app.theme.tone(Tone::Faint));
        }
        body.x += TIME_COLUMNS.min(area.width);
        body.width = area.width.saturating_sub(TIME_COLUMNS);
    }
    let style = app.theme.tone(line.tone);
    let whole = tame(&line.text, LINE_COLUMNS_MAX);
    let mut rest = whole.as_str();
    if !app.wraps {
        let skipped = tame(rest, screen.left).len();
        rest = rest.get(skipped..).unwrap_or_default();
    }
    let mut rows = 0;
    loop {
        let head = tame(rest, usize::from(body.width)).len();
        let (piece, more) = rest.split_at_checked(head).unwrap_or((rest, ""));
        let slot = Rect {
            y: body.y + rows,
            height: 1,
            ..body
        };
        put_tame(buffer, slot, slot.x, slot.y, piece, style);
        if let Some(search) = &screen.search {
            highlight(buffer, slot, slot.x, piece, search, app.theme);
        }
        rows += 1;
        rest = more;
        if rest.is_empty() || piece.is_empty() || !app.wraps || rows >= body.height {
            break;
        }
    }
    if !app.wraps && !rest.is_empty() && body.width > 0 {
        put(
            buffer,
            body,
            body.right() - 1,
            body.y,
            "›",
            app.theme.part(Part::Border),
        );
    }
    rows
}

/// Draws the line above the text: how much there is and how it is shown.
fn rule(app: &App, page: &Page, area: Rect, buffer: &mut Buffer) {
    let screen = app.screen();
    let is_focus = screen.focus() == Panel::Text;
    let style = app
        .theme
        .part(if is_focus { Part::BorderOn } else { Part::Border });
    clear(buffer, area, app.theme.base());
    for x in area.left()..area.right() {
        put(buffer, area, x, area.y, "─", style);
    }
    let shown = screen.lines.len();
    let of = if shown == page.text.len() {
        String::new()
    } else {
        format!(" of {}", page.text.len())
    };
    let mut words = format!(" {shown}{of} lines");
    words.push_str(if screen.follows {
        " · following"
    } else {
        " · paused"
    });
    if app.wraps {
        words.push_str(" · wrapped");
    } else if screen.left > 0 {
        words = format!("{words} · from column {}", screen.left + 1);
    }
    words.push(' ');
    put(buffer, area, area.x + 1, area.y, &words, style);
}
