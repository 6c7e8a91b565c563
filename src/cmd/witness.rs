//! What tests look at, in debug builds only: what a command printed as data, and how it ended, as lines of a file.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::context::Context;
use crate::core::config::Environment;

/// The variable that names the file.
const VARIABLE: &str = "HORDE_TEST_WITNESS";

/// Notes a document.
pub(super) fn printed(context: &Context, value: &impl Serialize) {
    let document = serde_json::to_value(value).unwrap_or_default();
    note(
        &context.environment,
        context.words(),
        &json!({ "document": document }),
    );
}

/// Notes an end.
pub(super) fn ended(environment: &Environment, words: &str, code: u8) {
    note(environment, words, &json!({ "exit": code }));
}

fn note(environment: &Environment, words: &str, what: &Value) {
    let Some(path) = environment.get(VARIABLE) else {
        return;
    };
    let line = format!("{}\n", json!({ "command": words, "what": what }));
    let file = OpenOptions::new().append(true).create(true).open(path);
    // One write a line: several processes may share the file. A test that misses lines fails by itself.
    drop(file.and_then(|mut file| file.write_all(line.as_bytes())));
}
