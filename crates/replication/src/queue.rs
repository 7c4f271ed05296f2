//! The queue between the reader and the consumer, bounded by changes and by bytes.

use crate::stats::Stats;
use crate::stream::Event;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes are counted in this unit, so that a limit of many gigabytes fits a semaphore.
const UNIT_BYTES: usize = 256;
/// What an event costs besides its tuples.
const OVERHEAD_BYTES: usize = 256;

type Queued = (Event, usize, Option<OwnedSemaphorePermit>);

pub(crate) struct Sender {
    events: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    units: usize,
    stats: Arc<Stats>,
}

pub(crate) struct Receiver {
    events: mpsc::Receiver<Queued>,
    stats: Arc<Stats>,
}

/// The consumer is gone.
pub(crate) struct Gone;

pub(crate) fn channel(changes: usize, bytes: usize, stats: &Arc<Stats>) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(changes.max(1));
    let units = bytes.div_ceil(UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(units));
    (
        Sender { events: sender, room, units, stats: Arc::clone(stats) },
        Receiver { events: receiver, stats: Arc::clone(stats) },
    )
}

impl Sender {
    /// Waits for room. A change larger than the whole queue waits until it is empty and then passes alone.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Gone> {
        let bytes = match &event {
            Event::Change(change) => change.action.wire_bytes() + OVERHEAD_BYTES,
            _ => 0,
        };
        let share = if bytes == 0 {
            None
        } else {
            let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.units)).unwrap_or(u32::MAX);
            Some(Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| Gone)?)
        };
        let slot = self.events.reserve().await.map_err(|_| Gone)?;
        if bytes > 0 {
            self.stats.queue_changes.fetch_add(1, Ordering::Relaxed);
            self.stats.queue_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        slot.send((event, bytes, share));
        Ok(())
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.events.is_closed()
    }
}

impl Receiver {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let (event, bytes, _share) = self.events.recv().await?;
        if bytes > 0 {
            self.stats.queue_changes.fetch_sub(1, Ordering::Relaxed);
            self.stats.queue_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
        Some(event)
    }
}
