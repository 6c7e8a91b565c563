//! A user's client of the facilitator's HTTP API: log in, submit, read.
//!
//! It logs in when it first needs to, and once more when its token has expired. What may be tried again is tried up to
//! five times; a refusal is final at once.

mod account;
pub mod cancel;
pub mod certificate;
mod cheat;
pub mod download;
pub mod draft;
pub mod explain;
pub mod inline;
pub mod jobfile;
pub mod landing;
pub mod logs;
pub mod pages;
pub mod source;

pub use self::account::Estimate;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::core::clock::{Backoff, Clock};
use crate::core::crypto::Keypair;
use crate::core::crypto::canonical::CanonicalError;
use crate::core::model::{Hotkey, JobId};
use crate::core::net::http::{self, ClientOptions, Redirects};
use crate::core::proto::sdk_facilitator::{
    JobPage, JobView, Login, NonceAnswer, SDK_HEADERS, Submit, TOKEN_EXPIRED, TokenAnswer, ValidatorsAnswer,
    path,
};

/// Attempts per call (wire-facilitator-http §10).
const ATTEMPTS: u32 = 5;

/// The first pause between attempts, and the longest (wire-facilitator-http §10).
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Largest answer that is read: a page of jobs with results (128 MiB).
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Characters of a foreign answer that an error quotes.
const QUOTED_CHARS_MAX: usize = 400;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The facilitator's address is none.
    #[error("{url:?} is no address of a facilitator: it does not begin with http:// or https://")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// The HTTP client could not be made.
    #[error(transparent)]
    SetUp(#[from] http::ClientError),
    /// The facilitator did not answer.
    #[error("no answer from {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The facilitator does not let this user in.
    #[error("the facilitator does not let {hotkey} in: {words}")]
    NotLetIn {
        /// The user.
        hotkey: Hotkey,
        /// The facilitator's words.
        words: String,
    },
    /// What was asked for does not exist, or is not this user's.
    #[error("the facilitator does not know it: {words}")]
    NotFound {
        /// The facilitator's words.
        words: String,
    },
    /// The facilitator refused.
    #[error("the facilitator answered with HTTP status {status}: {words}")]
    Refused {
        /// The status.
        status: u16,
        /// The facilitator's words.
        words: String,
    },
    /// The answer is not what the wire knows.
    #[error("the answer of {url} cannot be read")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// The answer is too large.
    #[error("the answer of {url} is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
    },
    /// The request cannot be written or signed.
    #[error("the request cannot be written")]
    Request(#[from] CanonicalError),
}

/// One user at one facilitator.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    keypair: Keypair,
    clock: Clock,
    token: Mutex<Option<String>>,
}

/// A request that can be sent more than once.
struct Call {
    method: reqwest::Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    /// Whether sending it twice changes nothing, so that it may be repeated when nobody knows whether it arrived.
    harmless: bool,
}

impl Call {
    fn get(path: impl Into<String>) -> Self {
        Self {
            method: reqwest::Method::GET,
            path: path.into(),
            headers: Vec::new(),
            body: None,
            harmless: true,
        }
    }
}

/// An answer, whatever its status.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    /// Makes a client for the facilitator at `url`, which may have a path.
    pub fn new(url: &str, keypair: Keypair, clock: Clock) -> Result<Self, ClientError> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(ClientError::BadUrl { url: url.to_owned() });
        }
        let options = ClientOptions {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            total_timeout: None,
            // A redirect would turn a submission into a read.
            redirects: Redirects::Refuse,
        };
        Ok(Self {
            http: http::client(&options)?,
            base: url.trim_end_matches('/').to_owned(),
            keypair,
            clock,
            token: Mutex::new(None),
        })
    }

    /// Returns the user.
    pub fn hotkey(&self) -> &Hotkey {
        self.keypair.hotkey()
    }

    /// Signs a job and submits it.
    pub async fn submit(&self, job: &Submit) -> Result<JobView, ClientError> {
        let now = u64::try_from(self.clock.unix_nanos()).unwrap_or_default();
        let mut headers = job.sign(&self.keypair, now)?.headers().to_vec();
        headers.push(("content-type", "application/json".to_owned()));
        self.ask(&Call {
            method: reqwest::Method::POST,
            path: path::SUBMIT.to_owned(),
            headers,
            body: Some(serde_json::to_string(job).map_err(CanonicalError::from)?),
            harmless: false,
        })
        .await
    }

    /// Returns one of the user's jobs.
    pub async fn job(&self, job: &JobId) -> Result<JobView, ClientError> {
        let path = format!("{}{}/", path::JOBS, in_path(job));
        self.ask(&Call::get(path)).await
    }

    /// Returns a page of the user's jobs, counted from 1.
    pub async fn page(&self, number: u64, size: u32) -> Result<JobPage, ClientError> {
        let path = format!("{}?page={number}&page_size={size}", path::JOBS);
        self.ask(&Call::get(path)).await
    }

    /// Returns the validators that jobs can be sent to now; facilitators of the reference do not tell.
    pub async fn validators(&self) -> Result<Vec<Hotkey>, ClientError> {
        let answer: ValidatorsAnswer = self.ask(&Call::get(path::VALIDATORS)).await?;
        Ok(answer
            .validators
            .into_iter()
            .map(|validator| validator.hotkey)
            .collect())
    }

    /// Makes a call as the user and reads its answer; an expired token is replaced once.
    async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        Ok(self.ask_with_status(call).await?.1)
    }

    /// Does the same and returns the status too, where several mean success.
    async fn ask_with_status<T: DeserializeOwned>(&self, call: &Call) -> Result<(u16, T), ClientError> {
        let url = self.url(&call.path);
        let token = self.token(None).await?;
        let mut answer = self.exchange(call, Some(&token)).await?;
        if answer.status == 401 && holds(&answer.body, TOKEN_EXPIRED.trim_end_matches('.')) {
            let token = self.token(Some(&token)).await?;
            answer = self.exchange(call, Some(&token)).await?;
        }
        match answer.status {
            status if answer.is_success() => Ok((status, read(&url, &answer)?)),
            401 | 403 => Err(self.not_let_in(&answer)),
            404 => Err(ClientError::NotFound {
                words: words(&answer.body),
            }),
            status => Err(ClientError::Refused {
                status,
                words: words(&answer.body),
            }),
        }
    }

    /// Returns the token, logging in if there is none or only the one that has `expired`.
    async fn token(&self, expired: Option<&str>) -> Result<String, ClientError> {
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_deref().filter(|token| Some(*token) != expired) {
            return Ok(token.to_owned());
        }
        let answer = self.exchange(&Call::get(path::NONCE), None).await?;
        if !answer.is_success() {
            return Err(self.not_let_in(&answer));
        }
        let NonceAnswer { nonce } = read(&self.url(path::NONCE), &answer)?;
        let login = Call {
            method: reqwest::Method::POST,
            path: path::LOGIN.to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
            body: Some(json(&Login::signed(&self.keypair, nonce))?),
            harmless: true,
        };
        let answer = self.exchange(&login, None).await?;
        if !answer.is_success() {
            return Err(self.not_let_in(&answer));
        }
        let TokenAnswer { token } = read(&self.url(path::LOGIN), &answer)?;
        *held = Some(token.clone());
        Ok(token)
    }

    fn not_let_in(&self, answer: &Answer) -> ClientError {
        ClientError::NotLetIn {
            hotkey: self.hotkey().clone(),
            words: words(&answer.body),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Sends a call until it is answered for good or the attempts are used up.
    async fn exchange(&self, call: &Call, token: Option<&str>) -> Result<Answer, ClientError> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            let outcome = self.send(call, token).await;
            let again = match &outcome {
                Ok(answer) => may_pass(answer.status),
                Err(ClientError::Unreachable { source, .. }) => call.harmless || source.is_connect(),
                Err(_) => false,
            };
            if !again || backoff.attempts() + 1 >= ATTEMPTS {
                return outcome;
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn send(&self, call: &Call, token: Option<&str>) -> Result<Answer, ClientError> {
        let url = self.url(&call.path);
        let unreachable = |source: reqwest::Error| ClientError::Unreachable {
            url: url.clone(),
            source: source.without_url(),
        };
        let mut request = self.http.request(call.method.clone(), &url);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
            for (name, value) in SDK_HEADERS {
                request = request.header(name, value);
            }
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge { url });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }
}

/// Tells whether the same call may be answered otherwise soon: too many calls, or a server that is away for a moment.
///
/// The SDK repeats every 5xx; a plain 500 of the reference is its answer to a bad request, and lasts.
const fn may_pass(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// Writes an identity into a path: it comes from a person and must not leave its place.
fn in_path(job: &JobId) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let chars = job.as_str().chars();
    chars.map(|c| if plain(c) { c } else { '_' }).collect()
}

fn holds(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

fn json(value: &impl Serialize) -> Result<String, ClientError> {
    Ok(serde_json::to_string(value).map_err(CanonicalError::from)?)
}

fn read<T: DeserializeOwned>(url: &str, answer: &Answer) -> Result<T, ClientError> {
    serde_json::from_slice(&answer.body).map_err(|source| ClientError::BadAnswer {
        url: url.to_owned(),
        source,
    })
}

/// Returns what an answer says, for people: the text of `detail` or `error` where there is one, else what came.
fn words(body: &[u8]) -> String {
    let text = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => match (fields.get("detail"), fields.get("error"), fields.get("details"))
        {
            (Some(Value::String(detail)), _, _) => detail.clone(),
            (_, Some(Value::String(error)), Some(Value::String(details))) => format!("{error}: {details}"),
            (_, Some(Value::String(error)), _) => error.clone(),
            _ => Value::Object(fields).to_string(),
        },
        Ok(Value::Array(items)) => {
            let texts: Vec<_> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            texts.join("; ")
        }
        Ok(other) => other.to_string(),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let text = if text.is_empty() {
        "no words".to_owned()
    } else {
        text
    };
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusals_words_are_found() {
        assert_eq!(words(br#"{"detail":"Invalid page."}"#), "Invalid page.");
        assert_eq!(
            words(br#"{"error":"Invalid signature provided","details":"signature does not match"}"#),
            "Invalid signature provided: signature does not match"
        );
        assert_eq!(
            words(br#"["Could not select Validator"]"#),
            "Could not select Validator"
        );
        assert_eq!(words(br#"{"args":["bad"]}"#), r#"{"args":["bad"]}"#);
        assert_eq!(words(b"<html>"), "<html>");
        assert_eq!(words(b""), "no words");
    }

    #[test]
    fn only_an_address_of_the_web_is_one() {
        let alice = Keypair::from_uri("//Alice").unwrap();
        let client = |url: &str| Client::new(url, alice.clone(), Clock::system());
        assert!(matches!(
            client("127.0.0.1:9000"),
            Err(ClientError::BadUrl { .. })
        ));
        assert_eq!(
            client("http://h/p/").unwrap().url(path::NONCE),
            "http://h/p/auth/nonce"
        );
    }
}
