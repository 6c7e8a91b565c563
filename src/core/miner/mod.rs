//! Role 3: a horde of executors.
