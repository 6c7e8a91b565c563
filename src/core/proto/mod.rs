//! What travels on the wires; no IO.
//!
//! Each wire has two enums: `Down` (towards the executor) and `Up` (towards the user). Each message is one
//! struct, defined once; messages that cross both inner wires live in [`job`]. A frame is decoded by its
//! `message_type` word; peculiarities of old peers (aliases, missing fields, legacy messages) end here.
//!
//! | wire | link | frames |
//! |---|---|---|
//! | [`facilitator_validator`] | `/ws/v0/` | unknown keys refused |
//! | [`validator_miner`] | `/v0.1/validator_interface/<hotkey>` | unknown keys ignored |
//! | [`miner_executor`] | `/v0.1/executor_interface/<token>` | unknown keys ignored |

//!
//! # Beyond the wires
//!
//! Peers of our own may say more than the reference knows, each word only after both sides have agreed to its extension
//! while the session was opened (`core::net::extensions`); a reference peer is never sent one.
//!
//! | extension | link | messages | meaning |
//! |---|---|---|---|
//! | `cancel` | all three | `H0JobCancel` down | the user has cancelled the job: end it |
//! | `cancel` | facilitator | `H0JobCancelRefused` up | it cannot be: the miner is one of the reference |
//! | `dedup` | facilitator | none | the validator never runs a job twice, so it may be pushed again |
//! | `output`, `logs` | executor, the others | `V0JobOutputRequest`, `H0JobOutput` up | what a running job has written |
//! | `resume` | executor | `V0ExecutorResumesRequest` up, `V0ReportKeptRequest` down | the loss of the link does not end the job |
//! | `artifact-verdicts` | executor | `V0ArtifactVerdictsRequest` up | which files were left out, and why |
//! | `sharing` | validator | a key of `V0AcceptJobRequest` | the job runs as best effort |
//!
//! A cancelled job ends in the reference's words: `V0JobFailedRequest` and status `failed`, reason `unknown`, message
//! `cancelled by the user`, and `"cancelled": true` in its context ([`job::JobFailed::cancelled`]).

pub mod facilitator_validator;
pub mod frame;
pub mod job;
pub mod miner_executor;
pub mod sdk_facilitator;
pub mod signing;
pub mod validator_miner;

pub use frame::DecodeError;
