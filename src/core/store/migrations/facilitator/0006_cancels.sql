-- Users' wishes to end their jobs. A wish stands until the job has ended; its validator is told of it on each new
-- connection, unless it has said that it cannot. Times are microseconds since 1970.
CREATE TABLE cancels (
    job        INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    asked_us   INTEGER NOT NULL,
    -- Why it cannot be, in words for the user.
    refused    TEXT,
    refused_us INTEGER
) STRICT;
CREATE INDEX cancels_open ON cancels (job) WHERE refused IS NULL;
