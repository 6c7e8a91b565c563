-- What the administrator has ordered, by commands beside the facilitator. Every order raises the revision in its own
-- transaction; a running facilitator looks at the revision, and at the rest when that has changed.
CREATE TABLE operator (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO operator (id, revision) VALUES (1, 0);

-- Users of whom the administrator has spoken: let in since `added_us`, kept out since `blocked_us`, or both, and then
-- kept out. Whoever the configuration lets in has no row unless blocked. Times are microseconds since 1970.
CREATE TABLE users (
    hotkey     TEXT PRIMARY KEY,
    added_us   INTEGER,
    note       TEXT NOT NULL DEFAULT '',
    blocked_us INTEGER,
    reason     TEXT NOT NULL DEFAULT '',
    CHECK (added_us IS NOT NULL OR blocked_us IS NOT NULL)
) STRICT, WITHOUT ROWID;
