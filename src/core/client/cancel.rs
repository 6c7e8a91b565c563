//! Cancelling a job: asked for over HTTP, real between peers of this program.

use super::{Call, Client, ClientError};
use crate::core::model::JobId;
use crate::core::proto::sdk_facilitator::{JobView, path};

/// What came of asking for a cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// It is under way: the job ends when its executor has reported the container dead.
    UnderWay(JobView),
    /// The job had ended already, or no validator had got it yet.
    Ended(JobView),
    /// Its validator cannot cancel; nothing has changed.
    Cannot {
        /// The facilitator's words.
        words: String,
    },
    /// The facilitator cannot cancel: one of the reference, or of an older version.
    NotKnown,
}

impl Client {
    /// Asks for the end of one of the user's jobs, which the caller has seen: a 404 means that the facilitator does not
    /// know how.
    pub async fn cancel(&self, job: &JobId) -> Result<Cancelled, ClientError> {
        let call = Call {
            method: reqwest::Method::POST,
            path: format!("{}{}/cancel/", path::JOBS, super::in_path(job)),
            headers: vec![("content-type", "application/json".to_owned())],
            body: Some("{}".to_owned()),
            // Asking twice is asking once.
            harmless: true,
        };
        match self.ask_with_status(&call).await {
            Ok((202, view)) => Ok(Cancelled::UnderWay(view)),
            Ok((_, view)) => Ok(Cancelled::Ended(view)),
            Err(ClientError::Refused { status: 409, words }) => Ok(Cancelled::Cannot { words }),
            Err(ClientError::NotFound { .. } | ClientError::Refused { status: 405, .. }) => {
                Ok(Cancelled::NotKnown)
            }
            Err(error) => Err(error),
        }
    }
}
