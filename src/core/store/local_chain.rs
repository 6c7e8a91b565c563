//! The local chain's file: one database that the roles of one machine share.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::look::{Look, LookError};
use super::{Migration, OpenError, Store, StoreError};
use crate::core::model::subnet::{Axon, Block, Hotkey, Metagraph, Neuron};

const MIGRATIONS: &[Migration] = &[Migration {
    name: "0001_start",
    sql: include_str!("migrations/local_chain/0001_start.sql"),
}];

/// Where block 0 lies and how fast blocks follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Genesis {
    /// Time of block 0, in milliseconds since 1970.
    pub unix_millis: i64,
    /// Time between two blocks, in milliseconds.
    pub block_millis: i64,
}

/// A hotkey's entry into a subnet, or what changes about one that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The key that signs.
    pub hotkey: Hotkey,
    /// The key that owns.
    pub coldkey: Hotkey,
    /// Effective stake in rao.
    pub stake_rao: u64,
    /// Whether it may set weights.
    pub validator_permit: bool,
}

/// A change that the rules of the chain have let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The neuron announces an address.
    Serve {
        /// The neuron.
        uid: u16,
        /// The address.
        axon: Axon,
    },
    /// The neuron replaces its row of weights.
    Weigh {
        /// The neuron.
        uid: u16,
        /// Target and value, each target once.
        weights: Vec<(u16, u16)>,
    },
}

/// The shared file.
#[derive(Debug, Clone)]
pub struct LocalChainStore {
    store: Store,
}

impl LocalChainStore {
    /// Opens the file, making it where missing; any number of processes may.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open_shared(path, MIGRATIONS)?;
        Ok(Self { store })
    }

    /// Returns the genesis, which is `proposal` if the chain has none yet.
    pub async fn genesis(&self, proposal: Genesis) -> Result<Genesis, StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "INSERT INTO genesis (id, unix_millis, block_millis) VALUES (1, ?1, ?2)
                 ON CONFLICT DO NOTHING",
                (proposal.unix_millis, proposal.block_millis),
            )?;
            Ok(genesis(connection)?)
        };
        self.store.write(change).await
    }

    /// Returns the neurons of a subnet, as of `block`.
    pub async fn metagraph(&self, netuid: u16, block: Block) -> Result<Metagraph, StoreError> {
        self.store
            .read(move |connection| metagraph(connection, netuid, block))
            .await
    }

    /// Registers a hotkey in the lowest free slot, or updates it where it is; returns its uid,
    /// or nothing when all 65536 slots are taken.
    pub async fn register(
        &self,
        netuid: u16,
        registration: Registration,
        block: Block,
    ) -> Result<Option<u16>, StoreError> {
        self.store
            .write(move |connection| register(connection, netuid, &registration, block))
            .await
    }

    /// Asks `rules` what follows from the state of the subnet, and does it in the same transaction.
    pub async fn apply<R, F>(&self, netuid: u16, block: Block, rules: F) -> Result<Result<(), R>, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Metagraph) -> Result<Step, R> + Send + 'static,
    {
        let change = move |connection: &Connection| {
            let now = metagraph(connection, netuid, block)?;
            match rules(&now) {
                Ok(step) => carry_out(connection, netuid, block, step).map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            }
        };
        self.store.write(change).await
    }

    /// Returns every row of weights of a subnet by the uid that set it.
    pub async fn weights(&self, netuid: u16) -> Result<BTreeMap<u16, Vec<(u16, u16)>>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT uid, target, value FROM weight WHERE netuid = ?1 ORDER BY uid, target",
            )?;
            let mut rows = statement.query((netuid,))?;
            let mut weights = BTreeMap::<_, Vec<_>>::new();
            while let Some(row) = rows.next()? {
                weights
                    .entry(row.get(0)?)
                    .or_default()
                    .push((row.get(1)?, row.get(2)?));
            }
            Ok(weights)
        };
        self.store.read(query).await
    }
}

/// The shared file, opened to be read only.
#[derive(Debug)]
pub struct ChainLook {
    look: Look,
}

impl ChainLook {
    /// Opens the file at `path`; blocks.
    pub fn open(path: &Path) -> Result<Self, LookError> {
        let look = Look::open(path, MIGRATIONS)?;
        Ok(Self { look })
    }

    /// Returns the genesis; none if no process has begun the chain.
    pub fn genesis(&self) -> Result<Option<Genesis>, LookError> {
        self.look.read(|connection| Ok(genesis(connection).optional()?))
    }

    /// Returns the subnets that have neurons.
    pub fn netuids(&self) -> Result<Vec<u16>, LookError> {
        self.look.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT DISTINCT netuid FROM neuron ORDER BY netuid")?;
            let netuids = statement.query_map((), |row| row.get(0))?;
            Ok(netuids.collect::<Result<_, _>>()?)
        })
    }

    /// Returns the last block in which a neuron that has set weights changed anything; none if nobody has set any.
    pub fn weighed(&self, netuid: u16) -> Result<Option<Block>, LookError> {
        self.look.read(|connection| {
            let block: Option<i64> = connection
                .prepare_cached(
                    "SELECT max(last_update) FROM neuron WHERE netuid = ?1
                         AND EXISTS (SELECT 1 FROM weight WHERE weight.netuid = ?1 AND weight.uid = neuron.uid)",
                )?
                .query_row([netuid], |row| row.get(0))?;
            Ok(block.map(|block| Block(block.unsigned_abs())))
        })
    }

    /// Returns the neurons of a subnet, as of `block`.
    pub fn metagraph(&self, netuid: u16, block: Block) -> Result<Metagraph, LookError> {
        self.look.read(|connection| metagraph(connection, netuid, block))
    }
}

fn genesis(connection: &Connection) -> rusqlite::Result<Genesis> {
    connection.query_row("SELECT unix_millis, block_millis FROM genesis", (), |row| {
        Ok(Genesis {
            unix_millis: row.get(0)?,
            block_millis: row.get(1)?,
        })
    })
}

fn metagraph(connection: &Connection, netuid: u16, block: Block) -> Result<Metagraph, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT uid, hotkey, coldkey, stake_rao, validator_permit, registered_at, last_update, axon_ip, axon_port
         FROM neuron WHERE netuid = ?1 ORDER BY uid",
    )?;
    let mut rows = statement.query((netuid,))?;
    let mut neurons = Vec::new();
    while let Some(row) = rows.next()? {
        neurons.push(neuron(row)?);
    }
    Ok(Metagraph {
        netuid,
        block,
        neurons,
    })
}

fn neuron(row: &Row<'_>) -> Result<Neuron, StoreError> {
    let axon = match (row.get::<_, Option<String>>("axon_ip")?, row.get("axon_port")?) {
        (Some(ip), Some(port)) => {
            let ip = ip
                .parse()
                .map_err(|error| StoreError::value("axon address", error))?;
            Some(Axon { ip, port })
        }
        _ => None,
    };
    let block = |name| -> Result<Block, StoreError> {
        let number: i64 = row.get(name)?;
        u64::try_from(number)
            .map(Block)
            .map_err(|error| StoreError::value("block number", error))
    };
    Ok(Neuron {
        uid: row.get("uid")?,
        hotkey: Hotkey::new(row.get::<_, String>("hotkey")?),
        coldkey: Hotkey::new(row.get::<_, String>("coldkey")?),
        stake_rao: u64::try_from(row.get::<_, i64>("stake_rao")?)
            .map_err(|error| StoreError::value("stake", error))?,
        axon,
        validator_permit: row.get("validator_permit")?,
        registered_at: block("registered_at")?,
        last_update: block("last_update")?,
    })
}

fn register(
    connection: &Connection,
    netuid: u16,
    registration: &Registration,
    block: Block,
) -> Result<Option<u16>, StoreError> {
    let known: Option<u16> = connection
        .query_row(
            "SELECT uid FROM neuron WHERE netuid = ?1 AND hotkey = ?2",
            (netuid, registration.hotkey.as_str()),
            |row| row.get(0),
        )
        .optional()?;
    let uid = match known {
        Some(uid) => uid,
        None => match free_uid(connection, netuid)? {
            Some(uid) => uid,
            None => return Ok(None),
        },
    };
    connection.execute(
        "INSERT INTO neuron (netuid, uid, hotkey, coldkey, stake_rao, validator_permit, registered_at, last_update)
         VALUES (:netuid, :uid, :hotkey, :coldkey, :stake_rao, :validator_permit, :block, :block)
         ON CONFLICT (netuid, uid) DO UPDATE SET
             coldkey = excluded.coldkey, stake_rao = excluded.stake_rao, validator_permit = excluded.validator_permit",
        named_params! {
            ":netuid": netuid,
            ":uid": uid,
            ":hotkey": registration.hotkey.as_str(),
            ":coldkey": registration.coldkey.as_str(),
            ":stake_rao": integer("stake", registration.stake_rao)?,
            ":validator_permit": registration.validator_permit,
            ":block": integer("block number", block.0)?,
        },
    )?;
    Ok(Some(uid))
}

/// Neurons never leave a local chain, so the slots in use are 0 up to their number.
fn free_uid(connection: &Connection, netuid: u16) -> Result<Option<u16>, StoreError> {
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM neuron WHERE netuid = ?1",
        (netuid,),
        |row| row.get(0),
    )?;
    Ok(u16::try_from(count).ok())
}

fn carry_out(connection: &Connection, netuid: u16, block: Block, step: Step) -> Result<(), StoreError> {
    let block = integer("block number", block.0)?;
    match step {
        Step::Serve { uid, axon } => {
            connection.execute(
                "UPDATE neuron SET axon_ip = ?3, axon_port = ?4, last_update = ?5 WHERE netuid = ?1 AND uid = ?2",
                (netuid, uid, axon.ip.to_string(), axon.port, block),
            )?;
        }
        Step::Weigh { uid, weights } => {
            connection.execute("DELETE FROM weight WHERE netuid = ?1 AND uid = ?2", (netuid, uid))?;
            let mut insert = connection
                .prepare_cached("INSERT INTO weight (netuid, uid, target, value) VALUES (?1, ?2, ?3, ?4)")?;
            for (target, value) in weights {
                insert.execute((netuid, uid, target, value))?;
            }
            connection.execute(
                "UPDATE neuron SET last_update = ?3 WHERE netuid = ?1 AND uid = ?2",
                (netuid, uid, block),
            )?;
        }
    }
    Ok(())
}

/// SQLite's integers are signed; no stake and no block number comes near their end.
fn integer(what: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|error| StoreError::value(what, error))
}
