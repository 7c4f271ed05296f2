//! The logical decoding messages of the plugin `pgoutput`, protocol version 1.
//!
//! Pure: bytes in, messages out. Every read is checked, and nothing is allocated that the input does not pay for.
//! Row messages are split in two steps, so that a row of a table nobody wants costs the reading of its oid.

mod reader;
mod row;

pub use reader::Malformed;
pub use row::{ROW_HEADER_BYTES, decode_row, row_relation};

use crate::change::{Column, ReplicaIdentity};
use crate::lsn::Lsn;
use reader::Reader;

/// Microseconds between the Unix epoch and Postgres' (2000-01-01).
pub(crate) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// What a message says. Rows keep their bytes, see [`decode_row`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Position of its commit record.
        commit: Lsn,
        /// Commit time in microseconds since 1970-01-01 UTC.
        commit_timestamp_us: i64,
        /// Its id.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Position after its commit record.
        end: Lsn,
    },
    /// The transaction came from another server.
    Origin,
    /// A table as following rows are to be read.
    Relation(AnnouncedRelation),
    /// A type that is not built in.
    Type {
        /// `pg_type.oid`
        oid: u32,
    },
    /// INSERT, UPDATE or DELETE.
    Row(&'a [u8]),
    /// Tables were emptied.
    Truncate {
        /// Their oids.
        relations: Vec<u32>,
    },
    /// Something this version does not ask for or know.
    Other(u8),
}

/// The content of a Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedRelation {
    /// `pg_class.oid`
    pub oid: u32,
    /// Schema; empty means `pg_catalog`.
    pub schema: String,
    /// Table.
    pub name: String,
    /// What old tuples hold.
    pub replica_identity: ReplicaIdentity,
    /// Columns.
    pub columns: Vec<Column>,
}

/// Reads one message.
///
/// # Errors
/// If it ends too early or its content makes no sense.
pub fn decode(message: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader::new(message);
    Ok(match reader.u8()? {
        b'B' => Message::Begin {
            commit: Lsn(reader.u64()?),
            commit_timestamp_us: reader.i64()?.saturating_add(POSTGRES_EPOCH_US),
            xid: reader.u32()?,
        },
        b'C' => {
            let _flags = reader.u8()?;
            let _commit = reader.u64()?;
            Message::Commit {
                end: Lsn(reader.u64()?),
            }
        }
        b'O' => Message::Origin,
        b'R' => Message::Relation(relation(&mut reader)?),
        b'Y' => Message::Type { oid: reader.u32()? },
        b'I' | b'U' | b'D' => Message::Row(message),
        b'T' => {
            let count = reader.u32()?;
            let _options = reader.u8()?;
            let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        other => Message::Other(other),
    })
}

fn relation(reader: &mut Reader<'_>) -> Result<AnnouncedRelation, Malformed> {
    let oid = reader.u32()?;
    let schema = reader.text()?;
    let name = reader.text()?;
    let replica_identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(Malformed("an unknown replica identity")),
    };
    let count = reader.u16()?;
    let columns = (0..count)
        .map(|_| {
            let flags = reader.u8()?;
            Ok(Column {
                is_key: flags & 1 == 1,
                name: reader.text()?,
                type_oid: reader.u32()?,
                type_modifier: reader.i32()?,
            })
        })
        .collect::<Result<_, Malformed>>()?;
    let schema = if schema.is_empty() {
        "pg_catalog".to_owned()
    } else {
        schema
    };
    Ok(AnnouncedRelation {
        oid,
        schema,
        name,
        replica_identity,
        columns,
    })
}

/// Body of the fuzz target: any bytes decode or are refused.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    if let Ok(Message::Row(row)) = decode(data) {
        let _ = row_relation(row);
        if let Ok(action) = decode_row(row) {
            let _ = format!("{action:?}");
        }
    }
}
