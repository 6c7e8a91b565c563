-- The local chain: what the roles of one machine see of a subnet.

-- Block 0 and the pace; written once, by whichever process came first.
CREATE TABLE genesis (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    unix_millis  INTEGER NOT NULL,
    block_millis INTEGER NOT NULL CHECK (block_millis > 0)
) STRICT;

CREATE TABLE neuron (
    netuid           INTEGER NOT NULL,
    uid              INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 65535),
    hotkey           TEXT    NOT NULL,
    coldkey          TEXT    NOT NULL,
    stake_rao        INTEGER NOT NULL CHECK (stake_rao >= 0),
    validator_permit INTEGER NOT NULL CHECK (validator_permit IN (0, 1)),
    registered_at    INTEGER NOT NULL,
    last_update      INTEGER NOT NULL,
    axon_ip          TEXT,
    axon_port        INTEGER CHECK (axon_port BETWEEN 1 AND 65535),
    PRIMARY KEY (netuid, uid),
    UNIQUE (netuid, hotkey),
    CHECK ((axon_ip IS NULL) = (axon_port IS NULL))
) STRICT, WITHOUT ROWID;

-- The row of weights that each validator set last.
CREATE TABLE weight (
    netuid INTEGER NOT NULL,
    uid    INTEGER NOT NULL,
    target INTEGER NOT NULL,
    value  INTEGER NOT NULL CHECK (value BETWEEN 0 AND 65535),
    PRIMARY KEY (netuid, uid, target),
    FOREIGN KEY (netuid, uid) REFERENCES neuron (netuid, uid),
    FOREIGN KEY (netuid, target) REFERENCES neuron (netuid, uid)
) STRICT, WITHOUT ROWID;
