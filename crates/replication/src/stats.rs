//! Figures of the connection.

use crate::lsn::Lsn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters and positions, updated by the reader.
#[derive(Debug, Default)]
pub struct Stats {
    /// Changes decoded and handed to the consumer.
    pub changes_decoded: AtomicU64,
    /// Changes skipped because nobody wants their table.
    pub changes_skipped: AtomicU64,
    /// Changes that could not be decoded and were left out.
    pub changes_undecodable: AtomicU64,
    /// Bytes read from the connection.
    pub bytes_read: AtomicU64,
    /// Times a running stream was lost.
    pub reconnects: AtomicU64,
    /// Events waiting for the consumer, nearly all of them changes.
    pub queue_changes: AtomicU64,
    /// Their size in memory, in bytes.
    pub queue_bytes: AtomicU64,
    pub(crate) begun: Mutex<Option<(Lsn, i64)>>,
    pub(crate) received_lsn: AtomicU64,
    pub(crate) server_lsn: AtomicU64,
    pub(crate) confirmed_lsn: AtomicU64,
}

impl Stats {
    /// Position of the last message read.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received_lsn.load(Ordering::Relaxed))
    }

    /// End of the server's log, as last told.
    #[must_use]
    pub fn server_end(&self) -> Lsn {
        Lsn(self.server_lsn.load(Ordering::Relaxed))
    }

    /// Position up to which the slot has been told that it may forget.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed_lsn.load(Ordering::Relaxed))
    }

    /// The newest transaction of which something was read since the stream began: where it was committed, and when, in
    /// microseconds since 1970-01-01 UTC. All of a table is read that somebody wanted before it.
    #[must_use]
    pub fn begun(&self) -> Option<(Lsn, i64)> {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction is about to be read. One that comes again, from a slot that was resumed, tells nothing new.
    pub(crate) fn advance_begun(&self, commit: Lsn, commit_timestamp_us: i64) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_none_or(|(known, _)| known < commit) {
            *begun = Some((commit, commit_timestamp_us));
        }
    }

    /// Log the server has written and we have not confirmed, in bytes.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.server_end().0.saturating_sub(self.confirmed().0)
    }

    /// A session begins here. With a new slot that can be before the last one's end, on another server after a
    /// failover.
    pub(crate) fn begin(&self, start: Lsn, is_resumed: bool) {
        if !is_resumed {
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        for position in [&self.received_lsn, &self.server_lsn, &self.confirmed_lsn] {
            position.store(start.0, Ordering::Relaxed);
        }
    }

    pub(crate) fn advance(position: &AtomicU64, lsn: Lsn) {
        position.fetch_max(lsn.0, Ordering::Relaxed);
    }
}
