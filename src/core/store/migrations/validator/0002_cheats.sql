-- Users' reports that a miner cheated, and the miners that get no jobs for a while. Times are microseconds since 1970.

-- Every report, also one that does not count: then with the reason.
CREATE TABLE cheat (
    id               INTEGER PRIMARY KEY,
    job_uuid         TEXT NOT NULL,
    trusted_job_uuid TEXT NOT NULL,
    -- Any JSON, as the user wrote it.
    details          TEXT NOT NULL,
    signatory        TEXT,
    signature        TEXT,
    reported_at      INTEGER NOT NULL,
    -- The miner of the job, where that is known.
    miner_hotkey     TEXT,
    -- Why it does not count; null if it does.
    refusal          TEXT,
    -- The miner's collateral is still to be slashed for it.
    slash_due        INTEGER NOT NULL CHECK (slash_due IN (0, 1))
) STRICT;

-- A job is reported once.
CREATE UNIQUE INDEX cheat_accepted ON cheat (job_uuid) WHERE refusal IS NULL;
CREATE INDEX cheat_of_job ON cheat (job_uuid);

CREATE TABLE blacklist (
    miner_hotkey TEXT NOT NULL,
    job_uuid     TEXT NOT NULL,
    reason       TEXT NOT NULL CHECK (reason IN ('job_cheated')),
    since        INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    PRIMARY KEY (miner_hotkey, job_uuid)
) STRICT;

CREATE INDEX blacklist_until ON blacklist (until);
