//! Named contexts: kept by `horde context`, taken by every command, and the main network never overlooked.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::facilitator::World;
use crate::support::Home;
use crate::terminal::Terminal;

/// Runs a command that must succeed, and returns what it printed as JSON.
fn json(home: &Home, words: &[&str]) -> Value {
    let output = home.horde(words).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", home.told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn the_life_of_a_context() {
    let home = Home::new();
    let added = json(
        &home,
        &[
            "context",
            "add",
            "dev",
            "--facilitator",
            "http://127.0.0.1:9001",
            "--key-uri",
            "//Dave",
            "--use",
        ],
    );
    assert_eq!(added["current"], true);
    assert_eq!(added["settings"]["wallet.uri"], "//Dave");
    let file = home.path().join(".config/horde/contexts.toml");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let list = json(&home, &["context", "list"]);
    assert_eq!(names(&list), ["dev", "finney", "local"]);
    // What it sets counts, and is said to.
    let shown = home.run(["config", "show"]);
    assert!(shown.contains("http://127.0.0.1:9001"), "{shown}");
    let line = shown
        .lines()
        .find(|line| line.starts_with("client.facilitator_url"))
        .unwrap();
    assert!(line.ends_with("context dev"), "{line}");
    // A change of nothing is none; one of something is shown first and then made.
    let set = [
        "context",
        "set",
        "dev",
        "client.facilitator_url=http://127.0.0.1:9002",
        "--unset",
        "wallet.uri",
    ];
    assert_eq!(
        home.run([&set[..], &["--dry-run"]].concat()),
        "exit code: 11\n--- stdout\nwould change context dev\n  \
         client.facilitator_url: http://127.0.0.1:9001 -> http://127.0.0.1:9002\n  wallet.uri: //Dave -> -\n"
    );
    let changed = json(&home, &set);
    assert_eq!(changed["facilitator_url"], "http://127.0.0.1:9002");
    assert_eq!(changed["key"], Value::Null);
    assert_eq!(
        home.run([
            "context",
            "set",
            "dev",
            "client.facilitator_url=http://127.0.0.1:9002",
            "--dry-run"
        ]),
        "exit code: 0\n--- stderr\nchange context dev: nothing would change\n"
    );
    let told = home.run(["context", "rename", "dev", "lab"]);
    assert!(
        told.contains("to take it back: horde context rename lab dev"),
        "{told}"
    );
    assert_eq!(json(&home, &["context", "show"])["name"], "lab");
    // Removal needs a yes, and tells the way back, which works.
    let refused = home.run(["context", "remove", "lab"]);
    assert!(
        refused.starts_with("exit code: 2")
            && refused.contains("hint: --yes gives it; --dry-run shows what would change"),
        "{refused}"
    );
    let plan = home
        .horde(["context", "remove", "lab", "--dry-run", "--json"])
        .output()
        .unwrap();
    assert_eq!(plan.status.code(), Some(11));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["plan"]["action"], "remove");
    assert_eq!(plan["plan"]["changes"][0]["what"], "current");
    assert_eq!(
        names(&json(&home, &["context", "list"])),
        ["lab", "finney", "local"]
    );
    let told = home.run(["context", "remove", "lab", "--yes"]);
    let back = told
        .lines()
        .find_map(|line| line.strip_prefix("to take it back: horde "))
        .unwrap();
    assert_eq!(
        home.run(["context", "show"]).lines().next().unwrap(),
        "exit code: 3"
    );
    let again = home.run(back.split(' '));
    assert!(again.starts_with("exit code: 0"), "{again}");
    assert_eq!(
        json(&home, &["context", "show"])["facilitator_url"],
        "http://127.0.0.1:9002"
    );
}

#[test]
fn the_main_network_is_marked_in_words_wherever_it_is_named() {
    let home = Home::new();
    let told = home.run(["context", "list"]);
    assert!(
        told.contains("finney  finney MAINNET  https://facilitator.computehorde.io"),
        "{told}"
    );
    let told = home.run(["context", "use", "finney"]);
    assert!(
        told.contains("the MAINNET, where jobs, money and blame are real"),
        "{told}"
    );
    assert_eq!(json(&home, &["context", "show"])["mainnet"], true);
    let shown = home.run(["context", "show"]);
    assert!(
        shown.contains("network     finney MAINNET\nin force    yes"),
        "{shown}"
    );
    let frame = home.run(["dashboard", "--once"]);
    assert!(frame.contains("horde [finney]  MAINNET "), "{frame}");
    // Nobody there has a well-known key, and no role of this version serves there.
    let refused = home.run(["job", "list", "--key-uri", "//Alice"]);
    assert!(
        refused.starts_with("exit code: 2") && refused.contains("a development key is everybody's key"),
        "{refused}"
    );
    let refused = home.run(["validator", "run"]);
    assert!(
        refused.starts_with("exit code: 9")
            && refused.contains("context finney: chain.network: roles run on the local chain"),
        "{refused}"
    );
    assert_eq!(
        home.run(["config", "check"]),
        "exit code: 0\n--- stdout\nthe configuration is sound\n"
    );
    let told = home.run(["context", "use", "--none"]);
    assert!(
        told.contains("to take it back: horde context use finney"),
        "{told}"
    );
}

#[test]
fn a_flag_counts_before_the_variable_and_that_before_what_is_in_use() {
    let home = Home::new();
    for (name, netuid) in [("one", "1"), ("two", "2"), ("three", "3")] {
        let told = home.run(["context", "add", name, "--set", &format!("chain.netuid={netuid}")]);
        assert!(told.starts_with("exit code: 0"), "{told}");
    }
    let told = home.run(["context", "use", "one"]);
    assert!(told.starts_with("exit code: 0"), "{told}");
    let netuid = |variables: &[(&str, &str)], words: &[&str]| {
        let output = home
            .horde(["config", "show", "--json"])
            .args(words)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = &shown["chain.netuid"];
        format!("{} {}", row["value"], row["origin"].as_str().unwrap())
    };
    let variable = ("HORDE_CONTEXT", "two");
    home.write("d/horde.toml", "[chain]\nnetuid = 9\n");
    let dir = home.path().join("d");
    let dir = dir.to_str().unwrap();
    let file = format!("9 file {dir}/horde.toml");
    for (variables, words, told) in [
        (&[][..], &[][..], "1 context one"),
        (&[variable], &[], "2 context two"),
        (&[variable], &["--context", "three"], "3 context three"),
        (
            &[variable, ("HORDE_CHAIN_NETUID", "8")],
            &["--context", "three"],
            "8 environment HORDE_CHAIN_NETUID",
        ),
        // Who says where to work is not sent elsewhere, unless by saying so as well.
        (&[], &["--dir", dir], &file),
        (&[], &["--dir", dir, "--context", "three"], "3 context three"),
    ] {
        assert_eq!(netuid(variables, words), told, "{variables:?} {words:?}");
    }
}

#[test]
fn what_cannot_be_a_context_is_refused_with_what_helps() {
    let home = Home::new();
    home.write(".config/horde/contexts.toml", "[context.dev]\n");
    for (words, code, helps) in [
        (&["context", "use", "finey"][..], 3, "did you mean finney?"),
        (
            &["context", "set", "finney", "chain.netuid=1"],
            5,
            "makes one of your own",
        ),
        (
            &["context", "add", "dev"],
            5,
            "`horde context set dev` changes it",
        ),
        (&["context", "add", "a/b"], 2, "1 to 40 letters, digits, - and _"),
        (
            &["context", "set", "dev", "chain.netud=1"],
            2,
            "did you mean chain.netuid?",
        ),
        (
            &["context", "set", "dev", "wallet.uri=some secret words"],
            2,
            "secrets are read from files",
        ),
        (
            &[
                "context",
                "set",
                "dev",
                "a.b=1",
                "chain.netuid=x",
                "executor.token=t",
            ],
            2,
            "3 of the settings are wrong",
        ),
        (&["context", "set", "dev"], 2, "<KEY=VALUE>"),
        (&["context", "use"], 2, "<NAME>"),
        (&["job", "list", "--context", "finey"], 2, "did you mean finney?"),
    ] {
        let told = home.run(words);
        assert!(
            told.starts_with(&format!("exit code: {code}\n")),
            "{words:?}: {told}"
        );
        assert!(told.contains(helps), "{words:?}: {told}");
    }
}

#[tokio::test]
async fn a_context_made_from_a_directory_of_horde_up_brings_its_facilitator_and_a_key() {
    let (world, home) = (World::start().await, Home::new());
    // As `horde up --dir net` writes them.
    home.write(
        "net/facilitator/horde.toml",
        &format!("[facilitator]\nlisten = '{}'\n", world.address),
    );
    home.write("net/validator/horde.toml", "[wallet]\nuri = '//Alice'\n");
    let told = tokio::task::spawn_blocking(move || {
        let added = home.run(["context", "add", "dev", "--dir", "net"]);
        let shown = home.run(["context", "show", "dev"]);
        let listed = home.run(["job", "list", "--context", "dev"]);
        (added, shown, listed)
    });
    let (added, shown, listed) = told.await.unwrap();
    assert!(
        added.contains("to work on it: horde context use dev, or --context dev for one command"),
        "{added}"
    );
    let url = format!(
        "client.facilitator_url = http://{}\nwallet.uri = //Charlie",
        world.address
    );
    assert!(
        shown.contains("directory   $HOME/net\n") && shown.contains(&url),
        "{shown}"
    );
    assert!(listed.starts_with("exit code: 0"), "{listed}");
}

#[tokio::test]
async fn a_person_is_asked_before_a_context_goes_and_no_is_the_answer_in_doubt() {
    let home = Home::new();
    home.write(".config/horde/contexts.toml", "[context.dev.chain]\nnetuid = 7\n");
    for (keys, code, left) in [("\r", 1, true), ("n", 1, true), ("y", 0, false)] {
        let mut terminal = Terminal::start(&home.horde(["context", "remove", "dev"]), Some("xterm"));
        terminal.shows("remove context dev? [y/N]").await;
        terminal.press(keys);
        let (ended, screen) = terminal.end().await;
        assert_eq!(ended, code, "{screen}");
        assert!(screen.starts_with("what it sets is forgotten"), "{screen}");
        let is_left = names(&json(&home, &["context", "list"])).contains(&"dev");
        assert_eq!(is_left, left, "{keys:?}: {screen}");
    }
}
