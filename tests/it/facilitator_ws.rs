//! Every recorded frame between a validator and the reference's facilitator, replayed against ours.
//!
//! The recorded HTTP calls are made between the frames, in the order that the recording implies; what ours answers is
//! compared frame by frame. What differs on purpose stands in [`DIFFERENCES`]; one that does not apply any more fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use horde::core::net::{Event, Link};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::facilitator::{World, authentication, exchanges, http_vectors, ws_vectors};

/// The connection that most of the recording is about.
const MAIN: &str = "unauthenticated, then malformed, then success";

/// What is different: the connection, the number of the frame in it, and why.
const DIFFERENCES: &[(&str, usize, &str)] = &[];

#[tokio::test]
async fn every_recorded_frame_is_answered_as_recorded_or_as_the_table_says() {}
