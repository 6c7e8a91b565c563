//! `horde dashboard` as an operator has it: in a terminal (tmux), beside a running network, and given back as it was.
//!
//! These tests need tmux, which `sh scripts/test.sh` installs; the one of a running network needs Docker besides.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Home, SAMPLE_IMAGE, docker_is_there};
use crate::up::Network;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells whether tmux is here; where it must be, its absence fails the test.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
#[expect(
    clippy::disallowed_methods,
    reason = "tests are configured by their environment alone"
)]
fn tmux_is_there() -> bool {
    if Command::new("tmux")
        .arg("-V")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return true;
    }
    let must = ["HORDE_TEST_DOCKER", "CI"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    assert!(!must, "no tmux: `sh scripts/test.sh` installs it");
    eprintln!("SKIPPED: no tmux; `sh scripts/test.sh` installs it");
    false
}

/// A shell on a terminal of tmux, ended when the test ends.
struct Tmux<'h> {
    home: &'h Home,
    socket: PathBuf,
}

impl<'h> Tmux<'h> {
    fn start(home: &'h Home, width: u16, height: u16) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tmux = Self {
            home,
            socket: home.path().join(format!("tmux-{number}")),
        };
        let (width, height) = (width.to_string(), height.to_string());
        let shell =
            "exec env -i PATH=\"$PATH\" HOME=\"$HOME\" TERM=\"$TERM\" LANG=C.UTF-8 PS1='ready> ' sh -i";
        tmux.run(&["new-session", "-d", "-x", &width, "-y", &height, shell]);
        tmux.run(&["set-option", "-g", "remain-on-exit", "on"]);
        tmux.wait_for("ready>");
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"])
            .args(args)
            .env("HOME", self.home.path())
            .env_remove("TMUX")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {args:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types a line into the shell.
    fn shell(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.run(&["send-keys", "Enter"]);
    }

    /// Presses keys, by tmux's names.
    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn type_text(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as it should be, and returns it.
    fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        wait(|| {
            last = self.screen();
            is_so(&last).then_some(())
        })
        .unwrap_or_else(|| panic!("waited too long for {what}; the screen was:\n{last}"));
        last
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Returns what of the terminal differs from that of a shell: its second screen, no cursor, the mouse, no wrapping.
    fn modes(&self) -> String {
        let modes = "#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{wrap_flag}";
        self.run(&["display-message", "-p", modes]).trim().to_owned()
    }

    fn is_given_back(&self) {
        self.wait_until("a terminal as it was", |_| self.modes() == "0 1 0 1");
        // Echo and lines: the shell shows what is typed, and the driver of the terminal says the same.
        self.shell("stty -a | grep -o -w -E -- '-?(icanon|echo|isig|opost)' | tr '\\n' ' '; echo done");
        let screen = self.wait_for("done\n");
        assert!(
            ["isig", "icanon", "echo", "opost"]
                .iter()
                .all(|mode| screen.contains(mode) && !screen.contains(&format!("-{mode}"))),
            "{screen}"
        );
    }

    /// Starts the dashboard in the shell; `after` tells its exit code once it has ended.
    fn dashboard(&self, environment: &str, args: &str) {
        let horde = env!("CARGO_BIN_EXE_horde");
        // What the one before has left on the screen must not be taken for the end of this one.
        self.shell("clear");
        self.wait_until("a clear screen", |screen| !screen.contains("code="));
        self.shell(&format!(
            "clear; echo before; {environment} {horde} dashboard {args}; echo code=$?"
        ));
    }

    /// Returns the process id of the dashboard.
    fn pid(&self) -> String {
        let shell = self.run(&["display-message", "-p", "#{pane_pid}"]);
        let children = Path::new("/proc")
            .join(shell.trim())
            .join("task")
            .join(shell.trim())
            .join("children");
        let children = std::fs::read_to_string(children).unwrap();
        children.split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let ended = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
        drop(ended);
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test that watches other processes has nothing else to wait on"
)]
fn wait<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: &str, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_running_job_is_found_opened_filtered_and_left_beside_a_running_network() {
    if !docker_is_there() || !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let network = Network::start(&home);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (url, key) = (
        text(&network.told["facilitator"]["url"]),
        text(&network.told["user"]["uri"]),
    );
    let job = |args: &[&str]| {
        let mut command =
            home.horde([&["job", "submit", "--facilitator", &url, "--key-uri", &key], args].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let done = job(&["--class", "always_on.test", SAMPLE_IMAGE, "--", "true"])
        .status()
        .unwrap();
    assert!(done.success());
    let long = [
        "--class",
        "always_on.test",
        "--execution-limit",
        "120",
        SAMPLE_IMAGE,
        "--",
        "sleep",
        "100",
    ];
    let _running = Running(job(&long).spawn().unwrap());

    let tmux = Tmux::start(&home, 120, 32);
    tmux.dashboard("", &format!("--dir {}", text(&network.told["directory"])));
    let screen = tmux.wait_for("overview");
    assert!(tmux.modes().starts_with("1 0 1"), "{}", tmux.modes());
    assert!(
        screen.contains("facilitator") && screen.contains("miner-1"),
        "{screen}"
    );
    tmux.type_text(":jobs");
    tmux.press(&["Enter"]);
    // Both jobs: one that runs, one that has ended. The selection stays with whichever was seen first.
    tmux.wait_until("both jobs", |screen| {
        screen.contains("completed") && screen.contains("/2 ─")
    });
    tmux.type_text("/!state:completed");
    tmux.press(&["Enter"]);
    let screen = tmux.wait_until("only the running job", |screen| screen.contains("1/1 of 2"));
    assert!(screen.contains("/!state:completed"), "{screen}");
    tmux.press(&["Enter"]);
    tmux.wait_for("jobs › job");
    tmux.wait_until("a live page of the job", |screen| {
        screen.contains("live") && screen.contains(SAMPLE_IMAGE)
    });
    tmux.run(&["resize-window", "-x", "70", "-y", "20"]);
    tmux.wait_until("a smaller screen", |screen| {
        screen
            .lines()
            .any(|line| line.starts_with('╭') && line.trim_end().chars().count() == 70)
    });
    tmux.run(&["resize-window", "-x", "40", "-y", "10"]);
    tmux.wait_for("too small");
    tmux.run(&["resize-window", "-x", "100", "-y", "30"]);
    tmux.wait_for("jobs › job");
    tmux.press(&["Escape"]);
    tmux.wait_until("the list of jobs", |screen| screen.contains("1/1 of 2"));
    tmux.press(&["Escape"]);
    tmux.wait_until("both jobs again", |screen| screen.contains("/2 ─"));
    tmux.press(&["q"]);
    let screen = tmux.wait_for("code=0");
    assert!(screen.contains("before") && !screen.contains('╭'), "{screen}");
    tmux.is_given_back();
}

#[test]
fn a_terminal_is_given_back_after_quit_a_signal_and_the_end_of_a_stop() {
    if !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let tmux = Tmux::start(&home, 100, 24);
    for keys in [&["q"], &["C-c"]] {
        tmux.dashboard("", "--demo");
        tmux.wait_for("recorded data");
        tmux.press(keys);
        tmux.wait_for("code=0");
        tmux.is_given_back();
    }
    for (name, code) in [("TERM", "code=143"), ("HUP", "code=129"), ("INT", "code=130")] {
        tmux.dashboard("", "--demo");
        tmux.wait_for("recorded data");
        signal(&tmux.pid(), name);
        tmux.wait_for(code);
        tmux.is_given_back();
    }
    tmux.dashboard("", "--demo");
    tmux.wait_for("recorded data");
    // ctrl-z, the key; then the signal, from elsewhere.
    let pid = tmux.pid();
    tmux.press(&["C-z"]);
    for _ in 0..2 {
        tmux.wait_until("the shell", |_| tmux.modes() == "0 1 0 1");
        tmux.shell("fg");
        tmux.wait_until("the dashboard again", |screen| {
            screen.contains("recorded data") && tmux.modes().starts_with("1 0 1")
        });
        signal(&pid, "TSTP");
    }
    tmux.wait_until("the shell", |_| tmux.modes() == "0 1 0 1");
    tmux.is_given_back();
}

#[test]
fn a_terminal_is_given_back_after_a_panic_of_any_thread() {
    if !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let tmux = Tmux::start(&home, 100, 24);
    for place in ["loop", "thread"] {
        tmux.dashboard(&format!("HORDE_TEST_PANIC={place}"), "--demo");
        let screen = tmux.wait_for("code=70");
        assert!(
            screen.contains("a test wanted this panic") && screen.contains("this is a bug of horde"),
            "{screen}"
        );
        tmux.is_given_back();
    }
}

#[test]
fn a_terminal_that_is_gone_ends_the_dashboard() {
    if !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let tmux = Tmux::start(&home, 100, 24);
    tmux.dashboard("", "--demo");
    tmux.wait_for("recorded data");
    let pid = tmux.pid();
    tmux.run(&["kill-server"]);
    let gone = wait(|| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, state) = stat.rsplit_once(')')?;
        state.trim_start().starts_with('Z').then_some(())
    });
    assert!(gone.is_some() || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn hostile_names_of_directories_reach_no_terminal() {
    if !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let name = "\x1b]0;owned\x07\u{202e}dir";
    let dir = home.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let mut command = home.horde(["dashboard", "--once", "--dir"]);
    let output = command.arg(&dir).output().unwrap();
    let screen = String::from_utf8(output.stdout).unwrap();
    assert!(screen.contains("dir"), "{screen}");
    assert!(
        screen
            .chars()
            .all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')),
        "{screen:?}"
    );
}

#[test]
fn an_idle_dashboard_takes_less_than_a_hundredth_of_a_core() {
    if !tmux_is_there() {
        return;
    }
    let home = Home::new();
    let tmux = Tmux::start(&home, 120, 40);
    tmux.dashboard("", &format!("--dir {}", home.path().display()));
    tmux.wait_for("live");
    let pid = tmux.pid();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let clock = |screen: &str| {
        screen
            .split_whitespace()
            .find(|word| word.matches(':').count() == 2)
            .map(str::to_owned)
    };
    // Ten changes of its own clock are ten seconds, however slow the machine is.
    let mut last = clock(&tmux.screen());
    for _ in 0..10 {
        let next = wait(|| {
            let now = clock(&tmux.screen());
            (now != last).then_some(now)
        });
        last = next.unwrap();
    }
    // Hundredths of a second. A debug build takes several times as long as a release build, for which 10 is the limit.
    let used = ticks() - before;
    assert!(used <= 100, "{used} hundredths of a second in ten seconds");
}

#[test]
fn what_a_view_shows_is_printed_without_a_terminal() {
    let home = Home::new();
    let told = home.run(["dashboard", "--demo", "--once", "--size", "80x20"]);
    assert!(
        told.starts_with("exit code: 0\n--- stdout\nhorde [demo]"),
        "{told}"
    );
    let output = home.horde(["dashboard", "--demo", "--json"]).output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["view"], "overview");
    assert!(page["facts"].is_object() && page["rows"].is_array());
    assert!(output.stderr.is_empty());
    let picture = home.path().join("frame.svg");
    let text = home.path().join("frame.txt");
    let told = home.run([
        "dashboard",
        "--demo",
        "--svg",
        picture.to_str().unwrap(),
        "--snapshot",
        text.to_str().unwrap(),
    ]);
    assert_eq!(told, "exit code: 0\n");
    assert!(std::fs::read_to_string(picture).unwrap().starts_with("<svg "));
    assert!(std::fs::read_to_string(text).unwrap().starts_with("horde [demo]"));
}

#[test]
fn what_cannot_be_shown_is_told_with_what_can() {
    let home = Home::new();
    let told = home.run(["dashboard"]);
    assert!(
        told.starts_with("exit code: 2\n") && told.contains("needs a terminal") && told.contains("--once"),
        "{told}"
    );
    for (args, word) in [
        (["--view", "nothing"], "there are overview"),
        (["--theme", "pink"], "high-contrast"),
        (["--at", "soon"], "12:30"),
        (["--size", "1"], "120x40"),
    ] {
        let told = home.run([["dashboard", "--demo", "--once"].as_slice(), &args].concat());
        assert!(
            told.starts_with("exit code: 2\n") && told.contains(word),
            "{told}"
        );
    }
}

#[test]
fn a_wrong_key_map_is_told_on_the_screen_and_a_right_one_counts() {
    let home = Home::new();
    home.write(".config/horde/keys.toml", "quit = \"x\"\nhelp = \"x\"\n");
    let told = home.run(["dashboard", "--demo", "--once", "--size", "200x20"]);
    assert!(
        told.contains("the key x is taken twice: by help and by quit"),
        "{told}"
    );
    home.write(".config/horde/keys.toml", "quit = \"x\"\n");
    let told = home.run(["dashboard", "--demo", "--once", "--size", "200x20"]);
    assert!(told.contains("x quit") && !told.contains("taken twice"), "{told}");
}

#[test]
fn plain_lines_end_quietly_when_nobody_reads_on() {
    let home = Home::new();
    let mut child = home
        .horde(["dashboard", "--demo", "--plain"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(
        line,
        "alert: miner-1 fails checks: disk (view checks) (warning)\n"
    );
    drop(Running(child));
}
