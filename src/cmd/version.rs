//! `horde version`: what this binary is made of, and what it speaks.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::contract::{OUTPUT_VERSION, Prints, Promise, of};
use super::error::CmdError;
use crate::core::store::{facilitator, miner, validator};

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new("version", Prints::One(of::<Binary>), &[])];

/// `horde version`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  horde version\n  horde version --json | jq -r .commit")]
pub struct VersionArgs {}

/// What this binary is made of, and what it speaks.
#[derive(Debug, Serialize, JsonSchema)]
struct Binary {
    /// The version, by Semantic Versioning.
    version: &'static str,
    /// The commit; null in builds of developers and outside of a repository.
    commit: Option<&'static str>,
    /// The day of the commit, UTC.
    commit_date: Option<&'static str>,
    /// What it was built for.
    target: &'static str,
    /// What it was built by.
    rustc: &'static str,
    /// Whether it is an optimised build.
    optimised: bool,
    /// The wires that it speaks.
    wires: Wires,
    /// The versions of the databases that it writes; older ones are brought up to date, newer ones refused.
    schemas: Schemas,
    /// The version of what commands print as data.
    output: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Wires {
    /// Between users and facilitator.
    sdk_facilitator: &'static str,
    /// Between facilitator and validator.
    facilitator_validator: &'static str,
    /// Between validator and miner.
    validator_miner: &'static str,
    /// Between miner and executor.
    miner_executor: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Schemas {
    /// `facilitator.sqlite`.
    facilitator: usize,
    /// `validator.sqlite`.
    validator: usize,
    /// `miner.sqlite`.
    miner: usize,
}

fn known(text: &'static str) -> Option<&'static str> {
    Some(text).filter(|text| !text.is_empty())
}

impl VersionArgs {
    /// Runs the command.
    pub fn run(&self, context: &Context) -> Result<(), CmdError> {
        let version = Binary {
            version: env!("CARGO_PKG_VERSION"),
            commit: known(env!("HORDE_BUILD_COMMIT")),
            commit_date: known(env!("HORDE_BUILD_COMMIT_DATE")),
            target: env!("HORDE_BUILD_TARGET"),
            rustc: env!("HORDE_BUILD_RUSTC"),
            optimised: !cfg!(debug_assertions),
            wires: Wires {
                sdk_facilitator: "/api/v1 (compute-horde-sdk 0.0.19)",
                facilitator_validator: "/ws/v0 (compute-horde 0.0.27)",
                validator_miner: "/v0.1/validator_interface (compute-horde 0.0.27)",
                miner_executor: "/v0.1/executor_interface (compute-horde 0.0.27)",
            },
            schemas: Schemas {
                facilitator: facilitator::SCHEMA_VERSION,
                validator: validator::SCHEMA_VERSION,
                miner: miner::SCHEMA_VERSION,
            },
            output: OUTPUT_VERSION,
        };
        if context.wants_data() {
            return context.print_data(&version);
        }
        let commit = match (version.commit, version.commit_date) {
            (Some(commit), Some(date)) => format!("{commit} of {date}"),
            (Some(commit), None) => commit.to_owned(),
            (None, _) => "not known".to_owned(),
        };
        let schemas = &version.schemas;
        for (name, text) in [
            ("horde", version.version.to_owned()),
            ("commit", commit),
            ("target", version.target.to_owned()),
            ("built by", version.rustc.to_owned()),
            ("users", version.wires.sdk_facilitator.to_owned()),
            ("validators", version.wires.facilitator_validator.to_owned()),
            ("miners", version.wires.validator_miner.to_owned()),
            ("executors", version.wires.miner_executor.to_owned()),
            (
                "databases",
                format!(
                    "facilitator {}, validator {}, miner {}",
                    schemas.facilitator, schemas.validator, schemas.miner
                ),
            ),
        ] {
            context.line(format_args!("{name:<12}{text}"))?;
        }
        Ok(())
    }
}
