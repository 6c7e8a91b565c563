//! The machine that jobs run on: is it fit, what is it made of, is it clean again.
//!
//! [`facts`] reads, [`floors`] is the table of the oldest versions that may run strangers' jobs, [`checks`] is the
//! pure step from both to findings, [`posture`] adds what an operator wants to know besides, [`specs`] describes the
//! machine for the wire, [`gpu`] is the port to its GPUs, and [`hygiene`] compares them before and after a job.
//! Nothing here changes the machine, and nothing needs a privilege.

pub mod checks;
pub mod facts;
pub mod floors;
pub mod gpu;
pub mod hygiene;
pub mod posture;
pub mod specs;
pub mod version;
