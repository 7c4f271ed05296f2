//! Unpacks events, those of tables that somebody wants, one after the other.

use super::{MAX_REASON_BYTES, VERSION};
use crate::change::{Action, Change, OldTuple, Relation, Transaction};
use crate::error::StreamError;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Malformed, Message};
use crate::stats::Stats;
use crate::stream::{Event, Interest};
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

pub(crate) const HEADER_BYTES: usize = 42;
/// Tables that are remembered from one parcel to the next.
const MAX_RELATIONS: usize = 16 * 1024;

/// Bytes that are no parcel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParcelError {
    /// Of another Walcast.
    #[error("a parcel of changes of version {0} instead of 1; do nodes of another version share the prefix?")]
    Version(u8),
    /// It ends too early or makes no sense.
    #[error("a parcel of changes that cannot be read: {0}; does something else write under the prefix?")]
    Content(&'static str),
    /// A message in it makes no sense.
    #[error("a parcel of changes that cannot be read: {0}; does something else write under the prefix?")]
    Message(#[from] Malformed),
}

/// A parcel: who packed it, and its events, unread.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Under which token it was packed.
    pub tenure: u64,
    /// Its number within the tenure, from 1.
    pub number: u64,
    /// When it was packed, in microseconds since 1970-01-01 UTC by the packer's clock.
    pub packed_at_us: u64,
    /// Everything that was committed before this position is in it or an earlier one.
    pub packed_to: Lsn,
    /// End of the server's log, as the packer knew it.
    pub server_end: Lsn,
    /// Whether the packer was streaming when it closed it.
    pub is_streaming: bool,
    items: Bytes,
}

impl Parcel {
    /// Reads who packed it.
    ///
    /// # Errors
    /// See [`ParcelError`].
    pub fn open(mut bytes: Bytes) -> Result<Self, ParcelError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(ParcelError::Version(version)),
            None => return Err(ParcelError::Content("it is empty")),
        }
        if bytes.len() < HEADER_BYTES {
            return Err(ParcelError::Content("it ends too early"));
        }
        bytes.advance(1);
        Ok(Self {
            tenure: bytes.get_u64(),
            number: bytes.get_u64(),
            packed_at_us: bytes.get_u64(),
            packed_to: Lsn(bytes.get_u64()),
            server_end: Lsn(bytes.get_u64()),
            is_streaming: bytes.get_u8() != 0,
            items: bytes,
        })
    }
}

/// Unpacks one parcel after the other.
pub struct Unpacker {
    interest: Arc<dyn Interest>,
    stats: Arc<Stats>,
    tenure: u64,
    /// By oid: the version its packer gave it, and what it is here.
    relations: HashMap<u32, (u64, Arc<Relation>)>,
    transaction: Option<Transaction>,
    /// What is left of the parcel, and what it says of itself.
    items: Bytes,
    packed_to: Lsn,
}

impl Unpacker {
    /// Decodes rows that `interest` wants, and keeps the figures in `stats`.
    #[must_use]
    pub fn new(interest: Arc<dyn Interest>, stats: Arc<Stats>) -> Self {
        Self {
            interest,
            stats,
            tenure: 0,
            relations: HashMap::new(),
            transaction: None,
            items: Bytes::new(),
            packed_to: Lsn::default(),
        }
    }

    /// What was committed before this position may be missing.
    pub fn restart(&self, start: Lsn) {
        self.stats.begin(start, false);
    }

    /// Goes on with a parcel; what is left of the one before is dropped.
    pub fn begin(&mut self, parcel: Parcel) {
        if parcel.tenure != self.tenure || self.relations.len() > MAX_RELATIONS {
            self.tenure = parcel.tenure;
            self.relations.clear();
        }
        self.transaction = None;
        Stats::advance(&self.stats.server_lsn, parcel.server_end);
        self.packed_to = parcel.packed_to;
        self.stats
            .bytes_read
            .fetch_add(parcel.items.len() as u64, Ordering::Relaxed);
        self.items = parcel.items;
    }

    /// The next event of the parcel.
    ///
    /// # Errors
    /// What is left of the parcel cannot be read, and is dropped.
    pub fn unpack(&mut self) -> Result<Option<Event>, ParcelError> {
        while !self.items.is_empty() {
            match self.item() {
                Ok(None) => {}
                Ok(event) => return Ok(event),
                Err(error) => {
                    self.items.clear();
                    return Err(error);
                }
            }
        }
        for position in [&self.stats.received_lsn, &self.stats.confirmed_lsn] {
            Stats::advance(position, self.packed_to);
        }
        Ok(None)
    }

    fn item(&mut self) -> Result<Option<Event>, ParcelError> {
        const SHORT: ParcelError = ParcelError::Content("it ends too early");
        let kind = self.items.try_get_u8().map_err(|_| SHORT)?;
        let length = self.items.try_get_u32().map_err(|_| SHORT)?;
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        if length > self.items.len() {
            return Err(SHORT);
        }
        let mut body = self.items.split_to(length);
        match kind {
            b'S' => {
                let start = Lsn(body.try_get_u64().map_err(|_| SHORT)?);
                let attempt = body.try_get_u64().map_err(|_| SHORT)?;
                let is_resumed = body.try_get_u8().map_err(|_| SHORT)? != 0;
                self.stats.begin(start, is_resumed);
                Ok(Some(Event::Streaming {
                    start,
                    attempt,
                    is_resumed,
                }))
            }
            b'L' => {
                let retry_in_ms = body.try_get_u64().map_err(|_| SHORT)?;
                let is_kept = body.try_get_u8().map_err(|_| SHORT)? != 0;
                let reason = body.get(..body.len().min(MAX_REASON_BYTES)).unwrap_or_default();
                let reason = String::from_utf8_lossy(reason).into_owned();
                Ok(Some(Event::Lost {
                    reason: Arc::new(StreamError::Elsewhere(reason)),
                    retry_in_ms,
                    is_kept,
                }))
            }
            b'R' => {
                let version = body.try_get_u64().map_err(|_| SHORT)?;
                self.announce(version, &body)?;
                Ok(None)
            }
            b'I' | b'O' => {
                let index = body.try_get_u32().map_err(|_| SHORT)?;
                let mut left_out = [0, 0];
                if kind == b'O' {
                    for bytes in &mut left_out {
                        *bytes =
                            usize::try_from(body.try_get_u32().map_err(|_| SHORT)?).unwrap_or(usize::MAX);
                    }
                }
                self.row(index, left_out, &body)
            }
            b'B' | b'C' | b'T' => self.message(&body),
            _ => Err(ParcelError::Content("an event of an unknown kind")),
        }
    }

    fn announce(&mut self, version: u64, message: &[u8]) -> Result<(), ParcelError> {
        let Message::Relation(announced) = pgoutput::decode(message)? else {
            return Err(ParcelError::Content("an announcement that is none"));
        };
        if self
            .relations
            .get(&announced.oid)
            .is_some_and(|(known, _)| *known == version)
        {
            return Ok(());
        }
        let relation = Relation::of_next_version(announced);
        self.interest.announced(&relation);
        self.relations.insert(relation.oid, (version, Arc::new(relation)));
        Ok(())
    }

    fn message(&mut self, message: &[u8]) -> Result<Option<Event>, ParcelError> {
        const OUTSIDE: ParcelError = ParcelError::Content("an event outside a transaction");
        match pgoutput::decode(message)? {
            Message::Begin {
                commit,
                commit_timestamp_us,
                xid,
            } => {
                // Before any row of it is looked at: who comes to listen to its table now does not get all of it.
                self.stats.advance_begun(commit, commit_timestamp_us);
                self.transaction = Some(Transaction {
                    xid,
                    commit,
                    commit_timestamp_us,
                });
                Ok(None)
            }
            Message::Commit { end } => {
                let transaction = self.transaction.take().ok_or(OUTSIDE)?;
                Ok(Some(Event::Commit { transaction, end }))
            }
            Message::Truncate { relations } => {
                let transaction = self.transaction.ok_or(OUTSIDE)?;
                let relations: Vec<_> = relations
                    .iter()
                    .filter(|oid| self.interest.wants(**oid))
                    .filter_map(|oid| Some(Arc::clone(&self.relations.get(oid)?.1)))
                    .collect();
                Ok((!relations.is_empty()).then_some(Event::Truncate {
                    relations,
                    transaction,
                }))
            }
            _ => Err(ParcelError::Content("a message of an unexpected kind")),
        }
    }

    fn row(&self, index: u32, left_out: [usize; 2], message: &[u8]) -> Result<Option<Event>, ParcelError> {
        let oid = pgoutput::row_relation(message).ok_or(ParcelError::Content("a row without a table"))?;
        let (Some(transaction), Some((_, relation))) = (self.transaction, self.relations.get(&oid)) else {
            return Err(ParcelError::Content("a row without its transaction or its table"));
        };
        if !self.interest.wants(oid) {
            self.stats.changes_skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let mut action = pgoutput::decode_row(message)?;
        let [of_old, of_new] = left_out;
        let (old, new) = match &mut action {
            Action::Insert { new } => (None, Some(new)),
            Action::Update { old, new } => (old.as_mut(), Some(new)),
            Action::Delete { old } => (Some(old), None),
        };
        if let Some(OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old {
            tuple.left_out_bytes = of_old;
        }
        if let Some(tuple) = new {
            tuple.left_out_bytes = of_new;
        }
        self.stats.changes_decoded.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Event::Change(Change {
            transaction,
            index,
            relation: Arc::clone(relation),
            action,
        })))
    }
}

/// Body of the fuzz target: any bytes unpack or are refused.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    struct Everything;
    impl Interest for Everything {
        fn wants(&self, _: u32) -> bool {
            true
        }
    }
    let Ok(parcel) = Parcel::open(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut unpacker = Unpacker::new(Arc::new(Everything), Arc::default());
    unpacker.begin(parcel);
    while let Ok(Some(event)) = unpacker.unpack() {
        let _ = format!("{event:?}");
        if let Event::Change(change) = event {
            let _ = change.action.wire_bytes();
        }
    }
}
