//! Publish and subscribe over Redis.

use crate::bus::{Bus, BusStats, Event, Listener, PublishError, Subscription};
use crate::envelope::{self, MAX_PAYLOAD_BYTES};
use crate::interest::Interest;
use crate::node::NodeId;
use crate::redis::dial::Dial;
use crate::redis::health::Health;
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use crate::redis::publisher::Publisher;
use crate::redis::subscriber::Subscriber;
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
}

impl RedisBus {
    pub(crate) fn start(node: NodeId, dial: Dial, keys: Keys, link: Arc<Link>, health: Arc<Health>) -> Self {
        let interest = Arc::new(Interest::remote(LINGER));
        let publisher = Publisher::start(link, dial.is_cluster());
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
        }
    }
}

impl Bus for RedisBus {
    fn node(&self) -> NodeId {
        self.node
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), PublishError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PublishError::TooLong { bytes: payload.len() });
        }
        if !self.health.is_connected() {
            return Err(PublishError::Lost);
        }
        self.publisher
            .take(&self.keys, topic, envelope::seal(self.node, payload))
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
