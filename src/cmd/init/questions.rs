//! What `horde init` must know for each role: the same questions for a person at a terminal and for flags.

use clap::ValueEnum;

use super::InitArgs;
use crate::cmd::confirm::ask;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::config::{Flag, MAINNET, Scope, Setting};

/// Who is to be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitRole {
    /// Offers executors to validators
    Miner,
    /// Brings jobs from a facilitator to miners
    Validator,
    /// Takes jobs from users
    Facilitator,
    /// Submits jobs
    User,
}

impl InitRole {
    const ALL: [Self; 4] = [Self::Miner, Self::Validator, Self::Facilitator, Self::User];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Miner => "miner",
            Self::Validator => "validator",
            Self::Facilitator => "facilitator",
            Self::User => "user",
        }
    }

    pub(super) fn scope(self) -> Scope {
        match self {
            Self::Miner => Scope::Miner,
            Self::Validator => Scope::Validator,
            Self::Facilitator => Scope::Facilitator,
            Self::User => Scope::Tool,
        }
    }

    /// Tells whether it signs anything.
    pub(super) fn has_key(self) -> bool {
        self != Self::Facilitator
    }

    /// Returns settings that are often wanted: they stand in the file, commented out.
    pub(super) fn others(self) -> &'static [&'static str] {
        match self {
            Self::Miner => &[
                "log.level",
                "wallet.password_file",
                "miner.listen",
                "miner.address",
                "miner.backend",
                "miner.executor_image",
                "miner.docker_host",
                "miner.drain_seconds",
                "miner.streaming_ports",
                "miner.profiles",
                "miner.validator_stake_min",
                "miner.metrics_listen",
                "executor.allow_addresses",
                "executor.accept",
            ],
            Self::Validator => &[
                "log.level",
                "wallet.password_file",
                "validator.whitelist",
                "validator.job_seconds_max",
                "validator.trusted_miner",
                "validator.cheat_blacklist_seconds",
            ],
            Self::Facilitator => &[
                "log.level",
                "facilitator.listen",
                "facilitator.users",
                "facilitator.prices",
                "facilitator.keep_days",
                "facilitator.tls_certificate",
                "facilitator.tls_key",
                "facilitator.trusted_proxies",
                "facilitator.metrics_listen",
            ],
            Self::User => &["log.level", "wallet.password_file"],
        }
    }

    fn questions(self) -> &'static [Question] {
        match self {
            Self::Miner => MINER,
            Self::Validator => VALIDATOR,
            Self::Facilitator => FACILITATOR,
            Self::User => USER,
        }
    }
}

/// One question.
struct Question {
    flag: &'static str,
    key: &'static str,
    prompt: &'static str,
    /// What a person is offered.
    offer: &'static str,
    /// The answers that there are; any if empty.
    choices: &'static [&'static str],
    /// Whether nobody but the one who asks can know the answer.
    needed: bool,
    /// Whether an empty answer means none.
    may_be_empty: bool,
}

const fn question(
    flag: &'static str,
    key: &'static str,
    prompt: &'static str,
    offer: &'static str,
    needed: bool,
) -> Question {
    Question {
        flag,
        key,
        prompt,
        offer,
        choices: &[],
        needed,
        may_be_empty: false,
    }
}

const MINER: &[Question] = &[
    question(
        "--listen",
        "miner.listen",
        "Where to serve validators and executors",
        "0.0.0.0:8000",
        false,
    ),
    Question {
        choices: &["process", "docker", "swarm", "command"],
        ..question(
            "--backend",
            "miner.backend",
            "How to start executors",
            "process",
            false,
        )
    },
    question(
        "--executors",
        "miner.executors",
        "How many executors of which class to offer",
        "spin_up-4min.gpu-24gb=1",
        true,
    ),
];

const VALIDATOR: &[Question] = &[question(
    "--facilitator-url",
    "validator.facilitator_url",
    "The facilitator's endpoint for validators",
    "ws://127.0.0.1:9000/ws/v0/",
    true,
)];

const FACILITATOR: &[Question] = &[
    question(
        "--listen",
        "facilitator.listen",
        "Where to serve users and validators",
        "127.0.0.1:9000",
        false,
    ),
    Question {
        may_be_empty: true,
        ..question(
            "--users",
            "facilitator.users",
            "Who may submit jobs: hotkeys with commas between (more: `horde facilitator user add`)",
            "",
            true,
        )
    },
];

const USER: &[Question] = &[
    Question {
        choices: &["local", MAINNET, "test"],
        ..question("--network", "chain.network", "Which network", "local", false)
    },
    question(
        "--facilitator",
        "client.facilitator_url",
        "The facilitator that jobs are submitted to",
        "http://127.0.0.1:9000",
        true,
    ),
];

/// The flags that say which key is taken, for people.
const KEY_FLAGS: &str = "one of --wallet NAME, --new-key, --import-key FILE, --key-uri URI";

/// Where the key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    /// The role has none.
    Nowhere,
    /// A development key; it is a setting.
    Development,
    /// A wallet that there is.
    Wallet,
    /// A new one.
    New,
    /// Twelve words in a file; `-` is standard input.
    Words(std::path::PathBuf),
}

/// All that is known.
pub(super) struct Answers {
    pub(super) role: InitRole,
    pub(super) settings: Vec<Flag>,
    pub(super) key: KeySource,
    pub(super) context: Option<String>,
}

impl InitArgs {
    /// Returns the answers of the flags, and of the person for what they leave open; whatever is missing is told at once.
    pub(super) async fn answers(&self, may_ask: bool) -> Result<Answers, CmdError> {
        let role = match self.role {
            Some(role) => role,
            None if may_ask => choose_role().await?,
            None => {
                return Err(CmdError::new(ExitCode::Usage, "who is to be set up is not said")
                    .hint("horde init miner, validator, facilitator or user"));
            }
        };
        self.check_flags(role)?;
        let mut missing = Vec::new();
        let mut settings = self.wallet_flags();
        for question in role.questions() {
            let is_answered = question.key == "facilitator.users" && self.allow_any_user;
            match self.given(question.flag) {
                Some(value) => settings.push(flag(question.key, question.flag, value)),
                None if is_answered => {}
                None if may_ask => {
                    let known: Vec<_> = settings
                        .iter()
                        .map(|flag| (flag.key, flag.value.as_str()))
                        .collect();
                    if let Some(value) = question.ask(offer(question, &known)).await? {
                        settings.push(flag(question.key, question.flag, value));
                    }
                }
                None if question.needed => missing.push(match question.flag {
                    "--users" => "--users HOTKEY,… or --allow-any-user".to_owned(),
                    flag => format!("{flag} ({})", doc(question.key)),
                }),
                None => {}
            }
        }
        if self.allow_any_user {
            settings.push(flag(
                "facilitator.allow_any_user",
                "--allow-any-user",
                "true".to_owned(),
            ));
        }
        let key = match self.key_source() {
            _ if !role.has_key() => KeySource::Nowhere,
            Some(source) => source,
            None if may_ask => ask_key(&mut settings).await?,
            None => {
                missing.push(KEY_FLAGS.to_owned());
                KeySource::Nowhere
            }
        };
        if !missing.is_empty() {
            let mut failed = CmdError::new(ExitCode::Usage, "nobody can be asked, and flags are missing");
            failed.causes = missing;
            return Err(failed.hint("at a terminal `horde init` asks for what is not given"));
        }
        let context = match &self.save_context {
            Some(name) => Some(name.clone()),
            None if may_ask && self.role.is_none() => ask_context().await?,
            None => None,
        };
        Ok(Answers {
            role,
            settings,
            key,
            context,
        })
    }

    fn given(&self, flag: &str) -> Option<String> {
        match flag {
            "--listen" => self.listen.clone(),
            "--backend" => self.backend.clone(),
            "--executors" => self.executors.clone(),
            "--facilitator-url" => self.facilitator_url.clone(),
            "--users" => self.users.clone(),
            "--network" => self.network.clone(),
            "--facilitator" => self.facilitator.clone(),
            _ => None,
        }
    }

    /// Refuses flags that say nothing to this role, all at once.
    fn check_flags(&self, role: InitRole) -> Result<(), CmdError> {
        let every = InitRole::ALL.iter().flat_map(|role| role.questions());
        let mut strange: Vec<&str> = every
            .map(|question| question.flag)
            .filter(|flag| self.given(flag).is_some())
            .filter(|flag| !role.questions().iter().any(|question| question.flag == *flag))
            .collect();
        if self.allow_any_user && role != InitRole::Facilitator {
            strange.push("--allow-any-user");
        }
        if !role.has_key() && (self.key_source().is_some() || !self.wallet_flags().is_empty()) {
            strange.push("flags of keys");
        }
        strange.sort_unstable();
        strange.dedup();
        if strange.is_empty() {
            return Ok(());
        }
        let words = format!("a {} is not set up with {}", role.word(), strange.join(", "));
        Err(CmdError::new(ExitCode::Usage, words))
    }

    fn wallet_flags(&self) -> Vec<Flag> {
        let mut flags = self.wallet.flags();
        let uri = self.key_uri.clone();
        flags.extend(uri.map(|uri| flag("wallet.uri", "--key-uri", uri)));
        flags
    }

    fn key_source(&self) -> Option<KeySource> {
        match self {
            Self {
                import_key: Some(file),
                ..
            } => Some(KeySource::Words(file.clone())),
            Self { new_key: true, .. } => Some(KeySource::New),
            Self { key_uri: Some(_), .. } => Some(KeySource::Development),
            _ if !self.wallet_flags().is_empty() => Some(KeySource::Wallet),
            _ => None,
        }
    }
}

/// Returns what a person is offered; the main network has a facilitator that is known.
fn offer(question: &Question, known: &[(&str, &str)]) -> &'static str {
    let is_main = known.contains(&("chain.network", MAINNET));
    if question.key == "client.facilitator_url" && is_main {
        "https://facilitator.computehorde.io"
    } else {
        question.offer
    }
}

fn doc(key: &str) -> &'static str {
    Setting::find(key).map_or("", |setting| setting.doc)
}

fn flag(key: &'static str, flag: &'static str, value: String) -> Flag {
    Flag { key, flag, value }
}

impl Question {
    async fn ask(&self, offer: &'static str) -> Result<Option<String>, CmdError> {
        let (prompt, choices) = (self.prompt, self.choices);
        if !choices.is_empty() {
            let chosen = select(prompt, choices).await?;
            return Ok(choices.get(chosen).map(|word| (*word).to_owned()));
        }
        let Some(setting) = Setting::find(self.key) else {
            return Ok(None);
        };
        let may_be_empty = self.may_be_empty;
        let answer = ask(move || {
            let mut input = dialoguer::Input::<String>::new()
                .with_prompt(prompt)
                .allow_empty(may_be_empty)
                .validate_with(move |text: &String| {
                    if may_be_empty && text.is_empty() {
                        return Ok(());
                    }
                    let environment = crate::core::config::Environment::default();
                    setting.kind.parse(text, &environment).map(drop)
                });
            if !offer.is_empty() {
                input = input.default(offer.to_owned());
            }
            input.interact_text()
        });
        Ok(Some(answer.await?).filter(|text| !text.is_empty()))
    }
}

async fn select(prompt: &'static str, items: &'static [&'static str]) -> Result<usize, CmdError> {
    ask(move || {
        dialoguer::Select::new()
            .with_prompt(prompt)
            .items(items)
            .default(0)
            .interact()
    })
    .await
}

async fn choose_role() -> Result<InitRole, CmdError> {
    const WORDS: &[&str] = &[
        "miner: offers executors to validators",
        "validator: brings jobs from a facilitator to miners",
        "facilitator: takes jobs from users",
        "user: submits jobs",
    ];
    let chosen = select("What is this machine to be", WORDS).await?;
    Ok(InitRole::ALL.get(chosen).copied().unwrap_or(InitRole::User))
}

/// Asks for the key, and adds what names it to the settings.
async fn ask_key(settings: &mut Vec<Flag>) -> Result<KeySource, CmdError> {
    const WALLET: &str = "one in a Bittensor wallet of mine";
    const NEW: &str = "a new hotkey";
    const DEVELOPMENT: &str = "a development key, such as //Alice";
    const LOCAL: &[&str] = &[WALLET, NEW, DEVELOPMENT];
    const OTHER: &[&str] = &[WALLET, NEW];
    let mut networks = settings.iter().filter(|flag| flag.key == "chain.network");
    // A development key is everybody's key: on other networks it is not even offered.
    let is_local = networks.next_back().is_none_or(|flag| flag.value == "local");
    let chosen = select("Which key", if is_local { LOCAL } else { OTHER }).await?;
    if chosen == 2 {
        let uri = ask(|| {
            dialoguer::Input::<String>::new()
                .with_prompt("Development key")
                .default("//Alice".to_owned())
                .interact_text()
        });
        settings.push(flag("wallet.uri", "--key-uri", uri.await?));
        return Ok(KeySource::Development);
    }
    for (key, name, prompt) in [
        ("wallet.name", "--wallet", "Name of the wallet"),
        ("wallet.hotkey", "--hotkey", "Name of the hotkey in it"),
    ] {
        let answer = ask(move || {
            dialoguer::Input::<String>::new()
                .with_prompt(prompt)
                .default("default".to_owned())
                .interact_text()
        });
        settings.push(flag(key, name, answer.await?));
    }
    Ok(if chosen == 1 {
        KeySource::New
    } else {
        KeySource::Wallet
    })
}

async fn ask_context() -> Result<Option<String>, CmdError> {
    let name = ask(|| {
        dialoguer::Input::<String>::new()
            .with_prompt("Name of a context to keep this as (none if empty)")
            .allow_empty(true)
            .interact_text()
    });
    Ok(Some(name.await?).filter(|name| !name.is_empty()))
}
