-- What became of every offer: the steps of accepted jobs, what was not accepted, and counts for ever. Steps and counts
-- are written by triggers, so that they are in the transaction of the change that they tell of, whoever makes it.

-- Hotkeys that `horde miner check` made for its own jobs; good until the time given, for connections of this host.
CREATE TABLE check_validator (
    hotkey TEXT PRIMARY KEY,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Steps of jobs, by number (see `Step`), each when it first was. What changes nothing in a job's row is noted within a
-- second.
CREATE TABLE job_step (
    job_row INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (job_row, step)
) STRICT, WITHOUT ROWID;

-- How often what happened, for the life of the database. The validator is empty where it is a stranger's name, and
-- `self-test` for jobs of `horde miner check`.
CREATE TABLE tally (
    event     TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    validator TEXT    NOT NULL,
    count     INTEGER NOT NULL,
    PRIMARY KEY (event, reason, validator)
) STRICT, WITHOUT ROWID;

-- Offers and receipts that were not accepted, oldest first; the newest so many are kept.
CREATE TABLE refused_offer (
    id             INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,
    subject        TEXT    NOT NULL CHECK (subject IN ('offer', 'receipt')),
    validator      TEXT    NOT NULL,
    address        TEXT,
    job_uuid       TEXT,
    executor_class TEXT,
    reason         TEXT    NOT NULL,
    words          TEXT    NOT NULL,
    evidence       TEXT    NOT NULL CHECK (json_valid(evidence))
) STRICT;
CREATE INDEX refused_offer_age ON refused_offer (at);
CREATE INDEX refused_offer_job ON refused_offer (job_uuid) WHERE job_uuid IS NOT NULL;

-- Authentications in the name of validators that were refused; the newest so many are kept, apart from offers, so that
-- a flood of them displaces nothing else.
CREATE TABLE refused_authentication (
    id        INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    validator TEXT    NOT NULL,
    address   TEXT,
    reason    TEXT    NOT NULL,
    words     TEXT    NOT NULL,
    evidence  TEXT    NOT NULL CHECK (json_valid(evidence))
) STRICT;
CREATE INDEX refused_authentication_age ON refused_authentication (at);

-- Those of strangers, folded: one row for each reason and address, at most so many; the rest has no address.
CREATE TABLE stranger (
    reason         TEXT    NOT NULL,
    address        TEXT    NOT NULL,
    count          INTEGER NOT NULL,
    first_at       INTEGER NOT NULL,
    last_at        INTEGER NOT NULL,
    last_validator TEXT    NOT NULL,
    last_words     TEXT    NOT NULL,
    PRIMARY KEY (reason, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX stranger_age ON stranger (last_at);

CREATE TRIGGER ledger_accepted AFTER INSERT ON accepted_job WHEN NEW.status <> 'REJECTED'
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at) VALUES (NEW.id, 2, NEW.created_at);
    INSERT INTO tally (event, reason, validator, count)
        VALUES ('accepted', NEW.executor_class, iif(EXISTS (SELECT 1 FROM check_validator WHERE hotkey = NEW.validator),
            'self-test', NEW.validator), 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER ledger_declined AFTER INSERT ON accepted_job WHEN NEW.status = 'REJECTED'
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at) VALUES (NEW.id, 3, NEW.created_at);
END;

CREATE TRIGGER ledger_status AFTER UPDATE OF status ON accepted_job WHEN NEW.status <> OLD.status
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at) VALUES (NEW.id, CASE NEW.status
        WHEN 'WAITING_FOR_PAYLOAD' THEN 6 WHEN 'RUNNING' THEN 7 WHEN 'FINISHED' THEN 11 WHEN 'FAILED' THEN 12
        WHEN 'REJECTED' THEN 3 ELSE 2 END, NEW.updated_at);
END;

-- A job that ran out of time is told apart, by the stage in which it did.
CREATE TRIGGER ledger_ended AFTER UPDATE OF status ON accepted_job
    WHEN NEW.status <> OLD.status AND NEW.status IN ('FINISHED', 'FAILED')
BEGIN
    INSERT INTO tally (event, reason, validator, count)
        SELECT CASE WHEN NEW.status = 'FINISHED' THEN 'finished'
                    WHEN word IN ('timeout', 'unhandled_timeout') OR word LIKE '%\_timed\_out' ESCAPE '\' THEN 'timed_out'
                    ELSE 'failed' END,
               CASE WHEN NEW.status = 'FINISHED' THEN NEW.executor_class
                    WHEN word = 'timeout' THEN coalesce(json_extract(NEW.outcome, '$.stage'), word)
                    ELSE word END,
               iif(EXISTS (SELECT 1 FROM check_validator WHERE hotkey = NEW.validator), 'self-test', NEW.validator), 1
        FROM (SELECT iif(NEW.status = 'FINISHED', '', coalesce(json_extract(NEW.outcome, '$.reason'), 'unknown')) AS word)
        WHERE true
        ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER ledger_delivered AFTER UPDATE OF result_reported_to_validator ON accepted_job
    WHEN NEW.result_reported_to_validator IS NOT NULL AND OLD.result_reported_to_validator IS NULL
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at) VALUES (NEW.id, 13, NEW.result_reported_to_validator);
END;

CREATE TRIGGER ledger_released AFTER UPDATE OF slot ON accepted_job WHEN NEW.slot IS NULL AND OLD.slot IS NOT NULL
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at) VALUES (NEW.id, 16, NEW.updated_at);
END;

CREATE TRIGGER ledger_receipt AFTER INSERT ON receipt WHEN NEW.receipt_type <> 'JobStartedReceipt'
BEGIN
    INSERT OR IGNORE INTO job_step (job_row, step, at)
        SELECT id, iif(NEW.receipt_type = 'JobAcceptedReceipt', 14, 15), NEW.stored_at
        FROM accepted_job WHERE job_uuid = NEW.job_uuid;
END;

CREATE TRIGGER ledger_forgotten AFTER DELETE ON accepted_job
BEGIN
    DELETE FROM job_step WHERE job_row = OLD.id;
END;
