//! What is published, on its way out.

use crate::bus::PublishError;
use crate::recent::Keep;
use crate::redis::keys::Keys;
use crate::redis::link::{Link, Live};
use crate::redis::recent::{self, Loss, Places};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::cluster_routing::Slot;
use redis::{Cmd, Pipeline};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What may wait to be sent.
const QUEUE_MESSAGES: usize = 16_384;
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// What is sent in one go. The next one is collected meanwhile, so that it grows with the load.
const BATCH_MESSAGES: usize = 512;

/// What waited longer than this for a connection is old news.
const STALE: Duration = Duration::from_secs(5);

/// What the writer takes one after the other.
enum Order {
    Send(Waiting),
    /// To be told when all before it was sent.
    Tell(oneshot::Sender<()>),
}

struct Waiting {
    channel: String,
    sealed: Vec<u8>,
    /// Where it is to be kept, and for how long.
    keep: Option<(Places, Keep)>,
    since: Instant,
}

impl Waiting {
    fn command(&self, publish: &str) -> Cmd {
        match &self.keep {
            Some((places, keep)) => recent::keep(places, *keep, publish, &self.channel, &self.sealed),
            None => redis::cmd(publish)
                .arg(&self.channel)
                .arg(&self.sealed)
                .to_owned(),
        }
    }
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
    queue: mpsc::Sender<Order>,
    counts: Arc<Counts>,
    writer: AbortHandle,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Publisher {
    pub(crate) fn start(link: Arc<Link>, is_cluster: bool, loss: Arc<Loss>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
        let counts = Arc::<Counts>::default();
        let writing = write(link, is_cluster, waiting, Arc::clone(&counts), loss);
        let writer = tokio::spawn(writing).abort_handle();
        Self {
            queue,
            counts,
            writer,
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns when all that was taken before was sent, or is known to be lost; false if that will never be.
    pub(crate) async fn flush(&self) -> bool {
        let (tell, told) = oneshot::channel();
        self.queue.send(Order::Tell(tell)).await.is_ok() && told.await.is_ok()
    }

    /// Takes a publication, to be kept if so is wished; with an id only once.
    pub(crate) fn take(
        &self,
        keys: &Keys,
        topic: &str,
        sealed: Vec<u8>,
        keep: Option<(Keep, Option<&str>)>,
    ) -> Result<(), PublishError> {
        let keep = match keep {
            None => None,
            Some((keep, None)) => keys.recent(topic).map(|places| (places, keep)),
            Some((keep, Some(id))) => {
                let places = keys.recent(topic).ok_or(PublishError::Unkept)?;
                Some((places.once(id), keep))
            }
        };
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
            keep,
            since: Instant::now(),
        };
        self.queue.try_send(Order::Send(waiting)).map_err(|refused| {
            bytes.fetch_sub(length, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(_) => PublishError::Full,
                mpsc::error::TrySendError::Closed(_) => PublishError::Lost,
            }
        })
    }
}

async fn write(
    link: Arc<Link>,
    is_cluster: bool,
    mut queue: mpsc::Receiver<Order>,
    counts: Arc<Counts>,
    loss: Arc<Loss>,
) {
    let mut orders = Vec::with_capacity(BATCH_MESSAGES);
    while queue.recv_many(&mut orders, BATCH_MESSAGES).await > 0 {
        let (mut batch, mut told) = (Vec::with_capacity(orders.len()), Vec::new());
        for order in orders.drain(..) {
            match order {
                Order::Send(waiting) => batch.push(waiting),
                Order::Tell(tell) => told.push(tell),
            }
        }
        let bytes = batch
            .iter()
            .map(|waiting| waiting.channel.len() + waiting.sealed.len())
            .sum();
        let taken = batch.len();
        let has_kept = batch.iter().any(|waiting| waiting.keep.is_some());
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
        if lost > 0 && has_kept {
            loss.note();
        }
        counts.published.fetch_add(sent as u64, Ordering::Relaxed);
        counts.lost.fetch_add(lost as u64, Ordering::Relaxed);
        counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
        for tell in told {
            // Who stopped waiting need not be told.
            _ = tell.send(());
        }
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
        pipeline.add_command(waiting.command(command)).ignore();
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
