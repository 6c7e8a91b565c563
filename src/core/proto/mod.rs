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

pub mod facilitator_validator;
pub mod frame;
pub mod job;
pub mod miner_executor;
pub mod sdk_facilitator;
pub mod signing;
pub mod validator_miner;

pub use frame::DecodeError;
