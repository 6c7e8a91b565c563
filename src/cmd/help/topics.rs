//! The topics of `horde help`: what concerns all commands.

use super::registry::{FILES, VARIABLES};
use crate::cmd::catalogue::PROBLEMS;
use crate::cmd::error::ExitCode;
use crate::core::config::SETTINGS;
use crate::core::tasks::signals::SIGNALS;

/// The width of running text, in columns.
const WIDTH: usize = 96;

/// A topic.
pub(super) struct Topic {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    text: fn() -> String,
}

impl Topic {
    pub(super) fn text(&self) -> String {
        format!("{}\n\n{}", self.title, (self.text)())
    }
}

const fn topic(name: &'static str, title: &'static str, text: fn() -> String) -> Topic {
    Topic { name, title, text }
}

/// All topics.
pub(super) const TOPICS: &[Topic] = &[
    topic("topics", "Topics of `horde help`", topics),
    topic("exit-codes", "Exit codes of all commands", exit_codes),
    topic("errors", "Errors by their codes", errors),
    topic("environment", "Variables of the environment", environment),
    topic("files", "Files that horde reads and writes", files),
    topic("formatting", "Forms of output", formatting),
    topic("signals", "What roles do on signals", signals),
    topic(
        "security",
        "What horde keeps secret, and from whom it keeps away",
        security,
    ),
    topic("glossary", "Words of the field", glossary),
];

/// Returns a text in lines of a width, each behind so many spaces.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let mut lines = vec![margin.clone()];
    for word in text.split_whitespace() {
        let line = lines.last_mut();
        match line {
            Some(line) if line.len() == indent => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{margin}{word}")),
        }
    }
    lines.join("\n")
}

/// Returns names with what they mean, the meanings below each other.
fn table(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let rows: Vec<(String, String)> = rows.into_iter().collect();
    let widest = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let lines = rows
        .iter()
        .map(|(name, meaning)| format!("  {name:widest$}  {meaning}\n"));
    lines.collect()
}

fn pairs(rows: &[(&str, &str)]) -> String {
    table(
        rows.iter()
            .map(|(name, meaning)| ((*name).to_owned(), (*meaning).to_owned())),
    )
}

fn paragraphs(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| wrapped(text, 0)).collect();
    texts.join("\n\n")
}

fn topics() -> String {
    let rows = super::topic_names().filter(|(name, _)| *name != "topics");
    let rows = rows.map(|(name, title)| (name.to_owned(), title.to_owned()));
    format!(
        "{}\n`horde help NAME` shows one; `horde help H0402` explains a code, `horde help job submit` a command.",
        table(rows)
    )
}

fn exit_codes() -> String {
    let rows = ExitCode::ALL
        .iter()
        .map(|(code, meaning)| (code.number().to_string(), (*meaning).to_owned()));
    format!(
        "{}\n{}",
        table(rows),
        wrapped(
            "`horde job submit`, `wait` and `retry` end with the job's own code if the job ran; 124 to 127 then tell why \
             it did not. The numbers are a promise.",
            0
        )
    )
}

fn errors() -> String {
    let rows = PROBLEMS
        .iter()
        .map(|problem| (problem.code.to_owned(), problem.title.to_owned()));
    format!(
        "{}\n{}",
        table(rows),
        wrapped(
            "The first two digits are the exit code (24 to 27: 124 to 127; 20: the job's own). `horde help CODE` tells \
             why it happens and what to do.",
            0
        )
    )
}

fn environment() -> String {
    let settings = SETTINGS.iter().map(|setting| {
        let names = match setting.alias {
            Some(alias) => format!("{} or {alias}", setting.environment_name()),
            None => setting.environment_name(),
        };
        (names, setting.doc.to_owned())
    });
    format!(
        "{}\nSettings; a flag beats its variable, that the context, that the configuration file:\n\n{}",
        pairs(VARIABLES),
        table(settings)
    )
}

fn files() -> String {
    format!(
        "{}\n{}",
        pairs(FILES),
        wrapped(
            "With --dir DIR a role keeps its data in DIR, and `horde up --dir DIR` each role in a directory of its own \
             below it. Databases are of SQLite, each with a -wal and a -shm file beside it while its role runs; copy \
             all three, or the one when the role is stopped.",
            0
        )
    )
}

fn formatting() -> String {
    paragraphs(&[
        "Results go to standard output, everything else (words, progress, logs, errors) to standard error. A closed pipe \
         ends a command quietly, with success.",
        "--output json (or --json) prints one document, with keys in a stable order. --output jsonl prints a document a \
         row and line, --output csv a header and a record a row. Commands that follow something print a document a \
         line as it comes, each with `type`, `ts`, `seq` and `schema`, and a last one of the type `end`.",
        "--fields a,b.c prints these fields only, in any form; a dot goes into what has parts. --fields as the last word \
         lists the fields there are.",
        "`horde schema COMMAND` prints the JSON Schema of what a command prints. Fields may come at any time; one goes or \
         changes its meaning only with a new version of the output, told two minor versions before. Text for people \
         is no promise.",
        "Times are RFC 3339 in UTC, durations seconds, sizes bytes, money micro-units (millionths of a unit). Texts for \
         people humanise them; binary units are named (MiB). What comes from peers and jobs is shown with its control \
         characters replaced.",
    ])
}

fn signals() -> String {
    let rows = SIGNALS
        .iter()
        .map(|row| format!("  {}\n{}\n", row.name, wrapped(row.does, 4)));
    let rows: Vec<String> = rows.collect();
    rows.join("\n")
}

fn security() -> String {
    paragraphs(&[
        "Keys are read from wallet files, passwords from files (--password-file) or a terminal, never from flags, which \
         other users of a machine can see. Secrets are shown nowhere: not in logs, not by `horde config show`, not in \
         what commands print.",
        "Jobs run in containers without a network, as nobody, with limits; `horde executor check` tells whether the \
         machine is fit for that, and `horde executor check --attack` tries to break out. Everything from peers, jobs, \
         archives and files has a limit and is held to be hostile.",
        "horde sends nothing to anybody but the peers that its settings name, and looks for no updates.",
    ])
}

fn glossary() -> String {
    pairs(&[
        (
            "facilitator",
            "takes jobs from users, charges for them, hands them to validators",
        ),
        (
            "validator",
            "hands each job to a miner, benchmarks miners, sets their scores on chain",
        ),
        ("miner", "starts executors and offers them to validators"),
        ("executor", "runs one job in a container and is scrapped"),
        (
            "executor class",
            "what kind of machine a job needs, as in always_on.gpu-24gb",
        ),
        ("organic job", "a job of a user"),
        ("synthetic job", "a job by which a validator benchmarks a miner"),
        (
            "trusted miner",
            "a validator's own miner; its results are believed",
        ),
        ("manifest", "how many executors of which class a miner offers"),
        (
            "receipt",
            "a proof, signed by validator and miner, that a job was started, accepted or finished",
        ),
        (
            "hotkey",
            "the key that signs for a participant; its address begins with 5",
        ),
        ("coldkey", "the key that owns the stake; horde never needs it"),
        ("wallet", "the files of both keys"),
        (
            "metagraph",
            "who is registered on a subnet, with stake and address",
        ),
        ("netuid", "the number of a subnet; ComputeHorde is 12 on finney"),
        ("weights", "the scores that a validator sets on chain"),
        ("block", "about 12 seconds of the chain's time"),
        ("stake", "what stands behind a hotkey; validators need some"),
        ("permit", "the right to set weights"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_words() {
        let text = wrapped(&"word ".repeat(60), 2);
        assert!(
            text.lines()
                .all(|line| line.starts_with("  word") && line.len() <= WIDTH)
        );
        assert_eq!(text.split_whitespace().count(), 60);
    }

    #[test]
    fn registries_are_told_whole() {
        let text = environment();
        assert!(VARIABLES.iter().all(|(name, _)| text.contains(name)));
        assert!(
            SETTINGS
                .iter()
                .all(|setting| text.contains(&setting.environment_name()))
        );
        let text = signals();
        assert!(SIGNALS.iter().all(|row| text.contains(row.name)));
        let text = exit_codes();
        assert!(ExitCode::ALL.iter().all(|(_, meaning)| text.contains(meaning)));
    }
}
