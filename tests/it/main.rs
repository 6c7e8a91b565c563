//! The one integration-test binary; each file proves one contract.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot get its fixture has failed"
)]

mod architecture;
mod attack;
mod cancel;
mod check;
mod checklist;
mod cli;
mod command;
mod context;
mod contract;
mod crash;
mod dashboard;
mod delivery;
mod described;
mod doctor;
mod door;
mod dropin;
mod dynamic;
mod engines;
mod executor;
mod facilitator;
mod facilitator_crash;
mod facilitator_limits;
mod facilitator_replay;
mod facilitator_tls;
mod facilitator_ws;
mod figures;
mod flood;
mod gateway;
mod hostile;
mod init;
mod job;
mod job_commands;
mod job_money;
mod job_reading;
mod job_terminal;
mod key;
mod ledger;
mod life;
mod local_miner;
mod logs;
mod manifest;
mod miner;
mod money;
mod money_lives;
mod published;
mod receipts;
mod replay;
mod s3;
mod sandbox;
mod second_engine;
mod served;
mod service;
mod shells;
mod signatures;
mod status;
mod streaming;
mod submit;
mod support;
mod swarm;
mod terminal;
mod traces;
mod transfer;
mod up;
mod validator;
mod wire;
