//! Role 4: runs one job for a miner, then exits.
