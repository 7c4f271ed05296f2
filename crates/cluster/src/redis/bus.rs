//! Publish and subscribe over Redis.

use crate::bus::{Bus, BusStats, Event, Listener, PublishError, Subscription};
use crate::envelope::{self, MAX_PAYLOAD_BYTES};
use crate::error::ClusterError;
use crate::interest::Interest;
use crate::node::NodeId;
use crate::recent::{Keep, Recent};
use crate::redis::dial::Dial;
use crate::redis::health::Health;
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use crate::redis::publisher::Publisher;
use crate::redis::recent::{Loss, RecentReader};
use crate::redis::subscriber::Subscriber;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast;

/// A topic is subscribed to for this long after its last listener, for pages that are reloaded.
const LINGER: Duration = Duration::from_secs(2);

/// Publish and subscribe over Redis: one connection to publish, one to hear.
pub(crate) struct RedisBus {
    node: NodeId,
    keys: Keys,
    health: Arc<Health>,
    interest: Arc<Interest>,
    publisher: Publisher,
    subscriber: Subscriber,
    loss: Arc<Loss>,
    recent: RecentReader,
}

impl RedisBus {
    pub(crate) fn start(node: NodeId, dial: Dial, keys: Keys, link: Arc<Link>, health: Arc<Health>) -> Self {
        let interest = Arc::new(Interest::remote(LINGER));
        let loss = Arc::<Loss>::default();
        let publisher = Publisher::start(Arc::clone(&link), dial.is_cluster(), Arc::clone(&loss));
        let recent = RecentReader::start(link, keys.clone(), Arc::clone(&loss));
        let subscriber = Subscriber::start(
            dial,
            node,
            keys.clone(),
            Arc::clone(&interest),
            Arc::clone(&health),
        );
        Self {
            node,
            keys,
            health,
            interest,
            publisher,
            subscriber,
            loss,
            recent,
        }
    }

    fn take(
        &self,
        topic: &str,
        payload: &[u8],
        keep: Option<(Keep, Option<&str>)>,
    ) -> Result<(), PublishError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PublishError::TooLong { bytes: payload.len() });
        }
        if !self.health.is_connected() {
            return Err(PublishError::Lost);
        }
        let sealed = envelope::seal(self.node, payload);
        self.publisher.take(&self.keys, topic, sealed, keep)
    }

    fn take_kept(
        &self,
        topic: &str,
        id: Option<&str>,
        payload: &[u8],
        keep: Keep,
    ) -> Result<(), PublishError> {
        let taken = self.take(topic, payload, Some((keep, id)));
        // Who asks for what cannot be kept learns that anyway.
        if !matches!(taken, Ok(()) | Err(PublishError::Unkept)) {
            self.loss.note();
        }
        taken
    }
}

impl Bus for RedisBus {
    fn node(&self) -> NodeId {
        self.node
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), PublishError> {
        self.take(topic, payload, None)
    }

    fn publish_kept(&self, topic: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError> {
        self.take_kept(topic, None, payload, keep)
    }

    fn publish_once(&self, topic: &str, id: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError> {
        self.take_kept(topic, Some(id), payload, keep)
    }

    fn lose_kept(&self) {
        self.loss.note();
    }

    fn recent<'a>(
        &'a self,
        topic: &'a str,
        after: Option<u64>,
    ) -> BoxFuture<'a, Result<Recent, ClusterError>> {
        Box::pin(self.recent.recent(&self.publisher, topic, after))
    }

    fn subscribe(&self, topic: &str, listener: Arc<dyn Listener>) -> Subscription {
        self.interest.listen(topic, listener)
    }

    fn is_connected(&self) -> bool {
        self.health.is_connected()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.health.events()
    }

    fn stats(&self) -> BusStats {
        let (sent, heard) = (self.publisher.counts(), self.subscriber.counts());
        BusStats {
            published: sent.published.load(Ordering::Relaxed),
            lost: sent.lost.load(Ordering::Relaxed),
            received: heard.received.load(Ordering::Relaxed),
            malformed: heard.malformed.load(Ordering::Relaxed),
            topics: self.interest.len() as u64,
            lag: Duration::from_micros(sent.lag_us.load(Ordering::Relaxed)),
        }
    }
}
