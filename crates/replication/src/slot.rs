//! The replication slot: a temporary one, which goes with its session, or a permanent one, which keeps the log until
//! somebody goes on; and the lock that lets one session at a time have it.

use crate::error::{CREATING_SLOT, StreamError};
use crate::lsn::Lsn;
use crate::session::{query, quote_identifier, quote_literal};
use crate::wire::Wire;
use std::time::Duration;
use tokio::time::timeout;

/// After so long it is worth saying what making the slot waits for.
const SLOT_IS_SLOW_AFTER: Duration = Duration::from_secs(10);
/// How long a session that holds the guard may take to go by itself, and again after it was ended, in milliseconds.
const GUARD_PATIENCE_MS: u32 = 1_000;

/// How long a slot lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// As long as the connection: what commits while there is none is lost, and nothing is ever left behind.
    Temporary,
    /// Until it is dropped: a connection that breaks loses nothing. While nobody streams, Postgres keeps all its log
    /// for it, up to `max_slot_wal_keep_size`.
    Permanent {
        /// Its name, unique in the whole server. Lower-case letters, digits and `_`.
        name: String,
        /// Whether the first connection goes on where the slot was left; else it begins anew, for what happened
        /// before concerns nobody. Later connections always go on.
        resumes: bool,
    },
}

/// A lock in the database (`pg_advisory_lock`) that the streaming session holds. It goes with the session, as a
/// temporary slot does.
///
/// On its first connection a stream ends a session that holds the lock for more than a second longer: whoever starts
/// one has the right to it, and the other may hang. Later connections wait for it and say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The lock's name; its key is `hashtextextended(name, 0)`.
    pub name: String,
}

/// What the next connection does about the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// Makes a temporary one.
    Temporary,
    /// Makes a permanent one, in place of one that may be there.
    Anew,
    /// Goes on with the permanent one, or makes it.
    Resumed,
}

impl Making {
    pub(crate) fn first(slot: &Slot) -> Self {
        match slot {
            Slot::Temporary => Self::Temporary,
            Slot::Permanent { resumes: true, .. } => Self::Resumed,
            Slot::Permanent { resumes: false, .. } => Self::Anew,
        }
    }

    /// The slot is there.
    pub(crate) fn made(&mut self) {
        if *self == Self::Anew {
            *self = Self::Resumed;
        }
    }

    /// The session that streamed has ended.
    pub(crate) fn broke(&mut self, error: &StreamError) {
        if *self == Self::Resumed && comes_again(error) {
            tracing::warn!(%error, "the permanent slot is made anew, for it cannot get past this");
            *self = Self::Anew;
        }
    }

    pub(crate) fn resumes(self) -> bool {
        self == Self::Resumed
    }
}

/// Whether the same place of the log ends the stream each time (`database.md 9.9`).
fn comes_again(error: &StreamError) -> bool {
    match error {
        StreamError::NoPublication { .. }
        | StreamError::Protocol(_)
        | StreamError::MessageTooLarge { .. } => true,
        // Of class 57 is the operator's intervention: a shutdown, a session that was ended.
        StreamError::Postgres { code, .. } => !code.starts_with("57"),
        _ => false,
    }
}

/// A slot that is there.
pub(crate) struct Made {
    /// Where it begins.
    pub(crate) start: Lsn,
    /// It was there before.
    pub(crate) is_resumed: bool,
}

/// Makes the slot, or finds it. Postgres waits here for the transactions that are running, which may take any time.
pub(crate) async fn make(wire: &mut Wire, name: &str, making: Making) -> Result<Made, StreamError> {
    if making == Making::Temporary {
        return create(wire, name, "TEMPORARY ").await;
    }
    if let Some(found) = find(wire, name).await? {
        if let (Making::Resumed, Some(start)) = (making, found) {
            return Ok(Made {
                start,
                is_resumed: true,
            });
        }
        let drop = format!("DROP_REPLICATION_SLOT {}", quote_identifier(name));
        query(wire, CREATING_SLOT, &drop).await?;
    }
    create(wire, name, "").await
}

async fn create(wire: &mut Wire, name: &str, kind: &str) -> Result<Made, StreamError> {
    let slot = quote_identifier(name);
    let create = format!("CREATE_REPLICATION_SLOT {slot} {kind}LOGICAL pgoutput NOEXPORT_SNAPSHOT");
    let creating = query(wire, CREATING_SLOT, &create);
    let mut creating = std::pin::pin!(creating);
    let created = match timeout(SLOT_IS_SLOW_AFTER, creating.as_mut()).await {
        Ok(created) => created?,
        Err(_) => {
            tracing::warn!(
                "the replication slot has to wait for transactions that are open; see pg_stat_activity"
            );
            creating.await?
        }
    };
    let start = created
        .first()
        .and_then(|row| row.get(1)?.as_deref()?.parse().ok())
        .ok_or_else(|| StreamError::Protocol("the answer to CREATE_REPLICATION_SLOT".to_owned()))?;
    Ok(Made {
        start,
        is_resumed: false,
    })
}

/// Where a permanent slot goes on; nowhere, when the server has not kept the log for it (`max_slot_wal_keep_size`).
async fn find(wire: &mut Wire, name: &str) -> Result<Option<Option<Lsn>>, StreamError> {
    let statement = format!(
        "SELECT database IS NOT DISTINCT FROM pg_catalog.current_database() AND plugin = 'pgoutput', \
         coalesce('the database ' || database || ' and ' || plugin, 'physical replication'), \
         wal_status IS NOT DISTINCT FROM 'lost', confirmed_flush_lsn \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(name)
    );
    let rows = query(wire, CREATING_SLOT, &statement).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let field = |at: usize| row.get(at).and_then(Option::as_deref);
    if field(0) != Some("t") {
        return Err(StreamError::ForeignSlot {
            name: name.to_owned(),
            owner: field(1).unwrap_or_default().to_owned(),
        });
    }
    if field(2) == Some("t") {
        tracing::error!(
            slot = name,
            "the server has not kept the log for the permanent slot, which is made anew; see max_slot_wal_keep_size"
        );
        return Ok(Some(None));
    }
    Ok(Some(field(3).and_then(|start| start.parse().ok())))
}

/// Takes the lock, from a session that holds it if that is allowed.
pub(crate) async fn acquire(wire: &mut Wire, guard: &Guard, may_evict: bool) -> Result<(), StreamError> {
    if is_acquired(wire, guard).await? {
        return Ok(());
    }
    let name = quote_literal(&guard.name);
    let held = format!(
        "SELECT l.pid FROM pg_catalog.pg_locks l, pg_catalog.hashtextextended({name}, 0) AS key \
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
         AND l.classid::int8 = (key >> 32) & 4294967295 AND l.objid::int8 = key & 4294967295"
    );
    let rows = query(wire, CREATING_SLOT, &held).await?;
    let pid = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    if let (Some(pid), true) = (pid, may_evict) {
        tracing::warn!(pid, guard = guard.name, "ending the session that still streams");
        let end = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
        // Of another role it may be that ours cannot end it; then what follows says who it is.
        if let Err(error) = query(wire, CREATING_SLOT, &end).await {
            tracing::warn!(pid, %error, "the session that still streams cannot be ended");
        }
    }
    if is_acquired(wire, guard).await? {
        return Ok(());
    }
    Err(StreamError::Guarded {
        name: guard.name.clone(),
        pid: pid.unwrap_or_default(),
    })
}

async fn is_acquired(wire: &mut Wire, guard: &Guard) -> Result<bool, StreamError> {
    let name = quote_literal(&guard.name);
    let limit = format!("SET lock_timeout = {GUARD_PATIENCE_MS}");
    query(wire, CREATING_SLOT, &limit).await?;
    let lock = format!("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended({name}, 0))");
    let locked = query(wire, CREATING_SLOT, &lock).await;
    // The making of the slot waits for locks, too, and for as long as it takes.
    query(wire, CREATING_SLOT, "RESET lock_timeout").await?;
    match locked {
        Ok(_) => Ok(true),
        Err(StreamError::Postgres { code, .. }) if code == "55P03" => Ok(false),
        Err(error) => Err(error),
    }
}
