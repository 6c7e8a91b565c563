//! Receipts: made, verified, countersigned.
