//! What every command promises, by the table of promises in the code: a command of the tree that is not in it fails, and
//! so does whatever any test of this suite sees printed beside its schema or ended with another exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use clap::CommandFactory as _;
use horde::cmd::Cli;
use horde::cmd::catalogue::PROBLEMS;
use horde::cmd::contract::{Prints, promise, promises};
use horde::cmd::error::ExitCode;
use horde::core::store::facilitator::FacilitatorStore;
use horde::core::store::miner::MinerStore;
use horde::core::store::validator::ValidatorStore;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::support::Home;

/// Checks a note of a command: what it printed, or how it ended.
pub(crate) fn check(note: &Value) {
    let words = note["command"].as_str().unwrap();
    let promise = promise(words);
    if promise.words.is_empty() {
        return;
    }
    if let Some(code) = note["what"]["exit"].as_u64() {
        let code = u8::try_from(code).unwrap();
        assert!(
            promise.may_end_with(code),
            "`horde {words}` ended with {code}, which it does not promise"
        );
        return;
    }
    let document = &note["what"]["document"];
    let validator = validator(words);
    let wrong: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(
        wrong.is_empty(),
        "`horde {words}` printed what `horde schema {words}` does not describe:\n{}\n{document}",
        wrong.join("\n")
    );
}

/// Returns the validator of a command's data, closed: a field that the schema does not name is an error here, though
/// not to those who read it.
fn validator(words: &str) -> Arc<Validator> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let make = || {
        let schema = promise(words).prints.schema();
        let mut schema =
            schema.unwrap_or_else(|| panic!("`horde {words}` promises to print nothing, and did"));
        close(&mut schema);
        Arc::new(jsonschema::draft202012::new(&schema).unwrap())
    };
    Arc::clone(known.entry(words.to_owned()).or_insert_with(make))
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Returns the words of every visible command that runs, in the order of the help.
fn commands(command: &clap::Command, words: &str) -> Vec<String> {
    let below = command.get_subcommands();
    let below = below.filter(|below| !below.is_hide_set());
    let mut all = Vec::new();
    if !words.is_empty() && !command.is_subcommand_required_set() {
        all.push(words.to_owned());
    }
    for below in below {
        let words = format!("{words} {}", below.get_name());
        all.extend(commands(below, words.trim()));
    }
    all
}

#[test]
fn every_command_has_a_promise_and_every_promise_a_command() {
    let in_tree: BTreeSet<String> = commands(&Cli::command(), "").into_iter().collect();
    let promised: BTreeSet<String> = promises().map(|promise| promise.words.to_owned()).collect();
    assert_eq!(promised.len(), promises().count(), "a command promises twice");
    assert_eq!(in_tree, promised);
}

#[test]
fn every_command_has_a_snapshot_of_its_help() {
    let help = include_str!("snapshots/it__cli__the_help_of_the_whole_tree.snap");
    for promise in promises() {
        let heading = format!("$ horde {}\n", promise.words);
        assert!(help.contains(&heading), "no help of `horde {}`", promise.words);
    }
}

#[test]
fn every_schema_is_one_and_describes_every_field() {
    let home = Home::new();
    for promise in promises() {
        let words: Vec<&str> = std::iter::once("schema")
            .chain(promise.words.split(' '))
            .collect();
        let output = home.horde(words).output().unwrap();
        let nothing = matches!(promise.prints, Prints::Nothing);
        assert_eq!(
            output.status.code(),
            Some(if nothing { 2 } else { 0 }),
            "{}",
            promise.words
        );
        if nothing {
            assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[H0203]: "));
            continue;
        }
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        jsonschema::meta::validate(&schema).unwrap();
        let mut missing = Vec::new();
        undescribed(&schema, promise.words, &mut missing);
        assert!(missing.is_empty(), "fields without a description: {missing:#?}");
    }
}

fn undescribed(schema: &Value, path: &str, missing: &mut Vec<String>) {
    if !schema.is_object() {
        return;
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // One that always says the same describes itself.
        let is_fixed = field.get("const").is_some();
        if !is_fixed && field["description"].as_str().is_none_or(str::is_empty) {
            missing.push(path.clone());
        }
        undescribed(field, &path, missing);
    }
    for word in ["items", "additionalProperties"] {
        undescribed(&schema[word], &format!("{path}[]"), missing);
    }
    for word in ["anyOf", "oneOf"] {
        for alternative in schema[word].as_array().into_iter().flatten() {
            undescribed(alternative, path, missing);
        }
    }
}

/// A wrong flag is told by every command alike: the code of the catalogue, the flag, exit code 2, nothing on standard
/// output.
#[test]
fn every_command_refuses_a_flag_that_it_does_not_know() {
    let home = Home::new();
    for promise in promises() {
        let words = promise.words.split(' ').chain(["--no-such-flag"]);
        let output = home.horde(words).output().unwrap();
        let told = home.told(&output);
        assert_eq!(output.status.code(), Some(2), "{}: {told}", promise.words);
        assert!(output.stdout.is_empty(), "{}: {told}", promise.words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("error[H0201]: ") && stderr.contains("--no-such-flag"),
            "{}: {told}",
            promise.words
        );
    }
}

/// The reader of a pipe may go at once, from the help of every command and from its schema.
#[test]
fn every_command_bears_a_closed_pipe() {
    let home = Home::new();
    for promise in promises() {
        let words: Vec<&str> = promise.words.split(' ').collect();
        let help = [words.as_slice(), &["--help"]].concat();
        let schema = [&["schema"], words.as_slice()].concat();
        for words in [help, schema] {
            if words.first() == Some(&"schema") && matches!(promise.prints, Prints::Nothing) {
                continue;
            }
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let output = home.horde(&words).stdout(writer).output().unwrap();
            assert_eq!(home.told(&output), "exit code: 0\n", "{words:?}");
        }
    }
}

/// Bare `--fields` lists what the schema has, whatever else the command needs, and an unknown field is refused.
#[test]
fn every_command_lists_its_fields_and_refuses_others() {
    let home = Home::new();
    for promise in promises().filter(|promise| !promise.prints.fields().is_empty()) {
        let output = home
            .horde(promise.words.split(' ').chain(["--fields"]))
            .output()
            .unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            listed.lines().collect::<Vec<_>>(),
            promise.prints.fields(),
            "{}",
            promise.words
        );
    }
    let output = home
        .horde(["config", "show", "--fields", "key,valu"])
        .output()
        .unwrap();
    insta::assert_snapshot!(home.told(&output));
}

#[test]
fn one_answer_has_four_forms() {
    let home = Home::new();
    let mut all = String::new();
    for form in [
        &["--output", "table"][..],
        &["--output", "csv"],
        &["-o", "jsonl"],
        &["--json"],
        &["--json", "--fields", "value,key"],
        &["--fields", "key,origin"],
    ] {
        let words = [&["config", "show", "executor"], form].concat();
        let output = home
            .horde(&words)
            .env("HORDE_WALLET_PATH", "/wallets")
            .env("HORDE_CHAIN_PATH", "/chain")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let shown: Vec<String> = text
            .lines()
            .take(3)
            .map(|line| line.chars().take(180).collect())
            .collect();
        writeln!(all, "$ horde {}\n{}\n", words.join(" "), shown.join("\n")).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_error_of_the_catalogue_explains_itself_offline() {
    let home = Home::new();
    let mut all = String::new();
    for problem in PROBLEMS {
        let output = home.horde(["help", problem.code]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        all.push_str(&String::from_utf8(output.stdout).unwrap());
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

#[test]
fn the_topics_of_the_help() {
    let home = Home::new();
    let mut all = String::new();
    for topic in [
        "topics",
        "exit-codes",
        "errors",
        "files",
        "formatting",
        "signals",
        "security",
        "glossary",
    ] {
        all.push_str(&home.run(["help", topic]));
        all.push('\n');
    }
    insta::assert_snapshot!(all);
    insta::assert_snapshot!(home.run(["help", "exit-cods"]));
}

/// The README's table of exit codes and the registry are the same.
#[test]
fn the_readme_names_every_exit_code() {
    let readme = include_str!("../../README.md");
    for (code, _) in ExitCode::ALL {
        let number = code.number().to_string();
        let is_named = readme.lines().filter(|line| line.starts_with('|')).any(|line| {
            line.split(|character: char| !character.is_ascii_digit())
                .any(|word| word == number)
        });
        assert!(is_named, "{number}");
    }
}

/// Colours follow the flag, then the environment, then the stream, which is no terminal here.
#[test]
fn colours_are_asked_for_or_absent() {
    let home = Home::new();
    let coloured = |flags: &[&str], variables: &[(&str, &str)]| {
        let words = [
            &[
                "job",
                "show",
                "x",
                "--facilitator",
                "ftp://x",
                "--key-uri",
                "//Alice",
            ],
            flags,
        ]
        .concat();
        let output = home
            .horde(words)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("error[H0200]"), "{text}");
        text.contains('\u{1b}')
    };
    assert!(!coloured(&[], &[]));
    assert!(coloured(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(coloured(&[], &[("FORCE_COLOR", "1")]));
    assert!(!coloured(&[], &[("FORCE_COLOR", "1"), ("NO_COLOR", "1")]));
    assert!(!coloured(&["--color=never"], &[("CLICOLOR_FORCE", "1")]));
}

/// The one for whom orders are given.
const CHARLIE: &str = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y";

/// A way to call each command that prints data and needs no network and no Docker, in this order, in one home.
const TABLE: &[(&[&str], i32)] = &[
    (&["key", "new"], 0),
    (&["key", "show"], 0),
    (&["key", "sign", "m"], 0),
    (
        &[
            "key",
            "verify",
            "--hotkey",
            CHARLIE,
            "--signature",
            NO_SIGNATURE,
            "m",
        ],
        10,
    ),
    (&["config", "show"], 0),
    (&["config", "check", "miner"], 0),
    (&["config", "path"], 0),
    (&["facilitator", "user", "add", CHARLIE, "--note", "n"], 0),
    (&["facilitator", "user", "list"], 0),
    (&["facilitator", "user", "show", CHARLIE], 0),
    (&["facilitator", "user", "block", CHARLIE], 0),
    (&["facilitator", "user", "unblock", CHARLIE], 0),
    (
        &["facilitator", "credit", "add", CHARLIE, "2.5", "--note", "n"],
        0,
    ),
    (&["facilitator", "credit", "list"], 0),
    (&["facilitator", "credit", "check"], 0),
    (&["facilitator", "prices"], 0),
    (&["facilitator", "specs"], 0),
    (&["validator", "cheats"], 0),
    (&["validator", "blacklist"], 0),
    (&["miner", "jobs"], 0),
    (&["miner", "jobs", "--rejected"], 0),
    (&["miner", "stats"], 0),
    (&["miner", "validator", "add", CHARLIE], 0),
    (&["miner", "validator", "block", CHARLIE, "--reason", "r"], 0),
    (&["miner", "validator", "list"], 0),
    (&["miner", "validator", "unblock", CHARLIE], 0),
    (&["miner", "validator", "remove", CHARLIE], 0),
    (&["miner", "drain"], 0),
    (&["miner", "undrain"], 0),
    (&["miner", "manifest", "set", "always_on.test=2"], 0),
    (&["miner", "manifest", "show"], 0),
    (&["miner", "receipts"], 0),
    (&["miner", "receipts", "export"], 0),
    (&["miner", "dynamic"], 0),
    (&["executor", "specs"], 0),
    (&["dashboard", "--once", "--demo"], 0),
    (&["context", "add", "dev", "--set", "chain.network=local"], 0),
    (&["context", "list"], 0),
    (&["context", "show", "dev"], 0),
    (&["context", "set", "dev", "chain.netuid=7"], 0),
    (&["context", "use", "dev"], 0),
    (&["context", "rename", "dev", "lab"], 0),
    (&["context", "remove", "lab", "--yes"], 0),
    (&["doctor", "--list"], 0),
    (&["service", "unit", "miner"], 0),
    (&["service", "install", "miner", "--user", "--dry-run"], 11),
    (&["schema"], 0),
    (&["help", "H0402"], 0),
    (&["version"], 0),
];

const NO_SIGNATURE: &str = concat!(
    "0x0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000"
);

/// Commands that need a network or Docker, with the call in another test that sees what they print.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "up",
        include_str!("up.rs"),
        "up(&home, &[\"--once\", \"--json\"])",
    ),
    (
        "logs",
        include_str!("logs.rs"),
        "[\"logs\", \"--dir\", \"d\", \"--json\"]",
    ),
    (
        "miner jobs show",
        include_str!("ledger.rs"),
        "&[\"jobs\", \"show\", job, \"--json\"]",
    ),
    (
        "miner check",
        include_str!("ledger.rs"),
        "[&[\"check\", \"--json\"], args]",
    ),
    (
        "executor check",
        include_str!("check.rs"),
        "[\"executor\", \"check\", \"--json\"]",
    ),
    (
        "executor image",
        include_str!("dropin.rs"),
        "[\"executor\", \"image\", \"--json\",",
    ),
    (
        "status",
        include_str!("status.rs"),
        "\"--json\", \"status\"], more]",
    ),
    (
        "init",
        include_str!("init.rs"),
        "home.horde(&words).arg(\"--json\")",
    ),
];

#[test]
fn every_command_prints_the_data_that_it_promises_in_every_form_and_to_nobody() {
    let home = Home::new();
    let roles = home.path().join("d");
    for role in ["facilitator", "validator", "miner"] {
        std::fs::create_dir_all(roles.join(role)).unwrap();
    }
    drop(FacilitatorStore::open(&roles.join("facilitator/facilitator.sqlite")).unwrap());
    drop(ValidatorStore::open(&roles.join("validator/validator.sqlite")).unwrap());
    drop(MinerStore::open(&roles.join("miner/miner.sqlite")).unwrap());
    let command = |words: &[&str], form: &[&str]| {
        let mut command = home.horde([words, form].concat());
        let role = roles.join(words.first().copied().unwrap_or_default());
        if role.is_dir() {
            command.arg("--dir").arg(role);
        }
        command
    };
    let mut seen = BTreeSet::new();
    for (words, code) in TABLE {
        let promised = promises().filter(|promise| {
            let longest = words.join(" ");
            longest == promise.words || longest.starts_with(&format!("{} ", promise.words))
        });
        let promised = promised.max_by_key(|promise| promise.words.len()).unwrap();
        seen.insert(promised.words);
        // A key that is there is not made again, and what was taken back is not there any more.
        let once = matches!(
            words,
            ["key", "new"]
                | ["context", "add" | "rename" | "remove", ..]
                | ["miner", "validator", "unblock" | "remove", ..]
        ) || words.starts_with(&["facilitator", "user", "unblock"]);
        for form in [&["--json"][..], &["-o", "jsonl"], &["-o", "csv"]] {
            let output = command(words, form).output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(*code),
                "{words:?} {form:?}\n{}",
                home.told(&output)
            );
            let stdout = String::from_utf8(output.stdout).unwrap();
            match form {
                ["--json"] => assert!(
                    stdout.is_empty() == (words.ends_with(&["export"]))
                        && stdout
                            .lines()
                            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
                    "{words:?}: {stdout}"
                ),
                ["-o", "jsonl"] => assert!(
                    stdout
                        .lines()
                        .all(|line| line.starts_with('{') && serde_json::from_str::<Value>(line).is_ok()),
                    "{words:?}: {stdout}"
                ),
                _ => {}
            }
            if once {
                break;
            }
        }
        if once {
            continue;
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(words, &["--json"]).stdout(writer).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() || output.status.code() == Some(*code),
            "{words:?}: {told}"
        );
        assert!(
            !told.contains("panicked") && !told.contains("Broken pipe"),
            "{words:?}: {told}"
        );
    }
    let silent = promises().filter(|promise| !matches!(promise.prints, Prints::Nothing));
    let unseen: Vec<&str> = silent
        .map(|promise| promise.words)
        .filter(|words| !seen.contains(words))
        // Those of `horde job` have a table of their own, in job_commands.rs.
        .filter(|words| !words.starts_with("job "))
        .filter(|words| ELSEWHERE.iter().all(|(elsewhere, ..)| elsewhere != words))
        .collect();
    assert!(unseen.is_empty(), "nobody looks at what these print: {unseen:?}");
}

#[test]
fn what_is_seen_elsewhere_is_seen() {
    for (words, test, call) in ELSEWHERE {
        assert!(
            test.contains(call),
            "no test calls `horde {words}` any more as {call}"
        );
    }
}
