//! The wire between a user's library and the facilitator: HTTP bodies (owner of the shapes: both ends).
