-- What the operator ordered by `horde miner manifest set`: all classes, as a JSON object of counts.
CREATE TABLE manifest_order (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    wanted     TEXT NOT NULL CHECK (json_valid(wanted)),
    ordered_at INTEGER NOT NULL
) STRICT;

-- What counts at present; written by the miner.
CREATE TABLE manifest_state (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    counted    TEXT NOT NULL CHECK (json_valid(counted)),
    -- Null as long as the first manifest has not been changed.
    changed_at INTEGER,
    -- The setting miner.executors, and since when it reads so.
    setting    TEXT NOT NULL CHECK (json_valid(setting)),
    setting_at INTEGER NOT NULL
) STRICT;

-- What validators are told at present, and why it is less than what counts.
CREATE TABLE manifest_offered (
    class      TEXT PRIMARY KEY,
    position   INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    reason     TEXT,
    offered_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
