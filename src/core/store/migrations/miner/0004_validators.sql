-- The validators as last read from the chain; those that are no longer on the list stay, as inactive.
CREATE TABLE validator (
    hotkey    TEXT PRIMARY KEY,
    stake_rao INTEGER NOT NULL,
    is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)),
    seen_at   INTEGER NOT NULL
) STRICT;

-- Hotkeys that the operator lets in, whatever the chain says.
CREATE TABLE validator_debug (
    hotkey   TEXT PRIMARY KEY,
    added_at INTEGER NOT NULL
) STRICT;

-- Validators whose jobs the operator refuses; for ever where there is no end.
CREATE TABLE validator_block (
    hotkey     TEXT PRIMARY KEY,
    reason     TEXT NOT NULL,
    blocked_at INTEGER NOT NULL,
    blocked_until INTEGER
) STRICT;
