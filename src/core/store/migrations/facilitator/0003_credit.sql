-- Money, in double entry: every transfer takes from one account what it gives to another, so that the sum of all
-- balances is always zero. Amounts are micro-units (millionths of a unit), times microseconds since 1970.

-- Two accounts for each user: what is available, and what is set aside for jobs that have not ended. Two of the
-- facilitator's own, without a hotkey: `issued` is what was ever given out, below zero; `income` is what was charged.
CREATE TABLE accounts (
    id      INTEGER PRIMARY KEY,
    kind    TEXT    NOT NULL CHECK (kind IN ('issued', 'income', 'available', 'reserved')),
    hotkey  TEXT    NOT NULL,
    balance INTEGER NOT NULL,
    UNIQUE (hotkey, kind),
    CHECK ((hotkey = '') = (kind IN ('issued', 'income'))),
    CONSTRAINT nobody_goes_below_zero CHECK (balance >= 0 OR kind = 'issued')
) STRICT;
INSERT INTO accounts (id, kind, hotkey, balance) VALUES (1, 'issued', '', 0), (2, 'income', '', 0);

CREATE TRIGGER accounts_begin_empty BEFORE INSERT ON accounts WHEN NEW.balance <> 0
BEGIN
    SELECT RAISE(ABORT, 'an account begins empty');
END;
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts
BEGIN
    SELECT RAISE(ABORT, 'accounts are kept');
END;
CREATE TRIGGER accounts_keep_their_owner BEFORE UPDATE OF id, kind, hotkey ON accounts
BEGIN
    SELECT RAISE(ABORT, 'an account keeps its owner');
END;

-- What each job that is charged may cost, and what became of that; one row for ever, also when the job is forgotten.
CREATE TABLE bills (
    id          INTEGER PRIMARY KEY,
    job         INTEGER UNIQUE REFERENCES jobs (seq) ON DELETE SET NULL,
    job_uuid    TEXT    NOT NULL,
    -- The user's two accounts.
    available   INTEGER NOT NULL REFERENCES accounts (id),
    reserved    INTEGER NOT NULL REFERENCES accounts (id),
    -- Agreed at the submission: micro-units for a second, and most seconds.
    price       INTEGER NOT NULL CHECK (price >= 0),
    seconds_max INTEGER NOT NULL CHECK (seconds_max >= 0),
    -- So far; final when it is settled.
    charged     INTEGER NOT NULL DEFAULT 0 CHECK (charged BETWEEN 0 AND price * seconds_max),
    seconds     INTEGER NOT NULL DEFAULT 0 CHECK (seconds BETWEEN 0 AND seconds_max),
    intervals   INTEGER NOT NULL DEFAULT 0 CHECK (intervals >= 0),
    settled_us  INTEGER
) STRICT;
CREATE INDEX bills_open ON bills (id) WHERE settled_us IS NULL;

CREATE TRIGGER bills_are_settled_once
    BEFORE UPDATE OF id, job_uuid, available, reserved, price, seconds_max, charged, seconds, intervals, settled_us
    ON bills WHEN OLD.settled_us IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a bill is settled once');
END;
CREATE TRIGGER bills_keep_what_was_agreed
    BEFORE UPDATE OF id, job_uuid, available, reserved, price, seconds_max ON bills
BEGIN
    SELECT RAISE(ABORT, 'a bill keeps what was agreed');
END;
CREATE TRIGGER bills_stay BEFORE DELETE ON bills
BEGIN
    SELECT RAISE(ABORT, 'bills are kept');
END;

-- The bill is settled in the transaction that ends the job, and before a job is forgotten.
CREATE TRIGGER bills_are_settled_with_the_end BEFORE INSERT ON steps
    WHEN NEW.status IN ('completed', 'rejected', 'failed', 'horde_failed')
        AND EXISTS (SELECT 1 FROM bills WHERE job = NEW.job AND settled_us IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'a job that ends has its bill settled');
END;
CREATE TRIGGER bills_are_settled_before_jobs_go BEFORE DELETE ON jobs
    WHEN EXISTS (SELECT 1 FROM bills WHERE job = OLD.seq AND settled_us IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'a job with an open bill is not forgotten');
END;

-- The ledger itself. Rows are added and never changed.
CREATE TABLE transfers (
    id         INTEGER PRIMARY KEY,
    at_us      INTEGER NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('credit', 'debit', 'reserve', 'interval', 'charge', 'refund', 'return')),
    taken_from INTEGER NOT NULL REFERENCES accounts (id),
    given_to   INTEGER NOT NULL REFERENCES accounts (id),
    amount     INTEGER NOT NULL CHECK (amount > 0),
    -- Of what a job causes; the interval counts from 1 and is 0 for all else.
    bill       INTEGER REFERENCES bills (id),
    interval   INTEGER NOT NULL DEFAULT 0,
    -- Of what the administrator gives.
    key        TEXT,
    note       TEXT    NOT NULL DEFAULT '',
    CHECK (taken_from <> given_to),
    CHECK ((bill IS NULL) = (kind IN ('credit', 'debit'))),
    CHECK ((interval > 0) = (kind = 'interval'))
) STRICT;
-- Nothing happens twice to a bill.
CREATE UNIQUE INDEX transfers_of_bill ON transfers (bill, kind, interval) WHERE bill IS NOT NULL;
-- Nor is anything given twice under one key.
CREATE UNIQUE INDEX transfers_by_key ON transfers (key) WHERE key IS NOT NULL;
CREATE INDEX transfers_from ON transfers (taken_from);
CREATE INDEX transfers_to ON transfers (given_to);

CREATE TRIGGER transfers_move AFTER INSERT ON transfers
BEGIN
    UPDATE accounts SET balance = balance - NEW.amount WHERE id = NEW.taken_from;
    UPDATE accounts SET balance = balance + NEW.amount WHERE id = NEW.given_to;
END;
CREATE TRIGGER transfers_are_not_changed BEFORE UPDATE ON transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are not changed');
END;
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are kept');
END;
