//! Spawned work: tracked, stopped and waited for.
