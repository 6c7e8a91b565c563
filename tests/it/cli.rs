//! The command line as people and scripts meet it: the real binary, help, errors, exit codes, streams.

use std::fmt::Write as _;

use clap::CommandFactory;
use horde::cmd::Cli;

use crate::support::Home;

/// Returns the words of every visible command of the tree, parents first.
fn commands(command: &clap::Command, words: &[String]) -> Vec<Vec<String>> {
    let children = command.get_subcommands().filter(|child| !child.is_hide_set());
    let below = children.flat_map(|child| {
        let mut words = words.to_vec();
        words.push(child.get_name().to_owned());
        commands(child, &words)
    });
    std::iter::once(words.to_vec()).chain(below).collect()
}

#[test]
fn the_help_of_the_whole_tree() {
    let home = Home::new();
    let mut text = String::new();
    for mut words in commands(&Cli::command(), &[]) {
        writeln!(
            text,
            "$ {}",
            [&["horde".to_owned()], words.as_slice()].concat().join(" ")
        )
        .unwrap();
        words.push("--help".to_owned());
        writeln!(text, "{}", home.run(words)).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn data_is_on_stdout_and_json_is_one_object() {
    let home = Home::new();
    let output = home
        .horde(["config", "show", "miner", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["miner.listen"]["value"], "0.0.0.0:8000");
    assert_eq!(shown["miner.listen"]["origin"], "default");
    assert!(shown.get("validator.facilitator_url").is_none());
}

#[test]
fn values_and_origins_of_all_layers_are_shown() {
    let home = Home::new();
    home.write(
        "d/horde.toml",
        "[wallet]\nname = 'from-file'\n[executor]\ntoken = 'top-secret'\n",
    );
    let output = home
        .horde(["config", "show", "executor", "--dir", "d", "--log-level", "debug"])
        .env("EXECUTOR_TOKEN", "also-secret")
        .env("HORDE_CHAIN_NETUID", "7")
        // Paths of the test's own would make the columns as wide as they happen to be.
        .env("HORDE_WALLET_PATH", "/wallets")
        .env("HORDE_CHAIN_PATH", "/chain")
        .output()
        .unwrap();
    insta::assert_snapshot!(home.told(&output));
}

#[test]
fn a_file_called_env_is_not_read() {
    let home = Home::new();
    let line = "HORDE_WALLET_NAME=from-a-file\n";
    home.write(".env", line);
    home.write("d/.env", line);
    let words = ["config", "show", "miner", "--dir", "d"];
    assert!(!home.run(words).contains("from-a-file"));
    let output = home.horde(words).env("HORDE_WALLET_NAME", "from-a-file").output();
    assert!(home.told(&output.unwrap()).contains("from-a-file"));
}

#[test]
fn everything_wrong_is_told_at_once_with_suggestions() {
    let home = Home::new();
    let file = home.write("wrong.toml", "[miner]\nlistn = '1.2.3.4:5'\nbackend = 'podman'\n");
    let output = home
        .horde(["config", "check", "--config"])
        .arg(file)
        .env("HORDE_MINER_EXECUTOR", "always_on.test=1")
        .output()
        .unwrap();
    insta::assert_snapshot!(home.told(&output));
}

#[test]
fn an_unknown_word_or_flag_is_a_usage_error_with_a_suggestion() {
    let home = Home::new();
    insta::assert_snapshot!(format!(
        "{}\n{}",
        home.run(["minr", "run"]),
        home.run(["config", "show", "--jsn"])
    ));
}

#[test]
fn a_loud_log_level_is_refused_before_anything_starts() {
    insta::assert_snapshot!(Home::new().run(["miner", "run", "--log-level", "loud"]));
}

#[test]
fn a_role_without_any_place_for_its_data_says_how_to_give_one() {
    let home = Home::new();
    let output = home.horde(["miner", "run"]).env_remove("HOME").output().unwrap();
    insta::assert_snapshot!(home.told(&output));
}

#[test]
fn an_executor_without_a_miner_says_what_to_set() {
    insta::assert_snapshot!(Home::new().run(["executor", "run"]));
}

/// The reader of a pipe may go as soon as it has seen enough: that is success, and nothing is said about it.
#[test]
fn a_closed_pipe_is_success_and_silent() {
    let home = Home::new();
    for words in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home.horde(words).stdout(writer).output().unwrap();
        assert_eq!(home.told(&output), "exit code: 0\n", "{words:?}");
    }
}

#[test]
fn the_path_of_the_configuration_file_follows_dir_and_xdg() {
    let home = Home::new();
    assert_eq!(
        home.run(["config", "path"]),
        "exit code: 0\n--- stdout\n$HOME/.config/horde/horde.toml\n"
    );
    assert_eq!(
        home.run(["config", "path", "--dir", "/d"]),
        "exit code: 0\n--- stdout\n/d/horde.toml\n"
    );
}
