//! `horde job wait`.

use std::time::Duration;

use clap::Args;

use super::{UserArgs, find, follow};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;

/// `horde job wait …`
#[derive(Args, Debug)]
pub struct WaitArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Give up after so many seconds, with 7; the job goes on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The job
    id: String,
}

impl WaitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let deadline = self.timeout.map(Duration::from_secs);
        let job = find(&client, &self.id).await?;
        follow(context, &client, job, deadline).await
    }
}
