//! The line that is typed in, at the bottom, with what can be typed above it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::clear;
use super::layout::Layout;
use crate::tui::app::App;
use crate::tui::tame::{put, tame, width};
use crate::tui::theme::Part;
use crate::tui::view::Tone;

/// Columns of what can be typed.
const OFFER: u16 = 22;

/// Draws the line and its offers.
pub(super) fn draw(app: &App, layout: &Layout, buffer: &mut Buffer) {
    let Some(prompt) = &app.prompt else { return };
    let theme = app.theme;
    let area = layout.footer;
    clear(buffer, area, theme.base());
    let mut x = put(
        buffer,
        area,
        area.x,
        area.y,
        prompt.kind.sign(),
        theme.part(Part::Key),
    );
    // The cursor stays on the screen.
    let room = usize::from(area.right().saturating_sub(x + 1)).max(1);
    let before = prompt.before_cursor();
    let over = width(&before, usize::from(u16::MAX)).saturating_sub(room);
    let text = prompt.text();
    let skipped = tame(&text, over).len();
    let cursor = x + u16::try_from(width(&before, usize::from(u16::MAX)) - over).unwrap_or(0);
    x = put(
        buffer,
        area,
        x,
        area.y,
        tame(&text, usize::from(u16::MAX))
            .get(skipped..)
            .unwrap_or_default(),
        theme.base(),
    );
    if let Some(cell) = buffer.cell_mut((cursor.min(area.right() - 1), area.y)) {
        cell.set_style(theme.base().add_modifier(Modifier::REVERSED));
    }
    if let Some(problem) = &prompt.problem {
        put(buffer, area, x + 2, area.y, problem, theme.tone(Tone::Bad));
    }
    let offers = prompt.offers();
    let height = u16::try_from(offers.len()).unwrap_or(0).min(layout.inner.height);
    let top = layout.alert.bottom().saturating_sub(height);
    for (at, (offer, y)) in offers.iter().zip(top..layout.alert.bottom()).enumerate() {
        let line = Rect::new(area.x, y, area.width, 1);
        clear(buffer, line, theme.base());
        let style = if prompt.chosen == Some(at) {
            theme.part(Part::Selected)
        } else {
            theme.base()
        };
        put(buffer, line, line.x + 1, y, &offer.text, style);
        put(
            buffer,
            line,
            line.x + 2 + OFFER.max(u16::try_from(offer.text.len()).unwrap_or(OFFER) + 1),
            y,
            &offer.about,
            theme.tone(Tone::Faint),
        );
    }
}
