//! Dynamic configuration: what the subnet's owners set for all, read from published documents (wire-dynamic-config).
//!
//! [`document`] says what a document sets, [`keys`] what the values mean; both are pure. The [`keeper`] fetches the
//! documents and keeps the last good value of each key, in memory and in its role's store, so that a role begins with
//! what it knew. Nothing here decides what a value is good for.

pub mod document;
pub mod keeper;
pub mod keys;
