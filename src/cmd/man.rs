//! `horde man`: a page of the manual for each command, made of the tree of commands and the registries.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use super::context::Context;
use super::contract::{JOBS_OWN, Prints, Promise, promise, promises};
use super::error::{CmdError, ExitCode, OrFail};
use super::help::{FILES, VARIABLES, nearest};
use super::offers::write_file;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new("man", Prints::Nothing, &[ExitCode::NotFound])];

/// The section of the manual: commands of users.
const SECTION: &str = "1";

/// `horde man …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  horde man                      The page of horde
  horde man job submit           The page of a command
  horde man miner | groff -man -Tpdf > miner.pdf
  horde man --out /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The command
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "words")]
    out: Option<PathBuf>,
    /// Print the page, where a terminal would show it page by page
    #[arg(long)]
    no_pager: bool,
}

/// A page.
struct Page {
    words: String,
    file: String,
    roff: Vec<u8>,
}

impl ManArgs {
    /// Runs the command.
    pub fn run(&self, context: &Context) -> Result<(), CmdError> {
        let pages = pages().or_fail(ExitCode::Bug, "could not write the manual")?;
        if let Some(out) = &self.out {
            return pages
                .iter()
                .try_for_each(|page| write_file(&out.join(&page.file), &page.roff));
        }
        let words = self.words.join(" ");
        let Some(page) = pages.iter().find(|page| page.words == words) else {
            let error = CmdError::new(ExitCode::NotFound, format!("there is no command `horde {words}`"));
            return Err(match nearest(&words, promises().map(|promise| promise.words)) {
                Some(near) => error.hint(format!("did you mean `horde man {near}`?")),
                None => error.hint("`horde help` lists the commands"),
            });
        };
        if io::stdout().is_terminal() {
            return shown(context, page, self.no_pager);
        }
        context.bytes(&page.roff)
    }
}

/// Shows a page on a terminal by `man`; without one, as the help has it.
fn shown(context: &Context, page: &Page, no_pager: bool) -> Result<(), CmdError> {
    let mut man = Process::new("man");
    man.args(["-l", "-"]).stdin(Stdio::piped());
    if no_pager {
        man.args(["-P", "cat"]);
    }
    let mut child = match man.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            context.say("note: `man` is not installed here; this is the help");
            let words: Vec<&str> = page.words.split(' ').filter(|word| !word.is_empty()).collect();
            let mut root = Cli::command();
            root.build();
            let command = words
                .iter()
                .try_fold(&mut root, |command, word| command.find_subcommand_mut(word));
            let text = command.map(|command| command.render_long_help().to_string());
            return context.line(text.unwrap_or_default().trim_end());
        }
        Err(error) => return Err(CmdError::new(ExitCode::Failed, "could not start man").caused_by(&error)),
    };
    if let Some(mut input) = child.stdin.take() {
        // A pager that was left early takes no more.
        drop(input.write_all(&page.roff));
    }
    let ended = child.wait().or_fail(ExitCode::Failed, "could not wait for man")?;
    if ended.success() {
        Ok(())
    } else {
        Err(CmdError::new(ExitCode::Failed, "man could not show the page").hint("--no-pager prints it"))
    }
}

/// Makes the pages of all commands that are not hidden, parents first.
fn pages() -> io::Result<Vec<Page>> {
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    add(&root, "", &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, words: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command, words)?);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let words = format!("{words} {}", below.get_name());
        add(below, words.trim_start(), pages)?;
    }
    Ok(())
}

fn page(command: &Command, words: &str) -> io::Result<Page> {
    // No date and no version: a page changes when the command does.
    let man = Man::new(command.clone()).date("").source("horde").manual("horde");
    let mut roff = Vec::new();
    man.render_title(&mut roff)?;
    man.render_name_section(&mut roff)?;
    man.render_synopsis_section(&mut roff)?;
    man.render_description_section(&mut roff)?;
    man.render_options_section(&mut roff)?;
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .collect();
    if !below.is_empty() {
        man.render_subcommands_section(&mut roff)?;
    }
    let after = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(after) = after {
        let text = after.to_string();
        let (before, examples) = text.split_once("Examples:").unwrap_or(("", &text));
        if !before.trim().is_empty() {
            section(&mut roff, "NOTES", before)?;
        }
        section(&mut roff, "EXAMPLES", examples.trim_start_matches('\n'))?;
    }
    if command.is_subcommand_required_set() || words.is_empty() {
        exits(&mut roff, ExitCode::ALL.iter().map(|(code, _)| *code).collect())?;
    } else {
        let promised = promise(words);
        exits(
            &mut roff,
            ExitCode::ANY.iter().chain(promised.exits).copied().collect(),
        )?;
    }
    if words.is_empty() {
        list(&mut roff, "ENVIRONMENT", VARIABLES)?;
        list(&mut roff, "FILES", FILES)?;
    }
    see_also(&mut roff, words, &below)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    Ok(Page {
        words: words.to_owned(),
        file: format!("{name}.{SECTION}"),
        roff,
    })
}

/// Writes a section of text as it is.
fn section(roff: &mut Vec<u8>, name: &str, text: &str) -> io::Result<()> {
    writeln!(roff, ".SH {name}\n.nf")?;
    for line in text.trim_end().lines() {
        writeln!(roff, "{}", escaped(line))?;
    }
    writeln!(roff, ".fi")
}

fn list(roff: &mut Vec<u8>, name: &str, rows: &[(&str, &str)]) -> io::Result<()> {
    writeln!(roff, ".SH {name}")?;
    for (term, meaning) in rows {
        writeln!(roff, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(meaning))?;
    }
    Ok(())
}

fn exits(roff: &mut Vec<u8>, codes: Vec<ExitCode>) -> io::Result<()> {
    writeln!(roff, ".SH \"EXIT STATUS\"")?;
    let mut codes = codes;
    codes.sort_by_key(|code| code.number());
    codes.dedup();
    let is_jobs = codes.contains(&JOBS_OWN);
    for code in codes.into_iter().filter(|code| *code != JOBS_OWN) {
        let meaning = ExitCode::ALL.iter().find(|(known, _)| *known == code);
        let meaning = meaning.map_or("", |(_, meaning)| meaning);
        writeln!(roff, ".TP\n{}\n{}", code.number(), escaped(meaning))?;
    }
    if is_jobs {
        writeln!(roff, ".TP\nany other\nthe job's own")?;
    }
    Ok(())
}

fn see_also(roff: &mut Vec<u8>, words: &str, below: &[&Command]) -> io::Result<()> {
    let above = words.rsplit_once(' ').map(|(above, _)| above);
    let mut names: Vec<String> = Vec::new();
    if !words.is_empty() {
        let above = above.map_or_else(String::new, |above| format!("-{}", above.replace(' ', "-")));
        names.push(format!("horde{above}"));
    }
    let own = if words.is_empty() {
        String::new()
    } else {
        format!("-{}", words.replace(' ', "-"))
    };
    names.extend(
        below
            .iter()
            .map(|below| format!("horde{own}-{}", below.get_name())),
    );
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("\\fB{}\\fR({SECTION})", escaped(name)))
        .collect();
    writeln!(roff, ".SH \"SEE ALSO\"\n{}", names.join(",\n"))
}

/// Keeps a text from being a command of roff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_each_file_is_one() {
        let pages = pages().unwrap();
        for promise in promises() {
            assert!(
                pages.iter().any(|page| page.words == promise.words),
                "{}",
                promise.words
            );
        }
        let files: std::collections::BTreeSet<_> = pages.iter().map(|page| &page.file).collect();
        assert_eq!(files.len(), pages.len());
    }

    #[test]
    fn text_does_not_command() {
        assert_eq!(escaped(".so /etc/passwd"), "\\&.so /etc/passwd");
        assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
    }
}
