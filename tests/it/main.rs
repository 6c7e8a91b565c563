//! The one integration-test binary; each file proves one contract.
#![expect(clippy::unwrap_used, reason = "a test that cannot get its fixture has failed")]

mod cli;
mod support;
mod signatures;
mod wire;
