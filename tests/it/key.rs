//! `horde key`, run as people run it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::Value;

use crate::support::Home;

/// Runs a command and returns its exit code with the JSON that it printed.
fn json(home: &Home, args: &[&str]) -> (Option<i32>, Value) {
    let output = home.horde(args).output().unwrap();
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
    )
}

#[test]
fn a_new_key_shows_signs_and_verifies() {
    let home = Home::new();
    let (code, made) = json(&home, &["key", "new", "--hotkey", "fresh", "--json"]);
    assert_eq!(code, Some(0));
    let path = home.path().join(".bittensor/wallets/default/hotkeys/fresh");
    assert_eq!(made["path"], path.to_str().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let (code, shown) = json(&home, &["key", "show", "--hotkey", "fresh", "--json"]);
    assert_eq!((code, &shown["hotkey"]), (Some(0), &made["hotkey"]));

    let (code, signed) = json(&home, &["key", "sign", "--hotkey", "fresh", "--json", "hello"]);
    assert_eq!((code, &signed["hotkey"]), (Some(0), &made["hotkey"]));
    let address = made["hotkey"].as_str().unwrap();
    let signature = signed["signature"].as_str().unwrap();
    let verify = |message: &str| {
        json(
            &home,
            &[
                "key",
                "verify",
                "--hotkey",
                address,
                "--signature",
                signature,
                "--json",
                message,
            ],
        )
    };
    let (code, outcome) = verify("hello");
    assert_eq!((code, &outcome["valid"]), (Some(0), &Value::Bool(true)));
    // The same bytes, spelled in hex.
    assert_eq!(verify("0x68656c6c6f").0, Some(0));
    let (code, outcome) = verify("hellp");
    assert_eq!((code, &outcome["valid"]), (Some(10), &Value::Bool(false)));
}

#[test]
fn a_key_is_never_overwritten() {
    let home = Home::new();
    assert!(home.run(["key", "new"]).starts_with("exit code: 0\n"));
    let path = home.path().join(".bittensor/wallets/default/hotkeys/default");
    let before = fs::read(&path).unwrap();
    let told = home.run(["key", "new"]);
    assert!(told.starts_with("exit code: 4\n"), "{told}");
    assert!(told.contains("never overwritten"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_keeps_a_key_from_signing_is_told_with_the_remedy() {
    let home = Home::new();
    let told = home.run(["key", "sign", "hello"]);
    assert!(told.starts_with("exit code: 3\n"), "{told}");
    assert!(told.contains("hint: make one with `horde key new`"), "{told}");

    assert!(home.run(["key", "new"]).starts_with("exit code: 0\n"));
    let path = home.path().join(".bittensor/wallets/default/hotkeys/default");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let told = home.run(["key", "sign", "hello"]);
    assert!(told.starts_with("exit code: 4\n"), "{told}");
    assert!(
        told.contains("hint: run `chmod 600 $HOME/.bittensor/wallets/default/hotkeys/default`"),
        "{told}"
    );

    let told = home.run(["key", "sign", "--hotkey", "defaultpub.txt", "hello"]);
    assert!(told.starts_with("exit code: 4\n"), "{told}");
    assert!(
        told.contains("public key only") && told.contains("hint: name the private file instead"),
        "{told}"
    );
}

#[test]
fn development_keys_need_no_file_and_standard_input_is_signed_as_it_is() {
    let home = Home::new();
    let told = home.run(["key", "show", "--uri", "//Alice"]);
    assert_eq!(
        told,
        "exit code: 0\n--- stdout\n\
         address     5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY\n\
         public key  0xd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d\n"
    );
    let mut child = home
        .horde(["key", "sign", "--uri", "//Alice"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"0x, as it is\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let signature = String::from_utf8(output.stdout).unwrap();
    let mut verify = home
        .horde([
            "key",
            "verify",
            "--hotkey",
            "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
            "--signature",
            signature.trim_end(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    verify.stdin.take().unwrap().write_all(b"0x, as it is\n").unwrap();
    assert!(verify.wait().unwrap().success());
}

#[test]
fn words_that_are_no_key_signature_or_message_are_usage_errors() {
    let home = Home::new();
    let alice = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    let zeros = format!("0x{}", "0".repeat(128));
    for args in [
        ["key", "verify", "--hotkey", alice, "--signature", "0x12", "hello"],
        [
            "key",
            "verify",
            "--hotkey",
            "nobody",
            "--signature",
            &zeros,
            "hello",
        ],
        [
            "key",
            "verify",
            "--hotkey",
            alice,
            "--signature",
            &zeros,
            "0xhello",
        ],
    ] {
        let told = home.run(args);
        assert!(told.starts_with("exit code: 2\n"), "{told}");
    }
    let told = home.run(["key", "sign", "--uri", "//Alice", "--hotkey", "x", "hello"]);
    assert!(told.starts_with("exit code: 2\n"), "{told}");
}
