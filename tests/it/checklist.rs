//! Holds `checklist.md` to its word: every point once and in order, every test that it names is there and runs, every
//! point that is left out has a reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The points of the list.
const POINTS: usize = 87;

/// A reason that says less says nothing.
const REASON_CHARACTERS_MIN: usize = 20;

/// The root of the repository; the table is read from there when the test runs.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A row of the table.
struct Row {
    number: String,
    point: String,
    status: String,
    answer: String,
}

impl Row {
    fn read(line: &str) -> Self {
        let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
        let inner = inner.unwrap_or_else(|| panic!("a row without its ends: {line}"));
        let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [number, point, status, answer] = cells
            .try_into()
            .unwrap_or_else(|_| panic!("not four cells: {line}"));
        Self {
            number,
            point,
            status,
            answer,
        }
    }

    /// Returns the tests that the row names: what stands in backticks as `file::name`.
    fn tests(&self) -> Vec<(&str, &str)> {
        assert!(
            self.answer.matches('`').count().is_multiple_of(2),
            "point {}: a backtick is not closed",
            self.number
        );
        let quoted = self.answer.split('`').skip(1).step_by(2);
        quoted.filter_map(|words| words.split_once("::")).collect()
    }
}

/// Returns the rows of all parts of the table, without their heads.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(ROOT).join("tests/it/checklist.md")).unwrap();
    let is_head = |line: &&str| line.starts_with("| # |") || line.starts_with("|---|");
    let lines = text
        .lines()
        .filter(|line| line.starts_with('|') && !is_head(line));
    lines.map(Row::read).collect()
}

/// Collects the names of the tests that run, by file.
fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<String>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let names = tests_of(&fs::read_to_string(&path).unwrap());
            found.insert(path, names);
        }
    }
}

/// Returns the names of the tests of one file; one that is ignored proves nothing and is none.
fn tests_of(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    let mut is_ignored = false;
    for line in text.lines().map(str::trim) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        is_ignored |= line.starts_with("#[ignore");
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
            if is_test && !is_ignored {
                names.push(name.to_owned());
            }
            is_test = false;
            is_ignored = false;
        }
    }
    names
}

#[test]
fn every_point_stands_there_once_and_in_order_with_an_answer() {
    let rows = rows();
    let numbers: Vec<&str> = rows.iter().map(|row| row.number.as_str()).collect();
    let expected: Vec<String> = (1..=POINTS).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected);
    for Row {
        number,
        point,
        status,
        answer,
    } in &rows
    {
        assert!(!point.is_empty(), "point {number} does not say what is asked for");
        assert!(
            ["met", "better", "left out"].contains(&status.as_str()),
            "point {number} is {status:?}"
        );
        assert!(
            status != "left out" || answer.chars().count() >= REASON_CHARACTERS_MIN,
            "point {number} is left out without a reason"
        );
    }
}

#[test]
fn every_point_that_is_met_names_a_test_and_every_test_that_is_named_is_there() {
    let mut found = BTreeMap::new();
    for folder in ["src", "tests"] {
        collect(&Path::new(ROOT).join(folder), &mut found);
    }
    let mut wrong = Vec::new();
    for row in rows() {
        let named = row.tests();
        if row.status != "left out" && named.is_empty() {
            wrong.push(format!("point {} is {} by no test", row.number, row.status));
        }
        for (file, name) in named {
            let end = format!("{file}.rs");
            let mut files = found.iter().filter(|(path, _)| path.ends_with(&end));
            if !files.any(|(_, names)| names.iter().any(|known| known == name)) {
                wrong.push(format!(
                    "point {}: there is no test {name} in a file {end}",
                    row.number
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_are_told_from_helpers_and_from_those_that_are_ignored() {
    let text = "fn helper() {\n#[test]\nfn one() {\n#[tokio::test(flavor = \"x\")]\nasync fn two() {\nfn more() {\n\
                #[test]\n#[ignore = \"slow\"]\nfn three() {\n";
    assert_eq!(tests_of(text), ["one", "two"]);
    let row = Row::read("| 3 | a | met | `a/b::c`, `horde x`; d |");
    assert_eq!(row.tests(), [("a/b", "c")]);
}
