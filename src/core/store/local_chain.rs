//! The local chain: placeholder
