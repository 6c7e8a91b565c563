//! Small answers over HTTP: one bounded GET with a deadline, for what services publish about the world.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use thiserror::Error;
use tokio::time::timeout;

use super::http::{ClientError, ClientOptions, Redirects, builder};

/// Asks servers that are trusted with nothing but our address.
#[derive(Debug, Clone)]
pub struct Getter {
    client: reqwest::Client,
    time: Duration,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum GetError {
    /// The server cannot be reached, or broke off.
    #[error("the server cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It took too long.
    #[error("no whole answer within {} s", .0.as_secs())]
    TooLong(Duration),
    /// It answered that it has nothing.
    #[error("the server answers with status {0}")]
    Status(u16),
    /// The answer is too long.
    #[error("the answer has more than {0} bytes")]
    TooBig(usize),
    /// The answer is no text.
    #[error("the answer is not UTF-8")]
    NoText,
}

impl Getter {
    /// Makes one that takes at most `time` per answer, follows no redirect, and names itself as given, or as `horde`.
    pub fn new(time: Duration, user_agent: Option<&'static str>) -> Result<Self, ClientError> {
        let options = ClientOptions {
            redirects: Redirects::Refuse,
            ..ClientOptions::default()
        };
        let mut builder = builder(&options);
        if let Some(name) = user_agent {
            let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(name))]);
            builder = builder.default_headers(headers);
        }
        Ok(Self {
            client: builder.build()?,
            time,
        })
    }

    /// Returns the text at `url`, which has `bytes_max` bytes at most.
    pub async fn text(&self, url: &str, bytes_max: usize) -> Result<String, GetError> {
        match timeout(self.time, self.body(url, bytes_max)).await {
            Ok(body) => String::from_utf8(body?).map_err(|_foreign| GetError::NoText),
            Err(_) => Err(GetError::TooLong(self.time)),
        }
    }

    async fn body(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, GetError> {
        let mut answer = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| GetError::Unreachable(error.without_url()))?;
        if !answer.status().is_success() {
            return Err(GetError::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer
            .chunk()
            .await
            .map_err(|error| GetError::Unreachable(error.without_url()))?
        {
            if body.len().saturating_add(piece.len()) > bytes_max {
                return Err(GetError::TooBig(bytes_max));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}
