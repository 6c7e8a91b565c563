//! Notes what this build is made of, for `horde version`: in release builds the commit and its date, so that a commit
//! makes no developer wait.

use std::process::Command;

fn main() {
    let is_release = variable("PROFILE") == "release";
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let commit = is_release
        .then(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .flatten();
    let date = is_release.then(|| git(&["log", "-1", "--format=%cs"])).flatten();
    set("COMMIT", &commit.unwrap_or_default());
    set("COMMIT_DATE", &date.unwrap_or_default());
    set("TARGET", &variable("TARGET"));
    let rustc = Command::new(variable("RUSTC")).arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    set("RUSTC", &rustc.unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    if is_release {
        println!("cargo:rerun-if-changed=.git/HEAD");
        println!("cargo:rerun-if-changed=.git/refs/heads");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script in no other way"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn set(name: &str, value: &str) {
    println!("cargo:rustc-env=HORDE_BUILD_{name}={value}");
}
