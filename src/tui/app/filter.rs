//! Filters and searches: words, regular expressions, columns, and what is not to be there.

use std::cmp::Ordering;
use std::ops::Range;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::tui::view::{Cell, Column, Line, Row, Value};

/// Memory that one regular expression may take once it is built: 1 MiB.
const REGEX_MAX: usize = 1 << 20;

/// Words of one filter.
const WORDS_MAX: usize = 16;

/// A filter cannot be understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// A regular expression is none.
    #[error("{0} is no regular expression")]
    Regex(String),
    /// Too many words.
    #[error("a filter has at most {WORDS_MAX} words")]
    Words,
}

/// What rows and lines must match: all words of it.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    words: Vec<Word>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Clone, Debug)]
struct Word {
    is_not: bool,
    /// The column that was named, and what it must match.
    field: Option<(String, Test)>,
    /// What any column, or the line, must match where there is no such column.
    whole: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Regex(Regex),
    /// Above or below a number.
    Number(Ordering, f64),
}

impl Filter {
    /// Reads a filter: words that must all match, in any case. `~re` and `/re/` are regular expressions, `!` before a
    /// word turns it round, `column:word` looks at one column, `column:>3` compares; `"…"` keeps spaces. None if there
    /// is no word.
    pub fn parse(text: &str) -> Result<Option<Self>, FilterError> {
        let words = split(text)
            .into_iter()
            .map(|word| Word::parse(&word))
            .collect::<Result<Vec<_>, _>>()?;
        if words.len() > WORDS_MAX {
            return Err(FilterError::Words);
        }
        Ok((!words.is_empty()).then(|| Self {
            text: text.trim().to_owned(),
            words,
        }))
    }

    /// Returns the filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tells whether a row matches.
    pub fn row(&self, columns: &[Column], row: &Row) -> bool {
        self.words.iter().all(|word| word.row(columns, row))
    }

    /// Tells whether a line matches.
    pub fn line(&self, line: &Line) -> bool {
        self.words
            .iter()
            .all(|word| word.whole.text(&line.text) != word.is_not)
    }

    /// Returns the name of a column that is looked at and is not there.
    pub fn stranger(&self, columns: &[Column]) -> Option<&str> {
        let mut named = self.words.iter().filter_map(|word| word.field.as_ref());
        let is_there = |name: &str| columns.iter().any(|column| column.name == name);
        named
            .find(|(name, _)| !is_there(name))
            .map(|(name, _)| name.as_str())
    }

    /// Returns where in a text something matches, for showing it.
    pub fn found(&self, text: &str) -> Vec<Range<usize>> {
        let mut found: Vec<_> = self
            .words
            .iter()
            .filter(|word| !word.is_not)
            .filter_map(
                |word| match word.field.as_ref().map_or(&word.whole, |(_, test)| test) {
                    Test::Regex(regex) => Some(regex),
                    Test::Number(..) => None,
                },
            )
            .flat_map(|regex| regex.find_iter(text).take(text.len()))
            .map(|found| found.range())
            .filter(|range| !range.is_empty())
            .collect();
        found.sort_by_key(|range| range.start);
        found
    }
}

impl Word {
    fn parse(word: &str) -> Result<Self, FilterError> {
        let (is_not, rest) = match word.strip_prefix('!') {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, word),
        };
        let field = match rest.split_once(':') {
            Some((name, value)) if !name.is_empty() && name.chars().all(is_of_name) && !value.is_empty() => {
                Some((name.to_owned(), Test::parse(value, true)?))
            }
            _ => None,
        };
        Ok(Self {
            is_not,
            whole: Test::parse(rest, false)?,
            field,
        })
    }

    fn row(&self, columns: &[Column], row: &Row) -> bool {
        let field = self.field.as_ref().and_then(|(name, test)| {
            let at = columns.iter().position(|column| column.name == name)?;
            Some((row.cells.get(at)?, test))
        });
        let matches = match field {
            Some((cell, test)) => test.cell(cell),
            None => self.whole.text(row.id()) || row.cells.iter().any(|cell| self.whole.cell(cell)),
        };
        matches != self.is_not
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

impl Test {
    fn parse(text: &str, compares: bool) -> Result<Self, FilterError> {
        let below = text.strip_prefix('<').map(|rest| (Ordering::Less, rest));
        let above = text.strip_prefix('>').map(|rest| (Ordering::Greater, rest));
        if let Some((ordering, rest)) = below.or(above).filter(|_| compares)
            && let Ok(number) = rest.parse()
        {
            return Ok(Self::Number(ordering, number));
        }
        let pattern = if let Some(pattern) = text.strip_prefix('~').filter(|rest| !rest.is_empty()) {
            pattern.to_owned()
        } else if let Some(rest) = text.strip_prefix('/').filter(|rest| !rest.is_empty()) {
            rest.strip_suffix('/').unwrap_or(rest).to_owned()
        } else {
            regex::escape(text)
        };
        RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .size_limit(REGEX_MAX)
            .dfa_size_limit(REGEX_MAX)
            .build()
            .map(Self::Regex)
            .map_err(|_| FilterError::Regex(pattern))
    }

    fn text(&self, text: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(text),
            Self::Number(..) => false,
        }
    }

    fn cell(&self, cell: &Cell) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(&cell.text) || regex.is_match(cell.whole()),
            Self::Number(ordering, number) => {
                let value = match cell.value {
                    #[expect(clippy::cast_precision_loss, reason = "filters need no exact counts")]
                    Value::Integer(value) => value as f64,
                    Value::Number(value) => value,
                    _ => return false,
                };
                value.partial_cmp(number) == Some(*ordering)
            }
        }
    }
}

/// Splits at spaces, but not within `"…"` and `/…/`.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut until = None;
    for c in text.chars() {
        match until {
            Some(end) if c == end => {
                until = None;
                if end == '/' {
                    word.push(c);
                }
            }
            Some(_) => word.push(c),
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            None if c == '"' => until = Some('"'),
            None => {
                if c == '/' && (word.is_empty() || word == "!" || word.ends_with(':')) {
                    until = Some('/');
                }
                word.push(c);
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::view::Tone;

    const COLUMNS: [Column; 3] = [
        Column {
            name: "id",
            right: false,
            rank: 0,
        },
        Column {
            name: "status",
            right: false,
            rank: 1,
        },
        Column {
            name: "tries",
            right: true,
            rank: 2,
        },
    ];

    fn row(status: &str, tries: i64) -> Row {
        let cell = |text: String, value| Cell {
            text,
            value,
            tone: Tone::Plain,
        };
        Row {
            key: "8f3c".into(),
            cells: vec![
                cell("8f3c".to_owned(), Value::Text),
                cell(status.to_owned(), Value::Text),
                cell(tries.to_string(), Value::Integer(tries)),
            ],
        }
    }

    fn matches(filter: &str, status: &str, tries: i64) -> bool {
        let filter = Filter::parse(filter).unwrap().unwrap();
        filter.row(&COLUMNS, &row(status, tries))
    }

    #[test]
    fn words_must_all_match_and_each_kind_of_word_means_what_it_says() {
        for (filter, expected) in [
            ("run", true),
            ("RUN", true),
            ("run 8f", true),
            ("run nothing", false),
            ("!run", false),
            ("!nothing", true),
            ("~^run", true),
            ("~ning$", true),
            ("~^ning", false),
            ("/r.n/", true),
            ("!/r.n/", false),
            ("/run|end/", true),
            ("status:run", true),
            ("id:run", false),
            ("!id:run", true),
            ("status:~^running$", true),
            ("status:/^run/", true),
            ("tries:>2", true),
            ("tries:<2", false),
            ("tries:3", true),
            // No such column: text like any other.
            ("x:y", false),
        ] {
            assert_eq!(matches(filter, "running", 3), expected, "{filter}");
        }
        assert!(matches("\"no such\"", "no such thing", 0));
        assert!(matches("busybox:latest", "busybox:latest", 0));
        assert!(!matches("~[0-9]{3}", "a1", 2));
    }

    #[test]
    fn what_is_no_filter_is_told_and_nothing_is_none() {
        assert_eq!(Filter::parse("  ").unwrap(), None);
        assert_eq!(
            Filter::parse("~(").unwrap_err(),
            FilterError::Regex("(".to_owned())
        );
        assert_eq!(Filter::parse(&"x ".repeat(17)).unwrap_err(), FilterError::Words);
        let greedy = "~(((a{99}){99}){99}){99}";
        assert!(matches!(
            Filter::parse(greedy).unwrap_err(),
            FilterError::Regex(_)
        ));
    }

    #[test]
    fn what_was_found_is_told_for_lines_by_its_place() {
        let filter = Filter::parse("err").unwrap().unwrap();
        assert_eq!(filter.found("an ERROR, err"), [3..6, 10..13]);
        let line = Line {
            at: None,
            text: "an Error".to_owned(),
            tone: Tone::Bad,
        };
        assert!(filter.line(&line));
    }
}
