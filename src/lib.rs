//! `horde`: a compute subnet in one binary.
//!
//! Users hand container jobs to a *facilitator*; a *validator* takes them from there, picks a *miner* from the
//! chain and drives the job through it; the miner starts an *executor*, which runs the container and brings its
//! output home. Every message on every link is the one that the live network speaks.
//!
//! ```text
//!   user ── HTTP ──► facilitator ◄── ws ── validator ── ws ──► miner ◄── ws ── executor ──► Docker
//!                                              │                 │
//!                                              └───── chain ─────┘
//! ```
//!
//! # The map
//!
//! [`cmd`] is the command line: it parses words, builds a role from its parts, prints. It decides nothing about
//! jobs. [`tui`] is the dashboard: it reads the databases and draws. [`core`] is everything else, room by room; a test keeps the imports between rooms as they are here:
//!
//! | room | noun | sees |
//! |---|---|---|
//! | [`core::model`] | the words of the field | |
//! | [`core::money`] | amounts, and what a job costs | model |
//! | [`core::causes`] | an error with all that is behind it | |
//! | [`core::clock`], [`core::tasks`] | wall time, spawned work | causes |
//! | [`core::telemetry`] | logs and figures | model, clock |
//! | [`core::config`] | settings and where they come from | model, money |
//! | [`core::crypto`] | keys, signatures, wallet files | model |
//! | [`core::proto`] | messages on the wires | model, crypto |
//! | [`core::net`] | websockets and HTTP | causes, clock, tasks |
//! | [`core::store`] | SQLite | model, clock, money |
//! | [`core::chain`] | the chain, and a local one | model, crypto, clock, tasks, store |
//! | [`core::docker`] | containers | model |
//! | [`core::host`] | the machine that jobs run on | docker |
//! | [`core::doctor`] | what keeps a role from working | model, store, host |
//! | [`core::transfer`] | bytes into and out of a job | model, net, clock |
//! | [`core::dynamic`] | what the subnet's owners set for all | model, clock, store, net |
//! | [`core::receipts`] | proofs of work done | model, crypto, proto, store, net |
//! | [`core::s3`] | objects of an S3 service | net |
//! | [`core::client`] | a user of the facilitator | model, proto, crypto, net, clock, transfer, s3 |
//! | [`core::devnet`] | a whole network as child processes | model, clock, tasks, config, crypto, proto, net, chain, client |
//! | [`core::facilitator`], [`core::validator`], [`core::miner`], [`core::executor`] | the roles | what they need, never each other |
//!
//! # What holds everywhere
//!
//! * The machine decides, the driver does: a role's `machine` is pure (`now` is an argument), its `driver`
//!   carries out effects.
//! * Orders go down, news comes up: each wire has a message enum per direction.
//! * Nothing is spawned outside [`core::tasks::Tasks`], so that stopping means stopped.
//! * Every queue, frame, file, retry and wait has a named maximum.
//! * The environment is read by [`core::config`] only, wall time by [`core::clock`] only, SQL is known to
//!   [`core::store`] only, and only [`cmd`] prints. [`tui`] sees model, money, store, config, clock and telemetry, and
//!   writes nothing.

pub mod cmd;
pub mod core;
pub mod tui;
