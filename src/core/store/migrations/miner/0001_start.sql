-- The miner's database. Times are microseconds since 1970.

-- Who this data directory is to the Docker engines that it uses: the `horde.owner` label of its containers.
CREATE TABLE owner (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    label TEXT NOT NULL
) STRICT;
INSERT INTO owner (id, label) VALUES (1, lower(hex(randomblob(16))));

-- Every job that a validator offered and whose receipt was in order; the columns of the reference's table.
CREATE TABLE accepted_job (
    id                          INTEGER PRIMARY KEY,
    validator                   TEXT NOT NULL,
    job_uuid                    TEXT NOT NULL UNIQUE,
    executor_class              TEXT NOT NULL,
    executor_token              TEXT NOT NULL UNIQUE,
    status                      TEXT NOT NULL CHECK (status IN
        ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING', 'FINISHED', 'FAILED', 'REJECTED')),
    -- The executor that this job occupies, counted from 0 within its class; null once that executor has exited.
    slot                        INTEGER CHECK (slot >= 0),
    -- Process of the executor, where it is one, and when it was started: a restarted miner ends what still runs.
    executor_process            TEXT,
    executor_address            TEXT,
    -- Messages as received.
    initial_job_details         TEXT NOT NULL,
    full_job_details            TEXT,
    -- The last message to the validator about this job; what it says is in the generated columns.
    outcome                     TEXT CHECK (json_valid(outcome)),
    exit_status                 INTEGER AS (json_extract(outcome, '$.docker_process_exit_status')),
    stdout                      TEXT AS (coalesce(json_extract(outcome, '$.docker_process_stdout'), '')),
    stderr                      TEXT AS (coalesce(json_extract(outcome, '$.docker_process_stderr'), '')),
    artifacts                   TEXT AS (json_extract(outcome, '$.artifacts')),
    upload_results              TEXT AS (json_extract(outcome, '$.upload_results')),
    error_type                  TEXT AS (json_extract(outcome, '$.reason')),
    error_detail                TEXT AS (json_extract(outcome, '$.message')),
    result_reported_to_validator INTEGER,
    -- From the finished receipt.
    time_took_us                INTEGER,
    score                       REAL,
    created_at                  INTEGER NOT NULL,
    updated_at                  INTEGER NOT NULL
) STRICT;

-- No executor is given twice.
CREATE UNIQUE INDEX accepted_job_slot ON accepted_job (executor_class, slot) WHERE slot IS NOT NULL;
-- Outcomes that their validator has not got.
CREATE INDEX accepted_job_owed ON accepted_job (validator)
    WHERE outcome IS NOT NULL AND result_reported_to_validator IS NULL;
CREATE INDEX accepted_job_age ON accepted_job (created_at);
