-- Receipts of validator and miner alike, one of each type per job, in order of arrival.
CREATE TABLE receipt (
    id                  INTEGER PRIMARY KEY,
    receipt_type        TEXT    NOT NULL
        CHECK (receipt_type IN ('JobStartedReceipt', 'JobAcceptedReceipt', 'JobFinishedReceipt')),
    job_uuid            TEXT    NOT NULL,
    miner_hotkey        TEXT    NOT NULL,
    validator_hotkey    TEXT    NOT NULL,
    -- Microseconds since 1970, as are all times here.
    timestamp           INTEGER NOT NULL,
    -- Of started receipts only: what an excuse is looked up by.
    executor_class      TEXT,
    is_organic          INTEGER CHECK (is_organic IN (0, 1)),
    valid_until         INTEGER,
    -- As it goes over the wire.
    payload             TEXT    NOT NULL,
    validator_signature TEXT    NOT NULL,
    -- A validator keeps the receipts that it issued without the miner's signature.
    miner_signature     TEXT,
    stored_at           INTEGER NOT NULL,
    UNIQUE (receipt_type, job_uuid)
) STRICT;

CREATE INDEX receipt_excuse ON receipt (executor_class, timestamp) WHERE executor_class IS NOT NULL;
CREATE INDEX receipt_age ON receipt (timestamp);
