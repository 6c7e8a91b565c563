-- What the operator has ordered, by commands beside the miner. Every order raises the revision in its own transaction;
-- a running miner looks at the revision, and at the rest when that has changed.
CREATE TABLE operator (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO operator (id, revision) VALUES (1, 0);
