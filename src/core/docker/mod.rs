//! Containers: a trait, and the engine behind it.
