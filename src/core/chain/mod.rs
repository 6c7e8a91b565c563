//! The chain: a trait, and a local implementation that the roles of one machine share.
