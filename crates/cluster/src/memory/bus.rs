//! Publish and subscribe within a process.

use crate::bus::{Bus, BusStats, Event, Listener, PublishError, Subscription};
use crate::envelope::MAX_PAYLOAD_BYTES;
use crate::error::ClusterError;
use crate::interest::Interest;
use crate::memory::Line;
use crate::memory::recent::Shelves;
use crate::node::NodeId;
use crate::recent::{Keep, Recent};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
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
    shelves: Shelves,
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

    fn check(&self, payload: &[u8]) -> Result<(), PublishError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PublishError::TooLong { bytes: payload.len() });
        }
        if self.ear.line.is_cut() {
            return Err(PublishError::Lost);
        }
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_kept(
        &self,
        topic: &str,
        id: Option<&str>,
        payload: &[u8],
        keep: Keep,
    ) -> Result<(), PublishError> {
        if let Err(refused) = self.check(payload) {
            self.wire.shelves.lose();
            return Err(refused);
        }
        let payload = Bytes::copy_from_slice(payload);
        let deliver = |number| self.deliver(topic, &payload, Some(number));
        let shelves = &self.wire.shelves;
        shelves.keep((topic, id), self.ear.node, &payload, keep, deliver);
        Ok(())
    }

    fn deliver(&self, topic: &str, payload: &Bytes, number: Option<u64>) {
        let others: Vec<Arc<Ear>> = {
            let ears = self.wire.ears.read().unwrap_or_else(PoisonError::into_inner);
            ears.iter()
                .filter_map(Weak::upgrade)
                .filter(|ear| (number.is_some() || ear.node != self.ear.node) && !ear.line.is_cut())
                .collect()
        };
        for ear in others {
            if ear.interest.deliver(topic, self.ear.node, payload, number) {
                ear.received.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Bus for MemoryBus {
    fn node(&self) -> NodeId {
        self.ear.node
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), PublishError> {
        self.check(payload)?;
        self.deliver(topic, &Bytes::copy_from_slice(payload), None);
        Ok(())
    }

    fn publish_kept(&self, topic: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError> {
        self.take_kept(topic, None, payload, keep)
    }

    fn publish_once(&self, topic: &str, id: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError> {
        self.take_kept(topic, Some(id), payload, keep)
    }

    fn lose_kept(&self) {
        self.wire.shelves.lose();
    }

    fn recent<'a>(
        &'a self,
        topic: &'a str,
        after: Option<u64>,
    ) -> BoxFuture<'a, Result<Recent, ClusterError>> {
        let recent = if self.ear.line.is_cut() {
            Err(ClusterError::Away("cut off".to_owned()))
        } else {
            Ok(self.wire.shelves.recent(topic, after))
        };
        ready(recent).boxed()
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
