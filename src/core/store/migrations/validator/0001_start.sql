-- What a validator must not forget besides receipts: its jobs, the reports that it owes, its miners' incidents.
-- Times are microseconds since 1970.

CREATE TABLE job (
    uuid TEXT PRIMARY KEY,
    executor_class TEXT NOT NULL,
    -- pending until it ends, then the word of its last status
    state TEXT NOT NULL DEFAULT 'pending',
    -- the last status that was reported or is owed
    last_status TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    -- the miner that it was given to
    miner_hotkey TEXT,
    miner_ip TEXT,
    miner_port INTEGER,
    started_at INTEGER,
    ended_at INTEGER
) STRICT;

CREATE INDEX job_pending ON job (uuid) WHERE state = 'pending';
CREATE INDEX job_ended ON job (ended_at) WHERE ended_at IS NOT NULL;

-- Status updates that the facilitator has not answered yet; a row goes when it is answered.
CREATE TABLE owed_status (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_uuid TEXT NOT NULL,
    frame TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Jobs that a miner failed: they make it less likely to be picked.
CREATE TABLE incident (
    job_uuid TEXT PRIMARY KEY,
    miner_hotkey TEXT NOT NULL,
    executor_class TEXT NOT NULL,
    reason TEXT NOT NULL,
    happened_at INTEGER NOT NULL
) STRICT;

CREATE INDEX incident_happened ON incident (happened_at);
