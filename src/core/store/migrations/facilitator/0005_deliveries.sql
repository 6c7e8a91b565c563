-- How jobs and cheat reports get to their validators, and what validators told of miners' machines. Times are
-- microseconds since 1970.

-- One row per job. `due` is when somebody must look at it: undelivered at the end of its limits, delivered when its
-- validator should have told its end.
CREATE TABLE deliveries (
    job              INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    validator        TEXT NOT NULL,
    waiting_since_us INTEGER NOT NULL,
    deliver_until_us INTEGER NOT NULL,
    -- How long the validator has for the whole job, from the push on.
    budget_us        INTEGER NOT NULL,
    -- Set before the job is handed to the link, so that a crash never makes it look undelivered.
    pushed_us        INTEGER,
    -- Nobody may push it any more: it is about to be ended as undelivered.
    withdrawn        INTEGER NOT NULL DEFAULT 0 CHECK (withdrawn IN (0, 1)),
    ended            INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1))
) STRICT;

CREATE INDEX deliveries_open ON deliveries (validator, job) WHERE ended = 0;
CREATE INDEX deliveries_due ON deliveries
    (CASE WHEN pushed_us IS NULL THEN deliver_until_us ELSE pushed_us + budget_us END) WHERE ended = 0;

-- Whoever ends a job, by whatever road, ends its delivery.
CREATE TRIGGER deliveries_end AFTER INSERT ON steps
WHEN NEW.status IN ('completed', 'rejected', 'failed', 'horde_failed')
BEGIN
    UPDATE deliveries SET ended = 1 WHERE job = NEW.job;
END;

-- Jobs of before count as delivered; each limit counts with a week at most, and an hour is added for spin-up and road.
INSERT INTO deliveries (job, validator, waiting_since_us, deliver_until_us, budget_us, pushed_us, ended)
SELECT seq, target_validator, created_us, created_us,
    1000000 * (3600 + min(max(download_time_limit, 0), 604800) + min(max(execution_time_limit, 0), 604800)
        + min(max(upload_time_limit, 0), 604800) + min(max(streaming_start_time_limit, 0), 604800)),
    created_us,
    EXISTS (SELECT 1 FROM steps WHERE steps.job = jobs.seq
        AND status IN ('completed', 'rejected', 'failed', 'horde_failed'))
FROM jobs;

-- Validators that have been connected, and when they were last heard.
CREATE TABLE validator_links (
    hotkey         TEXT PRIMARY KEY,
    seen_us        INTEGER NOT NULL,
    version        TEXT,
    runner_version TEXT
) STRICT;

-- The newest facts about a miner's machine, as one validator told them.
CREATE TABLE machine_specs (
    validator   TEXT NOT NULL,
    miner       TEXT NOT NULL,
    batch_id    TEXT NOT NULL,
    specs       TEXT NOT NULL,
    received_us INTEGER NOT NULL,
    PRIMARY KEY (validator, miner)
) STRICT;

CREATE INDEX machine_specs_by_age ON machine_specs (validator, received_us);

-- A user's report that a job's miner cheated; one per job.
CREATE TABLE cheat_reports (
    job         INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    validator   TEXT NOT NULL,
    trusted_job TEXT NOT NULL,
    -- The message as the validator gets it.
    frame       TEXT NOT NULL,
    reported_us INTEGER NOT NULL,
    -- Set once the message was handed to the link.
    pushed_us   INTEGER
) STRICT;

CREATE INDEX cheat_reports_of_validator ON cheat_reports (validator, pushed_us);
