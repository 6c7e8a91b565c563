//! The machine that jobs run on: is it fit, what is it made of, is it clean again.
//!
//! [`facts`] reads, [`floors`] is the table of the oldest versions that may run strangers' jobs, [`checks`] is the
//! pure step from both to findings, [`posture`] adds what an operator wants to know besides, [`specs`] describes the machine for the wire, and [`gpu`] is the port to its
//! GPUs. Nothing here changes the machine, and nothing needs a privilege.

pub mod checks;
pub mod facts;
pub mod floors;
pub mod gpu;
pub mod posture;
pub mod specs;
pub mod version;
