//! Who runs in a development network, where, and with which settings; decides, touches nothing.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::config::{Backend, Value, file_text};
use crate::core::model::{ExecutorClass, Hotkey};

/// A well-known development key and the stake it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// How it is derived.
    pub uri: &'static str,
    /// Stake in rao.
    pub stake_rao: u64,
}

/// The validator's key.
pub const VALIDATOR: Account = Account {
    uri: "//Alice",
    stake_rao: 1_000_000_000_000_000,
};
/// The miners' keys, one miner each.
pub const MINERS: [Account; 2] = [
    Account {
        uri: "//Bob",
        stake_rao: 1_000_000_000,
    },
    Account {
        uri: "//Dave",
        stake_rao: 1_000_000_000,
    },
];
/// The key that signs sample jobs.
pub const USER: Account = Account {
    uri: "//Charlie",
    stake_rao: 0,
};
/// Keys whose jobs the network takes: all that are well known.
pub const USERS: [&str; 6] = ["//Alice", "//Bob", "//Charlie", "//Dave", "//Eve", "//Ferdie"];

/// The name of the validator's own trusted miner.
pub const TRUSTED_MINER: &str = "trusted-miner";

const MINER_NAMES: [&str; MINERS.len()] = ["miner-1", "miner-2"];

/// The miners' ports for streaming jobs: two miners of one machine must not give the same one.
const STREAMING_PORTS: [&str; MINERS.len()] = ["6000-6399", "6400-6799"];

/// Those of the trusted miner.
const TRUSTED_STREAMING_PORTS: &str = "6800-6999";

/// How many executors of each class a miner offers.
const EXECUTORS_PER_CLASS: u32 = 1;

/// What a network is made of.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Directory of all data; absolute.
    pub dir: PathBuf,
    /// How miners start executors.
    pub backend: Backend,
    /// The Docker engine that runs jobs.
    pub docker_host: String,
    /// Where miners listen: loopback, or the host's address on Docker's bridge, which containers can reach.
    pub miner_ip: IpAddr,
    /// The facilitator's port.
    pub facilitator_port: u16,
    /// Micro-units that a second of a class costs; jobs are free if there are none.
    pub prices: Vec<(String, i64)>,
    /// The miners' ports.
    pub miner_ports: [u16; MINERS.len()],
    /// The port of the validator's trusted miner.
    pub trusted_miner_port: u16,
    /// The validator's hotkey, which the trusted miner serves.
    pub validator: Hotkey,
    /// Hotkeys whose jobs the validator takes.
    pub users: Vec<Hotkey>,
    /// Number of the subnet.
    pub netuid: u16,
    /// Pace of the chain.
    pub block: Duration,
    /// What the roles log.
    pub log_level: String,
}

/// One child process.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name, which is also that of its directory.
    pub name: &'static str,
    /// The role's word on the command line.
    pub role: &'static str,
    /// Its key on the chain; the facilitator has none.
    pub account: Option<Account>,
    /// Where a miner is found by way of the chain.
    pub axon: Option<SocketAddr>,
    /// Where it serves, if others ask it.
    pub serves: Option<SocketAddr>,
    /// Its configuration file.
    pub settings: String,
}

/// All child processes, in the order in which they start and stop: who brings work first, who does it last.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Directory of all data.
    pub dir: PathBuf,
    /// Number of the subnet.
    pub netuid: u16,
    /// Pace of the chain.
    pub block: Duration,
    /// Where the facilitator serves.
    pub facilitator: SocketAddr,
    /// Where the validator's trusted miner serves.
    pub trusted_miner: SocketAddr,
    /// The children.
    pub members: Vec<Member>,
}

impl Plan {
    /// Makes a plan.
    pub fn new(choices: &Choices) -> Self {
        let facilitator = SocketAddr::from((Ipv4Addr::LOCALHOST, choices.facilitator_port));
        let trusted_miner = SocketAddr::new(choices.miner_ip, choices.trusted_miner_port);
        let shared = [
            ("log.level", text(&choices.log_level)),
            // In its files alone, which are bounded.
            ("log.stderr", Value::Bool(false)),
            ("chain.path", Value::Path(chain_file(&choices.dir))),
            ("chain.netuid", Value::Integer(choices.netuid.into())),
            ("chain.block_seconds", Value::Seconds(choices.block.as_secs_f64())),
        ];
        let mut members = vec![
            Member {
                name: "facilitator",
                role: "facilitator",
                account: None,
                axon: None,
                serves: Some(facilitator),
                settings: file(
                    &shared,
                    [
                        ("facilitator.listen", text(facilitator)),
                        ("facilitator.allow_any_user", Value::Bool(true)),
                        (
                            "facilitator.prices",
                            Value::NumberPerClass(choices.prices.clone()),
                        ),
                        ("facilitator.metrics_listen", text("off")),
                    ],
                ),
            },
            Member {
                name: "validator",
                role: "validator",
                account: Some(VALIDATOR),
                axon: None,
                serves: None,
                settings: file(
                    &shared,
                    [
                        ("wallet.uri", text(VALIDATOR.uri)),
                        ("validator.trusted_miner", text(trusted_miner)),
                        (
                            "validator.facilitator_url",
                            text(format_args!("ws://{facilitator}/ws/v0/")),
                        ),
                        (
                            "validator.whitelist",
                            Value::List(choices.users.iter().map(Hotkey::to_string).collect()),
                        ),
                    ],
                ),
            },
        ];
        let ports = choices.miner_ports.into_iter().zip(STREAMING_PORTS);
        for ((name, account), (port, streaming_ports)) in MINER_NAMES.into_iter().zip(MINERS).zip(ports) {
            let address = SocketAddr::new(choices.miner_ip, port);
            members.push(Member {
                name,
                role: "miner",
                account: Some(account),
                axon: Some(address),
                serves: Some(address),
                settings: file(
                    &shared,
                    miner_settings(
                        choices,
                        ("wallet.uri", text(account.uri)),
                        address,
                        streaming_ports,
                    ),
                ),
            });
        }
        // The chain knows nothing of it.
        let who = ("miner.local_validator", text(&choices.validator));
        members.push(Member {
            name: TRUSTED_MINER,
            role: "miner",
            account: None,
            axon: None,
            serves: Some(trusted_miner),
            settings: file(
                &shared,
                miner_settings(choices, who, trusted_miner, TRUSTED_STREAMING_PORTS),
            ),
        });
        Self {
            dir: choices.dir.clone(),
            netuid: choices.netuid,
            block: choices.block,
            facilitator,
            trusted_miner,
            members,
        }
    }

    /// Returns the facilitator's address for users.
    pub fn facilitator_url(&self) -> String {
        format!("http://{}", self.facilitator)
    }

    /// Returns the address that executors can reach.
    pub fn miner_ip(&self) -> IpAddr {
        self.members
            .iter()
            .find_map(|member| member.axon)
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |axon| axon.ip())
    }

    /// Returns the file of the local chain.
    pub fn chain_file(&self) -> PathBuf {
        chain_file(&self.dir)
    }

    /// Returns the directory of a child.
    pub fn dir_of(&self, member: &Member) -> PathBuf {
        self.dir.join(member.name)
    }

    /// Returns the file of a child's streams, which hold what is not in its log: what it says before it has one, and as it
    /// dies.
    pub fn console_of(&self, member: &Member) -> PathBuf {
        self.dir_of(member).join("console.log")
    }

    /// Returns the command line of a child, without the program.
    pub fn arguments_of(&self, member: &Member) -> Vec<OsString> {
        vec![
            "--dir".into(),
            self.dir_of(member).into(),
            "--exit-with-parent".into(),
            member.role.into(),
            "run".into(),
        ]
    }
}

fn chain_file(dir: &Path) -> PathBuf {
    dir.join("chain.sqlite")
}

fn miner_settings(
    choices: &Choices,
    who: (&'static str, Value),
    address: SocketAddr,
    streaming_ports: &str,
) -> [(&'static str, Value); 11] {
    let executors = ExecutorClass::ALL.map(|class| (class.to_string(), EXECUTORS_PER_CLASS));
    [
        who,
        ("miner.listen", text(address)),
        ("miner.address", text(address.ip())),
        ("miner.port", Value::Integer(address.port().into())),
        ("miner.executor_address", text(address)),
        ("miner.backend", text(choices.backend.as_str())),
        ("miner.docker_host", text(&choices.docker_host)),
        ("miner.executors", Value::Executors(executors.into())),
        ("miner.streaming_ports", text(streaming_ports)),
        // A development machine need not have the GPUs of the classes that it offers.
        ("miner.no_gpu", Value::Bool(true)),
        // Two miners of one machine, and nobody who asks either.
        ("miner.metrics_listen", text("off")),
    ]
}

fn text(value: impl fmt::Display) -> Value {
    Value::Text(value.to_string())
}

fn file<const N: usize>(shared: &[(&str, Value)], own: [(&'static str, Value); N]) -> String {
    let settings: Vec<_> = shared.iter().cloned().chain(own).collect();
    format!(
        "# Written by `horde up` at each start.\n\n{}",
        file_text(&settings)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{Environment, MinerConfig, Scope, Settings, Sources, ValidatorConfig, load};

    fn choices(dir: &Path) -> Choices {
        Choices {
            dir: dir.to_owned(),
            backend: Backend::Process,
            docker_host: "unix:///run/docker.sock".to_owned(),
            miner_ip: Ipv4Addr::LOCALHOST.into(),
            facilitator_port: 9000,
            prices: vec![("always_on.test".to_owned(), 1000)],
            miner_ports: [8001, 8002],
            trusted_miner_port: 8003,
            validator: Hotkey::new("validator"),
            users: vec![Hotkey::new("user")],
            netuid: 12,
            block: Duration::from_millis(500),
            log_level: "debug".to_owned(),
        }
    }

    /// Writes a child's file and loads it as the child will.
    fn loaded(plan: &Plan, name: &str, scope: Scope) -> Settings {
        let member = plan.members.iter().find(|member| member.name == name).unwrap();
        std::fs::create_dir_all(plan.dir_of(member)).unwrap();
        std::fs::write(plan.dir_of(member).join("horde.toml"), &member.settings).unwrap();
        let environment = Environment::default();
        let dir = Some(plan.dir_of(member));
        load(&Sources {
            scope,
            environment: &environment,
            dir,
            config: None,
            context: None,
            flags: Vec::new(),
        })
        .unwrap()
    }

    #[test]
    fn children_understand_the_settings_that_are_written_for_them() {
        // A name that TOML must escape.
        let dir = tempfile::Builder::new()
            .prefix("quote\"back\\slash")
            .tempdir()
            .unwrap();
        let plan = Plan::new(&choices(dir.path()));
        let miner = MinerConfig::from_settings(&loaded(&plan, "miner-2", Scope::Miner)).unwrap();
        assert_eq!(miner.listen, "127.0.0.1:8002".parse().unwrap());
        assert_eq!(miner.port, Some(8002));
        assert_eq!(miner.executors.len(), ExecutorClass::ALL.len());
        assert_eq!(miner.chain.path, dir.path().join("chain.sqlite"));
        assert_eq!(miner.chain.block, Duration::from_millis(500));
        assert_eq!(miner.wallet.uri.unwrap().reveal(), "//Dave");
        let trusted = MinerConfig::from_settings(&loaded(&plan, "trusted-miner", Scope::Miner)).unwrap();
        assert_eq!(trusted.local_validator, Some(Hotkey::new("validator")));
        let validator =
            ValidatorConfig::from_settings(&loaded(&plan, "validator", Scope::Validator)).unwrap();
        assert_eq!(validator.facilitator_url, "ws://127.0.0.1:9000/ws/v0/");
        assert_eq!(validator.whitelist, [Hotkey::new("user")]);
        assert_eq!(validator.trusted_miner, Some(trusted.listen));
        let facilitator = loaded(&plan, "facilitator", Scope::Facilitator);
        assert_eq!(facilitator.text("facilitator.listen").unwrap(), "127.0.0.1:9000");
        assert!(facilitator.bool("facilitator.allow_any_user").unwrap());
        assert_eq!(
            facilitator.number_per_class("facilitator.prices").unwrap(),
            [("always_on.test".to_owned(), 1000)]
        );
    }

    #[test]
    fn who_brings_work_is_started_and_stopped_before_who_does_it() {
        let plan = Plan::new(&choices(Path::new("/d")));
        let names: Vec<_> = plan.members.iter().map(|member| member.name).collect();
        assert_eq!(
            names,
            ["facilitator", "validator", "miner-1", "miner-2", "trusted-miner"]
        );
    }

    #[test]
    fn a_child_runs_its_role_in_its_own_directory_and_ends_with_its_parent() {
        let plan = Plan::new(&choices(Path::new("/d")));
        let member = plan.members.last().unwrap();
        assert_eq!(
            plan.arguments_of(member),
            ["--dir", "/d/trusted-miner", "--exit-with-parent", "miner", "run"]
        );
    }
}
