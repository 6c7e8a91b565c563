//! Role 1: the gateway between users and validators.
