//! The words of the field: hotkeys, jobs, executor classes, sandboxes, volumes, uploads, receipts.
//!
//! Plain data, as the wires and the store know it. No IO, no clock, no signatures.
//! Reading is as tolerant as the reference is and no more (see [`lenient`]); writing is exact.

pub mod commitment;
pub mod executor;
pub mod job;
pub mod lenient;
pub mod output;
pub mod receipt;
pub mod sandbox;
pub mod subnet;
pub mod timestamp;
pub mod upload;
pub mod volume;

pub use executor::{ExecutorClass, Manifest};
pub use job::JobId;
pub use sandbox::Profile;
pub use subnet::Hotkey;
pub use timestamp::Timestamp;
