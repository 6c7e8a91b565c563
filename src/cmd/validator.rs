//! `horde validator`: serve as broker between a facilitator and miners.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};
use crate::core::config::{Flag, Scope, ValidatorConfig};

/// `horde validator …`
#[derive(Debug, Subcommand)]
pub enum ValidatorCommand {
    /// Take jobs from the facilitator and drive them through miners until stopped
    Run(RunArgs),
}

/// `horde validator run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The facilitator's endpoint for validators, such as ws://127.0.0.1:9000/ws/v0/
    #[arg(long, value_name = "URL")]
    facilitator_url: Option<String>,
}

impl ValidatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
        }
    }
}

impl RunArgs {
    #[expect(clippy::unused_async, reason = "the role is not here yet")]
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = self
            .facilitator_url
            .map(|value| Flag {
                key: "validator.facilitator_url",
                flag: "--facilitator-url",
                value,
            })
            .into_iter()
            .collect();
        let settings = context.role_settings(Scope::Validator, flags)?;
        let _config = ValidatorConfig::from_settings(&settings)?;
        Err(CmdError::new(
            ExitCode::Bug,
            "the validator is not built into this binary yet",
        ))
    }
}
