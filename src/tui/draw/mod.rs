//! Draws the state of the dashboard; reads only.

pub mod bars;
mod body;
pub mod layout;
pub mod over;
mod typed;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use self::layout::{HEIGHT_MIN, WIDTH_MIN};
use super::app::App;
use super::tame::{put, sweep};
use super::theme::{Part, Theme};

/// Draws everything into a buffer of the terminal's size.
pub fn draw(app: &App, buffer: &mut Buffer) {
    let area = buffer.area;
    buffer.set_style(area, app.theme.base());
    match app
        .layout()
        .filter(|layout| layout.footer.bottom() <= area.bottom() && layout.footer.right() <= area.right())
    {
        Some(layout) => {
            bars::header(app, layout.header, buffer);
            bars::draw_tabs(app, buffer);
            body::draw(app, &layout, buffer);
            bars::alerts(app, layout.alert, buffer);
            bars::footer(app, layout.footer, buffer);
            over::draw(app, &layout, buffer);
            typed::draw(app, &layout, buffer);
        }
        None => too_small(app, buffer),
    }
    sweep(buffer, app.ascii);
}

/// Says that there is no room, in what room there is.
fn too_small(app: &App, buffer: &mut Buffer) {
    let area = buffer.area;
    let style = app.theme.base();
    let lines = [
        "too small".to_owned(),
        format!("need {WIDTH_MIN}×{HEIGHT_MIN}"),
        format!("have {}×{}", area.width, area.height),
        "q quits".to_owned(),
    ];
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        put(buffer, area, area.x, y, line, style);
    }
}

/// Draws a border with words in its upper line.
fn border(buffer: &mut Buffer, area: Rect, title: &str, right: &str, theme: Theme) {
    if area.width < 2 || area.height < 2 {
        return;
    }
    let style = theme.part(Part::Border);
    let (left, end, top, bottom) = (area.left(), area.right() - 1, area.top(), area.bottom() - 1);
    for x in left..=end {
        set(buffer, x, top, "─", style);
        set(buffer, x, bottom, "─", style);
    }
    for y in top..=bottom {
        set(buffer, left, y, "│", style);
        set(buffer, end, y, "│", style);
    }
    for (x, y, corner) in [
        (left, top, "╭"),
        (end, top, "╮"),
        (left, bottom, "╰"),
        (end, bottom, "╯"),
    ] {
        set(buffer, x, y, corner, style);
    }
    let line = Rect::new(left + 2, top, area.width.saturating_sub(4), 1);
    let mut x = line.x;
    if !title.is_empty() {
        x = put(
            buffer,
            line,
            x,
            top,
            &format!(" {title} "),
            theme.part(Part::Title),
        );
    }
    let width = u16::try_from(super::tame::width(right, usize::from(u16::MAX))).unwrap_or(u16::MAX);
    let start = line.right().saturating_sub(width.saturating_add(2));
    if !right.is_empty() && start > x {
        put(buffer, line, start, top, &format!(" {right} "), style);
    }
}

fn set(buffer: &mut Buffer, x: u16, y: u16, symbol: &str, style: Style) {
    if let Some(cell) = buffer.cell_mut((x, y)) {
        cell.set_symbol(symbol).set_style(style);
    }
}

/// Empties a rectangle.
fn clear(buffer: &mut Buffer, area: Rect, style: Style) {
    let area = area.intersection(buffer.area);
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            if let Some(cell) = buffer.cell_mut((x, y)) {
                cell.reset();
                cell.set_style(style);
            }
        }
    }
}
