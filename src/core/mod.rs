//! Everything that works without a terminal, room by room, in reading order.

pub mod model;
pub mod money;

pub mod causes;
pub mod clock;
pub mod config;
pub mod tasks;
pub mod telemetry;

pub mod crypto;
pub mod proto;

pub mod chain;
pub mod docker;
pub mod doctor;
pub mod host;
pub mod net;
pub mod s3;
pub mod store;
pub mod transfer;

pub mod dynamic;
pub mod receipts;

pub mod client;
pub mod devnet;

pub mod executor;
pub mod facilitator;
pub mod miner;
pub mod validator;
