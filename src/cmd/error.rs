//! What a command may fail with, how people read it, and the registry of exit codes.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use super::catalogue;
use crate::core::config::{ConfigError, Origin, Problem, Setting};
use crate::core::model::executor::UNHEALTHY;

/// The exit codes of `horde`; the numbers are a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done,
    /// The thing asked for failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The thing asked for does not exist.
    NotFound,
    /// Refused: a key, a permission.
    Refused,
    /// What is asked for does not fit how things stand: it cannot be done with this job, or on that side.
    Conflict,
    /// The other side cannot be reached.
    Unreachable,
    /// Waited too long.
    TooLong,
    /// Some of what was asked for was done, some was not.
    Partial,
    /// The configuration is wrong.
    Configuration,
    /// A check failed.
    CheckFailed,
    /// A plan was printed, and there is something to do.
    Pending,
    /// An executor has reported its job, and its machine is not fit for another one.
    Unhealthy,
    /// A bug of ours.
    Bug,
    /// A job outlived its time.
    JobTimeout,
    /// A job failed through no fault of its own.
    JobFailedByHorde,
    /// Nobody took a job.
    JobRejected,
    /// A job's image or command is not there, or cannot be run.
    JobNotRunnable,
    /// Passed through: a job's own exit code, or 130 and 143 for an end by signal.
    Passed(u8),
}

impl ExitCode {
    /// Every code that does not depend on a job, with its meaning for people: what `horde help exit-codes`, the manual
    /// and the tests know.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Done, "done"),
        (Self::Failed, "the thing asked for failed"),
        (Self::Usage, "the command line makes no sense"),
        (Self::NotFound, "the thing asked for does not exist"),
        (Self::Refused, "refused: a key, a permission, credit, a limit"),
        (Self::Conflict, "not possible as things stand"),
        (Self::Unreachable, "the other side cannot be reached"),
        (Self::TooLong, "waited too long"),
        (Self::Partial, "done in part"),
        (Self::Configuration, "the configuration is wrong"),
        (Self::CheckFailed, "a check failed"),
        (Self::Pending, "a plan was shown, and there is something to do"),
        (
            Self::Unhealthy,
            "an executor has reported its job, and its machine is not fit for another one",
        ),
        (Self::Bug, "a bug of horde"),
        (Self::JobTimeout, "a job ran out of time"),
        (Self::JobFailedByHorde, "the horde failed a job"),
        (Self::JobRejected, "nobody took a job"),
        (
            Self::JobNotRunnable,
            "a job's image or command is not there, or cannot be run",
        ),
        (
            Self::Passed(130),
            "ended by Ctrl-C (SIGINT), or the job was cancelled",
        ),
        (Self::Passed(143), "ended by SIGTERM"),
    ];

    /// Codes that every command may end with.
    pub const ANY: &[Self] = &[
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Configuration,
        Self::Bug,
        Self::Passed(130),
        Self::Passed(143),
    ];

    /// Returns the number.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Conflict => 5,
            Self::Unreachable => 6,
            Self::TooLong => 7,
            Self::Partial => 8,
            Self::Configuration => 9,
            Self::CheckFailed => 10,
            // The same number: nobody plans with an executor.
            Self::Pending => 11,
            Self::Unhealthy => UNHEALTHY,
            Self::Bug => 70,
            Self::JobTimeout => 124,
            Self::JobFailedByHorde => 125,
            Self::JobRejected => 126,
            Self::JobNotRunnable => 127,
            Self::Passed(code) => code,
        }
    }
}

/// How an end is named: an exit code, and an entry of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct What {
    code: ExitCode,
    problem: &'static catalogue::Problem,
}

impl From<ExitCode> for What {
    fn from(code: ExitCode) -> Self {
        let problem = code.into();
        Self { code, problem }
    }
}

impl From<&'static catalogue::Problem> for What {
    fn from(problem: &'static catalogue::Problem) -> Self {
        let code = problem.exit;
        Self { code, problem }
    }
}

/// Why a command failed, in people's words: what was tried, its causes, and what to type next.
#[derive(Clone, Debug)]
pub struct CmdError {
    /// The exit code.
    pub code: ExitCode,
    /// The entry of the catalogue.
    pub problem: &'static catalogue::Problem,
    /// What was tried, as in `could not reach the facilitator`; empty if everything was said already.
    pub message: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// What helps; best something that can be typed.
    pub hints: Vec<String>,
}

impl CmdError {
    /// Returns an error without causes and hints: by its entry in the catalogue, or by an exit code, which stands for
    /// its general entry.
    pub fn new(what: impl Into<What>, message: impl Into<String>) -> Self {
        let What { code, problem } = what.into();
        Self {
            code,
            problem,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Returns an end with an exit code that needs no words, such as a job's own.
    pub fn quiet(code: ExitCode) -> Self {
        Self::new(code, "")
    }

    /// Makes it end with another exit code, or be known by another entry of the catalogue.
    #[must_use]
    pub fn known_as(mut self, what: impl Into<What>) -> Self {
        let What { code, problem } = what.into();
        (self.code, self.problem) = (code, problem);
        self
    }

    /// Adds an error and all its sources as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Writes the error for people, with colours if so; nothing for a quiet end.
    pub fn render(&self, out: &mut dyn Write, colors: bool) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        write_head(out, self.problem, colors)?;
        writeln!(out, "{}", self.message)?;
        for cause in &self.causes {
            writeln!(out, "  caused by: {cause}")?;
        }
        for hint in &self.hints {
            writeln!(out, "hint: {hint}")?;
        }
        Ok(())
    }
}

/// Writes how every error begins: `error[H0601]: `.
pub(super) fn write_head(out: &mut dyn Write, problem: &catalogue::Problem, colors: bool) -> io::Result<()> {
    let (bold, plain) = if colors {
        ("\u{1b}[1;31m", "\u{1b}[0m")
    } else {
        ("", "")
    };
    write!(out, "{bold}error[{}]{plain}: ", problem.code)
}

impl fmt::Display for CmdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// Turns an error into a [`CmdError`] by saying what was tried.
pub trait OrFail<T> {
    /// Names the exit code or the entry of the catalogue, and what was tried, as in `could not open the store`.
    fn or_fail(self, what: impl Into<What>, message: impl Into<String>) -> Result<T, CmdError>;
}

impl<T, E: Error + 'static> OrFail<T> for Result<T, E> {
    fn or_fail(self, what: impl Into<What>, message: impl Into<String>) -> Result<T, CmdError> {
        self.map_err(|error| CmdError::new(what, message).caused_by(&error))
    }
}

impl From<ConfigError> for CmdError {
    fn from(error: ConfigError) -> Self {
        let wrong = Self::new(ExitCode::Configuration, "the configuration cannot be used");
        match &error {
            ConfigError::Invalid { problems } => {
                let causes = problems.iter().map(ToString::to_string).collect();
                let is_flag = |problem: &Problem| matches!(problem.origin, Origin::Flag(_));
                let wrong = Self { causes, ..wrong };
                if problems.iter().all(is_flag) {
                    // Nothing that is configured is wrong, only what was typed.
                    return wrong.known_as(ExitCode::Usage);
                }
                wrong.hint("`horde config show` lists all settings and where they come from")
            }
            ConfigError::Missing { key } => match (Setting::find(key), key.split_once('.')) {
                (Some(setting), Some((section, name))) => wrong.caused_by(&error).hint(format!(
                    "set {}, or {name} in the section [{section}] of the configuration file",
                    setting
                        .alias
                        .map_or_else(|| setting.environment_name(), str::to_owned),
                )),
                _ => wrong.caused_by(&error),
            },
            ConfigError::NoDirectory => wrong.caused_by(&error).hint("pass --dir DIRECTORY"),
            _ => Self::new(ExitCode::Bug, wrong.message).caused_by(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_what_was_tried_then_causes_then_hints() {
        let cause = io::Error::other("connection refused");
        let error = Err::<(), _>(cause)
            .or_fail(catalogue::NO_FACILITATOR, "could not reach the facilitator")
            .unwrap_err()
            .hint("is `horde up` running?");
        let mut text = Vec::new();
        error.render(&mut text, false).unwrap();
        assert_eq!(error.code, ExitCode::Unreachable);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "error[H0601]: could not reach the facilitator\n  caused by: connection refused\nhint: is `horde up` running?\n"
        );
    }

    #[test]
    fn a_quiet_end_says_nothing() {
        let mut text = Vec::new();
        CmdError::quiet(ExitCode::Passed(3))
            .render(&mut text, false)
            .unwrap();
        assert!(text.is_empty());
    }
}
