//! Receipts against the golden vectors of the reference.
