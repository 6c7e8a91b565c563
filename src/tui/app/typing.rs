//! What is typed: filters as one types, searches and where they lead, the palette's commands when they are entered.

use super::App;
use super::command::commands;
use super::filter::Filter;
use super::prompt::{Kind, Offer, Prompt, Typed, note};
use super::screen::Panel;
use crate::tui::event::Effect;
use crate::tui::keys::Key;
use crate::tui::view::Tone;

impl App {
    /// Opens the line for typing.
    pub(super) fn prompt(&mut self, kind: Kind, text: &str) {
        let known = match kind {
            Kind::Palette => commands(self.views, &self.contexts),
            Kind::Filter | Kind::Search => self.columns_offered(),
            Kind::Save => Vec::new(),
        };
        self.filter_before = self.screen().filter.clone();
        self.prompt = Some(Prompt::new(kind, text, known));
    }

    pub(super) fn prompt_filter(&mut self) {
        let text = self.screen().filter.as_ref().map_or("", Filter::text).to_owned();
        self.prompt(Kind::Filter, &text);
    }

    fn columns_offered(&self) -> Vec<Offer> {
        let columns = self.screen().page.as_deref().map(|page| &page.columns);
        let columns = columns.into_iter().flatten();
        columns
            .map(|column| Offer::new(format!("{}:", column.name), "in this column"))
            .collect()
    }

    /// Takes a key for the line.
    pub(super) fn type_key(&mut self, key: Key, effects: &mut Vec<Effect>) {
        let Some(prompt) = &mut self.prompt else { return };
        let kind = prompt.kind;
        let typed = prompt.press(key, self.histories.get(place(kind)).unwrap_or(&NONE));
        match typed {
            Typed::Changed => self.try_typed(),
            Typed::Moved => {}
            Typed::Dropped => {
                if kind == Kind::Filter {
                    let before = self.filter_before.take();
                    self.set_filter(before);
                }
                self.prompt = None;
            }
            Typed::Done => self.enter(effects),
        }
    }

    /// Takes pasted text; where nothing is typed, it does nothing: it may hold keys that nobody pressed.
    pub(super) fn paste(&mut self, text: &str) {
        self.is_dirty = true;
        if let Some(prompt) = &mut self.prompt {
            prompt.paste(text);
            self.try_typed();
        } else {
            self.say("pasted text is taken only where something is typed", Tone::Faint);
        }
    }

    /// Shows what a filter does while it is typed.
    fn try_typed(&mut self) {
        let Some(prompt) = &mut self.prompt else { return };
        if !matches!(prompt.kind, Kind::Filter | Kind::Search) {
            return;
        }
        match Filter::parse(&prompt.text()) {
            Ok(filter) if prompt.kind == Kind::Filter => self.set_filter(filter),
            Ok(_) => {}
            Err(error) => prompt.problem = Some(error.to_string()),
        }
    }

    fn set_filter(&mut self, filter: Option<Filter>) {
        self.change(|screen| {
            if screen.filter != filter {
                screen.filter = filter;
                screen.rearrange();
            }
        });
    }

    /// Filters for good, and says why nothing is left where a column's name is to blame.
    pub(super) fn filter_by(&mut self, filter: Option<Filter>) {
        self.set_filter(filter);
        let screen = self.screen();
        let (Some(filter), Some(page)) = (&screen.filter, &screen.page) else {
            return;
        };
        let is_empty = screen.order.is_empty() && !page.columns.is_empty();
        if let Some(stranger) = filter.stranger(&page.columns).filter(|_| is_empty) {
            let names: Vec<_> = page.columns.iter().map(|column| column.name).collect();
            let words = format!("there is no column {stranger}; there are {}", names.join(", "));
            self.say(words, Tone::Warning);
        }
    }

    fn enter(&mut self, effects: &mut Vec<Effect>) {
        let Some(prompt) = self.prompt.take() else { return };
        let text = prompt.text();
        if let Some(history) = self.histories.get_mut(place(prompt.kind)) {
            note(history, &text);
        }
        match prompt.kind {
            Kind::Filter => match Filter::parse(&text) {
                Ok(filter) => self.filter_by(filter),
                Err(error) => self.say(error.to_string(), Tone::Bad),
            },
            Kind::Search => match Filter::parse(&text) {
                Ok(search) => {
                    self.change(|screen| screen.search = search);
                    self.next_match(true);
                }
                Err(error) => self.say(error.to_string(), Tone::Bad),
            },
            Kind::Palette => {
                // A beginning that only one command has is that command.
                let only = match prompt.offers().as_slice() {
                    [only] if prompt.chosen.is_none() && only.text.starts_with(&text) => {
                        Some(only.text.clone())
                    }
                    _ => None,
                };
                let words = only.unwrap_or(text);
                if let Err(problem) = self.command(&words, effects) {
                    self.say(problem, Tone::Bad);
                }
            }
            Kind::Save => self.save(&text, effects),
        }
    }

    /// Goes to the next row or line that is looked for.
    pub(super) fn next_match(&mut self, forward: bool) {
        let screen = self.screen();
        let Some(search) = screen.search.clone() else {
            self.say("nothing is looked for", Tone::Faint);
            return;
        };
        let Some(page) = screen.page.clone() else { return };
        let is_text = screen.focus() == Panel::Text;
        let (count, here) = if is_text {
            (screen.lines.len(), screen.top_of(Panel::Text))
        } else {
            (screen.order.len(), screen.cursor)
        };
        let matches = |place: &usize| {
            if is_text {
                let line = screen.lines.get(*place).and_then(|at| page.text.get(*at));
                line.is_some_and(|line| search.line(line))
            } else {
                screen
                    .row_at(*place)
                    .is_some_and(|row| search.row(&page.columns, row))
            }
        };
        // Round the end, and at last where it stands.
        let mut places = (1..=count).map(|step| {
            if forward {
                (here + step) % count
            } else {
                (here + count - step) % count
            }
        });
        let Some(place) = places.find(matches) else {
            self.say(format!("nothing matches {}", search.text()), Tone::Warning);
            return;
        };
        self.change(|screen| {
            if is_text {
                screen.show_line(place);
            } else {
                screen.select(place);
            }
        });
    }
}

static NONE: std::collections::VecDeque<String> = std::collections::VecDeque::new();

const fn place(kind: Kind) -> usize {
    match kind {
        Kind::Filter => 0,
        Kind::Search => 1,
        Kind::Palette => 2,
        Kind::Save => 3,
    }
}
