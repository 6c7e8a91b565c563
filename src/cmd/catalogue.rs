//! What can go wrong, as people look it up: one entry per stable code, each with what it means and what to do.
//!
//! The first two digits of a code are the exit code of a command that ends with it (24 to 27 stand for 124 to 127), so
//! a script that knows the one knows the other. A code is a promise: it is never given to something else.

use super::error::ExitCode;

/// One thing that can go wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stable code, as in `H0601`.
    pub code: &'static str,
    /// The exit code of a command that ends with it.
    pub exit: ExitCode,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Why it happens.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $exit:expr, $title:literal, $why:literal, $remedy:literal;)+) => {
        $($(#[$doc])* pub const $name: &Problem = &Problem {
            code: $code, exit: $exit, title: $title, why: $why, remedy: $remedy,
        };)+

        /// All of them, by code.
        pub const PROBLEMS: &[&Problem] = &[$($name),+];
    };
}

problems! {
    /// The general failure.
    FAILED = "H0100", ExitCode::Failed, "the thing asked for failed",
        "The lines `caused by` below the message say what went wrong, the outermost cause first.",
        "Follow the hint, if there is one. `--log-level debug` says more on standard error.";
    /// Standard output.
    OUTPUT = "H0101", ExitCode::Failed, "standard output cannot be written",
        "The file or device behind standard output took no more: it is full, or was closed with an error. A closed \
         pipe is no error: the command then ends quietly.",
        "Make room, or send the output elsewhere.";
    /// A database.
    DATABASE = "H0102", ExitCode::Failed, "a database cannot be opened or read",
        "The file is damaged, belongs to somebody else, was written by a newer horde, or another process holds it.",
        "`horde config show ROLE` tells the directory. Run the command as the user who runs the role; keep a copy of \
         the file before you try anything else with it.";
    /// A role's end.
    ROLE = "H0103", ExitCode::Failed, "a role ended by itself",
        "A part that the role cannot do without has failed; a role does not run on with half of its parts.",
        "Read the causes and the last lines of its log. What it owed is on disk: starting it again goes on from there.";
    /// A network on this machine.
    NETWORK = "H0104", ExitCode::Failed, "the network on this machine does not run",
        "One of the roles that `horde up` starts did not come up in time, or has ended.",
        "The end of the log of the one to blame is shown; the whole of it lies in its directory.";
    /// The command line.
    USAGE = "H0200", ExitCode::Usage, "the command line makes no sense",
        "A value is not one of those that the command takes, or two things were asked for that exclude each other.",
        "The hint names what is taken; `--help` after any command shows all of it with examples.";
    /// A word of the command line.
    WORD = "H0201", ExitCode::Usage, "unknown command, flag or value",
        "The command line holds a word that horde does not know there, or lacks one that it needs.",
        "A near word is suggested. `horde help` lists the commands, `horde COMMAND --help` its flags.";
    /// The fields of an output.
    FIELD = "H0202", ExitCode::Usage, "no such field",
        "`--fields` names something that the command's data does not have.",
        "`--fields` as the last word of the command line lists them; `horde schema COMMAND` describes each.";
    /// A form of output that a command does not have.
    FORMAT = "H0203", ExitCode::Usage, "the command prints no data",
        "`--output`, `--json` and `--fields` shape data, and this command prints none: it runs until it is stopped, \
         or prints a text as it is.",
        "Leave the flag out; `horde schema` lists the commands that print data.";
    /// A terminal.
    TERMINAL = "H0204", ExitCode::Usage, "this needs a terminal",
        "The command draws on a terminal or asks a person, and there is none.",
        "The hint names the flags that do without: `--once`, `--plain` or `--json` for the dashboard, `--yes` or the \
         value itself for a question.";
    /// The beginning of an identity that fits several.
    AMBIGUOUS = "H0205", ExitCode::Usage, "the beginning of an identity fits several",
        "Identities may be shortened as long as only one begins so.",
        "Type one of those that are shown, or a longer beginning.";
    /// What does not exist.
    NOT_FOUND = "H0300", ExitCode::NotFound, "the thing asked for does not exist",
        "Nothing goes by this name here: on this facilitator, in this directory, for this key.",
        "The list command of the same noun shows what there is. `--dir` and `--facilitator` name other places.";
    /// A role's database.
    NO_DATABASE = "H0301", ExitCode::NotFound, "there is no database of this role",
        "The role has never run with this directory, or the directory is another one.",
        "Pass the `--dir` that the role was started with, or start it: it makes its database.";
    /// A job.
    NO_JOB = "H0302", ExitCode::NotFound, "there is no such job",
        "Jobs are looked for among your newest ones; facilitators and miners forget them days after their end.",
        "`horde job list --all` or `horde miner jobs` lists those that are kept.";
    /// A refusal.
    REFUSED = "H0400", ExitCode::Refused, "refused",
        "The other side, or this machine, does not let you do this: a key, a permission, a limit.",
        "The message says who refuses and why. Its operator can change it.";
    /// A user whom a facilitator does not let in.
    NOT_LET_IN = "H0401", ExitCode::Refused, "the facilitator does not let this key in",
        "Its operator has not added the hotkey, or has blocked it, or the signature was made by another key.",
        "Have it added: `horde facilitator user add HOTKEY` on the facilitator's machine. `horde key show` prints the \
         hotkey that you use.";
    /// Credit.
    NO_CREDIT = "H0402", ExitCode::Refused, "there is not enough credit",
        "The job's limits cost more than the credit that is free; jobs that run hold some of it until they end.",
        "Have credit added (`horde facilitator credit add`), wait for running jobs to end, or ask for less time: \
         `--limits download=…,execution=…,upload=…`.";
    /// What does not fit how things stand.
    CONFLICT = "H0500", ExitCode::Conflict, "not possible as things stand",
        "What is asked for does not fit the state of the thing: a job that has ended, a side that does not know the \
         request.",
        "`horde job show JOB` tells how it stands.";
    /// Something that cannot be reached.
    UNREACHABLE = "H0600", ExitCode::Unreachable, "the other side cannot be reached",
        "No connection comes about: nobody listens there, a firewall drops it, the name is unknown, or the \
         certificate is not trusted.",
        "Check the address and that the other side runs.";
    /// A facilitator that cannot be reached.
    NO_FACILITATOR = "H0601", ExitCode::Unreachable, "the facilitator cannot be reached",
        "Nobody answers at the URL of the facilitator.",
        "Is `horde facilitator run` or `horde up` running there? `--facilitator URL` names another one.";
    /// The engine.
    NO_DOCKER = "H0602", ExitCode::Unreachable, "the Docker engine cannot be reached",
        "Jobs run in containers, and no engine answers at its socket, or this user may not use it.",
        "Start it (`systemctl start docker`), or join its group and log in again; `executor.docker_host` names \
         another socket. `horde executor check` tells more.";
    /// Time is over.
    TOO_LONG = "H0700", ExitCode::TooLong, "waited too long",
        "The time given by `--timeout` is over. What was waited for goes on.",
        "Run the command again to wait on; nothing is lost by it.";
    /// A part.
    PARTIAL = "H0800", ExitCode::Partial, "done in part",
        "Some of what was asked for was done and some was not; each is listed with its reason.",
        "Repeat the command for those that failed.";
    /// Settings.
    CONFIGURATION = "H0900", ExitCode::Configuration, "the configuration cannot be used",
        "A setting is unknown, has a wrong value, or is missing; all that is wrong is listed at once.",
        "`horde config show` lists every setting with its origin; `horde config check` checks them.";
    /// A check.
    CHECK = "H1000", ExitCode::CheckFailed, "a check failed",
        "A command that looks whether something is as it must be has found that it is not.",
        "Each finding names its remedy.";
    /// A price.
    TOO_DEAR = "H1001", ExitCode::CheckFailed, "the job could cost more than allowed",
        "`--max-cost` allows less than the job's limits may cost, or the facilitator tells no price.",
        "Ask for less time, allow more, or leave `--max-cost` out.";
    /// A plan.
    PENDING = "H1100", ExitCode::Pending, "a plan was shown and nothing was done",
        "`--dry-run` found that there is something to do. With nothing to do the exit code is 0.",
        "The same command without `--dry-run` does it.";
    /// An unfit machine.
    UNHEALTHY = "H1101", ExitCode::Unhealthy, "the machine is not fit for another job",
        "An executor has reported its job and then found that its container or files cannot be removed, or that a \
         device is not as it was.",
        "`horde executor check` tells what; the miner starts no more executors here until it passes.";
    /// A bug.
    BUG = "H7000", ExitCode::Bug, "a bug of horde",
        "Something happened that the programme holds to be impossible.",
        "Please report it with the lines on standard error and what you did before.";
    /// A job that did not succeed by its own doing.
    JOB_FAILED = "H2000", ExitCode::Passed(1), "the job failed",
        "The job's command ended with this exit code, or was cancelled (130).",
        "`horde job explain JOB` tells why; `horde job logs JOB` shows what it wrote.";
    /// A job out of time.
    JOB_TIMEOUT = "H2400", ExitCode::JobTimeout, "the job ran out of time",
        "A stage took longer than its limit.",
        "`horde job retry JOB --execution-limit SECONDS` sends it again with more.";
    /// A job that was failed.
    JOB_HORDE = "H2500", ExitCode::JobFailedByHorde, "the horde failed the job",
        "A facilitator, validator, miner or executor failed; the job itself is not to blame and costs nothing.",
        "`horde job retry JOB` sends it again; `horde job explain JOB` names who failed.";
    /// A job that nobody took.
    JOB_REJECTED = "H2600", ExitCode::JobRejected, "nobody took the job",
        "No miner offers the class, or all are busy, or what is asked for is not allowed.",
        "`horde job explain JOB` names the reason; try later, or another class.";
    /// A job that cannot be started.
    JOB_NOT_RUNNABLE = "H2700", ExitCode::JobNotRunnable, "the job's image or command cannot be run",
        "The image is not there or the command is not in it.",
        "Check the name of the image and its digest, and the command.";
}

impl From<ExitCode> for &'static Problem {
    /// The general entry for an exit code; those of success have none of their own.
    fn from(code: ExitCode) -> Self {
        match code {
            ExitCode::Done | ExitCode::Failed => FAILED,
            ExitCode::Usage => USAGE,
            ExitCode::NotFound => NOT_FOUND,
            ExitCode::Refused => REFUSED,
            ExitCode::Conflict => CONFLICT,
            ExitCode::Unreachable => UNREACHABLE,
            ExitCode::TooLong => TOO_LONG,
            ExitCode::Partial => PARTIAL,
            ExitCode::Configuration => CONFIGURATION,
            ExitCode::CheckFailed => CHECK,
            ExitCode::Pending => PENDING,
            ExitCode::Unhealthy => UNHEALTHY,
            ExitCode::Bug => BUG,
            ExitCode::JobTimeout => JOB_TIMEOUT,
            ExitCode::JobFailedByHorde => JOB_HORDE,
            ExitCode::JobRejected => JOB_REJECTED,
            ExitCode::JobNotRunnable => JOB_NOT_RUNNABLE,
            ExitCode::Passed(_) => JOB_FAILED,
        }
    }
}

impl Problem {
    /// Returns the entry of a code, in either case.
    pub fn find(code: &str) -> Option<&'static Self> {
        let mut all = PROBLEMS.iter().copied();
        all.find(|problem| problem.code.eq_ignore_ascii_case(code))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_begin_with_their_exit_code() {
        let codes: BTreeSet<_> = PROBLEMS.iter().map(|problem| problem.code).collect();
        assert_eq!(codes.len(), PROBLEMS.len());
        for problem in PROBLEMS {
            let digits = problem.code.strip_prefix('H').unwrap();
            assert_eq!(digits.len(), 4, "{}", problem.code);
            let first: u8 = digits.get(..2).unwrap().parse().unwrap();
            let wanted = match problem.exit {
                // A job's own code is any.
                ExitCode::Passed(_) => 20,
                code if code.number() >= 124 => code.number() - 100,
                code => code.number(),
            };
            assert_eq!(first, wanted, "{}", problem.code);
        }
    }

    #[test]
    fn every_exit_code_has_an_entry_that_ends_with_it() {
        for (code, _) in ExitCode::ALL {
            let problem: &Problem = (*code).into();
            let is_a_jobs = matches!((*code, problem.exit), (ExitCode::Passed(_), ExitCode::Passed(_)));
            assert!(
                is_a_jobs || *code == ExitCode::Done || problem.exit == *code,
                "{code:?}"
            );
        }
    }

    #[test]
    fn entries_are_sentences() {
        for problem in PROBLEMS {
            assert!(!problem.title.ends_with('.'), "{}", problem.code);
            for text in [problem.why, problem.remedy] {
                assert!(
                    text.ends_with('.') && !text.contains("  "),
                    "{}: {text}",
                    problem.code
                );
            }
        }
    }
}
