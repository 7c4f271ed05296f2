//! Packs events.

use super::{MAX_CHANGE_BYTES, MAX_REASON_BYTES, SHORT_VALUE_BYTES, VERSION};
use crate::change::{Action, Change, OldTuple, Relation, ReplicaIdentity, Transaction, Tuple, Value};
use crate::lsn::Lsn;
use crate::pgoutput::POSTGRES_EPOCH_US;
use crate::stats::Stats;
use crate::stream::Event;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Packs the events of one tenure into parcels.
#[derive(Debug)]
pub struct Packer {
    tenure: u64,
    number: u64,
    items: BytesMut,
    is_streaming: bool,
    /// Everything that ends before this has been packed.
    packed_to: Lsn,
    /// The transaction of the row that was packed last, if its end has not been.
    open: Option<Transaction>,
    /// Whether this parcel says so.
    is_open_told: bool,
    /// Versions of the tables that this parcel announces, by oid.
    announced: HashMap<u32, u64>,
}

impl Packer {
    /// Nothing is packed yet. `tenure` grows from one packer to the next.
    #[must_use]
    pub fn new(tenure: u64) -> Self {
        Self {
            tenure,
            number: 0,
            items: BytesMut::new(),
            is_streaming: false,
            packed_to: Lsn::default(),
            open: None,
            is_open_told: false,
            announced: HashMap::new(),
        }
    }

    /// Bytes of events that wait to be sealed.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.items.len()
    }

    /// Puts an event to those that wait. A row beyond [`MAX_CHANGE_BYTES`] loses its long values.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Streaming {
                start,
                attempt,
                is_resumed,
            } => {
                self.is_streaming = true;
                self.open = None;
                self.packed_to = if *is_resumed {
                    self.packed_to.max(*start)
                } else {
                    *start
                };
                self.item(b'S', |out| {
                    out.put_u64(start.0);
                    out.put_u64(*attempt);
                    out.put_u8(u8::from(*is_resumed));
                });
            }
            Event::Lost {
                reason,
                retry_in_ms,
                is_kept,
            } => {
                self.is_streaming = false;
                let reason = reason.to_string();
                self.item(b'L', |out| {
                    out.put_u64(*retry_in_ms);
                    out.put_u8(u8::from(*is_kept));
                    out.extend(reason.bytes().take(MAX_REASON_BYTES));
                });
            }
            Event::Change(change) => self.change(change),
            Event::Truncate {
                relations,
                transaction,
            } => {
                self.begin(*transaction);
                relations.iter().for_each(|relation| self.announce(relation));
                self.item(b'T', |out| {
                    out.put_u8(b'T');
                    let count = u32::try_from(relations.len()).unwrap_or_default();
                    out.put_u32(count);
                    out.put_u8(0);
                    relations.iter().for_each(|relation| out.put_u32(relation.oid));
                });
            }
            Event::Commit { transaction, end } => {
                self.begin(*transaction);
                self.open = None;
                self.packed_to = self.packed_to.max(*end);
                self.item(b'C', |out| {
                    out.put_u8(b'C');
                    out.put_u8(0);
                    out.put_u64(transaction.commit.0);
                    out.put_u64(end.0);
                    out.put_i64(transaction.commit_timestamp_us.saturating_sub(POSTGRES_EPOCH_US));
                });
            }
        }
    }

    /// Closes the parcel, whether anything waits or not: an empty one tells that the packer lives.
    pub fn seal(&mut self, stats: &Stats) -> Bytes {
        self.number += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut parcel = BytesMut::with_capacity(super::unpack::HEADER_BYTES + self.items.len());
        parcel.put_u8(VERSION);
        parcel.put_u64(self.tenure);
        parcel.put_u64(self.number);
        parcel.put_u64(u64::try_from(now.as_micros()).unwrap_or_default());
        parcel.put_u64(self.packed_to.0);
        parcel.put_u64(stats.server_end().0);
        parcel.put_u8(u8::from(self.is_streaming));
        parcel.put_slice(&self.items);
        self.items.clear();
        self.announced.clear();
        self.is_open_told = false;
        parcel.freeze()
    }

    fn item(&mut self, kind: u8, write: impl FnOnce(&mut BytesMut)) {
        self.items.put_u8(kind);
        let at = self.items.len();
        self.items.put_u32(0);
        write(&mut self.items);
        let length = u32::try_from(self.items.len() - at - 4).unwrap_or_default();
        if let Some(place) = self.items.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn begin(&mut self, transaction: Transaction) {
        if self.is_open_told && self.open == Some(transaction) {
            return;
        }
        self.open = Some(transaction);
        self.is_open_told = true;
        self.item(b'B', |out| {
            out.put_u8(b'B');
            out.put_u64(transaction.commit.0);
            out.put_i64(transaction.commit_timestamp_us.saturating_sub(POSTGRES_EPOCH_US));
            out.put_u32(transaction.xid);
        });
    }

    fn announce(&mut self, relation: &Relation) {
        if self.announced.insert(relation.oid, relation.version) == Some(relation.version) {
            return;
        }
        self.item(b'R', |out| {
            out.put_u64(relation.version);
            out.put_u8(b'R');
            out.put_u32(relation.oid);
            for name in [&relation.schema, &relation.name] {
                out.put_slice(name.as_bytes());
                out.put_u8(0);
            }
            out.put_u8(match relation.replica_identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            });
            // Postgres has at most 1600 columns.
            out.put_u16(u16::try_from(relation.columns.len()).unwrap_or(u16::MAX));
            for column in relation.columns.iter().take(usize::from(u16::MAX)) {
                out.put_u8(u8::from(column.is_key));
                out.put_slice(column.name.as_bytes());
                out.put_u8(0);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        });
    }

    fn change(&mut self, change: &Change) {
        self.begin(change.transaction);
        self.announce(&change.relation);
        let (old, new) = match &change.action {
            Action::Insert { new } => (None, Some(new)),
            Action::Update { old, new } => (old.as_ref(), Some(new)),
            Action::Delete { old } => (Some(old), None),
        };
        let is_large = change.action.wire_bytes() > MAX_CHANGE_BYTES;
        let shortened = |tuple: &Tuple| if is_large { short(tuple) } else { tuple.clone() };
        let old = old.map(|old| match old {
            OldTuple::Key(tuple) => (b'K', shortened(tuple)),
            OldTuple::Full(tuple) => (b'O', shortened(tuple)),
        });
        let new = new.map(shortened);
        let left_out = [old.as_ref().map(|(_, tuple)| tuple), new.as_ref()]
            .map(|tuple| tuple.map_or(0, |tuple| tuple.left_out_bytes));
        let kind = if left_out == [0, 0] { b'I' } else { b'O' };
        self.item(kind, |out| {
            out.put_u32(change.index);
            if kind == b'O' {
                for bytes in left_out {
                    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
                }
            }
            out.put_u8(match &change.action {
                Action::Insert { .. } => b'I',
                Action::Update { .. } => b'U',
                Action::Delete { .. } => b'D',
            });
            out.put_u32(change.relation.oid);
            for (marker, tuple) in old.into_iter().chain(new.map(|new| (b'N', new))) {
                out.put_u8(marker);
                out.put_u16(u16::try_from(tuple.len()).unwrap_or(u16::MAX));
                // Laid out as the plugin does.
                out.put_slice(&tuple.bytes);
            }
        });
    }
}

/// The row without its long values.
fn short(tuple: &Tuple) -> Tuple {
    let kept = (0..tuple.len())
        .filter_map(|at| tuple.get(at))
        .map(|value| match value {
            Value::Text(text) if text.len() > SHORT_VALUE_BYTES => Value::UnchangedToast,
            value => value,
        });
    // Shorter than one that exists, so it can be made.
    let mut short = Tuple::of(kept).unwrap_or_else(|| tuple.clone());
    short.left_out_bytes = tuple.wire_bytes().saturating_sub(short.bytes.len());
    short
}
