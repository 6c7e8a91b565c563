//! Bytes into and out of a job, within budgets and without leaving their folder.
