-- What belongs to the users' requests rather than to their jobs: tallies, idempotency keys, feedback.

-- How many jobs each user has, and how many of these have not ended. Kept by the triggers below, whoever writes jobs:
-- to count 100,000 rows for each page of a list would take longer than to read the page.
CREATE TABLE tallies (
    owner      TEXT NOT NULL PRIMARY KEY,
    jobs       INTEGER NOT NULL CHECK (jobs >= 0),
    unfinished INTEGER NOT NULL CHECK (unfinished >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO tallies (owner, jobs, unfinished)
    SELECT owner, count(*), sum(NOT EXISTS (
        SELECT 1 FROM steps WHERE steps.job = jobs.seq
            AND steps.status IN ('completed', 'rejected', 'failed', 'horde_failed')))
    FROM jobs GROUP BY owner;

CREATE TRIGGER tally_job AFTER INSERT ON jobs BEGIN
    INSERT INTO tallies (owner, jobs, unfinished) VALUES (new.owner, 1, 1)
        ON CONFLICT (owner) DO UPDATE SET jobs = jobs + 1, unfinished = unfinished + 1;
END;

CREATE TRIGGER tally_end AFTER INSERT ON steps
    WHEN new.status IN ('completed', 'rejected', 'failed', 'horde_failed') BEGIN
    UPDATE tallies SET unfinished = unfinished - 1 WHERE owner = (SELECT owner FROM jobs WHERE seq = new.job);
END;

-- Before, since the steps go with their job.
CREATE TRIGGER tally_gone BEFORE DELETE ON jobs BEGIN
    UPDATE tallies SET jobs = jobs - 1, unfinished = unfinished - NOT EXISTS (
        SELECT 1 FROM steps WHERE steps.job = old.seq
            AND steps.status IN ('completed', 'rejected', 'failed', 'horde_failed'))
    WHERE owner = old.owner;
END;

-- Which job a user's key of a submission stands for. Gone with the job.
CREATE TABLE requests (
    owner       TEXT NOT NULL,
    key         TEXT NOT NULL,
    body_sha256 BLOB NOT NULL CHECK (length(body_sha256) = 32),
    job         INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
    created_us  INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_of_job ON requests (job);

-- What a job's owner thinks of its result.
CREATE TABLE feedback (
    job                INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    result_correctness REAL NOT NULL CHECK (result_correctness BETWEEN 0 AND 1),
    expected_duration  REAL CHECK (expected_duration >= 0),
    created_us         INTEGER NOT NULL
) STRICT;
