-- The facilitator's database: its secret, the users' jobs, and each job's history.

-- Signs tokens and nonces; made once.
CREATE TABLE secret (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    bytes BLOB NOT NULL CHECK (length(bytes) = 32)
) STRICT;

-- What a user submitted; never changed afterwards. Times are microseconds since 1970.
CREATE TABLE jobs (
    seq                        INTEGER PRIMARY KEY,
    uuid                       TEXT NOT NULL UNIQUE,
    owner                      TEXT NOT NULL,
    created_us                 INTEGER NOT NULL,
    target_validator           TEXT NOT NULL,
    executor_class             TEXT NOT NULL,
    docker_image               TEXT NOT NULL,
    job_namespace              TEXT,
    tag                        TEXT NOT NULL,
    args                       TEXT NOT NULL,
    env                        TEXT NOT NULL,
    use_gpu                    INTEGER NOT NULL CHECK (use_gpu IN (0, 1)),
    artifacts_dir              TEXT NOT NULL,
    on_trusted_miner           INTEGER NOT NULL CHECK (on_trusted_miner IN (0, 1)),
    download_time_limit        INTEGER NOT NULL,
    execution_time_limit       INTEGER NOT NULL,
    streaming_start_time_limit INTEGER NOT NULL,
    upload_time_limit          INTEGER NOT NULL,
    streaming_client_cert      TEXT,
    volumes                    TEXT NOT NULL,
    uploads                    TEXT NOT NULL,
    signatory                  TEXT NOT NULL,
    signature_timestamp_ns     INTEGER NOT NULL,
    signature                  TEXT NOT NULL,
    signature_scope            TEXT NOT NULL
) STRICT;

CREATE INDEX jobs_of_owner ON jobs (owner, seq);
CREATE INDEX jobs_of_owner_with_tag ON jobs (owner, tag, seq);

-- What became of it, oldest first.
CREATE TABLE steps (
    job        INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    status     TEXT NOT NULL,
    metadata   TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (job, position),
    UNIQUE (job, status)
) STRICT;

-- A job ends once.
CREATE UNIQUE INDEX steps_end ON steps (job)
    WHERE status IN ('completed', 'rejected', 'failed', 'horde_failed');
