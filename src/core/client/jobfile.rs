//! A job in a file: TOML, with every mistake told at once and where it is.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{
    Draft, KEY_CHARS_MAX, LIMIT_SECONDS_MAX, Limits, NAME_CHARS_MAX, S3Draft, check_variable,
};
use super::source::{self, OutputRequest, Source, Target, VolumeRequest};
use crate::core::model::ExecutorClass;

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Mistakes that are told; a file with more of them is something else.
const PROBLEMS_MAX: usize = 50;

/// Characters of a line that are shown with a mistake.
const LINE_CHARS_MAX: usize = 200;

/// Seconds that a presigned address may be good: 7 days.
const EXPIRES_SECONDS_MAX: u32 = 604_800;

/// A file to begin with, in which every field is told.
pub const EXAMPLE: &str = include_str!("job.example.toml");

const TOP: &[&str] = &[
    "image",
    "args",
    "class",
    "validator",
    "namespace",
    "tag",
    "artifact",
    "trusted",
    "stream",
    "max_cost",
    "idempotency_key",
    "hub_token_from",
    "env",
    "limits",
    "volumes",
    "outputs",
    "s3",
];
const LIMITS: &[&str] = &["download", "execution", "upload", "streaming_start"];
const VOLUME: &[&str] = &["source", "path"];
const OUTPUT: &[&str] = &["path", "to", "fields", "headers"];
const S3: &[&str] = &["endpoint", "region", "profile", "expires", "upload_to"];

/// A mistake in a job file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// What is wrong.
    pub text: String,
    /// What was meant, perhaps.
    pub suggestion: Option<String>,
    /// The line itself.
    shown: String,
    /// How many characters are meant.
    width: usize,
}

impl fmt::Display for Problem {
    /// `line:column: what`, then the line with a mark below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        let number = self.line.to_string();
        let blank = " ".repeat(number.len());
        let indent = " ".repeat(self.column.saturating_sub(1));
        let marks = "^".repeat(self.width.max(1));
        write!(
            f,
            "\n      {number} | {}\n      {blank} | {indent}{marks}",
            self.shown
        )
    }
}

/// Reads a job file; local sources are relative to `folder`.
pub fn parse(text: &str, folder: &Path) -> Result<Draft, Vec<Problem>> {
    let mut reader = Reader {
        text,
        folder,
        problems: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.refuse(error.span().unwrap_or_default(), error.message());
    }
    let draft = reader.draft(table.get_ref());
    if reader.problems.is_empty() {
        return Ok(draft);
    }
    reader
        .problems
        .sort_by_key(|problem| (problem.line, problem.column));
    Err(reader.problems)
}

struct Reader<'a> {
    text: &'a str,
    folder: &'a Path,
    problems: Vec<Problem>,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    fn draft(&mut self, table: &DeTable<'_>) -> Draft {
        self.known(table, TOP, "");
        let class = self.text_of(table, "class", NAME_CHARS_MAX);
        Draft {
            image: self.name(table, "image"),
            args: self.args(table),
            class: class.and_then(|(text, span)| match text.parse::<ExecutorClass>() {
                Ok(class) => Some(class),
                Err(error) => {
                    let known = ExecutorClass::ALL.map(ExecutorClass::as_str);
                    self.problem(span, error.to_string(), nearest(&text, &known));
                    None
                }
            }),
            validator: self.name(table, "validator"),
            namespace: self.name(table, "namespace"),
            tag: self.name(table, "tag"),
            artifact: self.name(table, "artifact"),
            trusted: self.boolean(table, "trusted"),
            stream: self.boolean(table, "stream"),
            env: self.env(table),
            limits: self.limits(table),
            volumes: self.volumes(table),
            outputs: self.outputs(table),
            s3: self.s3(table),
            max_cost: self.cost(table),
            idempotency_key: self
                .text_of(table, "idempotency_key", KEY_CHARS_MAX)
                .map(|(text, _)| text),
            hub_token_from: self.name(table, "hub_token_from"),
        }
    }

    fn limits(&mut self, table: &DeTable<'_>) -> Limits {
        let Some(limits) = self.table(table, "limits", LIMITS) else {
            return Limits::default();
        };
        let mut get = |key| self.number(limits, key, LIMIT_SECONDS_MAX);
        Limits {
            download: get("download"),
            execution: get("execution"),
            upload: get("upload"),
            streaming_start: get("streaming_start"),
        }
    }

    fn s3(&mut self, table: &DeTable<'_>) -> S3Draft {
        let Some(s3) = self.table(table, "s3", S3) else {
            return S3Draft::default();
        };
        let upload_to = self.text_of(s3, "upload_to", usize::MAX);
        S3Draft {
            endpoint: self.name(s3, "endpoint"),
            region: self.name(s3, "region"),
            profile: self.name(s3, "profile"),
            expires: self.number(s3, "expires", EXPIRES_SECONDS_MAX),
            upload_to: upload_to.and_then(|(text, span)| {
                let place = source::place(&text);
                self.or_refuse(span, place)
            }),
        }
    }

    fn env(&mut self, table: &DeTable<'_>) -> IndexMap<String, String> {
        let mut env = IndexMap::new();
        let Some((_, value)) = find(table, "env") else {
            return env;
        };
        let Some(pairs) = value.get_ref().as_table() else {
            self.wrong(value, "a table of texts");
            return env;
        };
        // In the order of the file, which is the order that is signed.
        let mut pairs: Vec<_> = pairs.iter().collect();
        pairs.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in pairs {
            let checked = check_variable(name.get_ref());
            self.or_refuse(name.span(), checked);
            match value.get_ref().as_str() {
                Some(text) => {
                    env.insert(name.get_ref().to_string(), text.to_owned());
                }
                None => self.wrong(value, "a text: put it in quotes"),
            }
        }
        env
    }

    fn args(&mut self, table: &DeTable<'_>) -> Option<Vec<String>> {
        let (_, value) = find(table, "args")?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, "a list of texts");
            return None;
        };
        let mut args = Vec::new();
        for item in items {
            match item.get_ref().as_str() {
                Some(text) => args.push(text.to_owned()),
                None => self.wrong(item, "a text: put it in quotes"),
            }
        }
        Some(args)
    }

    fn volumes(&mut self, table: &DeTable<'_>) -> Vec<VolumeRequest> {
        let mut volumes = Vec::new();
        for (entry, span) in self.entries(table, "volumes") {
            self.known(entry, VOLUME, "volumes");
            let source = self.needed(entry, "source", &span);
            let path = self.needed(entry, "path", &span);
            let (Some((source, at)), Some((path, _))) = (source, path) else {
                continue;
            };
            let read = VolumeRequest::new(&source, &path);
            let Some(mut volume) = self.or_refuse(at, read) else {
                continue;
            };
            if let Source::Local(path) = &mut volume.source {
                let whole: PathBuf = self.folder.join(&*path);
                *path = whole;
            }
            volumes.push(volume);
        }
        volumes
    }

    fn outputs(&mut self, table: &DeTable<'_>) -> Vec<OutputRequest> {
        let mut outputs = Vec::new();
        for (entry, span) in self.entries(table, "outputs") {
            self.known(entry, OUTPUT, "outputs");
            let path = self.needed(entry, "path", &span);
            let target = self.needed(entry, "to", &span);
            let fields = self.fields(entry, "fields");
            let headers = self.fields(entry, "headers");
            let (Some((path, at)), Some((target, _))) = (path, target) else {
                continue;
            };
            let read = OutputRequest::new(&path, &target);
            let Some(mut output) = self.or_refuse(at.clone(), read) else {
                continue;
            };
            if fields.is_some() && !matches!(output.target, Target::Post(_)) {
                self.refuse(
                    at.clone(),
                    "only a form has fields: write to = \"post+https://…\"",
                );
            }
            if headers.is_some() && matches!(output.target, Target::S3(_)) {
                self.refuse(at, "an address that is presigned here takes no other headers");
            }
            output.fields = fields;
            output.headers = headers;
            outputs.push(output);
        }
        outputs
    }

    fn fields(&mut self, table: &DeTable<'_>, key: &str) -> Option<IndexMap<String, String>> {
        let (_, value) = find(table, key)?;
        let Some(pairs) = value.get_ref().as_table() else {
            self.wrong(value, "a table of texts");
            return None;
        };
        let mut pairs: Vec<_> = pairs.iter().collect();
        pairs.sort_by_key(|(name, _)| name.span().start);
        let mut fields = IndexMap::new();
        for (name, value) in pairs {
            match value.get_ref().as_str() {
                Some(text) => {
                    fields.insert(name.get_ref().to_string(), text.to_owned());
                }
                None => self.wrong(value, "a text: put it in quotes"),
            }
        }
        Some(fields)
    }

    fn cost(&mut self, table: &DeTable<'_>) -> Option<u64> {
        let (_, value) = find(table, "max_cost")?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => {
                self.wrong(value, "an amount of credit");
                return None;
            }
        };
        self.or_refuse(value.span(), source::amount(&text))
    }

    /// Returns the tables of an array of tables.
    fn entries<'t, 'i>(&mut self, table: &'t DeTable<'i>, key: &str) -> Vec<(&'t DeTable<'i>, Range<usize>)> {
        let Some((_, value)) = find(table, key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, &format!("a list of tables, each under [[{key}]]"));
            return Vec::new();
        };
        let mut entries = Vec::new();
        for item in items {
            match item.get_ref().as_table() {
                Some(entry) => entries.push((entry, item.span())),
                None => self.wrong(item, "a table"),
            }
        }
        entries
    }

    fn table<'t, 'i>(
        &mut self,
        table: &'t DeTable<'i>,
        key: &str,
        known: &[&str],
    ) -> Option<&'t DeTable<'i>> {
        let (_, value) = find(table, key)?;
        let Some(inner) = value.get_ref().as_table() else {
            self.wrong(value, "a table");
            return None;
        };
        self.known(inner, known, key);
        Some(inner)
    }

    fn name(&mut self, table: &DeTable<'_>, key: &str) -> Option<String> {
        self.text_of(table, key, NAME_CHARS_MAX).map(|(text, _)| text)
    }

    fn needed(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        place: &Range<usize>,
    ) -> Option<(String, Range<usize>)> {
        if find(table, key).is_none() {
            self.refuse(place.clone(), format!("`{key}` is missing"));
            return None;
        }
        self.text_of(table, key, usize::MAX)
    }

    fn text_of(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        chars_max: usize,
    ) -> Option<(String, Range<usize>)> {
        let (_, value) = find(table, key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(value, "a text: put it in quotes");
            return None;
        };
        if text.is_empty() {
            self.refuse(value.span(), format!("`{key}` is empty; leave it out"));
            return None;
        }
        if text.chars().count() > chars_max {
            self.refuse(
                value.span(),
                format!("`{key}` has more than {chars_max} characters"),
            );
            return None;
        }
        Some((text.to_owned(), value.span()))
    }

    fn boolean(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let (_, value) = find(table, key)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.wrong(value, "true or false");
        }
        read
    }

    fn number(&mut self, table: &DeTable<'_>, key: &str, max: u32) -> Option<u32> {
        let (_, value) = find(table, key)?;
        let number = value.get_ref().as_integer();
        let read = number.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
        match read.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if number <= max => Some(number),
            _ if value.get_ref().is_integer() => {
                self.refuse(value.span(), format!("this is not within 0 to {max} seconds"));
                None
            }
            _ => {
                self.wrong(value, "a whole number of seconds");
                None
            }
        }
    }

    fn known(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for name in table.keys() {
            if !known.contains(&name.get_ref().as_ref()) {
                let place = if place.is_empty() {
                    String::new()
                } else {
                    format!(" in `{place}`")
                };
                let suggestion = nearest(name.get_ref(), known);
                let text = format!("unknown key `{}`{place}", name.get_ref().escape_debug());
                self.problem(name.span(), text, suggestion);
            }
        }
    }

    fn wrong(&mut self, value: &Value<'_>, wanted: &str) {
        let got = value.get_ref().type_str();
        self.refuse(value.span(), format!("this is {}, not {wanted}", article(got)));
    }

    fn or_refuse<T, E: fmt::Display>(&mut self, span: Range<usize>, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.refuse(span, error.to_string())).ok()
    }

    fn refuse(&mut self, span: Range<usize>, text: impl Into<String>) {
        self.problem(span, text.into(), None);
    }

    fn problem(&mut self, span: Range<usize>, text: String, suggestion: Option<String>) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let shown = self.text.get(line_start..).unwrap_or_default();
        let shown = shown.lines().next().unwrap_or_default();
        let meant = self.text.get(span).unwrap_or_default();
        let width = meant.lines().next().unwrap_or_default().chars().count();
        let room = LINE_CHARS_MAX.saturating_sub(column.saturating_sub(1));
        self.problems.push(Problem {
            line: before.matches('\n').count() + 1,
            column,
            text,
            suggestion,
            // One column per character, so that the mark is below what it means.
            shown: shown
                .chars()
                .take(LINE_CHARS_MAX)
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
            width: width.min(room),
        });
    }
}

fn find<'t, 'i>(
    table: &'t DeTable<'i>,
    key: &str,
) -> Option<(&'t Spanned<toml::de::DeString<'i>>, &'t Value<'i>)> {
    table.iter().find(|(name, _)| name.get_ref().as_ref() == key)
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

/// Returns the known word that is near enough to be meant.
pub fn nearest(word: &str, known: &[&str]) -> Option<String> {
    let scored = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Draft, Vec<Problem>> {
        parse(text, Path::new("/jobs"))
    }

    #[test]
    fn the_example_is_a_job_with_every_field() {
        let draft = read(EXAMPLE).unwrap();
        assert_eq!(draft.image.as_deref(), Some("docker.io/library/alpine:3.19"));
        // Every key is in it, commented out if it cannot be with the others.
        for key in [TOP, LIMITS, VOLUME, OUTPUT, S3].concat() {
            assert!(EXAMPLE.contains(key), "{key}");
        }
        let all: Vec<String> = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("#: ") {
                Some(code) => code.to_owned(),
                None => line.to_owned(),
            })
            .collect();
        let draft = read(&all.join("\n")).unwrap_or_else(|problems| {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}", told.join("\n"))
        });
        assert_eq!(draft.max_cost, Some(2_500_000));
        assert_eq!(draft.volumes.len(), 4);
        assert_eq!(draft.outputs.len(), 3);
        assert_eq!(draft.limits.streaming_start, Some(30));
        assert_eq!(draft.volumes[0].source, Source::Local("/jobs/data".into()));
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let problems = read(
            "imge = 'a'\nclass = 'always_on.tset'\nargs = ['a', 5]\n[limits]\ndownload = -1\nexecution = '5'\n\
             [[volumes]]\nsource = 'x'\n[[volumes]]\nsource = 'x'\npath = '/etc'\n[env]\nA = 1\n",
        )
        .unwrap_err();
        let told: Vec<String> = problems
            .iter()
            .map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.text))
            .collect();
        let starts = [
            "1:1 unknown key `imge`",
            "2:9 unknown executor class",
            "3:14 this is an integer, not a text",
            "5:12 this is not within 0 to 86400 seconds",
            "6:13 this is a string, not a whole number",
            "7:1 `path` is missing",
            "10:10 the path \"/etc\" is not below /volume",
            "13:5 this is an integer, not a text",
        ];
        assert_eq!(told.len(), starts.len(), "{told:#?}");
        for (told, start) in told.iter().zip(starts) {
            assert!(told.starts_with(start), "{told} / {start}");
        }
        assert_eq!(problems[0].suggestion.as_deref(), Some("image"));
        assert_eq!(problems[1].suggestion.as_deref(), Some("always_on.test"));
        assert_eq!(
            problems[0].to_string(),
            "1:1: unknown key `imge`; did you mean `image`?\n      1 | imge = 'a'\n        | ^^^^"
        );
    }

    #[test]
    fn what_is_no_toml_is_told_with_what_else_is_wrong() {
        let problems = read("image = \n# a comment\nś = 1\nimge = 'x'\n").unwrap_err();
        assert!(problems.len() >= 2, "{problems:?}");
        assert_eq!(problems[0].line, 1);
        assert!(problems.iter().any(|problem| problem.text.contains("imge")));
    }

    #[test]
    fn the_order_of_variables_is_that_of_the_file() {
        let draft = read("[env]\nZ = '1'\nA = '2'\nM = '3'\n").unwrap();
        assert_eq!(draft.env.keys().collect::<Vec<_>>(), ["Z", "A", "M"]);
    }
}
