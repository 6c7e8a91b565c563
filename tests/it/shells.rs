//! What lies in `completions/` and `man/`: made of the tree of commands, as fresh as the binary, and of use to real shells
//! and to the real `man`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use horde::core::config::Environment;

use crate::support::Home;

/// Returns the files of a directory, by name.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// Returns what a command writes into a directory, beside what the repository has.
fn made_and_kept(command: &str, folder: &str) -> [BTreeMap<String, String>; 2] {
    let home = Home::new();
    let out = home.path().join("out");
    let output = home.horde([command, "--out"]).arg(&out).output().unwrap();
    assert_eq!(home.told(&output), "exit code: 0\n");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    [files(&out), files(&kept)]
}

#[test]
fn the_completions_of_the_repository_are_those_of_the_binary() {
    let [made, kept] = made_and_kept("completions", "completions");
    assert_eq!(made.len(), 5);
    assert!(
        made == kept,
        "completions/ is stale: run `sh scripts/generate.sh`"
    );
}

#[test]
fn the_manual_of_the_repository_is_that_of_the_binary() {
    let [made, kept] = made_and_kept("man", "man");
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&made),
        names(&kept),
        "man/ is stale: run `sh scripts/generate.sh`"
    );
    let stale: Vec<&String> = made
        .iter()
        .filter(|(name, page)| kept.get(*name) != Some(page))
        .map(|(name, _)| name)
        .collect();
    assert!(
        stale.is_empty(),
        "man/ is stale ({stale:?}): run `sh scripts/generate.sh`"
    );
}

/// Tells whether a programme can be used here; where it must be there, its absence fails the test.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let environment = Environment::of_process();
    let must = ["HORDE_TEST_DOCKER", "CI"]
        .into_iter()
        .any(|name| environment.get(name).is_some());
    assert!(!must, "{program} is missing: `sh scripts/test.sh` installs it");
    eprintln!("SKIPPED: {program} is missing; `sh scripts/test.sh` installs it");
    false
}

#[test]
fn man_renders_every_page_without_a_warning() {
    if !has("man") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut pages: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.sort();
    assert!(pages.len() > 50);
    for page in pages {
        let output = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let name = page.file_name().unwrap().display();
        assert!(output.status.success(), "{name}");
        assert!(output.stdout.len() > 300, "{name}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
    }
}

/// Returns what bash offers for a line, by the script of the repository and the binary.
fn offered(home: &Home, line: &[&str]) -> Vec<String> {
    let binary = Path::new(env!("CARGO_BIN_EXE_horde"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions/horde.bash");
    let words: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let last = line.last().unwrap();
    let text = format!(
        "source '{}'; COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; _clap_complete_horde horde '{last}' ''; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.join(" "),
        line.len() - 1,
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &text])
        .env_clear()
        .env("HOME", home.path())
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", binary.parent().unwrap().display()),
        )
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|word| word.trim_end().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn bash_completes_commands_flags_and_what_lies_on_this_machine() {
    if !has("bash") {
        return;
    }
    let home = Home::new();
    home.write(".local/share/horde/recent-jobs", "aaa-1\nbbb-2\nbbb-3\n");
    assert_eq!(offered(&home, &["horde", "fac"]), ["facilitator"]);
    assert_eq!(offered(&home, &["horde", "job", "expl"]), ["explain"]);
    assert!(offered(&home, &["horde", "job", "show", "--fac"]).contains(&"--facilitator".to_owned()));
    assert_eq!(
        offered(&home, &["horde", "job", "show", "bbb"]),
        ["bbb-3", "bbb-2"],
        "the newest first"
    );
    assert_eq!(
        offered(&home, &["horde", "job", "submit", "--class", "always_on.gp"]),
        ["always_on.gpu-24gb"]
    );
    assert_eq!(
        offered(&home, &["horde", "help", "H040"]),
        ["H0400", "H0401", "H0402"]
    );
    assert_eq!(
        offered(&home, &["horde", "dashboard", "--view", "over"]),
        ["overview"]
    );
    assert_eq!(offered(&home, &["horde", "--output", "j"]), ["json", "jsonl"]);
    assert_eq!(offered(&home, &["horde", "context", "use", "fin"]), ["finney"]);
    assert_eq!(offered(&home, &["horde", "--context", "fin"]), ["finney"]);
    assert!(
        offered(&home, &["horde", "context", "rename", "finney", "fin"]).is_empty(),
        "places stay"
    );
    let all = offered(&home, &["horde", ""]);
    assert!(
        all.contains(&"miner".to_owned()) && !all.contains(&"python".to_owned()),
        "what is hidden is not offered: {all:?}"
    );
}

/// Jobs of a role's database are offered, by the directory that stands on the line.
#[test]
fn every_shell_has_a_script_that_asks_the_binary() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = home.horde(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("COMPLETE") && script.contains("horde"), "{shell}");
    }
    insta::assert_snapshot!(home.run(["completions", "bsh"]));
}

#[test]
fn a_page_of_the_manual_is_printed_where_no_terminal_is() {
    let home = Home::new();
    let output = home.horde(["man", "job", "submit"]).output().unwrap();
    assert!(output.status.success());
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/horde-job-submit.1");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        fs::read_to_string(kept).unwrap()
    );
    insta::assert_snapshot!(home.run(["man", "job", "sumbit"]));
}

#[test]
fn the_version_tells_what_the_binary_speaks() {
    let home = Home::new();
    let output = home.horde(["version", "--json"]).output().unwrap();
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["rustc"].as_str().unwrap().starts_with("rustc "));
    assert!(version["schemas"]["miner"].as_u64().unwrap() > 1);
    let output = home.horde(["--version"]).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("horde {}\n", env!("CARGO_PKG_VERSION"))
    );
}
