//! What every command gets: output, settings, clock, environment; opened once.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::catalogue;
use super::color::{self, ColorChoice};
use super::contract::Promise;
use super::error::{CmdError, ExitCode, OrFail};
use super::output::{Format, Output};
use super::service::attend::Attendant;
use crate::core::clock::Clock;
use crate::core::config::{ConfigError, Environment, Flag, Scope, Settings, Sources, load};
use crate::core::store::trap::{Side, Trap};
use crate::core::tasks::Tasks;
use crate::core::tasks::signals::{self, Received};
use crate::core::telemetry::journal::{self, writer::Keep};
use crate::core::telemetry::{self, Logs, STATE_TARGET};

/// Flags that every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Print data as table, json, jsonl (a document a row) or csv
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub output: Option<Format>,
    /// Print data as JSON; the same as --output json
    #[arg(
        long,
        global = true,
        conflicts_with = "output",
        help_heading = "Global options"
    )]
    pub json: bool,
    /// Print only these fields; as the last word, without names, lists them
    #[arg(long, global = true, value_name = "NAMES", help_heading = "Global options")]
    pub fields: Option<String>,
    /// Use colours: auto, always, never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub color: Option<ColorChoice>,
    /// Keep data in this directory, and read horde.toml from it
    #[arg(
        long,
        global = true,
        value_name = "DIRECTORY",
        help_heading = "Global options"
    )]
    pub dir: Option<PathBuf>,
    /// Read this configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Work in this context, whichever is in use
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub context: Option<String>,
    /// Log from this level on: error, warn, info, debug, trace, off
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<String>,
    /// Stop when standard input ends: for those who start a role as a child
    #[arg(long, global = true, hide = true)]
    pub exit_with_parent: bool,
}

/// How long a role may take to say goodbye before its tasks are aborted.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The setting that counts at once when it is read again.
const LEVEL: &str = "log.level";

/// How long the end of the process waits for the last lines of the log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// How data is printed.
    output: Output,
    words: &'static str,
    /// Wall time.
    pub clock: Clock,
    /// The process environment.
    pub environment: Environment,
    /// Whether a person watches: both standard output and standard error are terminals.
    pub interactive: bool,
    global: GlobalArgs,
    logs: OnceLock<Logs>,
    served: OnceLock<Served>,
    /// Whether the settings say that nothing may move.
    is_still: OnceLock<bool>,
}

/// With what a role is served.
#[derive(Debug)]
struct Served {
    flags: Vec<Flag>,
    /// As they count now.
    settings: Mutex<Settings>,
}

impl Context {
    /// Returns the context of this process.
    pub(super) fn new(
        global: GlobalArgs,
        environment: Environment,
        promise: &'static Promise,
    ) -> Result<Self, CmdError> {
        let format = if global.json {
            Format::Json
        } else {
            global.output.unwrap_or_default()
        };
        let output = Output::new(format, global.fields.as_deref(), promise)?;
        Ok(Self {
            output,
            words: promise.words,
            clock: Clock::system(),
            environment,
            interactive: io::stdout().is_terminal() && io::stderr().is_terminal(),
            global,
            logs: OnceLock::new(),
            served: OnceLock::new(),
            is_still: OnceLock::new(),
        })
    }

    /// Returns the words of the command that runs, as in `job list`; empty for a hidden one.
    pub fn words(&self) -> &'static str {
        self.words
    }

    /// Tells whether data is wanted, for [`Context::print_data`], rather than text for people.
    pub fn wants_data(&self) -> bool {
        self.output.wants_data()
    }

    /// Tells whether a stream is to have colours, by whether it is a terminal.
    pub fn colors(&self, is_terminal: bool) -> bool {
        let choice = self.global.color.unwrap_or_default();
        color::wanted(choice, |name| self.environment.get(name), is_terminal)
    }

    /// Returns `--dir` as given.
    pub fn dir(&self) -> Option<&PathBuf> {
        self.global.dir.as_ref()
    }

    /// Returns `--config` as given.
    pub fn config_file(&self) -> Option<&PathBuf> {
        self.global.config.as_ref()
    }

    /// Returns the flags that say where to work, as they were given, each after a space.
    pub fn place_flags(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("--dir", path(&self.global.dir)),
            ("--config", path(&self.global.config)),
            ("--context", self.global.context.clone()),
        ];
        given
            .into_iter()
            .filter_map(|(flag, value)| Some(format!(" {flag} {}", quoted(&value?))))
            .collect()
    }

    /// Returns `--log-level` as given.
    pub fn log_level(&self) -> Option<&str> {
        self.global.log_level.as_deref()
    }

    /// Loads the settings of a scope, with the settings that the command's flags gave.
    pub fn settings(&self, scope: Scope, mut flags: Vec<Flag>) -> Result<Settings, CmdError> {
        if let Some(level) = &self.global.log_level {
            flags.push(Flag {
                key: "log.level",
                flag: "--log-level",
                value: level.clone(),
            });
        }
        let settings = load(&Sources {
            scope,
            environment: &self.environment,
            dir: self.global.dir.clone(),
            config: self.global.config.clone(),
            context: self.global.context.clone(),
            flags,
        })?;
        check_log_level(&settings)?;
        self.is_still
            .get_or_init(|| matches!(settings.text("terminal.motion"), Ok("off")));
        Ok(settings)
    }

    /// Loads the settings of a scope as they are for who is started with `--dir` naming this directory.
    pub(super) fn settings_in(&self, scope: Scope, dir: Option<PathBuf>) -> Result<Settings, ConfigError> {
        load(&Sources {
            scope,
            environment: &self.environment,
            dir,
            config: self.global.config.clone(),
            context: self.global.context.clone(),
            flags: Vec::new(),
        })
    }

    /// Tells whether bars and spinners may move: on a terminal that a person watches and that can, unless they are not
    /// wanted (`terminal.motion`).
    pub fn moves(&self) -> bool {
        let can = io::stderr().is_terminal() && !matches!(self.environment.get("TERM"), None | Some("dumb"));
        can && !self.is_still.get().copied().unwrap_or(false)
    }

    /// Sets up logs on standard error as the settings say; once per process.
    pub fn start_logs(&self, settings: &Settings) -> Result<(), CmdError> {
        self.init_logs(settings, None)
    }

    /// Loads a role's settings and sets up logs on standard error.
    pub fn role_settings(&self, scope: Scope, flags: Vec<Flag>) -> Result<Settings, CmdError> {
        let settings = self.settings(scope, flags)?;
        self.start_logs(&settings)?;
        Ok(settings)
    }

    /// Loads the settings of a role that is to be served, and sets up its logs, the files included.
    pub fn served_settings(&self, scope: Scope, flags: Vec<Flag>) -> Result<Settings, CmdError> {
        let settings = self.settings(scope, flags.clone())?;
        let keep = match (settings.text("log.file")?, scope.role()) {
            ("off", _) | (_, None) => None,
            (_, Some(role)) => Some(Keep {
                file: journal::file(settings.dir()?, role),
                file_bytes_max: settings.integer("log.file_bytes_max")?,
                files_max: settings.integer("log.files_max")?,
            }),
        };
        self.init_logs(&settings, keep)?;
        let served = Served {
            flags,
            settings: Mutex::new(settings.clone()),
        };
        // A process serves one role.
        drop(self.served.set(served));
        Ok(settings)
    }

    /// Reads a served role's configuration again, takes over what can be taken over, and writes to the log what was and
    /// what was not; opens its log file anew.
    pub(super) fn reload(&self) {
        let (Some(logs), Some(served)) = (self.logs.get(), self.served.get()) else {
            return;
        };
        let has_log_file = logs.reopen();
        let mut settings = served.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match self.settings(settings.scope(), served.flags.clone()) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(target: STATE_TARGET, has_log_file, %error, "the configuration cannot be used: all stays as it was");
                return;
            }
        };
        let mut waiting = settings.changed(&read);
        let mut applied = Vec::new();
        if let Some(index) = waiting.iter().position(|key| *key == LEVEL)
            && let Ok(level) = read.text(LEVEL)
            && logs.set_level(level).is_ok()
        {
            applied.push(waiting.remove(index));
            settings.take_over(LEVEL, &read);
        }
        tracing::info!(
            target: STATE_TARGET,
            has_log_file,
            applied = listed(&applied),
            waiting_for_a_restart = listed(&waiting),
            "the configuration is read again"
        );
    }

    fn init_logs(&self, settings: &Settings, file: Option<Keep>) -> Result<(), CmdError> {
        let tried = "could not set up logs";
        let format = settings
            .text("log.format")?
            .parse()
            .or_fail(ExitCode::Configuration, tried)?;
        let setup = telemetry::Setup {
            level: settings.text("log.level")?,
            format,
            colors: self.colors(io::stderr().is_terminal()),
            is_quiet: !settings.bool("log.stderr")?,
            file,
            clock: self.clock.clone(),
        };
        let logs = telemetry::init(setup).or_fail(ExitCode::Configuration, tried)?;
        // Set up twice is refused above.
        drop(self.logs.set(logs));
        Ok(())
    }

    /// Gives the last lines of the log their time to be written.
    pub(super) fn end_logs(&self) {
        if let Some(logs) = self.logs.get() {
            logs.flush(LAST_LINES);
        }
    }

    /// Runs a role until it ends, a signal asks it to stop, or (`--exit-with-parent`) standard input ends.
    ///
    /// The role gets the family that it spawns into, and returns soon after that family is asked to stop; what
    /// is left after `grace` ([`GRACE`] for roles that finish nothing first) is aborted. A role that stopped because it
    /// was asked to has succeeded; one that had to be aborted by a second signal ends with 130 or 143.
    pub async fn serve<F, R, E>(&self, name: &str, grace: Duration, role: F) -> Result<(), CmdError>
    where
        F: FnOnce(Tasks) -> R,
        R: Future<Output = Result<(), E>>,
        E: Error + 'static,
    {
        let tasks = Tasks::new();
        let (received, orders) =
            signals::listen_all(&tasks).or_fail(ExitCode::Failed, "could not listen for signals")?;
        if self.global.exit_with_parent {
            stop_when_input_ends(&tasks);
        }
        let mut attendant = Attendant::new(self, &tasks, orders);
        let patience = async {
            tasks.stopped().await;
            tokio::select! {
                () = tasks.aborted() => {}
                () = tokio::time::sleep(grace) => {}
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = role(tasks.clone()) => Some(outcome),
            () = patience => None,
            never = attendant.attend() => match never {},
        };
        attendant.stopping();
        let in_order = tokio::select! {
            biased;
            in_order = tasks.shut_down(if outcome.is_some() { GRACE } else { Duration::ZERO }) => in_order,
            never = attendant.attend() => match never {},
        };
        if let Some(failure) = tasks.failure() {
            return Err(CmdError::new(catalogue::ROLE, format!("the {name} ended")).caused_by(&failure));
        }
        if let Some(outcome) = outcome {
            outcome
                .or_fail(catalogue::ROLE, format!("the {name} failed"))
                .map_err(|error| self.point_at_doctor(error))?;
        } else {
            tracing::warn!("the {name} did not stop within its grace");
        }
        match received.exit_code() {
            Some(code) if received.is_impatient() || !in_order => {
                Err(CmdError::quiet(ExitCode::Passed(code)))
            }
            _ => Ok(()),
        }
    }

    /// Adds to the failure of a role that people start who tells more of it.
    fn point_at_doctor(&self, error: CmdError) -> CmdError {
        let scope = self.served.get().map(|served| {
            let settings = served.settings.lock().unwrap_or_else(PoisonError::into_inner);
            settings.scope()
        });
        match scope {
            Some(scope @ (Scope::Facilitator | Scope::Validator | Scope::Miner)) => {
                let role = scope.role().unwrap_or_default();
                error.hint(format!(
                    "`horde doctor {role}` looks for what keeps it from working"
                ))
            }
            _ => error,
        }
    }

    /// Returns the trap that a test of crashes has set at one of these steps; never in release builds.
    pub fn trap(&self, steps: &[&'static str]) -> Option<Trap> {
        Side::VARIABLES
            .into_iter()
            .find_map(|(name, side)| Trap::parse(side, self.environment.get(name)?, steps))
    }

    /// Tells whether this process was started as a child that ends with its parent: nobody starts it again.
    pub fn ends_with_parent(&self) -> bool {
        self.global.exit_with_parent
    }

    /// Stops a family when a signal or (`--exit-with-parent`) the end of standard input asks for it.
    pub fn watch(&self, tasks: &Tasks) -> Result<Received, CmdError> {
        let received = signals::listen(tasks).or_fail(ExitCode::Failed, "could not listen for signals")?;
        if self.global.exit_with_parent {
            stop_when_input_ends(tasks);
        }
        Ok(received)
    }

    /// Tells whether the locale is one of UTF-8, as the environment says; where it says nothing, it is taken to be.
    pub(super) fn speaks_utf8(&self) -> bool {
        let names = ["LC_ALL", "LC_CTYPE", "LANG"];
        let Some(locale) = names.iter().find_map(|name| self.environment.get(name)) else {
            return true;
        };
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    }

    /// Prints a line of data on standard output.
    pub fn line(&self, text: impl fmt::Display) -> Result<(), CmdError> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|error| output_error(&error))
    }

    /// Prints bytes as they are on standard output.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CmdError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| output_error(&error))
    }

    /// Prints data on standard output, in the form that was asked for; the value is what `--output json` prints.
    pub fn print_data(&self, value: &impl Serialize) -> Result<(), CmdError> {
        #[cfg(debug_assertions)]
        super::witness::printed(self, value);
        match self.output.text(value)? {
            Some(text) => self.line(text),
            None => Ok(()),
        }
    }

    /// Prints a value as a line of JSON on standard output: for text that is JSON whatever is asked for.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), CmdError> {
        self.line(serde_json::to_string(value).or_fail(ExitCode::Bug, "could not write JSON")?)
    }

    /// Says something to the person at the terminal, on standard error.
    pub fn say(&self, text: impl fmt::Display) {
        // Nobody is left to tell if this fails.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

/// Quotes a word for a shell, if it needs that.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "=._-/:,@+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn check_log_level(settings: &Settings) -> Result<(), CmdError> {
    telemetry::check_level(settings.text("log.level")?)
        .map_err(|error| ConfigError::refused(settings, "log.level", error).into())
}

/// Returns keys as the log names them.
fn listed(keys: &[&str]) -> Option<String> {
    (!keys.is_empty()).then(|| keys.join(", "))
}

/// A closed pipe is no error: the reader has seen enough.
fn output_error(error: &io::Error) -> CmdError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CmdError::quiet(ExitCode::Done),
        _ => CmdError::new(catalogue::OUTPUT, "could not write to standard output").caused_by(error),
    }
}

/// Stops the family when standard input ends, which it also does when the parent is killed.
fn stop_when_input_ends(tasks: &Tasks) {
    let tasks = tasks.clone();
    // A thread of its own: a blocked read would keep the runtime from ending.
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                Ok(_) | Err(_) => {}
            }
        }
        tracing::info!("the parent is gone");
        tasks.stop();
    });
}
