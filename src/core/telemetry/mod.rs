//! Logs and figures. Logs are set up once per process, always on standard error, so that data alone is on standard output.

pub mod facilitator;
pub mod metrics;
pub mod process;

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

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
}

/// Checks a log level: a word such as `info`, or a filter such as `info,horde::core::net=debug`.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

/// Sets up logs on standard error for the rest of the process; `colors` only where a person reads them.
pub fn init(level: &str, format: LogFormat, colors: bool) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        // A log on a closed pipe is nobody's problem; without this the subscriber prints about it.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_ansi(colors).with_target(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TelemetryError::Twice)
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
    EnvFilter::try_new(level).map_err(|error| refusal(Some(error)))
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
