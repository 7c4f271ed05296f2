//! The queue between the reader and the consumer, bounded by events and by bytes.

use crate::lsn::Lsn;
use crate::stats::Stats;
use crate::stream::Event;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes are counted in this unit, so that a limit of many gigabytes fits a semaphore.
const UNIT_BYTES: usize = 256;
/// What an event costs besides its tuples.
const OVERHEAD_BYTES: usize = 256;

type Queued = (Event, u64, OwnedSemaphorePermit);

pub(crate) struct Sender {
    events: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    units: usize,
    shared: Arc<Shared>,
}

pub(crate) struct Receiver {
    events: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
    /// Events that were taken and are not settled.
    unsettled: u64,
    /// End of the last transaction among them.
    unsettled_end: Option<Lsn>,
}

/// What the consumer's progress tells the reader.
struct Shared {
    stats: Arc<Stats>,
    /// End of the last transaction that was settled whole.
    settled: AtomicU64,
    /// Events that were sent and are not settled.
    open: AtomicU64,
    drained: Notify,
}

/// The consumer is gone.
#[derive(Debug)]
pub(crate) struct Gone;

pub(crate) fn channel(events: usize, bytes: usize, stats: &Arc<Stats>) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(events.clamp(1, Semaphore::MAX_PERMITS));
    let units = bytes.div_ceil(UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(units));
    let shared = Arc::new(Shared {
        stats: Arc::clone(stats),
        settled: AtomicU64::new(0),
        open: AtomicU64::new(0),
        drained: Notify::new(),
    });
    (
        Sender {
            events: sender,
            room,
            units,
            shared: Arc::clone(&shared),
        },
        Receiver {
            events: receiver,
            shared,
            unsettled: 0,
            unsettled_end: None,
        },
    )
}

impl Sender {
    /// Waits for room. An event larger than the whole queue waits until it is empty and then passes alone.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Gone> {
        let bytes = OVERHEAD_BYTES
            + match &event {
                Event::Change(change) => change.action.wire_bytes(),
                Event::Truncate { relations, .. } => size_of_val(relations.as_slice()),
                Event::Streaming { .. } | Event::Lost { .. } | Event::Commit { .. } => 0,
            };
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.units)).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.room)
            .acquire_many_owned(units)
            .await
            .map_err(|_| Gone)?;
        let slot = self.events.reserve().await.map_err(|_| Gone)?;
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.shared.stats.queue_changes.fetch_add(1, Ordering::Relaxed);
        self.shared
            .stats
            .queue_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        slot.send((event, bytes as u64, share));
        Ok(())
    }

    /// Resolves when the consumer is gone.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Whether the consumer is done with everything.
    pub(crate) fn is_settled(&self) -> bool {
        // This side alone adds, so once it reads zero nothing that was sent is left.
        self.shared.open.load(Ordering::Relaxed) == 0
    }

    /// End of the last transaction with which the consumer is done.
    pub(crate) fn settled(&self) -> Lsn {
        Lsn(self.shared.settled.load(Ordering::Relaxed))
    }

    /// Resolves when the consumer is done with everything.
    pub(crate) async fn drained(&self) {
        while !self.is_settled() {
            self.shared.drained.notified().await;
        }
    }
}

impl Receiver {
    /// Waits for the next event.
    pub(crate) async fn take(&mut self) -> Option<Event> {
        let queued = self.events.recv().await?;
        Some(self.taken(queued))
    }

    /// The next event, if it is there.
    pub(crate) fn take_ready(&mut self) -> Option<Event> {
        let queued = self.events.try_recv().ok()?;
        Some(self.taken(queued))
    }

    fn taken(&mut self, (event, bytes, _share): Queued) -> Event {
        self.unsettled += 1;
        if let Event::Commit { end, .. } = &event {
            self.unsettled_end = Some(*end);
        }
        self.shared.stats.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.stats.queue_changes.fetch_sub(1, Ordering::Relaxed);
        event
    }

    /// The consumer is done with everything it took.
    pub(crate) fn settle(&mut self) {
        if let Some(end) = self.unsettled_end.take() {
            self.shared.settled.store(end.0, Ordering::Relaxed);
        }
        let settled = std::mem::take(&mut self.unsettled);
        if settled > 0 && self.shared.open.fetch_sub(settled, Ordering::Relaxed) == settled {
            self.shared.drained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Transaction;
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    /// Whether a future has to wait.
    fn pending<F: Future>(future: Pin<&mut F>) -> bool {
        matches!(
            future.poll(&mut Context::from_waker(Waker::noop())),
            Poll::Pending
        )
    }

    fn commit(end: u64) -> Event {
        let transaction = Transaction {
            xid: 1,
            commit: Lsn(end),
            commit_timestamp_us: 0,
        };
        Event::Commit {
            transaction,
            end: Lsn(end),
        }
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_reader_wait_until_the_consumer_takes_something() {
        for (events, bytes) in [(2, usize::MAX), (usize::MAX, 2 * OVERHEAD_BYTES)] {
            let (sender, mut receiver) = channel(events, bytes, &Arc::default());
            sender.send(commit(1)).await.unwrap();
            sender.send(commit(2)).await.unwrap();
            let mut third = Box::pin(sender.send(commit(3)));
            assert!(pending(third.as_mut()));
            receiver.take().await.unwrap();
            third.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_event_larger_than_the_queue_passes_alone() {
        let (sender, mut receiver) = channel(10, 1, &Arc::default());
        sender.send(commit(1)).await.unwrap();
        let mut second = Box::pin(sender.send(commit(2)));
        assert!(pending(second.as_mut()));
        receiver.take().await.unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_transaction_is_settled_when_its_end_was_taken_and_the_consumer_says_so() {
        let (sender, mut receiver) = channel(10, 10_000, &Arc::default());
        sender.send(commit(5)).await.unwrap();
        assert!(!sender.is_settled());
        assert!(pending(Box::pin(sender.drained()).as_mut()));
        receiver.take().await.unwrap();
        assert!(receiver.take_ready().is_none());
        assert_eq!(sender.settled(), Lsn(0));
        assert!(!sender.is_settled());
        receiver.settle();
        assert_eq!(sender.settled(), Lsn(5));
        sender.drained().await;
    }

    #[tokio::test]
    async fn a_reader_that_waits_learns_that_the_consumer_is_gone() {
        let (sender, receiver) = channel(1, 10_000, &Arc::default());
        sender.send(commit(1)).await.unwrap();
        let mut second = Box::pin(sender.send(commit(2)));
        assert!(pending(second.as_mut()));
        drop(receiver);
        second.await.unwrap_err();
        sender.closed().await;
    }
}
