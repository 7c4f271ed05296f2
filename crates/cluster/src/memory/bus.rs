//! Publish and subscribe within a process.

use crate::bus::{Bus, BusStats, Event, Listener, PublishError, Subscription};
use crate::envelope::MAX_PAYLOAD_BYTES;
use crate::interest::Interest;
use crate::memory::Line;
use crate::node::NodeId;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

struct Ear {
    node: NodeId,
    interest: Arc<Interest>,
    line: Arc<Line>,
    received: AtomicU64,
}

/// The nodes of a process.
#[derive(Default)]
pub(crate) struct Wire {
    ears: RwLock<Vec<Weak<Ear>>>,
}

/// One node's side of it.
pub(crate) struct MemoryBus {
    wire: Arc<Wire>,
    ear: Arc<Ear>,
    published: AtomicU64,
}

impl MemoryBus {
    pub(crate) fn join(wire: Arc<Wire>, node: NodeId, line: Arc<Line>) -> Self {
        let ear = Arc::new(Ear {
            node,
            interest: Arc::new(Interest::local()),
            line,
            received: AtomicU64::new(0),
        });
        let mut ears = wire.ears.write().unwrap_or_else(PoisonError::into_inner);
        ears.retain(|ear| ear.strong_count() > 0);
        ears.push(Arc::downgrade(&ear));
        drop(ears);
        Self {
            wire,
            ear,
            published: AtomicU64::new(0),
        }
    }
}

impl Bus for MemoryBus {
    fn node(&self) -> NodeId {
        self.ear.node
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), PublishError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PublishError::TooLong { bytes: payload.len() });
        }
        if self.ear.line.is_cut() {
            return Err(PublishError::Lost);
        }
        self.published.fetch_add(1, Ordering::Relaxed);
        let others: Vec<Arc<Ear>> = {
            let ears = self.wire.ears.read().unwrap_or_else(PoisonError::into_inner);
            ears.iter()
                .filter_map(Weak::upgrade)
                .filter(|ear| ear.node != self.ear.node && !ear.line.is_cut())
                .collect()
        };
        if others.is_empty() {
            return Ok(());
        }
        let payload = Bytes::copy_from_slice(payload);
        for ear in others {
            if ear.interest.deliver(topic, self.ear.node, &payload) {
                ear.received.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn subscribe(&self, topic: &str, listener: Arc<dyn Listener>) -> Subscription {
        self.ear.interest.listen(topic, listener)
    }

    fn is_connected(&self) -> bool {
        !self.ear.line.is_cut()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.ear.line.events()
    }

    fn stats(&self) -> BusStats {
        BusStats {
            published: self.published.load(Ordering::Relaxed),
            lost: 0,
            received: self.ear.received.load(Ordering::Relaxed),
            malformed: 0,
            topics: self.ear.interest.len() as u64,
            lag: Duration::ZERO,
        }
    }
}
