-- The dynamic configuration as it was last read.
CREATE TABLE dynamic_value (
    key        TEXT PRIMARY KEY,
    value      TEXT NOT NULL CHECK (json_valid(value)),
    -- The name of the document that set it.
    document   TEXT NOT NULL,
    fetched_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE dynamic_document (
    name     TEXT PRIMARY KEY,
    tried_at INTEGER NOT NULL,
    -- Why it could not be read, or not to its end.
    error    TEXT
) STRICT, WITHOUT ROWID;
