//! A row change as it leaves the stream.

use crate::lsn::Lsn;
use crate::pgoutput::AnnouncedRelation;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The transaction a change was committed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Transaction id, 32 bits, without its epoch.
    pub xid: u32,
    /// Position of the commit record.
    pub commit: Lsn,
    /// Commit time in microseconds since 1970-01-01 UTC.
    pub commit_timestamp_us: i64,
}

/// What identifies a row in old tuples (`database.md 2.8`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing: UPDATE and DELETE are refused on a published table.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// A column as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name, as in the catalog.
    pub name: String,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// Part of the replica identity; that is every column if the identity is full (`database.md 9.3`).
    pub is_key: bool,
}

/// A table as announced in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub name: String,
    /// What old tuples hold.
    pub replica_identity: ReplicaIdentity,
    /// Columns in table order, as streamed: generated ones are missing (`database.md 9.6`).
    pub columns: Vec<Column>,
    /// Grows with every announcement. Postgres announces a table again after anything that may concern cached facts
    /// about it: DDL, GRANT and REVOKE, policies, row security switched on or off.
    pub version: u64,
}

impl Relation {
    /// The table as it is announced now. Versions grow over all sessions, so that a consumer never takes a new session's
    /// relation for one it knows.
    pub(crate) fn of_next_version(announced: AnnouncedRelation) -> Self {
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        Self {
            oid: announced.oid,
            schema: announced.schema,
            name: announced.name,
            replica_identity: announced.replica_identity,
            columns: announced.columns,
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// A column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An UPDATE left this out-of-line value alone and it was not sent (`database.md 9.5`).
    UnchangedToast,
    /// The type's text output.
    Text(&'a str),
}

/// Where a value is in its tuple's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    Null,
    UnchangedToast,
    Text { start: u32, end: u32 },
}

/// A row: one run of bytes and where in it each value is.
#[derive(Clone, Debug)]
pub struct Tuple {
    pub(crate) bytes: Bytes,
    pub(crate) spans: Box<[Span]>,
    /// Bytes of values that were too much to travel and read as [`Value::UnchangedToast`].
    pub(crate) left_out_bytes: usize,
}

impl Tuple {
    /// A row of these values, e.g. one of the stream with columns that the stream leaves out. `None` beyond 4 GiB.
    pub fn of<'a>(values: impl IntoIterator<Item = Value<'a>>) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut spans = Vec::new();
        for value in values {
            // Laid out as on the wire, so that the size is what it would be there.
            spans.push(match value {
                Value::Null => {
                    bytes.push(b'n');
                    Span::Null
                }
                Value::UnchangedToast => {
                    bytes.push(b'u');
                    Span::UnchangedToast
                }
                Value::Text(text) => {
                    bytes.push(b't');
                    bytes.extend_from_slice(&u32::try_from(text.len()).ok()?.to_be_bytes());
                    let start = u32::try_from(bytes.len()).ok()?;
                    bytes.extend_from_slice(text.as_bytes());
                    let end = u32::try_from(bytes.len()).ok()?;
                    Span::Text { start, end }
                }
            });
        }
        Some(Self {
            bytes: bytes.into(),
            spans: spans.into(),
            left_out_bytes: 0,
        })
    }

    /// The same row in memory of its own: as it comes from the stream it may keep a much larger buffer alive.
    #[must_use]
    pub fn compacted(&self) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(&self.bytes),
            spans: self.spans.clone(),
            left_out_bytes: self.left_out_bytes,
        }
    }

    /// The value of the column at this position; `None` if the tuple has fewer columns.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<Value<'_>> {
        Some(match *self.spans.get(at)? {
            Span::Null => Value::Null,
            Span::UnchangedToast => Value::UnchangedToast,
            Span::Text { start, end } => {
                let bytes = self.bytes.get(start as usize..end as usize)?;
                // Checked when the tuple was decoded.
                Value::Text(std::str::from_utf8(bytes).ok()?)
            }
        })
    }

    /// How many columns it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether it has no columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Its size on the wire, with all its values.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len().saturating_add(self.left_out_bytes)
    }
}

/// What is known of a row as it was.
#[derive(Clone, Debug)]
pub enum OldTuple {
    /// The replica identity's columns; all others read as NULL and mean nothing (`database.md 9.2`).
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

impl OldTuple {
    /// The tuple, however much of it means something.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Action {
    /// A new row.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// What it was; `None` if no identity column changed and the identity is not full (`database.md 9.1`).
        old: Option<OldTuple>,
        /// What it is.
        new: Tuple,
    },
    /// A row that is gone.
    Delete {
        /// What it was.
        old: OldTuple,
    },
}

impl Action {
    /// Bytes of all tuples.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        match self {
            Self::Insert { new } => new.wire_bytes(),
            Self::Update { old, new } => new
                .wire_bytes()
                .saturating_add(old.as_ref().map_or(0, |old| old.tuple().wire_bytes())),
            Self::Delete { old } => old.tuple().wire_bytes(),
        }
    }
}

/// One row change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The transaction that made it.
    pub transaction: Transaction,
    /// Its number among the row changes of that transaction, from 0, counting those nobody wants, too.
    pub index: u32,
    /// The table.
    pub relation: Arc<Relation>,
    /// What happened.
    pub action: Action,
}

impl Change {
    /// The same change in memory of its own, for one that is kept.
    #[must_use]
    pub fn compacted(&self) -> Self {
        let old_of = |old: &OldTuple| match old {
            OldTuple::Key(tuple) => OldTuple::Key(tuple.compacted()),
            OldTuple::Full(tuple) => OldTuple::Full(tuple.compacted()),
        };
        Self {
            transaction: self.transaction,
            index: self.index,
            relation: Arc::clone(&self.relation),
            action: match &self.action {
                Action::Insert { new } => Action::Insert { new: new.compacted() },
                Action::Update { old, new } => Action::Update {
                    old: old.as_ref().map(old_of),
                    new: new.compacted(),
                },
                Action::Delete { old } => Action::Delete { old: old_of(old) },
            },
        }
    }
}
