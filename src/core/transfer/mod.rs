//! Bytes into and out of a job, within budgets and without leaving their folder.
//!
//! What a stranger names is parsed before it is used: a path becomes a [`path::RelativePath`], which cannot climb.
//! What a job leaves behind is read through a [`folder::Folder`], which walks descriptor by descriptor and follows
//! no link. What comes from the network is written to disk as it comes and counted on the way.

pub mod artifacts;
pub mod download;
pub mod folder;
pub mod pack;
pub mod path;
pub mod unzip;
pub mod upload;

use std::io;

use tokio::sync::OnceCell;

use crate::core::net::http::{ClientOptions, client};

/// An HTTP client that is made when it is first needed: reading the system's certificates takes time that most
/// jobs should not pay for.
#[derive(Debug)]
struct LazyClient {
    options: ClientOptions,
    client: OnceCell<reqwest::Client>,
}

impl LazyClient {
    fn new(options: ClientOptions) -> Self {
        Self {
            options,
            client: OnceCell::new(),
        }
    }

    async fn get(&self) -> io::Result<&reqwest::Client> {
        self.client
            .get_or_try_init(|| async {
                let options = self.options.clone();
                tokio::task::spawn_blocking(move || client(&options))
                    .await
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)
            })
            .await
    }
}

/// Describes a failed request in one line without its URL, which may be presigned and so a secret.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
