//! `horde logs`: what the roles of this machine say of themselves, merged by time.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use time::OffsetDateTime;
use tokio::time::sleep;
use tracing::Level;

use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use super::table::{moment, stamp};
use crate::core::config::Scope;
use crate::core::model::Timestamp;
use crate::core::tasks::Tasks;
use crate::core::telemetry::journal::reader::{Follow, Tail};
use crate::core::telemetry::journal::{self, Entry, Place};

pub(super) const EXAMPLES: &str = "\
Examples:
  horde logs
  horde logs miner --follow
  horde logs --since 2h --level warn
  horde logs validator --grep 3f2a9c03 --tail 20
  horde logs --since 1d --json | jq -r 'select(.level == \"ERROR\") | .message'

A role keeps its log in logs/ of its data directory, while it is served and log.file is not off: at most log.files_max \
files of log.file_bytes_max bytes each. Without a ROLE the logs of all roles of the data directory are printed, those of \
`horde up` too, if --dir is the directory that it keeps.";

/// Lines that are printed where nothing else is said.
const USUAL_LINES: u32 = 100;

/// Lines that are held at most, to be printed in their order.
const TAIL_MAX: i64 = 100_000;

/// Pause between two looks for what was written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// By how much a clock may have been put back in the middle of a log.
const SLACK: time::Duration = time::Duration::minutes(5);

/// The version of the records.
const SCHEMA: u32 = 1;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "logs",
    Prints::Stream(of::<Record<'_>>),
    &[ExitCode::NotFound],
)];

/// `horde logs …`
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Whose logs are printed: a role such as miner, or the name of its directory such as miner-1 [default: all]
    #[arg(value_name = "ROLE")]
    roles: Vec<String>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short, conflicts_with = "until")]
    follow: bool,
    /// Begin with the last so many lines, 100,000 at most [default: 100; all with --since]
    #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u32).range(0..=TAIL_MAX))]
    tail: Option<u32>,
    /// Begin so long ago (90s, 30m, 2h, 1d), or at a time (2026-11-25T18:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End so long ago, or at a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print only lines that are so grave or graver: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    level: Option<Level>,
    /// Print only lines in which a regular expression is found; (?i) at its beginning ignores case
    #[arg(long, value_name = "PATTERN")]
    grep: Option<String>,
    /// Print times in full: RFC 3339 to the microsecond, UTC
    #[arg(long)]
    timestamps: bool,
    /// Print control characters as they are
    #[arg(long)]
    raw: bool,
}

fn parse_level(word: &str) -> Result<Level, String> {
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    let found = levels
        .into_iter()
        .find(|level| level.as_str().eq_ignore_ascii_case(word));
    found.ok_or_else(|| "there are error, warn, info, debug and trace".to_owned())
}

/// What `horde logs --json` prints, one a line.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Record<'a> {
    /// A line of a log.
    Line {
        /// When it was written: RFC 3339, UTC.
        ts: String,
        /// Counts the records, from 1.
        seq: u64,
        /// The version of the records.
        schema: u32,
        /// Whose log it stands in: the role, or the name of its directory.
        role: &'a str,
        /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
        level: &'static str,
        /// The module that wrote it.
        target: &'a str,
        /// The words.
        message: &'a str,
        /// What belongs to it, by name.
        fields: &'a Map<String, Json>,
    },
    /// The last record.
    End {
        /// When it was printed.
        ts: String,
        /// Counts the records, from 1.
        seq: u64,
        /// The version of the records.
        schema: u32,
        /// How many lines were printed.
        lines: u64,
        /// How many lines of the files could not be read, such as those that a crash has torn.
        unreadable: u64,
    },
}

/// Which lines are wanted.
#[derive(Debug)]
struct Filter {
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    level: Option<Level>,
    pattern: Option<Regex>,
}

impl Filter {
    fn holds(&self, entry: &Entry) -> bool {
        let at = entry.at.moment();
        self.since.is_none_or(|since| since <= at)
            && self.until.is_none_or(|until| at <= until)
            // Graver levels are smaller.
            && self.level.is_none_or(|level| entry.level <= level)
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(&words(entry)) || pattern.is_match(&entry.target))
    }

    /// Tells whether all that stands before an entry is too old.
    fn is_before(&self, entry: &Entry) -> bool {
        self.since.is_some_and(|since| entry.at.moment() < since - SLACK)
    }
}

/// Returns what an entry says, with its fields.
fn words(entry: &Entry) -> String {
    let mut words = entry.message.clone();
    for pair in entry.pairs() {
        words.push(' ');
        words.push_str(&pair);
    }
    words
}

/// Prints entries.
struct Printer<'a> {
    context: &'a Context,
    /// Columns of the longest name; 0 if there is but one.
    names: usize,
    colors: bool,
    in_full: bool,
    raw: bool,
    lines: u64,
}

impl Printer<'_> {
    fn print(&mut self, name: &str, entry: &Entry) -> Result<(), CmdError> {
        self.lines += 1;
        if !self.context.wants_data() {
            return self.context.line(self.line(name, entry));
        }
        self.context.print_data(&Record::Line {
            ts: stamp(entry.at.moment()),
            seq: self.lines,
            schema: SCHEMA,
            role: name,
            level: entry.level.as_str(),
            target: &entry.target,
            message: &entry.message,
            fields: &entry.fields,
        })
    }

    fn line(&self, name: &str, entry: &Entry) -> String {
        let time = if self.in_full {
            stamp(entry.at.moment())
        } else {
            short(entry.at)
        };
        let mut line = self.colored(DIM, &time);
        if self.names > 0 {
            let missing = self.names.saturating_sub(name.chars().count());
            line.push(' ');
            line.push_str(name);
            line.extend(std::iter::repeat_n(' ', missing));
        }
        let level = format!("{:<5}", entry.level.as_str());
        let color = match entry.level {
            Level::ERROR => RED,
            Level::WARN => YELLOW,
            Level::INFO => "",
            Level::DEBUG | Level::TRACE => DIM,
        };
        line.push(' ');
        line.push_str(&self.colored(color, &level));
        line.push(' ');
        let words = words(entry);
        if self.raw {
            line.push_str(&words);
        } else {
            line.push_str(&one_line(&words));
        }
        line
    }

    fn colored(&self, color: &str, text: &str) -> String {
        if self.colors && !color.is_empty() {
            format!("{color}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }

    /// Says how it ended.
    fn end(&self, unreadable: u64) -> Result<(), CmdError> {
        if self.context.wants_data() {
            return self.context.print_data(&Record::End {
                ts: stamp(self.context.clock.now()),
                seq: self.lines + 1,
                schema: SCHEMA,
                lines: self.lines,
                unreadable,
            });
        }
        if unreadable > 0 {
            self.context.say(format_args!(
                "{unreadable} lines could not be read and are left out"
            ));
        }
        if self.lines == 0 {
            self.context.say("no line of the logs is as asked for");
        }
        Ok(())
    }
}

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Returns a time as a person reads it in a list: day and time to the millisecond, UTC.
fn short(at: Timestamp) -> String {
    let moment = at.moment().to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = moment.time().as_hms();
    let (month, day, millisecond) = (u8::from(moment.month()), moment.day(), moment.millisecond());
    format!("{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millisecond:03}")
}

/// Makes one line of a text, whatever it holds: what would end the line, steer a terminal or turn the direction of text is
/// spelled out.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = c.is_control() && c != '\t';
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}');
        if steers || turns {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// One log that is read forwards.
struct Source {
    name: String,
    follow: Follow,
    ready: VecDeque<Entry>,
    is_over: bool,
}

/// Several logs, read forwards as one.
#[derive(Default)]
struct Merge {
    sources: Vec<Source>,
}

impl Merge {
    fn add(&mut self, name: &str, follow: Follow) {
        self.sources.push(Source {
            name: name.to_owned(),
            follow,
            ready: VecDeque::new(),
            is_over: false,
        });
    }

    /// Returns the next entry by time; none if there are no more by now.
    fn next(&mut self) -> Result<Option<(String, Entry)>, CmdError> {
        for source in &mut self.sources {
            if source.ready.is_empty() && !source.is_over {
                let entries = source.follow.read();
                source.ready = entries.map_err(|error| unreadable(&source.name, &error))?.into();
                source.is_over = source.ready.is_empty();
            }
        }
        let first = self
            .sources
            .iter_mut()
            .filter(|source| !source.ready.is_empty())
            .min_by_key(|source| source.ready.front().map(|entry| entry.at.moment()));
        Ok(first.and_then(|source| Some((source.name.clone(), source.ready.pop_front()?))))
    }

    /// Looks again for what was written.
    fn again(&mut self) {
        for source in &mut self.sources {
            source.is_over = false;
        }
    }

    fn unreadable(&self) -> u64 {
        self.sources.iter().map(|source| source.follow.unreadable()).sum()
    }
}

fn unreadable(name: &str, error: &io::Error) -> CmdError {
    CmdError::new(ExitCode::Failed, format!("could not read the log of {name}")).caused_by(error)
}

impl LogsArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.settings(Scope::Tool, Vec::new())?;
        let dir = settings.dir()?;
        let filter = self.filter(context)?;
        let places = self.places(journal::find(dir));
        if places.is_empty() && !self.follow {
            return Err(self.nothing(dir));
        }
        let mut printer = Printer {
            context,
            names: if places.len() > 1 || self.follow && self.roles.is_empty() {
                places
                    .iter()
                    .map(|place| place.name.chars().count())
                    .max()
                    .unwrap_or(0)
            } else {
                0
            },
            colors: context.colors(io::stdout().is_terminal()),
            in_full: self.timestamps,
            raw: self.raw,
            lines: 0,
        };
        let (mut merge, torn) = self.begin(&places, &filter, &mut printer)?;
        if !self.follow {
            return printer.end(merge.unreadable() + torn);
        }
        if places.is_empty() {
            context.say(format_args!(
                "no log is kept in {} yet: waiting for one",
                dir.display()
            ));
        }
        let tasks = Tasks::new();
        let received = context.watch(&tasks)?;
        let mut known: Vec<_> = places.into_iter().map(|place| place.file).collect();
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => break,
                () = sleep(LOOK_EVERY) => {}
            }
            for place in self.places(journal::find(dir)) {
                if known.contains(&place.file) {
                    continue;
                }
                let follow = Follow::from_start(&place.file, None);
                merge.add(
                    &place.name,
                    follow.map_err(|error| unreadable(&place.name, &error))?,
                );
                printer.names = printer.names.max(place.name.chars().count());
                known.push(place.file);
            }
            merge.again();
            print_all(&mut merge, &filter, &mut printer)?;
        }
        if context.wants_data() {
            printer.end(merge.unreadable() + torn)?;
        }
        Err(CmdError::quiet(ExitCode::Passed(
            received.exit_code().unwrap_or(130),
        )))
    }

    fn filter(&self, context: &Context) -> Result<Filter, CmdError> {
        let at = |text: &Option<String>| {
            text.as_deref()
                .map(|text| moment(context.clock.now(), text))
                .transpose()
        };
        let pattern = self.grep.as_deref().map(|pattern| {
            RegexBuilder::new(pattern)
                .size_limit(PATTERN_BYTES_MAX)
                .dot_matches_new_line(true)
                .build()
                .or_fail(ExitCode::Usage, format!("{pattern:?} is no regular expression"))
        });
        Ok(Filter {
            since: at(&self.since)?,
            until: at(&self.until)?,
            level: self.level,
            pattern: pattern.transpose()?,
        })
    }

    /// Returns the logs that are asked for.
    fn places(&self, mut found: Vec<Place>) -> Vec<Place> {
        found.retain(|place| {
            self.roles.is_empty()
                || self
                    .roles
                    .iter()
                    .any(|role| *role == place.name || *role == place.role)
        });
        found
    }

    fn nothing(&self, dir: &std::path::Path) -> CmdError {
        let there: Vec<_> = journal::find(dir).into_iter().map(|place| place.name).collect();
        if there.is_empty() {
            return CmdError::new(ExitCode::NotFound, format!("no log is kept in {}", dir.display()))
                .hint("a role keeps one from its next start on, unless log.file is off; --dir takes another directory");
        }
        CmdError::new(
            ExitCode::NotFound,
            format!(
                "no log of {} is kept in {}",
                self.roles.join(" or "),
                dir.display()
            ),
        )
        .hint(format!("there are those of {}", there.join(", ")))
    }

    /// Prints what there is; returns the readers of what comes, and how many lines could not be read on the way.
    fn begin(
        &self,
        places: &[Place],
        filter: &Filter,
        printer: &mut Printer<'_>,
    ) -> Result<(Merge, u64), CmdError> {
        let mut merge = Merge::default();
        let count = match (self.tail, &self.since) {
            (Some(count), _) => count,
            (None, None) => USUAL_LINES,
            (None, Some(_)) => {
                for place in places {
                    let follow = Follow::from_start(&place.file, filter.since);
                    merge.add(
                        &place.name,
                        follow.map_err(|error| unreadable(&place.name, &error))?,
                    );
                }
                print_all(&mut merge, filter, printer)?;
                return Ok((merge, 0));
            }
        };
        let mut tails = Vec::new();
        for place in places {
            let failed = |error| unreadable(&place.name, &error);
            let mut tail = Tail::open(&place.file).map_err(failed)?;
            merge.add(&place.name, tail.follow());
            let next = if count > 0 {
                tail.previous().map_err(failed)?
            } else {
                None
            };
            tails.push((&place.name, tail, next));
        }
        let mut last = VecDeque::new();
        while last.len() < usize::try_from(count).unwrap_or(usize::MAX) {
            let newest = tails
                .iter_mut()
                .filter(|(_, _, next)| next.as_ref().is_some_and(|entry| !filter.is_before(entry)))
                .max_by_key(|(_, _, next)| next.as_ref().map(|entry| entry.at.moment()));
            let Some((name, tail, next)) = newest else { break };
            let previous = tail.previous().map_err(|error| unreadable(name, &error))?;
            if let Some(entry) = std::mem::replace(next, previous)
                && filter.holds(&entry)
            {
                last.push_front((*name, entry));
            }
        }
        for (name, entry) in &last {
            printer.print(name, entry)?;
        }
        Ok((merge, tails.iter().map(|(_, tail, _)| tail.unreadable()).sum()))
    }
}

/// Prints all that there is by now.
fn print_all(merge: &mut Merge, filter: &Filter, printer: &mut Printer<'_>) -> Result<(), CmdError> {
    while let Some((name, entry)) = merge.next()? {
        if filter.holds(&entry) {
            printer.print(&name, &entry)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_stranger_wrote_makes_a_second_line_or_steers_a_terminal() {
        let hostile = "a\nb\r\u{1b}[2J\u{9b}31m\u{202e}x\u{2028}\ty é";
        assert_eq!(
            one_line(hostile),
            "a\\nb\\r\\u{1b}[2J\\u{9b}31m\\u{202e}x\\u{2028}\ty é"
        );
    }

    #[test]
    fn a_filter_knows_levels_times_and_words() {
        let entry = |level: &str| {
            let line = format!(
                r#"{{"ts":"2026-01-15T12:00:00Z","level":"{level}","target":"horde::core::miner","message":"job","fields":{{"id":"3f2a"}}}}"#
            );
            Entry::parse(line.as_bytes()).unwrap()
        };
        let any = || Filter {
            since: None,
            until: None,
            level: None,
            pattern: None,
        };
        let at = |text: &str| Some(Timestamp::parse(text).unwrap().moment());
        let with = |pattern: &str| Some(Regex::new(pattern).unwrap());
        for (filter, level, expected) in [
            (any(), "TRACE", true),
            (
                Filter {
                    level: Some(Level::WARN),
                    ..any()
                },
                "ERROR",
                true,
            ),
            (
                Filter {
                    level: Some(Level::WARN),
                    ..any()
                },
                "WARN",
                true,
            ),
            (
                Filter {
                    level: Some(Level::WARN),
                    ..any()
                },
                "INFO",
                false,
            ),
            (
                Filter {
                    since: at("2026-01-15T12:00:00Z"),
                    ..any()
                },
                "INFO",
                true,
            ),
            (
                Filter {
                    since: at("2026-01-15T12:00:01Z"),
                    ..any()
                },
                "INFO",
                false,
            ),
            (
                Filter {
                    until: at("2026-01-15T11:59:59Z"),
                    ..any()
                },
                "INFO",
                false,
            ),
            (
                Filter {
                    pattern: with("id=3f"),
                    ..any()
                },
                "INFO",
                true,
            ),
            (
                Filter {
                    pattern: with("core::miner"),
                    ..any()
                },
                "INFO",
                true,
            ),
            (
                Filter {
                    pattern: with("JOB"),
                    ..any()
                },
                "INFO",
                false,
            ),
            (
                Filter {
                    pattern: with("(?i)JOB"),
                    ..any()
                },
                "INFO",
                true,
            ),
        ] {
            assert_eq!(filter.holds(&entry(level)), expected, "{filter:?} {level}");
        }
    }

    #[test]
    fn levels_are_words() {
        assert_eq!(parse_level("Warn").unwrap(), Level::WARN);
        for word in ["loud", "1", "off", ""] {
            assert!(parse_level(word).is_err(), "{word}");
        }
    }
}
