//! Bytes into and out of a job, within budgets and without leaving their folder.
//!
//! What a stranger names is parsed before it is used: a path becomes a [`path::RelativePath`], which cannot climb.
//! What a job leaves behind is read through a [`folder::Folder`], which walks descriptor by descriptor and follows
//! no link. What it points to is reached through a guarded client ([`guard`]), which knows the operator's policy
//! ([`address`]) and looks at every hop. What comes from the network is written to disk as it comes and counted on the way.

pub mod address;
pub mod artifacts;
pub mod download;
pub mod fetch;
pub mod folder;
mod glob;
pub mod guard;
pub mod hub;
pub mod pack;
pub mod path;
mod records;
pub mod unzip;
pub mod upload;

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
