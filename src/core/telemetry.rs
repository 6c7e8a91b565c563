//! Logs: set up once per process.
