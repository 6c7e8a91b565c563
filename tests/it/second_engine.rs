//! A second Docker engine on this machine, as if it were another: a network, folders and a `/run` of its own.
//!
//! It is a real `dockerd` in a network namespace that is joined to this one by a pair of virtual interfaces, and in a
//! mount namespace with a `/run` of its own, in which its socket lies at the usual place. Containers of it reach this
//! machine at [`SecondEngine::host_address`] by plain routes, without address translation. It needs root.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::docker_is_there;

/// How long an engine may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Where control groups lie.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// How an engine is started in the new namespaces: with a `/run` of its own, in which the engine's own socket is
/// where programs look for it. Its own containerd, too: the one of the machine is not seen.
const SCRIPT: &str = r#"mount --bind "$1" /run && shift && exec dockerd "$@""#;

/// Tells whether a second engine can run here: with an engine there already, and as root.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
pub(crate) fn second_engine_can_run() -> bool {
    if !docker_is_there() {
        return false;
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root can start a second Docker engine");
    }
    is_root
}

/// An engine, which ends with this.
pub(crate) struct SecondEngine {
    folder: TempDir,
    /// Names the network namespace, the interface and the control group of this engine.
    name: String,
    /// The first address of the 64 that belong to this engine.
    block: u32,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl SecondEngine {
    /// Starts an engine that knows no image, and waits until it answers; `arguments` are more ones for `dockerd`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let random = Uuid::new_v4().as_u128();
        // The range for benchmarks between networks (RFC 2544): no other network of this machine is in it.
        let blocks = 1_u128 << (17 - 6);
        let block = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + u32::try_from(random % blocks).unwrap() * 64;
        let mut engine = Self {
            // Paths of sockets are short.
            folder: tempfile::Builder::new()
                .prefix("hse-")
                .tempdir_in("/tmp")
                .unwrap(),
            name: format!("hse{:08x}", block ^ std::process::id().rotate_left(16)),
            block,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process: None,
        };
        engine.make_network();
        engine.restart();
        engine
    }

    fn make_network(&self) {
        let name = self.name.as_str();
        let (host, own) = (self.host_address(), self.address());
        let containers = Ipv4Addr::from(self.block + 32);
        for line in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name host netns {name}"),
            format!("address add {host}/30 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} address add {own}/30 dev host"),
            format!("-n {name} link set host up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {host}"),
            format!("route add {containers}/27 via {own}"),
        ] {
            done(Command::new("ip").args(line.split(' ')));
        }
    }

    /// Starts the engine again, with what it knew, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "the engine runs");
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        drop(fs::create_dir(at("run")));
        // What an engine that was killed left would be taken for a live one.
        drop(fs::remove_file(at("pid")));
        let log = fs::File::create(at("log")).unwrap();
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                SCRIPT,
                "dockerd",
                &at("run"),
            ])
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
            ])
            .args(["--host", &self.host(), "--host", "unix:///var/run/docker.sock"])
            .args(["--bip", &format!("{}/27", Ipv4Addr::from(self.block + 33))])
            // Routes lead to its containers, and not every machine has what translation needs.
            .args(["--iptables=false", "--userland-proxy=false"])
            // All that runs in it is found there, whatever happens to it.
            .args([
                "--cgroup-parent",
                &format!("/{}", self.name),
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ])
            .args(&self.arguments)
            // Images of swarm services come from here, not from a registry.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let started = Instant::now();
        while !answers(&mut self.docker(&["version"])) {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "no engine ({ended:?}): {}",
                self.log()
            );
            pause();
        }
    }

    /// Returns the end of what the engine wrote.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Returns the engine's address, `unix://…`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Returns the address of the engine's machine, so to speak.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.block + 2)
    }

    /// Returns the address at which the engine and its containers find this machine; it is there for this engine
    /// only, but programs that listen everywhere are found at it by all.
    pub(crate) fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.block + 1)
    }

    /// Returns a command of the client to this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["--host", &self.host()])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Brings an image over that this machine's engine has.
    pub(crate) fn image(&self, name: &str) {
        let mut save = Command::new("docker")
            .args(["save", name])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let saved = save.stdout.take().unwrap();
        done(self.docker(&["load", "--quiet"]).stdin(saved));
        assert!(save.wait().unwrap().success(), "docker save {name}");
    }

    /// Stops the engine in good order: it ends its containers first.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            end(&mut process, Signal::TERM);
        }
    }

    /// Ends the engine and all that runs on it at once, as a loss of power does.
    pub(crate) fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            end(&mut process, Signal::KILL);
        }
        self.kill_all();
        // What lies in memory on other machines.
        for name in ["exec", "run"] {
            drop(fs::remove_dir_all(self.folder.path().join(name)));
        }
    }

    /// Makes the engine deaf and dumb, while its containers run on; `false` ends that.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        let process = self.process.as_ref().unwrap();
        send(pid(process), signal);
    }

    /// Kills what is left of the engine and its containers, and waits until it is gone.
    fn kill_all(&self) {
        let started = Instant::now();
        loop {
            // The shims first: no one else notes how a container ended.
            let left = [self.programs(), self.processes()].concat();
            if left.is_empty() || started.elapsed() > PATIENCE {
                return;
            }
            for pid in left {
                send(pid, Signal::KILL);
            }
            pause();
        }
    }

    /// Returns what runs in its network: the engine, its containerd and the shims, not what is in containers.
    fn programs(&self) -> Vec<Pid> {
        let listed = Command::new("ip").args(["netns", "pids", &self.name]).output();
        let text = listed.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .collect()
    }

    /// Returns the processes of its containers.
    fn processes(&self) -> Vec<Pid> {
        let files = self.control_groups();
        let texts = files
            .iter()
            .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        let mut found: Vec<_> = texts
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<i32>>()
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// Returns the folders of its control groups, inner ones first.
    fn control_groups(&self) -> Vec<PathBuf> {
        let top = Path::new(CONTROL_GROUPS);
        let controllers = fs::read_dir(top)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        let mut found = Vec::new();
        for controller in controllers.chain([top.to_owned()]) {
            // Several names of controllers lead to the same one.
            if !controller.is_symlink() {
                descend(&controller.join(&self.name), &mut found);
            }
        }
        found
    }

    fn clear(&self) {
        self.kill_all();
        for folder in self.control_groups() {
            drop(fs::remove_dir(folder));
        }
        // The kernel takes its time to remove the interface when its namespace goes, so it goes first, and routes with it.
        for line in [["link", "delete"], ["netns", "delete"]] {
            drop(Command::new("ip").args(line).arg(&self.name).output());
        }
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            send(pid(process), Signal::CONT);
        }
        self.stop();
        self.clear();
    }
}

fn descend(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
        }
    }
    found.push(folder.to_owned());
}

fn end(process: &mut Child, signal: Signal) {
    send(pid(process), signal);
    let started = Instant::now();
    while process
        .try_wait()
        .is_ok_and(|ended: Option<ExitStatus>| ended.is_none())
    {
        if started.elapsed() > PATIENCE {
            drop(process.kill());
        }
        pause();
    }
}

fn send(pid: Pid, signal: Signal) {
    let sent = kill_process(pid, signal);
    assert!(matches!(sent, Ok(()) | Err(Errno::SRCH)), "{sent:?}");
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap()
}

fn answers(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "this waits for programs, on no runtime's thread"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SAMPLE_IMAGE;

    #[test]
    fn a_second_engine_runs_containers_of_its_own_that_reach_this_machine_and_leaves_nothing() {
        if !second_engine_can_run() {
            return;
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let mut engine = SecondEngine::start(&[]);
        engine.image(SAMPLE_IMAGE);
        let (host, port) = (
            engine.host_address().to_string(),
            listener.local_addr().unwrap().port().to_string(),
        );
        done(&mut engine.docker(&[
            "run",
            "--rm",
            SAMPLE_IMAGE,
            "nc",
            "-w",
            "10",
            &host,
            &port,
            "-e",
            "true",
        ]));
        done(&mut engine.docker(&["run", "--detach", "--name", "stays", SAMPLE_IMAGE, "sleep", "600"]));
        let elsewhere = Command::new("docker")
            .args(["inspect", "stays"])
            .output()
            .unwrap();
        assert!(!elsewhere.status.success(), "it is not on this machine's engine");
        engine.freeze(true);
        assert!(!engine.processes().is_empty(), "containers run on");
        engine.freeze(false);
        engine.crash();
        assert_eq!(engine.processes(), []);
        engine.restart();
        done(&mut engine.docker(&["rm", "stays"]));
        let (folder, name) = (engine.folder.path().to_owned(), engine.name.clone());
        drop(engine);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            !folder.exists() && !mounts.contains(folder.to_str().unwrap()),
            "{mounts}"
        );
        assert!(!Path::new("/run/netns").join(&name).exists());
        assert!(!Path::new("/sys/class/net").join(&name).exists());
        let left = descend_for(&name);
        assert_eq!(left, [""; 0], "control groups stay");
    }

    fn descend_for(name: &str) -> Vec<String> {
        let controllers = fs::read_dir(CONTROL_GROUPS).unwrap().flatten();
        let folders = controllers
            .map(|entry| entry.path().join(name))
            .filter(|path| path.exists());
        folders.map(|path| path.display().to_string()).collect()
    }
}
