//! `horde help`: a command, a code of the catalogue, or a topic; offline, and made of the registries that the code uses.

mod registry;
mod topics;

use clap::{Args, CommandFactory};
use schemars::JsonSchema;
use serde::Serialize;

pub use self::registry::{FILES, VARIABLES};
use self::topics::{TOPICS, Topic};
use super::Cli;
use super::catalogue::{PROBLEMS, Problem};
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode};

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "help",
    Prints::One(of::<Page>),
    &[ExitCode::NotFound],
)];

/// How alike a word must be to one that is suggested for it; 1 is the same.
const ALIKE: f64 = 0.75;

/// `horde help …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  horde help                  The commands
  horde help job submit       A command
  horde help H0402            What an error means and what to do
  horde help exit-codes       A topic; `horde help topics` lists them")]
pub struct HelpArgs {
    /// A command, a code such as H0402, or a topic
    #[arg(value_name = "WHAT")]
    words: Vec<String>,
}

/// A page of help.
#[derive(Serialize, JsonSchema)]
struct Page {
    /// What it is about: a command's words, a code, or the name of a topic.
    name: String,
    /// Its title.
    title: String,
    /// Its text; for a code what it means and what to do.
    text: String,
    /// For a code: the exit code of a command that ends with it.
    exit_code: Option<u8>,
}

impl HelpArgs {
    /// Runs the command.
    pub fn run(&self, context: &Context) -> Result<(), CmdError> {
        let page = self.page()?;
        if context.wants_data() {
            return context.print_data(&page);
        }
        context.line(page.text.trim_end())
    }

    fn page(&self) -> Result<Page, CmdError> {
        let name = self.words.join(" ");
        if let Some(page) = command(&self.words) {
            return Ok(page);
        }
        if let Some(problem) = Problem::find(&name) {
            return Ok(code(problem));
        }
        if let Some(topic) = TOPICS.iter().find(|topic| topic.name == name) {
            return Ok(Page {
                name,
                title: topic.title.to_owned(),
                text: topic.text(),
                exit_code: None,
            });
        }
        let error = CmdError::new(
            ExitCode::NotFound,
            format!("there is no command, code or topic {name:?}"),
        );
        let topics = TOPICS.iter().map(|topic| topic.name);
        let codes = PROBLEMS.iter().map(|problem| problem.code);
        let commands = super::contract::promises().map(|promise| promise.words);
        Err(match nearest(&name, topics.chain(codes).chain(commands)) {
            Some(near) => error.hint(format!("did you mean `horde help {near}`?")),
            None => error.hint("`horde help topics` lists the topics, `horde help` the commands"),
        })
    }
}

/// Returns the name that is most alike to a word, if one is alike enough.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    names
        .map(|name| (strsim::jaro(&word, &name.to_lowercase()), name))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// Returns the long help of a command of the tree.
fn command(words: &[String]) -> Option<Page> {
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in words {
        command = command.find_subcommand_mut(word)?;
    }
    Some(Page {
        name: words.join(" "),
        title: command.get_about().map(ToString::to_string).unwrap_or_default(),
        text: command.render_long_help().to_string(),
        exit_code: None,
    })
}

fn code(problem: &Problem) -> Page {
    let exit = match problem.exit {
        ExitCode::Passed(_) => "the job's own".to_owned(),
        code => code.number().to_string(),
    };
    let lines = [
        format!("{}: {}", problem.code, problem.title),
        format!("Exit code: {exit}"),
        format!("Why:\n{}", topics::wrapped(problem.why, 2)),
        format!("What to do:\n{}", topics::wrapped(problem.remedy, 2)),
    ];
    Page {
        name: problem.code.to_owned(),
        title: problem.title.to_owned(),
        text: lines.join("\n\n"),
        exit_code: Some(problem.exit.number()),
    }
}

/// The names and titles of all topics.
pub(super) fn topic_names() -> impl Iterator<Item = (&'static str, &'static str)> {
    TOPICS.iter().map(|topic: &Topic| (topic.name, topic.title))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(words: &[&str]) -> Result<Page, CmdError> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        HelpArgs { words }.page()
    }

    #[test]
    fn commands_codes_and_topics_have_pages() {
        assert!(
            page(&["job", "submit"])
                .unwrap()
                .text
                .contains("Usage: horde job submit")
        );
        assert!(page(&["h0402"]).unwrap().text.starts_with("H0402: "));
        assert!(page(&["exit-codes"]).unwrap().text.contains("124"));
        let error = page(&["exit-code"]).err().unwrap();
        assert_eq!(error.code, ExitCode::NotFound);
        assert_eq!(error.hints, ["did you mean `horde help exit-codes`?"]);
    }

    #[test]
    fn no_topic_is_called_like_a_command() {
        let root = Cli::command();
        for (name, _) in topic_names() {
            assert!(root.find_subcommand(name).is_none(), "{name}");
            assert!(!page(&[name]).unwrap().text.is_empty());
        }
    }
}
