//! What travels on the wires; no IO.
