//! The dashboard: reads, draws, never decides and never writes.

pub mod source;
pub mod theme;
pub mod view;
