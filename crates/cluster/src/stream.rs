//! Bounded streams: what one node appends, others read from where they were.

use crate::error::ClusterError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt;

/// The longest entry, in bytes.
pub const MAX_ENTRY_BYTES: usize = 16 * 1024 * 1024;

/// The bytes that one read returns at most, unless a single entry is longer.
pub(crate) const READ_BYTES: usize = 1024 * 1024;

/// The entries that one read returns at most.
pub(crate) const READ_ENTRIES: usize = 256;

/// The place of an entry. Within a generation they are numbered without holes; a stream that was lost and begun anew
/// is of another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// When the stream was begun, in milliseconds since 1970.
    pub generation: u64,
    /// From 1.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.generation, self.number)
    }
}

impl Position {
    /// From the form `generation-number`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (generation, number) = text.split_once('-')?;
        Some(Self {
            generation: generation.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// Whether an entry comes right behind one at this place.
    pub(crate) fn is_followed_by(&self, next: Self) -> bool {
        next.generation == self.generation && Some(next.number) == self.number.checked_add(1)
    }
}

/// Where to begin to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest entry that is kept.
    Oldest,
    /// With the first that is appended from now on.
    Now,
    /// With the first after this one.
    After(Position),
}

/// How much is kept. The newest entry always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Entries, at most.
    pub entries: u64,
    /// Bytes of their payloads, at most.
    pub bytes: u64,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// What was appended.
    pub payload: Bytes,
}

/// What a read came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next entries: one at least.
    Entries(Vec<Entry>),
    /// What came after the reader's place is not kept any more, or the stream was lost. It goes on with the oldest that
    /// there is.
    Gap {
        /// Where the reader was.
        after: Position,
    },
}

/// Bounded streams, by name.
pub trait Streams: Send + Sync {
    /// Appends an entry; what is then too much is dropped from the other end. `token` is that of the lease under which
    /// it is written: once a greater one has written, a smaller is refused.
    ///
    /// # Errors
    /// [`ClusterError::Fenced`], [`ClusterError::TooLong`], or Redis is away or refuses; in the latter cases it may have
    /// been appended all the same.
    fn append<'a>(
        &'a self,
        stream: &'a str,
        payload: &'a [u8],
        bound: Bound,
        token: u64,
    ) -> BoxFuture<'a, Result<Position, ClusterError>>;

    /// A reader of a stream, which need not be there yet.
    ///
    /// # Errors
    /// Redis is away or refuses.
    fn read<'a>(
        &'a self,
        stream: &'a str,
        from: From,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, ClusterError>>;
}

/// Reads a stream.
pub trait Reader: Send {
    /// Waits for the next entries. A call that is given up loses none.
    ///
    /// # Errors
    /// Redis is away or refuses; the next call goes on at the same place.
    fn next(&mut self) -> BoxFuture<'_, Result<Read, ClusterError>>;

    /// The place of the last entry it returned, or after which it began.
    fn position(&self) -> Option<Position>;
}
