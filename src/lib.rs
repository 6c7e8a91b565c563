//! `horde`: a compute subnet in one binary.

pub mod cmd;
pub mod core;
