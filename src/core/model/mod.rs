//! The words of the field: jobs, receipts, executor classes; no IO, no clock.
