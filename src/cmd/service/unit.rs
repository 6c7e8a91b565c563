//! The unit file of a role for systemd: text, and nothing else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use crate::core::config::Scope;

/// The directory below which systemd keeps what services own.
pub(super) const STATE: &str = "/var/lib/horde";

/// How long systemd waits for a sign of life.
const WATCHDOG: Duration = Duration::from_secs(60);

/// How long a role may take until it serves: a miner first goes on with what its former life left.
const START: Duration = Duration::from_secs(180);

/// Time between the end of what a role grants itself and SIGKILL.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// Open files that the kernel lets a role have: each connection is one.
const FILES: u32 = 65_536;

/// What every role can live with.
const COMMON: &[&str] = &[
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "UMask=0077",
];

/// What only the system's own manager can do, for every role.
const COMMON_OF_SYSTEM: &[&str] = &[
    "CapabilityBoundingSet=",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
];

/// For roles that talk and keep a database, and do nothing else.
const TALKERS: &[&str] = &[
    "MemoryDenyWriteExecute=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
];

const TALKERS_OF_SYSTEM: &[&str] = &[
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "ProtectControlGroups=yes",
    "ProtectHome=yes",
    "ProtectKernelLogs=yes",
    "ProtectProc=invisible",
    "ProtectSystem=strict",
    "RemoveIPC=yes",
];

const MINER_OF_SYSTEM: &[&str] = &[
    "# Whoever may write Docker's socket is root on this machine: that is what a miner needs.",
    "SupplementaryGroups=docker",
    "# Executors look at devices and control groups, and Docker mounts their folders below /tmp: neither is private.",
    "ProtectHome=read-only",
    "ProtectSystem=full",
];

/// A role that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// The gateway between users and validators
    Facilitator,
    /// The broker between a facilitator and miners
    Validator,
    /// Who serves executors to validators
    Miner,
}

impl Role {
    pub(super) fn scope(self) -> Scope {
        match self {
            Self::Facilitator => Scope::Facilitator,
            Self::Validator => Scope::Validator,
            Self::Miner => Scope::Miner,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Facilitator => "facilitator",
            Self::Validator => "validator",
            Self::Miner => "miner",
        }
    }

    /// Returns the name of its unit.
    pub(super) fn unit(self) -> String {
        format!("horde-{}.service", self.word())
    }
}

/// Under whom the role runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    /// The system's manager, as an account of its own.
    System {
        /// The account.
        account: String,
    },
    /// The manager of whoever is logged in.
    User,
}

/// What a unit is made of.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) role: Role,
    pub(super) manager: Manager,
    pub(super) program: PathBuf,
    /// The role's data directory; its own choice if none.
    pub(super) dir: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    /// What the role grants itself to stop.
    pub(super) grace: Duration,
}

impl Unit {
    /// Returns the text of the file.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "# Written by `horde service`; `systemctl edit {}` changes it and keeps the changes.\n\n[Unit]\n",
            self.role.unit()
        );
        let mut line = |words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(&format!("Description=horde {}", self.role.word()));
        if matches!(self.manager, Manager::System { .. }) {
            line("Wants=network-online.target");
            line("After=network-online.target");
            if self.role == Role::Miner {
                line("Wants=docker.service");
                line("After=docker.service");
            }
        }
        line("# A role that cannot start is tried again for ever.");
        line("StartLimitIntervalSec=0");
        line("\n[Service]");
        line("# It says itself when it serves, when it reloads and that its loops turn.");
        line("Type=notify");
        line("NotifyAccess=main");
        line(&format!("ExecStart={}", self.command()));
        line("ExecReload=/bin/kill -HUP $MAINPID");
        line("Restart=always");
        line("RestartSec=5");
        line(&format!("WatchdogSec={}", WATCHDOG.as_secs()));
        line(&format!("TimeoutStartSec={}", START.as_secs()));
        line(&format!("TimeoutStopSec={}", (self.grace + STOP_SLACK).as_secs()));
        if self.role == Role::Miner {
            line("# Executors work on while the miner is started again, and come back to it.");
            line("KillMode=process");
        } else {
            line("KillMode=mixed");
        }
        line(&format!("LimitNOFILE={FILES}"));
        if let Manager::System { account } = &self.manager {
            line(&format!("User={account}"));
            line("StateDirectory=horde");
            line("StateDirectoryMode=0700");
            if let Some(dir) = self.dir.as_deref().filter(|dir| !dir.starts_with(STATE)) {
                line(&format!("ReadWritePaths={}", quoted(dir)));
            }
        }
        for directive in self.hardening() {
            line(directive);
        }
        line("\n[Install]");
        line(match self.manager {
            Manager::System { .. } => "WantedBy=multi-user.target",
            Manager::User => "WantedBy=default.target",
        });
        text
    }

    fn command(&self) -> String {
        let mut command = quoted(&self.program);
        for (flag, path) in [("--dir", &self.dir), ("--config", &self.config)] {
            if let Some(path) = path {
                // A String takes everything.
                write!(command, " {flag} {}", quoted(path)).unwrap_or_default();
            }
        }
        command + " " + self.role.word() + " run"
    }

    fn hardening(&self) -> impl Iterator<Item = &'static str> {
        let is_miner = self.role == Role::Miner;
        let is_system = matches!(self.manager, Manager::System { .. });
        let tables: [(bool, &[&str]); 5] = [
            (true, COMMON),
            (!is_miner, TALKERS),
            (is_system, COMMON_OF_SYSTEM),
            (is_system && !is_miner, TALKERS_OF_SYSTEM),
            (is_system && is_miner, MINER_OF_SYSTEM),
        ];
        let wanted = tables.into_iter().filter(|(is_wanted, _)| *is_wanted);
        wanted.flat_map(|(_, table)| table.iter().copied())
    }
}

/// Returns a path as a unit file takes it: in quotes, with what systemd would replace doubled.
fn quoted(path: &Path) -> String {
    let mut quoted = String::from("\"");
    for c in path.to_string_lossy().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(role: Role, manager: Manager) -> Unit {
        Unit {
            role,
            manager,
            program: "/usr/local/bin/horde".into(),
            dir: Some(Path::new(STATE).join(role.word())),
            config: None,
            grace: Duration::from_secs(20),
        }
    }

    #[test]
    fn units_look_as_they_do() {
        let system = || Manager::System {
            account: "horde".to_owned(),
        };
        insta::assert_snapshot!(
            [
                unit(Role::Validator, system()).text(),
                unit(Role::Miner, system()).text(),
                unit(Role::Miner, Manager::User).text(),
            ]
            .join("\n=====\n")
        );
    }

    #[test]
    fn a_path_is_one_word_and_nothing_in_it_is_replaced() {
        assert_eq!(
            quoted(Path::new(r#"/a b/%h/$HOME/"c"\"#)),
            r#""/a b/%%h/$$HOME/\"c\"\\""#
        );
    }
}
