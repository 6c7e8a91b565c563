//! Role 2: broker between facilitator and miners.
