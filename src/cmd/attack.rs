//! `horde executor check --attack`: the sandbox of jobs against attacks from inside.

use std::io;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::error::{CmdError, ExitCode, OrFail};
use super::executor::engine;
use super::progress::Progress;
use crate::core::config::{ExecutorConfig, Flag, Scope};
use crate::core::docker::EngineError;
use crate::core::docker::image::ImageError;
use crate::core::executor::attack::{self, AttackError, Finding, Options, Report, Verdict};
use crate::core::model::Profile;
use crate::core::tasks::Tasks;

/// The variable by which a person asks for logs.
const LOG_LEVEL: &str = "HORDE_LOG_LEVEL";

/// The flags of the attack.
#[derive(Args, Debug)]
pub struct AttackArgs {
    /// Attack the sandbox of jobs from inside instead; takes half a minute for each profile
    #[arg(long)]
    pub(super) attack: bool,
    /// The profile to attack [default: the configured one]
    #[arg(long, value_name = "PROFILE", requires = "attack")]
    profile: Option<Profiles>,
    /// Try only these attacks, by the names that the whole list has
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "attack")]
    only: Vec<String>,
}

/// Which profiles are attacked.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profiles {
    /// Root inside, as ordinary images need it
    Live,
    /// No rights at all
    Strict,
    /// One after the other
    All,
}

/// `horde executor attack-inside …`: what the attack runs in its containers.
#[derive(Args, Debug)]
pub struct InsideArgs {
    /// What to try
    #[arg(value_name = "JSON")]
    orders: String,
}

impl AttackArgs {
    /// Runs the attack and prints a verdict for each part of it; ends with 10 when one was not held.
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let only = self.only()?;
        let config = config(context)?;
        let engine = engine(&config.docker_host)?;
        let profiles = match self.profile {
            None => vec![config.sandbox.profile],
            Some(Profiles::Live) => vec![Profile::Live],
            Some(Profiles::Strict) => vec![Profile::Strict],
            Some(Profiles::All) => vec![Profile::Live, Profile::Strict],
        };
        let tasks = Tasks::new();
        let received = context.watch(&tasks)?;
        let mut broken = Vec::new();
        for profile in profiles {
            context.say(format_args!(
                "attacking the profile {profile}; nothing of it stays on this machine"
            ));
            let options = Options {
                profile,
                only: only.clone(),
            };
            let progress = Progress::of_time(context, "preparing the attack");
            let tell = |job: &str| progress.tell(format!("running {job}"));
            let attack = attack::run(&config, Arc::clone(&engine), &options, &tasks, &tell);
            let report = progress.during(attack).await;
            let report = match report {
                Ok(report) => report,
                Err(error) => return Err(refusal(&error, received.exit_code())),
            };
            print(context, &report)?;
            if !report.is_held() {
                broken.push(profile.as_str());
            }
        }
        if broken.is_empty() {
            return Ok(());
        }
        let message = format!("the sandbox did not hold under {}", broken.join(" and "));
        Err(CmdError::new(ExitCode::CheckFailed, message)
            .hint("do not run strangers' jobs here until every attack above is held"))
    }

    fn only(&self) -> Result<Vec<&'static str>, CmdError> {
        let names = self.only.iter().map(|name| {
            let unknown = || {
                let known: Vec<&str> = attack::ATTACKS.iter().map(|attack| attack.name).collect();
                CmdError::new(ExitCode::Usage, format!("there is no attack {name:?}"))
                    .hint(format!("there are {}", known.join(", ")))
            };
            attack::find(name).map(|attack| attack.name).ok_or_else(unknown)
        });
        names.collect()
    }
}

/// Returns the executor's settings; what a miner would say is filled in by the attack.
fn config(context: &Context) -> Result<ExecutorConfig, CmdError> {
    let flags = ["executor.miner_address", "executor.token"].map(|key| Flag {
        key,
        flag: "--attack",
        value: "attack".to_owned(),
    });
    let mut flags = Vec::from(flags);
    // Two dozen executors tell of their lives; what counts of it is in the verdicts.
    if context.log_level().is_none() && context.environment.get(LOG_LEVEL).is_none() {
        flags.push(Flag {
            key: "log.level",
            flag: "--attack",
            value: "error".to_owned(),
        });
    }
    let settings = context.role_settings(Scope::Executor, flags)?;
    Ok(ExecutorConfig::from_settings(&settings)?)
}

fn print(context: &Context, report: &Report) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(report);
    }
    for Finding {
        name,
        verdict,
        evidence,
    } in &report.attacks
    {
        let verdict = match verdict {
            Verdict::Held => "held",
            Verdict::Broken => "BROKEN",
            Verdict::CouldNotRun => "UNKNOWN",
        };
        context.line(format_args!("{verdict:<8} {name:<22} {evidence}"))?;
    }
    let held = report
        .attacks
        .iter()
        .filter(|finding| finding.verdict == Verdict::Held)
        .count();
    context.line(format_args!(
        "{held} of {} attacks held under {}",
        report.attacks.len(),
        report.profile
    ))
}

fn refusal(error: &AttackError, signal: Option<u8>) -> CmdError {
    let code = match error {
        AttackError::Engine(EngineError::Unreachable { .. })
        | AttackError::Image(ImageError::Engine(EngineError::Unreachable { .. })) => ExitCode::Unreachable,
        AttackError::Interrupted => ExitCode::Passed(signal.unwrap_or(130)),
        AttackError::Floors(_) => ExitCode::Bug,
        AttackError::Engine(_) | AttackError::Image(_) | AttackError::Stage(_) => ExitCode::Failed,
    };
    CmdError::new(code, "could not attack the sandbox").caused_by(error)
}

impl InsideArgs {
    /// Runs the command; it has a container to itself.
    pub(super) fn run(&self) -> Result<(), CmdError> {
        attack::inside::run(&self.orders, &mut io::stdout().lock())
            .or_fail(ExitCode::Failed, "could not try what was asked for")
    }
}
