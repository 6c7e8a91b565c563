//! A job as a user asks for it, on the command line and in a file, before it is a request.

use indexmap::IndexMap;

use super::source::{OutputRequest, VolumeRequest};
use crate::core::model::ExecutorClass;
use crate::core::s3::Place;

/// Most seconds of a limit: a day.
pub const LIMIT_SECONDS_MAX: u32 = 86_400;

/// Most characters of a name, as in the reference's database.
pub const NAME_CHARS_MAX: usize = 255;

/// Most characters of a key that makes a submission happen once.
pub const KEY_CHARS_MAX: usize = 128;

/// Seconds for each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// For the input.
    pub download: Option<u32>,
    /// For the container.
    pub execution: Option<u32>,
    /// For the output.
    pub upload: Option<u32>,
    /// For a streaming job to become reachable.
    pub streaming_start: Option<u32>,
}

/// Which S3 service, and what for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Draft {
    /// Where the service is.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// The profile with the credentials.
    pub profile: Option<String>,
    /// Seconds that presigned addresses are good.
    pub expires: Option<u32>,
    /// Where inputs go that no request can hold.
    pub upload_to: Option<Place>,
}

/// A job as it was asked for; what is absent was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// The image.
    pub image: Option<String>,
    /// The command.
    pub args: Option<Vec<String>>,
    /// The executor class.
    pub class: Option<ExecutorClass>,
    /// The validator's hotkey.
    pub validator: Option<String>,
    /// The family of jobs.
    pub namespace: Option<String>,
    /// The user's mark.
    pub tag: Option<String>,
    /// The folder whose files are returned.
    pub artifact: Option<String>,
    /// Whether the validator's own miner shall run it.
    pub trusted: Option<bool>,
    /// Whether the user talks to it while it runs.
    pub stream: Option<bool>,
    /// The environment, in order.
    pub env: IndexMap<String, String>,
    /// Seconds for each stage.
    pub limits: Limits,
    /// The input, in order.
    pub volumes: Vec<VolumeRequest>,
    /// Where results go.
    pub outputs: Vec<OutputRequest>,
    /// Which S3 service.
    pub s3: S3Draft,
    /// The most that it may cost, in micro-units.
    pub max_cost: Option<u64>,
    /// The key that makes the submission happen once.
    pub idempotency_key: Option<String>,
    /// The environment variable with the user's token for the hub.
    pub hub_token_from: Option<String>,
}

impl Draft {
    /// Returns this draft with what it does not say taken from `base`.
    ///
    /// Variables of the same name and inputs and outputs of the same path replace those of `base`; others are added
    /// behind them.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        let mut env = base.env;
        env.extend(self.env);
        let mut volumes = base.volumes;
        volumes.retain(|old| self.volumes.iter().all(|new| new.path != old.path));
        volumes.extend(self.volumes);
        let mut outputs = base.outputs;
        outputs.retain(|old| self.outputs.iter().all(|new| new.path != old.path));
        outputs.extend(self.outputs);
        Self {
            image: self.image.or(base.image),
            args: self.args.or(base.args),
            class: self.class.or(base.class),
            validator: self.validator.or(base.validator),
            namespace: self.namespace.or(base.namespace),
            tag: self.tag.or(base.tag),
            artifact: self.artifact.or(base.artifact),
            trusted: self.trusted.or(base.trusted),
            stream: self.stream.or(base.stream),
            env,
            limits: Limits {
                download: self.limits.download.or(base.limits.download),
                execution: self.limits.execution.or(base.limits.execution),
                upload: self.limits.upload.or(base.limits.upload),
                streaming_start: self.limits.streaming_start.or(base.limits.streaming_start),
            },
            volumes,
            outputs,
            s3: S3Draft {
                endpoint: self.s3.endpoint.or(base.s3.endpoint),
                region: self.s3.region.or(base.s3.region),
                profile: self.s3.profile.or(base.s3.profile),
                expires: self.s3.expires.or(base.s3.expires),
                upload_to: self.s3.upload_to.or(base.s3.upload_to),
            },
            max_cost: self.max_cost.or(base.max_cost),
            idempotency_key: self.idempotency_key.or(base.idempotency_key),
            hub_token_from: self.hub_token_from.or(base.hub_token_from),
        }
    }
}

/// Why a text is no name of a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a variable: it is empty, or has a = or a NUL in it")]
pub struct BadVariable(pub String);

/// Checks the name of a variable.
pub fn check_variable(name: &str) -> Result<(), BadVariable> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(BadVariable(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_wins_and_the_rest_stays() {
        let volume = |source: &str, path: &str| VolumeRequest::new(source, path).unwrap();
        let base = Draft {
            image: Some("a".to_owned()),
            tag: Some("t".to_owned()),
            env: [("A", "1"), ("B", "2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            volumes: vec![volume("one", "/volume/x"), volume("two", "/volume/y")],
            limits: Limits {
                download: Some(1),
                upload: Some(2),
                ..Limits::default()
            },
            ..Draft::default()
        };
        let draft = Draft {
            image: Some("b".to_owned()),
            env: [("B".to_owned(), "3".to_owned())].into(),
            volumes: vec![volume("three", "/volume/x")],
            limits: Limits {
                download: Some(9),
                ..Limits::default()
            },
            ..Draft::default()
        }
        .over(base);
        assert_eq!(
            (draft.image.as_deref(), draft.tag.as_deref()),
            (Some("b"), Some("t"))
        );
        assert_eq!(draft.env.values().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(
            draft.volumes,
            [volume("two", "/volume/y"), volume("three", "/volume/x")]
        );
        assert_eq!((draft.limits.download, draft.limits.upload), (Some(9), Some(2)));
    }
}
