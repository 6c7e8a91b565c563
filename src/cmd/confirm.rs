//! Changes: what a command would change, whether its user wants that, and the way back.
//!
//! Every command that changes something makes a [`Plan`] by the same reading and checking with which it would go on,
//! and lets [`ChangeArgs::allow`] decide: `--dry-run` prints the plan, a dangerous one is asked about, and nobody is asked
//! who is not there.

use std::io::{self, IsTerminal};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::context::Context;
use super::error::{CmdError, ExitCode, OrFail};
use super::table::{NOTHING, printable};
use crate::core::config::Settings;

/// Flags of every command that changes something.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ChangeArgs {
    /// Show what would change and change nothing; ends with 11 if something would
    #[arg(long, help_heading = "Change options")]
    dry_run: bool,
    /// Answer every question with yes
    #[arg(long, short = 'y', help_heading = "Change options")]
    yes: bool,
    /// Ask nothing: end with 2 where an answer is needed
    #[arg(long, help_heading = "Change options")]
    no_input: bool,
}

/// How much harm a change can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Danger {
    /// It can be taken back: nobody is asked.
    None,
    /// Something ends or is lost: yes or no, no if in doubt.
    Ask,
    /// Much is lost, or money: the name must be typed.
    TypeName,
}

impl Danger {
    /// On the main network everything is one level more dangerous.
    fn on(self, is_mainnet: bool) -> Self {
        match (self, is_mainnet) {
            (Self::None, true) => Self::Ask,
            (Self::Ask, true) => Self::TypeName,
            (danger, _) => danger,
        }
    }
}

/// One thing that changes.
#[derive(Debug, Serialize, JsonSchema)]
struct Change {
    /// What changes.
    what: String,
    /// What it is now; null if it is not there.
    from: Option<String>,
    /// What it would be; null if it would not be there.
    to: Option<String>,
}

/// What a command would change.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Plan {
    /// What would be done, such as `block`.
    action: &'static str,
    /// To what, such as `user 5Grw…`.
    object: String,
    /// What would change; nothing if everything is so already.
    changes: Vec<Change>,
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    danger: Danger,
    #[serde(skip)]
    effect: &'static str,
    #[serde(skip)]
    undo: Option<String>,
    #[serde(skip)]
    is_of_network: bool,
}

/// What `--dry-run --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PlanShown<'a> {
    /// What would be done.
    plan: &'a Plan,
    /// On which network.
    network: &'a str,
    /// Whether that is the main network.
    mainnet: bool,
    /// In which context, if one is in force.
    context: Option<&'a str>,
}

impl Plan {
    /// Begins a plan: what is done to what kind of thing of which name.
    pub(super) fn new(action: &'static str, kind: &str, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            action,
            object: format!("{kind} {name}"),
            changes: Vec::new(),
            name,
            danger: Danger::None,
            effect: "",
            undo: None,
            is_of_network: true,
        }
    }

    /// Says that only this machine's own files change, whatever the network.
    #[must_use]
    pub(super) fn of_this_machine(mut self) -> Self {
        self.is_of_network = false;
        self
    }

    /// Says where it happens, if that matters.
    fn place(&self, settings: &Settings) -> String {
        if self.is_of_network {
            place(settings)
        } else {
            String::new()
        }
    }

    /// Adds a change, unless both sides are the same.
    #[must_use]
    pub(super) fn change(
        mut self,
        what: impl Into<String>,
        from: Option<String>,
        to: Option<String>,
    ) -> Self {
        if from != to {
            self.changes.push(Change {
                what: what.into(),
                from,
                to,
            });
        }
        self
    }

    /// Says how dangerous it is, and in one sentence without its full stop what it does.
    #[must_use]
    pub(super) fn danger(mut self, danger: Danger, effect: &'static str) -> Self {
        self.danger = danger;
        self.effect = effect;
        self
    }

    /// Names the command that takes it back.
    #[must_use]
    pub(super) fn undo(mut self, command: impl Into<String>) -> Self {
        self.undo = Some(command.into());
        self
    }

    /// Tells whether nothing would change.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Tells, once it is done, how to take it back.
    pub(super) fn tell_undo(&self, context: &Context) {
        if let Some(command) = self.undo.as_ref().filter(|_| !self.changes.is_empty()) {
            context.say(format_args!("to take it back: {command}"));
        }
    }

    fn print(&self, context: &Context, settings: &Settings) -> Result<(), CmdError> {
        if context.wants_data() {
            return context.print_data(&PlanShown {
                plan: self,
                network: settings.network()?,
                mainnet: settings.is_mainnet(),
                context: settings.context(),
            });
        }
        if self.changes.is_empty() {
            context.say(format_args!(
                "{} {}: nothing would change",
                self.action, self.object
            ));
            return Ok(());
        }
        context.line(format_args!(
            "would {} {}{}",
            self.action,
            printable(&self.object),
            self.place(settings)
        ))?;
        let side = |side: &Option<String>| printable(side.as_deref().unwrap_or(NOTHING));
        for change in &self.changes {
            let (from, to) = (side(&change.from), side(&change.to));
            context.line(format_args!("  {}: {from} -> {to}", printable(&change.what)))?;
        }
        Ok(())
    }
}

/// Says in which context and on which network, where that says more than that it is here.
pub(super) fn place(settings: &Settings) -> String {
    let network = match settings.network() {
        Ok(network) if settings.is_mainnet() => format!("MAINNET {network}"),
        Ok(network) if network != "local" => format!("network {network}"),
        _ => String::new(),
    };
    let context = settings.context().map(|name| format!("context {name}"));
    let words: Vec<String> = context
        .into_iter()
        .chain([network])
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(", "))
    }
}

impl ChangeArgs {
    /// Tells whether nothing may be changed.
    pub(super) fn is_dry(self) -> bool {
        self.dry_run
    }

    /// Tells whether nothing may be asked.
    pub(super) fn is_silent(self) -> bool {
        self.no_input
    }

    /// Tells whether to go on; prints the plan for `--dry-run`, which ends with 11 if something would change.
    pub(super) async fn allow(
        self,
        context: &Context,
        settings: &Settings,
        plan: &Plan,
    ) -> Result<bool, CmdError> {
        if self.dry_run {
            plan.print(context, settings)?;
            return if plan.changes.is_empty() {
                Ok(false)
            } else {
                Err(CmdError::quiet(ExitCode::Pending))
            };
        }
        let danger = plan.danger.on(plan.is_of_network && settings.is_mainnet());
        if plan.changes.is_empty() || danger == Danger::None || self.yes {
            return Ok(true);
        }
        let question = format!(
            "{} {}{}",
            plan.action,
            printable(&plan.object),
            plan.place(settings)
        );
        if !may_ask(context, self.no_input) {
            return Err(CmdError::new(ExitCode::Usage, format!("{question} needs a yes"))
                .hint("--yes gives it; --dry-run shows what would change"));
        }
        if !plan.effect.is_empty() {
            context.say(plan.effect);
        }
        let agreed = if danger == Danger::TypeName {
            let name = printable(&plan.name);
            let prompt = format!("{question}: type {name} to go on");
            let typed = ask(move || {
                dialoguer::Input::<String>::new()
                    .with_prompt(prompt)
                    .allow_empty(true)
                    .interact_text()
            });
            typed.await?.trim() == name
        } else {
            ask(move || {
                dialoguer::Confirm::new()
                    .with_prompt(format!("{question}?"))
                    .default(false)
                    .interact()
            })
            .await?
        };
        if agreed {
            Ok(true)
        } else {
            Err(CmdError::new(ExitCode::Failed, "nothing was changed"))
        }
    }
}

/// Tells whether somebody is there who may be asked: standard input and error are terminals, `--no-input` is absent, and
/// no data is wanted.
pub(super) fn may_ask(context: &Context, no_input: bool) -> bool {
    !no_input && !context.wants_data() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Runs a question on a thread of its own: it waits for a person.
pub(super) async fn ask<T: Send + 'static>(
    question: impl FnOnce() -> dialoguer::Result<T> + Send + 'static,
) -> Result<T, CmdError> {
    let tried = "could not ask";
    // A key that is waited for takes Ctrl-C as a key and then sends the signal itself: it must not kill.
    let mut interrupts = signal(SignalKind::interrupt()).or_fail(ExitCode::Failed, tried)?;
    let answer = tokio::select! {
        biased;
        answer = tokio::task::spawn_blocking(question) => answer.or_fail(ExitCode::Bug, tried)?,
        _ = interrupts.recv() => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
    };
    answer.map_err(|dialoguer::Error::IO(error)| {
        // Whoever is interrupted while a choice is shown has lost the cursor.
        drop(dialoguer::console::Term::stderr().show_cursor());
        if error.kind() == io::ErrorKind::Interrupted {
            return CmdError::quiet(ExitCode::Passed(130));
        }
        CmdError::new(ExitCode::Failed, tried)
            .caused_by(&error)
            .hint("--no-input asks nothing")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{Environment, Scope, Sources, load};

    fn settings(context: Option<&str>) -> Settings {
        load(&Sources {
            scope: Scope::Tool,
            environment: &Environment::from_iter([("HOME", "/nowhere")]),
            dir: None,
            config: None,
            context: context.map(str::to_owned),
            flags: Vec::new(),
        })
        .unwrap()
    }

    #[test]
    fn the_main_network_is_one_level_more_dangerous_and_named_as_such() {
        for (danger, raised) in [
            (Danger::None, Danger::Ask),
            (Danger::Ask, Danger::TypeName),
            (Danger::TypeName, Danger::TypeName),
        ] {
            assert_eq!(danger.on(false), danger);
            assert_eq!(danger.on(true), raised);
        }
        assert_eq!(place(&settings(None)), "");
        assert_eq!(place(&settings(Some("local"))), " (context local)");
        assert_eq!(
            place(&settings(Some("finney"))),
            " (context finney, MAINNET finney)"
        );
    }

    #[test]
    fn what_stays_as_it_is_is_no_change() {
        let same = Some("a".to_owned());
        let plan = Plan::new("set", "thing", "x").change("a", same.clone(), same);
        assert!(plan.changes.is_empty());
        assert_eq!(plan.change("b", None, Some("c".to_owned())).changes.len(), 1);
    }
}
