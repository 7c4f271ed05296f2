//! What is published, on its way out.

use crate::bus::PublishError;
use crate::redis::keys::Keys;
use crate::redis::link::{Link, Live};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Pipeline;
use redis::cluster_routing::Slot;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What may wait to be sent.
const QUEUE_MESSAGES: usize = 16_384;
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// What is sent in one go. The next one is collected meanwhile, so that it grows with the load.
const BATCH_MESSAGES: usize = 512;

/// What waited longer than this for a connection is old news.
const STALE: Duration = Duration::from_secs(5);

struct Waiting {
    channel: String,
    sealed: Vec<u8>,
    since: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Bytes that wait or are under way.
    bytes: AtomicUsize,
    pub(crate) published: AtomicU64,
    pub(crate) lost: AtomicU64,
    /// From the oldest of the last batch until all of it was sent.
    pub(crate) lag_us: AtomicU64,
}

/// Sends publications in order, as many at once as have come up.
pub(crate) struct Publisher {
    queue: mpsc::Sender<Waiting>,
    counts: Arc<Counts>,
    writer: AbortHandle,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Publisher {
    pub(crate) fn start(link: Arc<Link>, is_cluster: bool) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
        let counts = Arc::<Counts>::default();
        let writer = tokio::spawn(write(link, is_cluster, waiting, Arc::clone(&counts))).abort_handle();
        Self {
            queue,
            counts,
            writer,
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes a publication.
    pub(crate) fn take(&self, keys: &Keys, topic: &str, sealed: Vec<u8>) -> Result<(), PublishError> {
        let channel = keys.channel(topic);
        let length = channel.len() + sealed.len();
        let bytes = &self.counts.bytes;
        if bytes.fetch_add(length, Ordering::Relaxed) + length > QUEUE_BYTES {
            bytes.fetch_sub(length, Ordering::Relaxed);
            return Err(PublishError::Full);
        }
        let waiting = Waiting {
            channel,
            sealed,
            since: Instant::now(),
        };
        self.queue.try_send(waiting).map_err(|refused| {
            bytes.fetch_sub(length, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(_) => PublishError::Full,
                mpsc::error::TrySendError::Closed(_) => PublishError::Lost,
            }
        })
    }
}

async fn write(link: Arc<Link>, is_cluster: bool, mut queue: mpsc::Receiver<Waiting>, counts: Arc<Counts>) {
    let mut batch = Vec::with_capacity(BATCH_MESSAGES);
    while queue.recv_many(&mut batch, BATCH_MESSAGES).await > 0 {
        let bytes = batch
            .iter()
            .map(|waiting| waiting.channel.len() + waiting.sealed.len())
            .sum();
        let taken = batch.len();
        let Some(live) = link.wait().await else { return };
        batch.retain(|waiting| waiting.since.elapsed() < STALE);
        let stale = taken - batch.len();
        let sent = if is_cluster {
            send_by_slot(&link, live, &batch).await
        } else {
            send(&link, live, "PUBLISH", batch.iter()).await
        };
        if let Some(oldest) = batch.first() {
            let lag_us = u64::try_from(oldest.since.elapsed().as_micros()).unwrap_or(u64::MAX);
            counts.lag_us.store(lag_us, Ordering::Relaxed);
        }
        let lost = stale + batch.len() - sent;
        counts.published.fetch_add(sent as u64, Ordering::Relaxed);
        counts.lost.fetch_add(lost as u64, Ordering::Relaxed);
        counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
        batch.clear();
    }
}

/// Sends what is of one Redis; says how much arrived.
async fn send<'a>(
    link: &Link,
    mut live: Live,
    command: &str,
    waiting: impl ExactSizeIterator<Item = &'a Waiting>,
) -> usize {
    let count = waiting.len();
    let mut pipeline = Pipeline::with_capacity(count);
    for waiting in waiting {
        pipeline
            .cmd(command)
            .arg(&waiting.channel)
            .arg(&waiting.sealed)
            .ignore();
    }
    if count == 0 {
        return 0;
    }
    let answer = pipeline.exec_async(&mut live.connection).await;
    match link.judge(&live, answer) {
        Ok(()) => count,
        Err(error) => {
            tracing::warn!(%error, count, "publications may not have reached the other nodes");
            0
        }
    }
}

/// A pipeline to a Redis cluster is for one slot.
async fn send_by_slot(link: &Link, live: Live, batch: &[Waiting]) -> usize {
    let mut by_slot: HashMap<Slot, Vec<&Waiting>> = HashMap::new();
    for waiting in batch {
        by_slot
            .entry(Slot::for_key(&waiting.channel))
            .or_default()
            .push(waiting);
    }
    let sends: FuturesUnordered<_> = by_slot
        .into_values()
        .map(|waiting| send(link, live.clone(), "SPUBLISH", waiting.into_iter()))
        .collect();
    sends.fold(0, |sum, sent| std::future::ready(sum + sent)).await
}
