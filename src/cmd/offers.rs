//! What shells offer for a half-typed word: from the tree of commands, and from what lies on this machine. Never over the
//! network, never for long, and silent where something cannot be read.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;

use super::catalogue::PROBLEMS;
use super::context::Context;
use super::contract::{Prints, Promise, promises};
use super::error::{CmdError, ExitCode, OrFail};
use super::{Cli, help, job};
use crate::core::config::Environment;
use crate::core::config::contexts::Contexts;
use crate::core::model::ExecutorClass;
use crate::core::store::facilitator::look::FacilitatorLook;
use crate::core::store::miner::look::MinerLook;
use crate::core::store::places::{self, Role};
use crate::core::store::validator::look::ValidatorLook;
use crate::tui::theme::Theme;
use crate::tui::view::VIEWS;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new("completions", Prints::Nothing, &[])];

/// The variable by which a shell's script asks; clap's own name.
const VARIABLE: &str = "COMPLETE";

/// Values of one kind that are offered at most.
const OFFERED_MAX: u32 = 50;

/// The name of the programme in a shell.
const NAME: &str = "horde";

/// `horde completions …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  horde completions bash > ~/.local/share/bash-completion/completions/horde
  horde completions zsh > ~/.zfunc/_horde            With fpath+=~/.zfunc before compinit in ~/.zshrc
  horde completions fish > ~/.config/fish/completions/horde.fish
  horde completions powershell >> $PROFILE
  horde completions elvish > ~/.config/elvish/lib/horde.elv   With `use horde` in rc.elv

The script asks horde itself, so it offers job ids, hotkeys, classes and contexts of this machine too, and knows new
commands without being made anew.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, required_unless_present = "out")]
    shell: Option<Shell>,
    /// Write the scripts of all shells into this directory
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "shell")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    const ALL: [Self; 5] = [Self::Bash, Self::Elvish, Self::Fish, Self::Powershell, Self::Zsh];

    const fn word(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::Powershell => "powershell",
            Self::Zsh => "zsh",
        }
    }

    /// The name of the file that the shell looks for.
    const fn file(self) -> &'static str {
        match self {
            Self::Bash => "horde.bash",
            Self::Elvish => "horde.elv",
            Self::Fish => "horde.fish",
            Self::Powershell => "horde.ps1",
            Self::Zsh => "_horde",
        }
    }

    fn script(self) -> io::Result<Vec<u8>> {
        let shells = Shells::builtins();
        let known = shells.completer(self.word());
        let shell = known.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
        // One end of line at the end, whatever the shell's template has.
        script.truncate(script.trim_ascii_end().len());
        script.push(b'\n');
        Ok(script)
    }
}

impl CompletionsArgs {
    /// Runs the command.
    pub fn run(&self, context: &Context) -> Result<(), CmdError> {
        let tried = "could not make the script";
        if let Some(shell) = self.shell {
            return context.bytes(&shell.script().or_fail(ExitCode::Bug, tried)?);
        }
        let Some(out) = &self.out else { return Ok(()) };
        for shell in Shell::ALL {
            let script = shell.script().or_fail(ExitCode::Bug, tried)?;
            write_file(&out.join(shell.file()), &script)?;
        }
        Ok(())
    }
}

/// Writes a generated file, and its directory if that is missing.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), CmdError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, content))
        .or_fail(ExitCode::Failed, format!("could not write {}", path.display()))
}

/// Answers a shell's script, if one asks; tells whether it did.
pub(super) fn answer(environment: &Environment, words: &[OsString]) -> bool {
    if environment.get(VARIABLE).is_none() {
        return false;
    }
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(tree).try_complete(words.iter().cloned(), here.as_deref()) {
        Ok(answered) => answered,
        Err(error) => {
            // A shell shows nothing while somebody types; who calls by hand sees why.
            drop(writeln!(io::stderr().lock(), "{error}"));
            true
        }
    }
}

/// What is offered for an argument, by what has been typed of it.
type Offer = fn(&OsStr) -> Vec<CompletionCandidate>;

/// For which argument of which command what is offered, besides what the parser itself knows.
const OFFERS: &[(&str, &str, Offer)] = &[
    ("job show", "id", jobs),
    ("job logs", "id", jobs),
    ("job wait", "id", jobs),
    ("job explain", "id", jobs),
    ("job retry", "id", jobs),
    ("job download", "id", jobs),
    ("job cancel", "ids", jobs),
    ("job report-cheated", "id", jobs),
    ("job report-cheated", "trusted_id", jobs),
    ("job list", "class", classes),
    ("job submit", "class", classes),
    ("job submit", "validator", hotkeys),
    ("job retry", "validator", hotkeys),
    ("miner jobs show", "id", jobs),
    ("miner jobs", "class", classes),
    ("miner jobs", "validator", hotkeys),
    ("miner receipts", "validator", hotkeys),
    ("miner receipts", "job", jobs),
    ("miner validator add", "hotkey", hotkeys),
    ("miner validator remove", "hotkey", hotkeys),
    ("miner validator block", "hotkey", hotkeys),
    ("miner validator unblock", "hotkey", hotkeys),
    ("facilitator user add", "hotkey", hotkeys),
    ("facilitator user show", "hotkey", hotkeys),
    ("facilitator user block", "hotkey", hotkeys),
    ("facilitator user unblock", "hotkey", hotkeys),
    ("facilitator credit add", "hotkey", hotkeys),
    ("facilitator credit list", "hotkey", hotkeys),
    ("context show", "name", contexts),
    ("context use", "name", contexts),
    ("context set", "name", contexts),
    ("context remove", "name", contexts),
    ("context rename", "old", contexts),
    ("dashboard", "view", views),
    ("dashboard", "theme", themes),
    ("dashboard", "key", jobs),
    ("help", "words", pages),
    ("schema", "words", commands),
    ("man", "words", commands),
];

/// Returns the tree of commands with all that is offered.
fn tree() -> Command {
    let mut root = Cli::command();
    root = root.mut_arg("context", |arg| {
        arg.add(ArgValueCompleter::new(contexts as Offer))
    });
    root = root.mut_arg("log_level", |arg| {
        arg.add(ArgValueCompleter::new(levels as Offer))
    });
    for (words, id, offer) in OFFERS {
        let words: Vec<&str> = words.split(' ').collect();
        root = offered(root, &words, id, *offer);
    }
    root
}

fn offered(command: Command, words: &[&str], id: &'static str, offer: Offer) -> Command {
    match words.split_first() {
        None => {
            // Whoever is changed goes to the end, so places are written down.
            let places: Vec<_> = command
                .get_positionals()
                .map(|arg| arg.get_id().clone())
                .collect();
            let command = command.mut_arg(id, |arg| arg.add(ArgValueCompleter::new(offer)));
            let numbered = places.into_iter().zip(1..);
            numbered.fold(command, |command, (place, number)| {
                command.mut_arg(place, |arg| arg.index(number))
            })
        }
        Some((word, below)) => command.mut_subcommand(*word, |command| offered(command, below, id, offer)),
    }
}

fn candidates<S: Into<OsString>>(
    current: &OsStr,
    words: impl IntoIterator<Item = S>,
) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let words = words.into_iter().map(Into::into);
    let fitting = words.filter(|word: &OsString| word.to_string_lossy().starts_with(&*current));
    fitting.map(CompletionCandidate::new).collect()
}

fn classes(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, ExecutorClass::ALL.iter().map(|class| class.as_str()))
}

fn views(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, VIEWS.iter().map(|view| view.name))
}

fn themes(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Theme::ALL.map(Theme::word))
}

fn levels(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, ["error", "warn", "info", "debug", "trace", "off"])
}

/// The first words of commands: a shell asks word by word.
fn commands(current: &OsStr) -> Vec<CompletionCandidate> {
    let words = promises().flat_map(|promise| promise.words.split(' '));
    let words: std::collections::BTreeSet<&str> = words.collect();
    candidates(current, words)
}

fn pages(current: &OsStr) -> Vec<CompletionCandidate> {
    let topics = help::topic_names().map(|(name, _)| name);
    let codes = PROBLEMS.iter().map(|problem| problem.code);
    let mut all = candidates(current, topics.chain(codes));
    all.extend(commands(current));
    all
}

/// Returns the data directory that is meant: by a `--dir` among the words that stand there already, or the usual one.
fn directory(environment: &Environment) -> Option<PathBuf> {
    let mut words = std::env::args_os().skip_while(|word| word != "--dir");
    let given = words.nth(1).map(PathBuf::from);
    given.or_else(|| Some(environment.data_home()?.join("horde")))
}

fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let known = Contexts::read(&Environment::of_process());
    let names = known
        .iter()
        .flat_map(Contexts::all)
        .map(|context| context.name.clone());
    candidates(current, names.collect::<Vec<_>>())
}

fn jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    let environment = Environment::of_process();
    let beginning = current.to_string_lossy();
    let mut found: Vec<String> = job::recent::read(&environment);
    found.retain(|job| job.starts_with(&*beginning));
    for place in directory(&environment)
        .map(|dir| places::find(&dir))
        .unwrap_or_default()
    {
        let file = place.database();
        let named = match place.role {
            Role::Facilitator => {
                FacilitatorLook::open(&file).and_then(|look| look.named(&beginning, OFFERED_MAX))
            }
            Role::Validator => {
                ValidatorLook::open(&file).and_then(|look| look.named(&beginning, OFFERED_MAX))
            }
            Role::Miner => MinerLook::open(&file).and_then(|look| look.named(&beginning, OFFERED_MAX)),
        };
        found.extend(named.unwrap_or_default().iter().map(ToString::to_string));
    }
    once_each(current, found)
}

fn hotkeys(current: &OsStr) -> Vec<CompletionCandidate> {
    let environment = Environment::of_process();
    let mut found: Vec<String> = Vec::new();
    for place in directory(&environment)
        .map(|dir| places::find(&dir))
        .unwrap_or_default()
    {
        let file = place.database();
        match place.role {
            Role::Facilitator => {
                let users = FacilitatorLook::open(&file).and_then(|look| look.users("", OFFERED_MAX));
                found.extend(
                    users
                        .unwrap_or_default()
                        .into_iter()
                        .map(|user| user.hotkey.to_string()),
                );
            }
            Role::Validator => {
                let miners = ValidatorLook::open(&file).and_then(|look| look.miners(0));
                found.extend(
                    miners
                        .unwrap_or_default()
                        .into_keys()
                        .map(|miner| miner.to_string()),
                );
            }
            Role::Miner => {
                let known = MinerLook::open(&file).and_then(|look| look.validators());
                let known = known.map(|(known, _)| known).unwrap_or_default();
                found.extend(known.into_iter().map(|validator| validator.hotkey.to_string()));
            }
        }
    }
    once_each(current, found)
}

fn once_each(current: &OsStr, found: Vec<String>) -> Vec<CompletionCandidate> {
    let mut seen = std::collections::HashSet::new();
    let found = found.into_iter().filter(|word| seen.insert(word.clone()));
    let most = usize::try_from(OFFERED_MAX).unwrap_or(usize::MAX);
    // What peers have named may be anything; a shell gets words.
    let found = found.filter(|word| word.chars().all(|c| c.is_ascii_graphic()));
    candidates(current, found.take(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_offered_is_offered_for_an_argument_that_there_is() {
        // Panics where a command or argument is missing.
        tree().debug_assert();
        for (words, id, _) in OFFERS {
            let root = Cli::command();
            let command = words
                .split(' ')
                .try_fold(&root, |command, word| command.find_subcommand(word));
            let arguments = command.unwrap().get_arguments();
            assert!(
                arguments.into_iter().any(|arg| arg.get_id() == *id),
                "{words} {id}"
            );
        }
    }

    #[test]
    fn only_what_begins_so_is_offered_and_each_once() {
        let found = vec![
            "ab".to_owned(),
            "ac".to_owned(),
            "ab".to_owned(),
            "a\u{1b}".to_owned(),
        ];
        let offered = once_each(OsStr::new("a"), found);
        let words: Vec<_> = offered.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(words, ["ab", "ac"]);
        assert_eq!(classes(OsStr::new("always_on.gp")).len(), 1);
    }
}
