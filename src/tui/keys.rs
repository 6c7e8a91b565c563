//! The keys of the dashboard: a table with two keys per action, and the file that changes it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use thiserror::Error;

use super::view::View;

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table below says what each of them does")]
pub enum Action {
    Quit,
    Help,
    Back,
    Open,
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Left,
    Right,
    NextView,
    PreviousView,
    NextPanel,
    Expand,
    Palette,
    Filter,
    Search,
    NextMatch,
    PreviousMatch,
    Sort,
    Reverse,
    Older,
    Newer,
    Mark,
    Unmark,
    CopyKey,
    CopyRow,
    CopyJson,
    Save,
    Follow,
    Wrap,
    Times,
    Freeze,
    Reload,
    StepBack,
    StepForward,
    LeapBack,
    LeapForward,
    Present,
    Acknowledge,
    Theme,
    Mouse,
    Suspend,
}

/// One row of the key table.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// What the keys do.
    pub action: Action,
    /// Its name in the key map file.
    pub name: &'static str,
    /// The keys, as they are written in the key map file; the second may be empty.
    pub keys: [&'static str; 2],
    /// What it does, for the help: starts with a verb.
    pub about: &'static str,
    /// Where it stands in the help.
    pub group: &'static str,
}

const fn row(
    group: &'static str,
    action: Action,
    name: &'static str,
    keys: [&'static str; 2],
    about: &'static str,
) -> Binding {
    Binding {
        action,
        name,
        keys,
        about,
        group,
    }
}

const MOVE: &str = "Move";
const FIND: &str = "Find";
const SHOW: &str = "Show";
const TAKE: &str = "Take";
const TIME: &str = "Time";
const TEXT: &str = "Text";
const PROGRAM: &str = "Program";

/// All keys, in the order of the help. Digits, and letters that are not here, are for views.
pub const BINDINGS: &[Binding] = &[
    row(MOVE, Action::Up, "up", ["up", "k"], "Go up"),
    row(MOVE, Action::Down, "down", ["down", "j"], "Go down"),
    row(
        MOVE,
        Action::PageUp,
        "page-up",
        ["pageup", "ctrl-b"],
        "Go up by a page",
    ),
    row(
        MOVE,
        Action::PageDown,
        "page-down",
        ["pagedown", "ctrl-f"],
        "Go down by a page",
    ),
    row(MOVE, Action::Top, "top", ["g", "home"], "Go to the top"),
    row(
        MOVE,
        Action::Bottom,
        "bottom",
        ["G", "end"],
        "Go to the bottom; text is followed from there",
    ),
    row(MOVE, Action::Left, "left", ["left", "h"], "Scroll to the left"),
    row(
        MOVE,
        Action::Right,
        "right",
        ["right", "l"],
        "Scroll to the right",
    ),
    row(
        MOVE,
        Action::Open,
        "open",
        ["enter", "o"],
        "Open the selected row",
    ),
    row(
        MOVE,
        Action::Back,
        "back",
        ["esc", "backspace"],
        "Go back: close help, drop the filter, leave the view",
    ),
    row(
        MOVE,
        Action::NextView,
        "next-view",
        ["tab", "ctrl-n"],
        "Show the next view",
    ),
    row(
        MOVE,
        Action::PreviousView,
        "previous-view",
        ["shift-tab", ""],
        "Show the view before",
    ),
    row(
        MOVE,
        Action::NextPanel,
        "next-panel",
        ["w", "f6"],
        "Go to the next panel",
    ),
    row(
        FIND,
        Action::Palette,
        "palette",
        [":", "ctrl-p"],
        "Type a command: a view, a theme, a time",
    ),
    row(
        FIND,
        Action::Filter,
        "filter",
        ["/", "f4"],
        "Show only what matches: word, ~regex, /regex/, !not, column:value",
    ),
    row(
        FIND,
        Action::Search,
        "search",
        ["ctrl-s", "f7"],
        "Search without hiding the rest",
    ),
    row(
        FIND,
        Action::NextMatch,
        "next-match",
        ["n", ""],
        "Go to the next match",
    ),
    row(
        FIND,
        Action::PreviousMatch,
        "previous-match",
        ["N", ""],
        "Go to the match before",
    ),
    row(SHOW, Action::Sort, "sort", ["s", ""], "Sort by the next column"),
    row(
        SHOW,
        Action::Reverse,
        "reverse",
        ["S", ""],
        "Turn the order round",
    ),
    row(SHOW, Action::Older, "older", [">", "."], "Show the older rows"),
    row(SHOW, Action::Newer, "newer", ["<", ","], "Show the newer rows"),
    row(
        SHOW,
        Action::Expand,
        "expand",
        ["z", "f11"],
        "Give the panel all the room, and take it back",
    ),
    row(
        SHOW,
        Action::Acknowledge,
        "acknowledge",
        ["a", ""],
        "Put away the alerts that are shown, until there are others",
    ),
    row(TAKE, Action::Mark, "mark", ["space", "insert"], "Mark the row"),
    row(TAKE, Action::Unmark, "unmark", ["u", ""], "Take all marks away"),
    row(
        TAKE,
        Action::CopyKey,
        "copy-key",
        ["y", ""],
        "Copy the ids of the marked rows, or of the selected one",
    ),
    row(
        TAKE,
        Action::CopyRow,
        "copy-row",
        ["Y", ""],
        "Copy these rows as text",
    ),
    row(
        TAKE,
        Action::CopyJson,
        "copy-json",
        ["ctrl-y", ""],
        "Copy these rows as JSON",
    ),
    row(
        TAKE,
        Action::Save,
        "save",
        ["e", "f2"],
        "Save what the view shows to a file",
    ),
    row(
        TEXT,
        Action::Follow,
        "follow",
        ["f", ""],
        "Follow the text as it grows, or pause",
    ),
    row(
        TEXT,
        Action::Wrap,
        "wrap",
        ["W", ""],
        "Wrap long lines, or cut them",
    ),
    row(
        TEXT,
        Action::Times,
        "times",
        ["t", ""],
        "Show when lines were written",
    ),
    row(
        TIME,
        Action::Freeze,
        "freeze",
        ["p", "pause"],
        "Freeze the screen, and let it go on",
    ),
    row(TIME, Action::Reload, "reload", ["r", "f5"], "Read again now"),
    row(
        TIME,
        Action::StepBack,
        "step-back",
        ["[", ""],
        "Go a minute back in time",
    ),
    row(
        TIME,
        Action::StepForward,
        "step-forward",
        ["]", ""],
        "Go a minute on",
    ),
    row(
        TIME,
        Action::LeapBack,
        "leap-back",
        ["{", ""],
        "Go an hour back in time",
    ),
    row(
        TIME,
        Action::LeapForward,
        "leap-forward",
        ["}", ""],
        "Go an hour on",
    ),
    row(
        TIME,
        Action::Present,
        "present",
        ["=", ""],
        "Return to the present",
    ),
    row(PROGRAM, Action::Help, "help", ["?", "f1"], "Show the keys"),
    row(PROGRAM, Action::Theme, "theme", ["T", ""], "Change the colours"),
    row(
        PROGRAM,
        Action::Mouse,
        "mouse",
        ["m", ""],
        "Let the terminal have the mouse, for marking text, or take it back",
    ),
    row(
        PROGRAM,
        Action::Suspend,
        "suspend",
        ["ctrl-z", ""],
        "Go to the shell; `fg` comes back",
    ),
    row(
        PROGRAM,
        Action::Quit,
        "quit",
        ["q", ""],
        "Quit; so does ctrl-c, always",
    ),
];

/// A key with what is held down beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    code: KeyCode,
    ctrl: bool,
    alt: bool,
}

/// Names of keys that are no character.
const NAMED: &[(&str, KeyCode)] = &[
    ("space", KeyCode::Char(' ')),
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("shift-tab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("insert", KeyCode::Insert),
    ("delete", KeyCode::Delete),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("pause", KeyCode::Pause),
];

impl Key {
    /// The key that always quits.
    pub const INTERRUPT: Self = Self {
        code: KeyCode::Char('c'),
        ctrl: true,
        alt: false,
    };

    /// Reads a key as it is written in the key map file: `g`, `G`, `ctrl-x`, `alt-x`, `f5`, `pageup`, `space`.
    pub fn parse(text: &str) -> Option<Self> {
        let (ctrl, rest) = match text.strip_prefix("ctrl-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (alt, rest) = match rest.strip_prefix("alt-") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let mut characters = rest.chars();
        let code = match (characters.next(), characters.next()) {
            (Some(c), None) if !c.is_control() => KeyCode::Char(c),
            _ => {
                let named = NAMED.iter().find(|(name, _)| *name == rest);
                let numbered = || {
                    let number: u8 = rest.strip_prefix('f')?.parse().ok()?;
                    (1..=24).contains(&number).then_some(KeyCode::F(number))
                };
                named.map(|(_, code)| *code).or_else(numbered)?
            }
        };
        Some(Self { code, ctrl, alt })
    }

    /// Returns the key of a press.
    pub fn of(event: &KeyEvent) -> Self {
        Self {
            // Terminals tell shift in the character itself.
            code: event.code,
            ctrl: event.modifiers.contains(KeyModifiers::CONTROL),
            alt: event.modifiers.contains(KeyModifiers::ALT),
        }
    }

    /// Returns the character that is typed, if it is one.
    pub fn character(self) -> Option<char> {
        match self.code {
            KeyCode::Char(c) if !self.ctrl && !self.alt => Some(c),
            _ => None,
        }
    }

    /// Returns the key's code.
    pub fn code(self) -> KeyCode {
        self.code
    }

    /// Tells whether control is held down.
    pub fn is_ctrl(self) -> bool {
        self.ctrl
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("ctrl-")?;
        }
        if self.alt {
            f.write_str("alt-")?;
        }
        if let Some((name, _)) = NAMED.iter().find(|(_, code)| *code == self.code) {
            return f.write_str(name);
        }
        match self.code {
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::F(number) => write!(f, "f{number}"),
            _ => f.write_str("?"),
        }
    }
}

/// What is wrong with a key map file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyProblem {
    /// It is no TOML.
    #[error("the key map is no TOML: {0}")]
    Syntax(String),
    /// There is no such action.
    #[error("there is no action {name:?}{}", .near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
    Action {
        /// What was written.
        name: String,
        /// The nearest one that there is.
        near: Option<&'static str>,
    },
    /// There is no such key.
    #[error("{action} has the key {key:?}, which there is not")]
    Key {
        /// The action.
        action: String,
        /// What was written.
        key: String,
    },
    /// An action has neither a key nor a list of at most two.
    #[error("{0} needs a key, or a list of up to two keys")]
    Shape(String),
    /// One key for two actions.
    #[error("the key {key} is taken twice: by {first} and by {second}")]
    Clash {
        /// The key.
        key: String,
        /// One action.
        first: String,
        /// The other.
        second: String,
    },
}

/// Which key does what.
#[derive(Clone, Debug, Default)]
pub struct KeyMap {
    actions: HashMap<Key, Action>,
    keys: BTreeMap<Action, Vec<Key>>,
}

impl KeyMap {
    /// Returns the keys of the table.
    pub fn built_in() -> Self {
        let mut map = Self::default();
        for binding in BINDINGS {
            map.bind(
                binding.action,
                binding.keys.iter().filter_map(|key| Key::parse(key)).collect(),
            );
        }
        map
    }

    fn bind(&mut self, action: Action, keys: Vec<Key>) {
        for key in &keys {
            self.actions.insert(*key, action);
        }
        self.keys.insert(action, keys);
    }

    /// Reads a key map file over the table: `action = "key"` or `action = ["key", "key"]`. All that is wrong is told
    /// at once; then nothing of the file counts.
    pub fn read(text: &str, views: &[View]) -> Result<Self, Vec<KeyProblem>> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| vec![KeyProblem::Syntax(error.message().to_owned())])?;
        let mut problems = Vec::new();
        let mut chosen: BTreeMap<Action, Vec<Key>> = BTreeMap::new();
        for (name, value) in &table {
            let Some(binding) = BINDINGS.iter().find(|binding| binding.name == name) else {
                problems.push(KeyProblem::Action {
                    name: name.clone(),
                    near: nearest(name),
                });
                continue;
            };
            match written(name, value) {
                Ok(keys) => drop(chosen.insert(binding.action, keys)),
                Err(problem) => problems.push(problem),
            }
        }
        let mut map = Self::default();
        for binding in BINDINGS {
            let keys = chosen
                .remove(&binding.action)
                .unwrap_or_else(|| binding.keys.iter().filter_map(|key| Key::parse(key)).collect());
            map.bind(binding.action, keys);
        }
        problems.extend(map.clashes(views));
        if problems.is_empty() {
            Ok(map)
        } else {
            Err(problems)
        }
    }

    /// Returns every key that stands for two things.
    pub fn clashes(&self, views: &[View]) -> Vec<KeyProblem> {
        let mut taken: HashMap<Key, String> = HashMap::new();
        taken.insert(Key::INTERRUPT, "quit".to_owned());
        let bound = BINDINGS.iter().flat_map(|binding| {
            let keys = self.keys.get(&binding.action).into_iter().flatten();
            keys.map(|key| (*key, binding.name.to_owned()))
        });
        let opened = views.iter().filter_map(|view| {
            let key = Key::parse(&view.key?.to_string())?;
            Some((key, format!("the view {}", view.name)))
        });
        let mut clashes = Vec::new();
        for (key, name) in bound.chain(opened) {
            if let Some(first) = taken.insert(key, name.clone()) {
                clashes.push(KeyProblem::Clash {
                    key: key.to_string(),
                    first,
                    second: name,
                });
            }
        }
        clashes
    }

    /// Returns what a key does.
    pub fn action(&self, key: Key) -> Option<Action> {
        self.actions.get(&key).copied()
    }

    /// Returns the keys of an action, as people write them, as in `g home`.
    pub fn shown(&self, action: Action) -> String {
        let keys = self.keys.get(&action).into_iter().flatten();
        keys.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Returns the first key of an action.
    pub fn first(&self, action: Action) -> String {
        let keys = self.keys.get(&action).and_then(|keys| keys.first());
        keys.map(ToString::to_string).unwrap_or_default()
    }
}

fn written(name: &str, value: &toml::Value) -> Result<Vec<Key>, KeyProblem> {
    let shape = || KeyProblem::Shape(name.to_owned());
    let words: Vec<&str> = match value {
        toml::Value::String(word) => vec![word],
        toml::Value::Array(words) if words.len() <= 2 => words
            .iter()
            .map(|word| word.as_str().ok_or_else(shape))
            .collect::<Result<_, _>>()?,
        _ => return Err(shape()),
    };
    words
        .into_iter()
        .map(|word| {
            Key::parse(word).ok_or_else(|| KeyProblem::Key {
                action: name.to_owned(),
                key: word.to_owned(),
            })
        })
        .collect()
}

/// Names farther away than this are no slips of the finger.
const NEAR: f64 = 0.7;

fn nearest(name: &str) -> Option<&'static str> {
    let scored = BINDINGS
        .iter()
        .map(|binding| (strsim::jaro_winkler(name, binding.name), binding.name));
    scored
        .filter(|(score, _)| *score > NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::view::VIEWS;

    #[test]
    fn no_key_stands_for_two_things_and_every_key_of_the_table_is_one() {
        assert_eq!(KeyMap::built_in().clashes(VIEWS), []);
        for binding in BINDINGS {
            for key in binding.keys.iter().filter(|key| !key.is_empty()) {
                let parsed = Key::parse(key).unwrap();
                assert_eq!(parsed.to_string(), *key, "{}", binding.name);
            }
            assert!(!binding.keys[0].is_empty(), "{} has no key", binding.name);
        }
    }

    #[test]
    fn a_file_changes_keys_and_leaves_the_others() {
        let map = KeyMap::read("quit = [\"x\", \"ctrl-q\"]\nhelp = \"f9\"", &[]).unwrap();
        assert_eq!(map.action(Key::parse("x").unwrap()), Some(Action::Quit));
        assert_eq!(map.action(Key::parse("ctrl-q").unwrap()), Some(Action::Quit));
        assert_eq!(map.action(Key::parse("q").unwrap()), None);
        assert_eq!(map.shown(Action::Help), "f9");
        assert_eq!(map.first(Action::Up), "up");
    }

    #[test]
    fn everything_wrong_with_a_file_is_told_at_once() {
        let problems =
            KeyMap::read("quitt = \"x\"\nhelp = 3\nsave = \"hyper-x\"\nwrap = \"q\"", &[]).unwrap_err();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "help needs a key, or a list of up to two keys",
                "there is no action \"quitt\"; did you mean \"quit\"?",
                "save has the key \"hyper-x\", which there is not",
                "the key q is taken twice: by wrap and by quit",
            ]
        );
        assert!(matches!(
            KeyMap::read("= nonsense", &[]).unwrap_err().as_slice(),
            [KeyProblem::Syntax(_)]
        ));
        let problems = KeyMap::read("mark = \"ctrl-c\"", &[]).unwrap_err();
        assert!(matches!(problems.as_slice(), [KeyProblem::Clash { .. }]));
    }
}
