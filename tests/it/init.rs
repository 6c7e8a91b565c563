//! `horde init`: what it writes is a configuration that the role takes, at a terminal as well as by flags.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::facilitator::World;
use crate::support::Home;
use crate::terminal::Terminal;

/// How each role is set up without a terminal.
const WORDS: [&[&str]; 4] = [
    &[
        "init",
        "miner",
        "--executors",
        "always_on.test=2",
        "--key-uri",
        "//Bob",
    ],
    &[
        "init",
        "validator",
        "--facilitator-url",
        "ws://127.0.0.1:9000/ws/v0/",
        "--key-uri",
        "//Alice",
    ],
    &[
        "init",
        "facilitator",
        "--allow-any-user",
        "--listen",
        "127.0.0.1:9001",
    ],
    &[
        "init",
        "user",
        "--facilitator",
        "http://127.0.0.1:9000",
        "--key-uri",
        "//Charlie",
    ],
];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_explained_and_taken_by_the_role() {
    for words in WORDS {
        let home = Home::new();
        let told = home.run(words);
        assert!(told.starts_with("exit code: 0\n"), "{told}");
        let file = home.path().join(".config/horde/horde.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        insta::assert_snapshot!(words[1], format!("{told}--- file\n{text}"));
        assert_eq!(mode(&file), 0o600);
        let role = words[1];
        let mut check = vec!["config", "check"];
        if role != "user" {
            check.push(role);
            assert_eq!(mode(&home.path().join(".local/share/horde").join(role)), 0o700);
        }
        assert_eq!(
            home.run(check),
            "exit code: 0\n--- stdout\nthe configuration is sound\n"
        );
        // What is commented out is right too, where it has a value.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.ends_with('=') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        std::fs::write(&file, all).unwrap();
        let told = home.run(["config", "show"]);
        assert!(told.starts_with("exit code: 0\n"), "{told}");
    }
}

#[test]
fn without_a_terminal_all_that_is_missing_is_told_at_once() {
    let home = Home::new();
    insta::assert_snapshot!(
        [
            &["init"][..],
            &["init", "miner"],
            &["init", "facilitator"],
            &["init", "user", "--no-input"],
            &[
                "init",
                "user",
                "--backend",
                "docker",
                "--executors",
                "x",
                "--allow-any-user"
            ],
            &["init", "facilitator", "--users", "", "--key-uri", "//Alice"],
            &[
                "init",
                "miner",
                "--executors",
                "x",
                "--listen",
                "nowhere",
                "--key-uri",
                "//Bob"
            ],
            &[
                "init",
                "user",
                "--facilitator",
                "http://127.0.0.1:1",
                "--network",
                "finney",
                "--key-uri",
                "//Bob"
            ],
            &[
                "init",
                "user",
                "--facilitator",
                "http://127.0.0.1:1",
                "--wallet",
                "none"
            ],
        ]
        .map(|words| format!("$ horde {}\n{}", words.join(" "), home.run(words)))
        .join("\n")
    );
    assert!(!home.path().join(".config").exists());
}

#[test]
fn a_plan_shows_the_file_and_changes_nothing() {
    let home = Home::new();
    let words = [WORDS[0], &["--dir", "m", "--dry-run"]].concat();
    let told = home.run(&words);
    assert!(
        told.starts_with("exit code: 11\n--- stdout\n# Settings of horde for a miner"),
        "{told}"
    );
    assert!(
        told.contains("would set up a miner\n  $HOME/m/horde.toml: - -> written\n  $HOME/m: - -> there\n"),
        "{told}"
    );
    let output = home.horde(&words).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(11));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = shown["plan"]["changes"][0]["to"].as_str().unwrap();
    assert!(text.contains("executors = { \"always_on.test\" = 2 }"), "{text}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_force_with_a_yes_and_a_copy() {
    let home = Home::new();
    let old = "[facilitator]\nlisten = '127.0.0.1:9009'\n[wallet]\nuri = '//Eve'\n";
    let file = home.write(".config/horde/horde.toml", old);
    let told = home.run(WORDS[0]);
    assert!(
        told.starts_with("exit code: 5\n") && told.contains("--force replaces it"),
        "{told}"
    );
    let forced = [WORDS[0], &["--force"]].concat();
    let told = home.run(&forced);
    assert!(
        told.starts_with("exit code: 2\n") && told.contains("--yes gives it"),
        "{told}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), old);
    let output = home.horde(&forced).args(["--yes", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", home.told(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let copy = std::fs::read_to_string(done["backup"].as_str().unwrap()).unwrap();
    assert_eq!(copy, old);
    let new = std::fs::read_to_string(&file).unwrap();
    // What it said of other roles stays, what was answered now counts.
    assert!(
        new.contains("listen = \"127.0.0.1:9009\"") && new.contains("uri = \"//Bob\""),
        "{new}"
    );
}

#[test]
fn a_key_is_made_or_restored_and_never_overwritten() {
    let home = Home::new();
    let words = [
        "init",
        "user",
        "--facilitator",
        "http://127.0.0.1:9000",
        "--wallet",
        "w",
    ];
    let told = home.run([&words[..], &["--new-key", "--dir", "a"]].concat());
    assert!(
        told.starts_with("exit code: 0\n") && told.contains("keep a copy of the key file"),
        "{told}"
    );
    let file = home.path().join(".bittensor/wallets/w/hotkeys/default");
    assert_eq!(mode(&file), 0o600);
    let key: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let address = key["ss58Address"].as_str().unwrap();
    assert!(told.contains(address), "{told}");
    let again = home.run([&words[..], &["--new-key", "--dir", "b"]].concat());
    assert!(again.starts_with("exit code: 4\n"), "{again}");
    assert!(!home.path().join("b").exists());
    // The same words elsewhere are the same key.
    home.write("words", &format!("  {}\n", key["secretPhrase"].as_str().unwrap()));
    let restored = home.run(
        [
            &words[..],
            &["--hotkey", "other", "--import-key", "words", "--dir", "b"],
        ]
        .concat(),
    );
    assert!(restored.contains(address), "{restored}");
    let shown = home.run(["key", "show", "--dir", "b"]);
    assert!(
        shown.contains(address) && shown.contains("hotkeys/other"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_user_that_was_set_up_lists_its_jobs_with_the_commands_that_are_told() {
    let (world, home) = (World::start().await, Home::new());
    let url = format!("http://{}", world.address);
    tokio::task::spawn_blocking(move || {
        let words = [
            "init",
            "user",
            "--facilitator",
            &url,
            "--key-uri",
            "//Charlie",
            "--dir",
            "my place",
        ];
        let output = home
            .horde(words)
            .args(["--save-context", "lab", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", home.told(&output));
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        let next = done["next"].as_array().unwrap();
        assert_eq!(next.len(), 3);
        for command in next {
            let command = command.as_str().unwrap().strip_prefix("horde ").unwrap();
            // As a shell would, for this one quoted word.
            let quiet = command.replace("'my place'", "my\u{0}place");
            let told = home.run(quiet.split(' ').map(|word| word.replace('\u{0}', " ")));
            assert!(told.starts_with("exit code: 0\n"), "{command}: {told}");
        }
        let told = home.run(["job", "list", "--context", "lab"]);
        assert!(told.starts_with("exit code: 0\n"), "{told}");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_person_at_a_terminal_is_asked_everything() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home.horde(["init"]), Some("xterm"));
    for (question, keys) in [
        ("What is this machine to be", "\r"),
        ("Where to serve validators and executors [0.0.0.0:8000]", "\r"),
        ("How to start executors", "\x1b[B\r"),
        ("How many executors of which class to offer", "always_on.test\r"),
        // That was no count; it is asked again.
        ("expected counts such as", "always_on.test=3\r"),
        ("Which key", "\x1b[B\x1b[B\r"),
        ("Development key", "\r"),
        ("Name of a context to keep this as", "\r"),
    ] {
        terminal.shows(question).await;
        terminal.press(keys);
    }
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 0, "{screen}");
    let text = std::fs::read_to_string(home.path().join(".config/horde/horde.toml")).unwrap();
    for line in [
        "backend = \"docker\"",
        "executors = { \"always_on.test\" = 3 }",
        "uri = \"//Alice\"",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(
        home.run(["config", "check", "miner"]),
        "exit code: 0\n--- stdout\nthe configuration is sound\n"
    );
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home.horde(["init", "user"]), Some("xterm"));
    terminal.shows("Which network").await;
    terminal.press(crate::terminal::INTERRUPT);
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 130, "{screen}");
    assert!(!home.path().join(".config").exists());
}
