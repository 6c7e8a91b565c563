//! A user's client of the facilitator's HTTP API.
