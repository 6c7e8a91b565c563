//! The table of all settings: key, kind, default, meaning. What is not in it does not exist.

use super::value::Kind;
use crate::core::model::Profile;
use crate::core::money::PRICE_MAX;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Section and name, as in `miner.listen`.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The built-in default; none means unset, or derived from other settings.
    pub default: Option<&'static str>,
    /// What it means, in one line.
    pub doc: &'static str,
    /// The name under which the reference's executor reads it from the environment.
    pub alias: Option<&'static str>,
    /// Whether its value must not be shown.
    pub secret: bool,
}

impl Setting {
    /// Returns the name of its environment variable, as in `HORDE_MINER_LISTEN`.
    pub fn environment_name(&self) -> String {
        format!("HORDE_{}", self.key.to_ascii_uppercase().replace('.', "_"))
    }

    /// Returns the setting of a key.
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    const fn alias(mut self, name: &'static str) -> Self {
        self.alias = Some(name);
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting {
        key,
        kind,
        default: Some(default),
        doc,
        alias: None,
        secret: false,
    }
}

const fn unset(key: &'static str, kind: Kind, doc: &'static str) -> Setting {
    Setting {
        key,
        kind,
        default: None,
        doc,
        alias: None,
        secret: false,
    }
}

const DOCKER_HOST: &str = "unix:///var/run/docker.sock";
/// Longest wait that can be configured: a week.
const WEEK: u32 = 7 * 24 * 3600;
const SECONDS: Kind = Kind::Seconds { max: WEEK };
const BYTES: Kind = Kind::Integer { min: 1, max: 1 << 50 };
/// Bytes of something that no container starts without: an engine refuses less than 6 MiB of memory.
const ROOMY_BYTES: Kind = Kind::Integer {
    min: 16 << 20,
    max: 1 << 50,
};

/// The main network's name, as the chain's own tools have it.
pub const MAINNET: &str = "finney";

/// All settings, by section.
pub const SETTINGS: &[Setting] = &[
    setting(
        "log.level",
        Kind::Text,
        "info",
        "level (error, warn, info, debug, trace, off) or filter of log lines",
    ),
    setting(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "text",
        "how log lines on standard error look",
    ),
    setting(
        "log.file",
        Kind::Choice(&["auto", "off"]),
        "auto",
        "whether a role keeps its log in its data directory, for `horde logs`; auto: in logs/ROLE.jsonl",
    ),
    setting(
        "log.file_bytes_max",
        // No smaller than what is written at once.
        Kind::Integer {
            min: 1 << 20,
            max: 1 << 30,
        },
        "16777216",
        "bytes after which a log file is rotated",
    ),
    setting(
        "log.files_max",
        Kind::Integer { min: 1, max: 64 },
        "8",
        "log files that a role keeps, the newest included; their bytes are at most this times log.file_bytes_max",
    ),
    setting(
        "log.stderr",
        Kind::Bool,
        "true",
        "whether a role that keeps a log file also logs on standard error",
    ),
    setting(
        "terminal.motion",
        Kind::Choice(&["auto", "off"]),
        "auto",
        "whether bars and spinners move on a terminal; off: a line every five seconds, as where no person watches",
    ),
    setting(
        "wallet.path",
        Kind::Path,
        "~/.bittensor/wallets",
        "directory of Bittensor wallets",
    ),
    setting("wallet.name", Kind::Text, "default", "name of the wallet"),
    setting(
        "wallet.hotkey",
        Kind::Text,
        "default",
        "name of the hotkey in the wallet",
    ),
    unset(
        "wallet.uri",
        Kind::Text,
        "development key instead of a wallet, such as //Alice; local chain only",
    )
    .secret(),
    unset(
        "wallet.password_file",
        Kind::Path,
        "file that holds the password of an encrypted key",
    ),
    setting(
        "client.facilitator_url",
        Kind::Url(&["http", "https"]),
        "http://127.0.0.1:9000",
        "the facilitator that jobs are submitted to",
    ),
    setting(
        "chain.network",
        Kind::Choice(&["local", "test", MAINNET]),
        "local",
        "which chain: local (a file of this machine), test, or finney, the main network",
    ),
    unset(
        "chain.path",
        Kind::Path,
        "the local chain's file, shared by all roles of this machine",
    ),
    setting(
        "chain.netuid",
        Kind::Integer { min: 0, max: 65_535 },
        "12",
        "number of the subnet",
    ),
    setting(
        "chain.block_seconds",
        Kind::Seconds { max: 3600 },
        "12",
        "pace of the local chain",
    ),
    setting(
        "facilitator.listen",
        Kind::SocketAddress,
        "127.0.0.1:9000",
        "where to serve users and validators",
    ),
    setting(
        "facilitator.allow_any_user",
        Kind::Bool,
        "false",
        "accept jobs of every hotkey that can sign",
    ),
    setting(
        "facilitator.users",
        Kind::List,
        "",
        "hotkeys (SS58) that may submit jobs",
    ),
    setting(
        "facilitator.prices",
        Kind::NumberPerClass(PRICE_MAX.get()),
        "",
        "micro-units that a second of a class costs, as CLASS=100,…; none: jobs are free; other classes are refused",
    ),
    setting(
        "facilitator.jwt_seconds",
        SECONDS,
        "3600",
        "how long a login lasts",
    ),
    setting(
        "facilitator.nonce_seconds",
        SECONDS,
        "300",
        "how long a login may take",
    ),
    setting(
        "facilitator.body_bytes_max",
        BYTES,
        "2621440",
        "largest request body",
    ),
    setting(
        "facilitator.volumes_max",
        Kind::Integer { min: 0, max: 4096 },
        "64",
        "most volumes of a job, and most uploads",
    ),
    setting(
        "facilitator.submit_rate",
        Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        "100",
        "jobs a user may submit per second on average; ten seconds' worth may come at once",
    ),
    setting(
        "facilitator.unfinished_max",
        Kind::Integer {
            min: 1,
            max: 1_000_000_000,
        },
        "1000",
        "jobs a user may have that have not ended",
    ),
    setting(
        "facilitator.login_rate",
        Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        "20",
        "calls for nonces and tokens per second and address on average; ten seconds' worth may come at once",
    ),
    setting(
        "facilitator.keep_days",
        // An idempotency key holds for seven days.
        Kind::Integer { min: 7, max: 3650 },
        "7",
        "days that a job is kept after its end",
    ),
    unset(
        "facilitator.tls_certificate",
        Kind::Path,
        "PEM file of its certificate and the chain above it; with it users and validators speak https and wss",
    ),
    unset(
        "facilitator.tls_key",
        Kind::Path,
        "PEM file of the certificate's key; both files are read again when they change",
    ),
    setting(
        "facilitator.trusted_proxies",
        Kind::Networks,
        "",
        "networks of proxies before it, whose X-Forwarded-For and X-Forwarded-Proto are believed",
    ),
    setting(
        "facilitator.metrics_listen",
        Kind::WordOr("off", &Kind::SocketAddress),
        // Beside a miner's, which has the usual port.
        "127.0.0.1:9465",
        "where to serve figures to Prometheus, at /metrics; off: nowhere",
    ),
    setting(
        "facilitator.away_seconds",
        SECONDS,
        "600",
        "for how long after its last sign of life jobs are still taken for a validator that is away; they wait for it",
    ),
    setting(
        "validator.facilitator_url",
        Kind::Url(&["ws", "wss"]),
        "wss://facilitator.computehorde.io/ws/v0/",
        "the facilitator's endpoint for validators",
    ),
    setting(
        "validator.whitelist",
        Kind::List,
        "",
        "hotkeys (SS58) whose signed jobs are accepted, besides its own",
    ),
    setting(
        "validator.reservation_seconds",
        SECONDS,
        "7",
        "time for a miner to accept a job",
    ),
    setting(
        "validator.startup_seconds",
        SECONDS,
        "5",
        "time for an executor to start, besides its class's spin-up",
    ),
    setting(
        "validator.leeway_seconds",
        SECONDS,
        "5",
        "time that a job may lose on the road",
    ),
    setting(
        "validator.job_seconds_max",
        SECONDS,
        "600",
        "longest job that is accepted",
    ),
    unset(
        "validator.trusted_miner",
        Kind::SocketAddress,
        "where its own trusted miner serves (a miner with miner.local_validator); jobs for it are rejected without",
    ),
    setting(
        "validator.cheat_blacklist_seconds",
        SECONDS,
        "14400",
        "for how long a miner gets no jobs after one was reported as cheated",
    ),
    setting(
        "miner.listen",
        Kind::SocketAddress,
        "0.0.0.0:8000",
        "where to serve validators and executors",
    ),
    unset(
        "miner.address",
        Kind::WordOr("auto", &Kind::IpAddress),
        "address announced on the chain; auto: what two of miner.address_services agree on",
    ),
    unset(
        "miner.address_services",
        Kind::List,
        "addresses (https) that answer with the address that a request came from",
    ),
    unset(
        "miner.port",
        Kind::Integer { min: 1, max: 65_535 },
        "port announced on the chain",
    ),
    unset(
        "miner.executor_address",
        Kind::HostPort,
        "where its executors find the miner",
    ),
    setting(
        "miner.backend",
        Kind::Choice(&["process", "docker", "swarm", "command"]),
        "process",
        "how executors are started",
    ),
    unset(
        "miner.command",
        Kind::List,
        "program that starts executors, and its first arguments; command backend",
    ),
    setting(
        "miner.executors",
        Kind::Executors,
        "spin_up-4min.gpu-24gb=1",
        "how many executors of which class to offer, as CLASS=N,…; backends swarm and command say it themselves",
    ),
    setting(
        "miner.executor_image",
        Kind::Text,
        "horde-executor:latest",
        "image of executors, backends docker and swarm",
    ),
    setting(
        "miner.docker_host",
        Kind::Url(&["unix"]),
        DOCKER_HOST,
        "the Docker engine that runs executors",
    ),
    unset(
        "miner.engines",
        Kind::Path,
        "YAML file of several Docker engines and what each runs, docker backend; instead of docker_host and executors",
    )
    .alias("DOCKER_EXECUTORS_CONFIG_PATH"),
    setting(
        "miner.executor_startup_seconds",
        SECONDS,
        "5",
        "time for an executor to connect",
    ),
    setting(
        "miner.executor_ttl_seconds",
        SECONDS,
        "1200",
        "time after which an executor is removed",
    ),
    setting(
        "miner.drain_seconds",
        SECONDS,
        "30",
        "time that running jobs have to finish once the miner is asked to stop; then they wait for its next start",
    ),
    setting(
        "miner.streaming_ports",
        Kind::Text,
        "6000-6999",
        "ports of this host for the clients of streaming jobs, as FIRST-LAST",
    ),
    setting(
        "miner.no_gpu",
        Kind::Bool,
        "false",
        "start executors that ask for no GPU: for development",
    ),
    unset(
        "miner.clock_url",
        Kind::Url(&["http", "https"]),
        "a web server by whose Date header `horde miner check` measures this machine's clock",
    ),
    setting(
        "miner.profiles",
        Kind::WordPerClass(Profile::WORDS),
        "",
        "rights of jobs by class, as CLASS=PROFILE,…; of other classes: executor.profile",
    ),
    setting(
        "miner.publish_receipts",
        Kind::Choice(&["auto", "on", "off"]),
        "auto",
        "publish receipts at /receipts/ on the miner's port; auto: when the subnet's dynamic configuration says so",
    ),
    unset(
        "miner.local_validator",
        Kind::Text,
        "hotkey (SS58) of the one validator whose trusted miner this is: it needs no chain, no key, and keeps to itself",
    ),
    unset(
        "miner.validator_stake_min",
        Kind::Integer {
            min: 0,
            max: 1_000_000_000,
        },
        "least stake of a validator with a permit, in whole units; unset: 1000, on a local chain 0",
    ),
    setting(
        "miner.validator_rate",
        Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        "1000",
        "connections, and jobs, a validator may bring per second on average; ten seconds' worth may come at once",
    ),
    setting(
        "miner.sharing",
        Kind::Choice(&["off", "stake"]),
        "off",
        "whether validators share busy executors by their stake, or whoever comes first has them",
    ),
    unset(
        "miner.dynamic_config_url",
        Kind::WordOr("off", &Kind::Url(&["https", "http"])),
        "folder of the subnet's dynamic configuration; off: none is read",
    ),
    setting(
        "miner.dynamic_config_env",
        Kind::Text,
        "prod",
        "which dynamic configuration: the end of the names miner-config-… and common-config-…",
    ),
    setting(
        "miner.multiplier_min",
        Kind::SharePerClass,
        "",
        "least share of a class in what the subnet pays, as CLASS=0.1,…; below it its jobs are refused",
    ),
    setting(
        "miner.metrics_listen",
        Kind::WordOr("off", &Kind::SocketAddress),
        // The usual port of a process that shows its own figures to Prometheus.
        "127.0.0.1:9464",
        "where to serve figures to Prometheus, at /metrics; off: nowhere",
    ),
    unset(
        "executor.miner_address",
        Kind::Text,
        "the miner's endpoint, host:port or ws://host:port",
    )
    .alias("MINER_ADDRESS"),
    unset("executor.token", Kind::Text, "the token that the miner gave")
        .alias("EXECUTOR_TOKEN")
        .secret(),
    setting(
        "executor.startup_seconds",
        SECONDS,
        "5",
        "time to connect to the miner",
    ),
    setting(
        "executor.reconnect_seconds",
        SECONDS,
        "120",
        "how long it works on for a miner that it has lost, and the miner waits for it",
    ),
    setting(
        "executor.owner",
        Kind::Text,
        "none",
        "label of its containers, by which the miner that started it finds them again",
    ),
    unset("executor.work_dir", Kind::Path, "directory of job folders"),
    setting(
        "executor.docker_host",
        Kind::Url(&["unix"]),
        DOCKER_HOST,
        "the Docker engine that runs jobs",
    ),
    setting(
        "executor.volume_bytes_max",
        Kind::Integer {
            min: -(1 << 50),
            max: 1 << 50,
        },
        "2147483648",
        "largest download of an input, in bytes, a tenth of what a zip may unpack to; 0 or less: no limit",
    )
    .alias("VOLUME_MAX_SIZE_BYTES"),
    setting(
        "executor.upload_bytes_max",
        BYTES,
        "2147483648",
        "largest output upload",
    )
    .alias("OUTPUT_ZIP_UPLOAD_MAX_SIZE_BYTES"),
    setting(
        "executor.hub_url",
        Kind::Url(&["http", "https"]),
        "https://huggingface.co",
        "the Hugging Face hub, or a mirror of it",
    )
    .alias("HF_ENDPOINT"),
    unset(
        "executor.hub_token",
        Kind::Text,
        "token for the hub, used for volumes that bring none and are not part of a multi volume",
    )
    .alias("HF_ACCESS_TOKEN")
    .secret(),
    setting(
        "executor.image_cache_bytes",
        Kind::Integer { min: 0, max: 1 << 50 },
        // Room for some five images with CUDA inside.
        "107374182400",
        "room for images that executors pulled; beyond it the one used longest ago goes",
    ),
    setting(
        "executor.pinned_images",
        Kind::List,
        "",
        "images that are never removed, such as org/model or org/*",
    ),
    setting(
        "executor.allow_addresses",
        Kind::Networks,
        "",
        "networks besides the public internet that volumes and uploads may reach",
    ),
    setting(
        "executor.on_host",
        Kind::Bool,
        "false",
        "take its own paths for those of the engine's host, without looking whether it is in a container",
    )
    .alias("EXECUTOR_ON_HOST"),
    setting(
        "executor.accept",
        Kind::List,
        "",
        "failed checks of `horde executor check` whose risk is taken, such as CVE-2025-31133",
    ),
    setting(
        "executor.streaming_port",
        Kind::Integer { min: 1, max: 65_535 },
        "6006",
        "port at which the client of a streaming job connects",
    )
    .alias("NGINX_PORT"),
    setting(
        "executor.no_gpu",
        Kind::Bool,
        "false",
        "ask for no GPU whatever the class: for development",
    )
    .alias("DEBUG_NO_GPU_MODE"),
    setting(
        "executor.profile",
        Kind::Choice(Profile::WORDS),
        "live",
        "rights of jobs: live (ordinary images work) or strict (no root, no capability, read-only root)",
    ),
    unset(
        "executor.memory_bytes",
        ROOMY_BYTES,
        "memory of a job, no swap; unset: what the machine has but for a reserve of 5 % (256 MiB to 2 GiB)",
    ),
    unset(
        "executor.cpus",
        Kind::Integer { min: 1, max: 4096 },
        "processors of a job; unset: all, behind everything else that wants them",
    ),
    setting(
        "executor.pids_max",
        Kind::Integer {
            min: 16,
            max: 4_194_304,
        },
        "4096",
        "processes and threads of a job; an eighth of what the smallest kernels have",
    ),
    setting(
        "executor.nofile_max",
        Kind::Integer {
            min: 64,
            max: 1 << 30,
        },
        "16384",
        "open files per process of a job; the engine must be allowed as many itself",
    ),
    unset(
        "executor.shm_bytes",
        BYTES,
        "size of a job's /dev/shm, a part of its memory; unset: half of it, as the kernel would choose",
    ),
    setting(
        "executor.disk_bytes",
        ROOMY_BYTES,
        "68719476736",
        "bytes that a job may write to the disk, its input included; 64 GiB holds models of that class",
    ),
    unset(
        "executor.runtime",
        Kind::Text,
        "the engine's runtime for jobs, such as runsc; unset: the engine's default; GPUs need nvidia",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::Environment;

    #[test]
    fn keys_are_unique_and_have_a_section_and_a_meaning() {
        let mut keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), SETTINGS.len());
        for setting in SETTINGS {
            assert_eq!(setting.key.matches('.').count(), 1, "{}", setting.key);
            assert!(
                !setting.doc.is_empty() && !setting.doc.ends_with('.'),
                "{}",
                setting.key
            );
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        let environment = Environment::from_iter([("HOME", "/home/ann")]);
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                setting
                    .kind
                    .parse(default, &environment)
                    .unwrap_or_else(|e| panic!("{}: {e}", setting.key));
            }
        }
    }

    #[test]
    fn a_variable_is_named_after_its_key() {
        let listen = Setting::find("miner.listen").unwrap();
        assert_eq!(listen.environment_name(), "HORDE_MINER_LISTEN");
    }
}
