//! Logs and figures. Logs are set up once per process, on standard error and, for a role, in the files of its [`journal`]:
//! data alone is on standard output.

pub mod facilitator;
pub mod journal;
pub mod metrics;
pub mod process;

use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use self::journal::OWN_TARGET;
use self::journal::layer::JournalLayer;
use self::journal::writer::{Journal, Keep};
use crate::core::clock::Clock;

/// The target of what a role writes when a signal asks for it: it is let through whatever the level is, but `off`.
pub const STATE_TARGET: &str = "horde::state";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format {
                got: other.to_owned(),
            }),
        }
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The format is neither `text` nor `json`.
    #[error("unknown log format {got:?}, expected text or json")]
    Format {
        /// What was given.
        got: String,
    },
    /// The level is no filter.
    #[error("log level {got:?} is no level (error, warn, info, debug, trace, off) and no filter")]
    Level {
        /// What was given.
        got: String,
        /// What the filter's parser said, if it got so far.
        #[source]
        source: Option<tracing_subscriber::filter::ParseError>,
    },
    /// Somebody set up logs before.
    #[error("logs are already set up")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The filter cannot be exchanged.
    #[error("the log level cannot be changed")]
    Reload(#[source] reload::Error),
}

/// How logs are set up.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// A word such as `info`, or a filter.
    pub level: &'a str,
    /// How lines on standard error look.
    pub format: LogFormat,
    /// Whether a person reads them, on a terminal with colours.
    pub colors: bool,
    /// Whether a file alone is enough: then standard error gets only what concerns the file.
    pub is_quiet: bool,
    /// The file, for a role.
    pub file: Option<Keep>,
    /// Dates the lines of the file.
    pub clock: Clock,
}

/// The logs of this process.
#[derive(Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    journal: Option<Journal>,
}

impl Logs {
    /// Says from now on what a level or filter lets through.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.filter.reload(filter(level)?).map_err(TelemetryError::Reload)
    }

    /// Opens the file anew before its next line; false if no file is kept.
    pub fn reopen(&self) -> bool {
        self.journal.as_ref().map(Journal::reopen).is_some()
    }

    /// Waits until all that was said is in the file, but not for longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        if let Some(journal) = &self.journal
            && !journal.flush(patience)
        {
            tracing::warn!(target: OWN_TARGET, "the last lines of the log are not in its file");
        }
    }
}

/// Checks a log level: a word such as `info`, or a filter such as `info,horde::core::net=debug`.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

/// Sets up logs for the rest of the process. Without its file, which is no reason not to start, all goes to standard error.
pub fn init(setup: Setup<'_>) -> Result<Logs, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(setup.level)?);
    let (journal, refusal) = match setup.file.map(|keep| Journal::open(keep, setup.clock.clone())) {
        None => (None, None),
        Some(Ok(journal)) => (Some(journal), None),
        Some(Err(error)) => (None, Some(error)),
    };
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // A log on a closed pipe is nobody's problem; without this the subscriber prints about it.
        .log_internal_errors(false);
    let stderr = match setup.format {
        LogFormat::Text => stderr.with_ansi(setup.colors).with_target(false).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
    };
    let is_quiet = setup.is_quiet && journal.is_some();
    let stderr = stderr.with_filter(filter_fn(move |about| !is_quiet || about.target() == OWN_TARGET));
    let file = journal
        .clone()
        .map(|journal| JournalLayer::new(journal, setup.clock));
    tracing_subscriber::registry()
        .with(filter)
        .with(stderr)
        .with(file)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    if let Some(error) = refusal {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%error, cause, "no log file is kept");
    }
    Ok(Logs {
        filter: handle,
        journal,
    })
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refusal = |source| TelemetryError::Level {
        got: level.to_owned(),
        source,
    };
    // A bare unknown word would parse as the name of a target and silence all else.
    let is_word = level.chars().all(|c| c.is_ascii_alphanumeric());
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    if is_word && !levels.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(refusal(None));
    }
    let filter = EnvFilter::try_new(level).map_err(|error| refusal(Some(error)))?;
    if level.eq_ignore_ascii_case("off") {
        return Ok(filter);
    }
    let asked_for = format!("{STATE_TARGET}=info").parse();
    Ok(filter.add_directive(asked_for.map_err(|error| refusal(Some(error)))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_known_and_other_words_refused() {
        for good in ["info", "WARN", "off", "info,horde::core::net=debug"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", "horde=loud"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn formats_are_text_and_json() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
