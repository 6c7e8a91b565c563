//! Wall time, deadlines and back-off.
