//! The mouse: tabs, headings and rows that are clicked on, and the wheel.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::App;
use super::screen::Panel;
use crate::tui::draw::bars;
use crate::tui::event::Effect;
use crate::tui::keys::Action;

/// Rows that one notch of the wheel moves.
const NOTCH: isize = 3;

impl App {
    pub(super) fn point(&mut self, event: MouseEvent, effects: &mut Vec<Effect>) {
        if !self.has_mouse {
            return;
        }
        let at = Position::new(event.column, event.row);
        match event.kind {
            MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
                self.is_dirty = true;
                let by = if event.kind == MouseEventKind::ScrollUp {
                    -NOTCH
                } else {
                    NOTCH
                };
                self.wheel(at, by, effects);
            }
            MouseEventKind::Down(MouseButton::Left) => {
                self.is_dirty = true;
                self.click(at, effects);
            }
            _ => {}
        }
    }

    fn wheel(&mut self, at: Position, by: isize, effects: &mut Vec<Effect>) {
        if self.over.is_some() {
            let action = if by < 0 { Action::Up } else { Action::Down };
            self.act(action, effects);
            return;
        }
        let panel = self.panel_at(at);
        self.change(|screen| {
            let focus = screen.panel;
            screen.panel = panel.or(focus);
            screen.go(by);
            screen.panel = focus;
        });
    }

    fn panel_at(&self, at: Position) -> Option<Panel> {
        let layout = self.layout()?;
        let panels = [
            (Panel::Facts, layout.facts),
            (Panel::Charts, layout.charts),
            (Panel::Table, layout.table),
            (Panel::Text, layout.text),
        ];
        panels
            .into_iter()
            .find(|(_, area)| area.contains(at))
            .map(|(panel, _)| panel)
    }

    fn click(&mut self, at: Position, effects: &mut Vec<Effect>) {
        if self.over.take().is_some() || self.prompt.take().is_some() {
            return;
        }
        let Some(layout) = self.layout() else { return };
        if layout.tabs.contains(at) {
            let hit = bars::tabs(self).into_iter().find(|tab| tab.area.contains(at));
            if let Some(tab) = hit {
                self.show(tab.view);
            }
            return;
        }
        if let Some(panel) = self.panel_at(at) {
            self.change(|screen| screen.panel = Some(panel));
        }
        if !layout.table.contains(at) {
            return;
        }
        if at.y == layout.table.y {
            self.click_heading(at);
            return;
        }
        let screen = self.screen();
        let place = screen.top_of(Panel::Table) + usize::from(at.y - layout.table.y - 1);
        if place >= screen.order.len() {
            return;
        }
        if screen.cursor == place {
            // A second click on the same row.
            self.act(Action::Open, effects);
        } else {
            self.change(|screen| screen.select(place));
        }
    }

    fn click_heading(&mut self, at: Position) {
        let Some(layout) = self.layout() else { return };
        let Some(page) = self.screen().page.clone() else {
            return;
        };
        let columns = layout.columns(&page, self.screen());
        let hit = columns
            .into_iter()
            .find(|column| Rect::new(column.x, layout.table.y, column.width + 1, 1).contains(at));
        if let Some(column) = hit {
            self.change(|screen| {
                screen.sort = match screen.sort {
                    Some((sorted, false)) if sorted == column.at => Some((sorted, true)),
                    Some((sorted, true)) if sorted == column.at => None,
                    _ => Some((column.at, false)),
                };
                screen.rearrange();
            });
        }
    }
}
