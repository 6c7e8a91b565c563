//! The line that is typed in: for filters, searches, commands and file names, with history and completion.

use std::collections::VecDeque;

use crossterm::event::KeyCode;

use crate::tui::keys::Key;

/// Characters that can be typed.
const TEXT_MAX: usize = 400;

/// Lines that are remembered per kind.
const HISTORY_MAX: usize = 100;

/// Completions that are offered.
pub const OFFERS_MAX: usize = 10;

/// What a line is typed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A filter.
    Filter,
    /// A search.
    Search,
    /// A command.
    Palette,
    /// The name of a file.
    Save,
}

impl Kind {
    /// Returns what stands before the line.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Filter => "filter /",
            Self::Search => "search ",
            Self::Palette => ":",
            Self::Save => "save to ",
        }
    }
}

/// Something that can be typed, with what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The text.
    pub text: String,
    /// What it does.
    pub about: String,
}

impl Offer {
    /// Makes an offer.
    pub fn new(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            about: about.into(),
        }
    }
}

/// What a key did to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The text is another one.
    Changed,
    /// Nothing that matters beyond the line.
    Moved,
    /// Enter.
    Done,
    /// Escape.
    Dropped,
}

/// The line.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What it is typed for.
    pub kind: Kind,
    text: Vec<char>,
    cursor: usize,
    /// Which line of the history is shown, counted from the newest.
    back: Option<usize>,
    /// Everything that can be typed here.
    known: Vec<Offer>,
    /// Which offer is chosen.
    pub chosen: Option<usize>,
    /// What the offers are made for: the text before one was chosen.
    stem: String,
    /// Why the text cannot be used.
    pub problem: Option<String>,
}

impl Prompt {
    /// Opens a line with a text in it and everything that can be typed.
    pub fn new(kind: Kind, text: &str, known: Vec<Offer>) -> Self {
        let text: Vec<char> = text.chars().take(TEXT_MAX).collect();
        Self {
            kind,
            cursor: text.len(),
            stem: text.iter().collect(),
            text,
            back: None,
            known,
            chosen: None,
            problem: None,
        }
    }

    /// Returns what was typed.
    pub fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// Returns what stands before the cursor.
    pub fn before_cursor(&self) -> String {
        self.text.iter().take(self.cursor).collect()
    }

    /// Returns what fits to what was typed: beginnings first, then scattered letters.
    pub fn offers(&self) -> Vec<&Offer> {
        if self.stem.is_empty() && self.kind != Kind::Palette {
            return Vec::new();
        }
        let stem = self.stem.to_lowercase();
        let begins = |offer: &&Offer| offer.text.starts_with(&stem);
        let scattered = |offer: &&Offer| !offer.text.starts_with(&stem) && is_scattered(&stem, &offer.text);
        let first = self.known.iter().filter(begins);
        first
            .chain(self.known.iter().filter(scattered))
            .take(OFFERS_MAX)
            .collect()
    }

    /// Takes a key.
    pub fn press(&mut self, key: Key, history: &VecDeque<String>) -> Typed {
        match key.code() {
            KeyCode::Enter => return Typed::Done,
            KeyCode::Esc => return Typed::Dropped,
            KeyCode::Char('g' | 'c') if key.is_ctrl() => return Typed::Dropped,
            KeyCode::Tab | KeyCode::BackTab => return self.choose(key.code() == KeyCode::Tab),
            KeyCode::Up => return self.remember(history, true),
            KeyCode::Down => return self.remember(history, false),
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Char('a') if key.is_ctrl() => self.cursor = 0,
            KeyCode::Char('e') if key.is_ctrl() => self.cursor = self.text.len(),
            KeyCode::Char('u') if key.is_ctrl() => {
                self.text.drain(..self.cursor);
                self.cursor = 0;
                return self.changed();
            }
            KeyCode::Char('w') if key.is_ctrl() => return self.rub_word(),
            KeyCode::Backspace if self.text.is_empty() => return Typed::Dropped,
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
                return self.changed();
            }
            KeyCode::Delete if self.cursor < self.text.len() => {
                self.text.remove(self.cursor);
                return self.changed();
            }
            _ => {
                if let Some(c) = key.character() {
                    self.insert(&c.to_string());
                    return self.changed();
                }
            }
        }
        Typed::Moved
    }

    /// Takes pasted text: its first line.
    pub fn paste(&mut self, text: &str) -> Typed {
        let line: String = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(TEXT_MAX)
            .collect();
        self.insert(&line);
        self.changed()
    }

    fn insert(&mut self, text: &str) {
        for c in text.chars() {
            if self.text.len() < TEXT_MAX {
                self.text.insert(self.cursor, c);
                self.cursor += 1;
            }
        }
    }

    fn rub_word(&mut self) -> Typed {
        let is_space = |at: usize| self.text.get(at).is_some_and(|c| c.is_whitespace());
        let mut from = self.cursor;
        while from > 0 && is_space(from - 1) {
            from -= 1;
        }
        while from > 0 && !is_space(from - 1) {
            from -= 1;
        }
        self.text.drain(from..self.cursor);
        self.cursor = from;
        self.changed()
    }

    fn changed(&mut self) -> Typed {
        self.chosen = None;
        self.back = None;
        self.problem = None;
        self.stem = self.text();
        Typed::Changed
    }

    fn set(&mut self, text: &str) {
        self.text = text.chars().take(TEXT_MAX).collect();
        self.cursor = self.text.len();
    }

    fn choose(&mut self, forward: bool) -> Typed {
        let offers = self.offers();
        let count = offers.len();
        if count == 0 {
            return Typed::Moved;
        }
        let next = match (self.chosen, forward) {
            (None, true) => 0,
            (None, false) => count - 1,
            (Some(at), true) => (at + 1) % count,
            (Some(at), false) => (at + count - 1) % count,
        };
        let text = offers.get(next).map(|offer| offer.text.clone());
        self.chosen = Some(next);
        self.set(&text.unwrap_or_default());
        Typed::Changed
    }

    fn remember(&mut self, history: &VecDeque<String>, older: bool) -> Typed {
        let back = match (self.back, older) {
            (None, true) => Some(0),
            (None | Some(0), false) => None,
            (Some(at), true) => Some((at + 1).min(history.len().saturating_sub(1))),
            (Some(at), false) => Some(at - 1),
        };
        let text = back.and_then(|at| history.get(at)).cloned().unwrap_or_default();
        self.set(&text);
        self.changed();
        self.back = back.filter(|at| *at < history.len());
        Typed::Changed
    }
}

/// Tells whether the letters of a text stand in another one in this order.
fn is_scattered(letters: &str, text: &str) -> bool {
    let mut text = text.chars();
    letters.chars().all(|letter| text.any(|c| c == letter))
}

/// Puts a line at the head of a history, once.
pub fn note(history: &mut VecDeque<String>, line: &str) {
    if line.trim().is_empty() {
        return;
    }
    history.retain(|old| old != line);
    history.push_front(line.to_owned());
    history.truncate(HISTORY_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(prompt: &mut Prompt, keys: &str, history: &VecDeque<String>) -> Typed {
        let mut last = Typed::Moved;
        for key in keys.split(' ') {
            last = prompt.press(Key::parse(key).unwrap(), history);
        }
        last
    }

    fn palette() -> Prompt {
        let known = ["jobs", "job", "theme dark", "theme light"];
        Prompt::new(
            Kind::Palette,
            "",
            known.into_iter().map(|text| Offer::new(text, "")).collect(),
        )
    }

    #[test]
    fn a_line_is_edited_as_lines_are() {
        let none = VecDeque::new();
        let mut prompt = Prompt::new(Kind::Filter, "ab cd", Vec::new());
        typed(&mut prompt, "left left x", &none);
        assert_eq!(
            (prompt.text().as_str(), prompt.before_cursor().as_str()),
            ("ab xcd", "ab x")
        );
        typed(&mut prompt, "end ctrl-w", &none);
        assert_eq!(prompt.text(), "ab ");
        typed(&mut prompt, "home delete end backspace", &none);
        assert_eq!(prompt.text(), "b");
        assert_eq!(typed(&mut prompt, "ctrl-u backspace", &none), Typed::Dropped);
        prompt.paste("one\x1b[2J\ntwo");
        assert_eq!(prompt.text(), "one[2J");
        prompt.paste(&"x".repeat(10_000));
        assert_eq!(prompt.text().len(), TEXT_MAX);
    }

    #[test]
    fn completion_goes_round_through_what_fits() {
        let none = VecDeque::new();
        let mut prompt = palette();
        assert_eq!(prompt.offers().len(), 4);
        typed(&mut prompt, "t d", &none);
        assert_eq!(prompt.offers().len(), 1, "letters in their order are enough");
        typed(&mut prompt, "ctrl-u j tab tab", &none);
        assert_eq!(prompt.text(), "job");
        typed(&mut prompt, "tab", &none);
        assert_eq!(prompt.text(), "jobs");
        typed(&mut prompt, "shift-tab", &none);
        assert_eq!(prompt.text(), "job");
    }

    #[test]
    fn the_history_goes_back_and_forth_and_holds_each_line_once() {
        let mut history = VecDeque::new();
        for line in ["one", "two", "one", " "] {
            note(&mut history, line);
        }
        assert_eq!(history, ["one", "two"]);
        let mut prompt = palette();
        typed(&mut prompt, "up", &history);
        assert_eq!(prompt.text(), "one");
        typed(&mut prompt, "up up up", &history);
        assert_eq!(prompt.text(), "two");
        typed(&mut prompt, "down down", &history);
        assert_eq!(prompt.text(), "");
    }
}
