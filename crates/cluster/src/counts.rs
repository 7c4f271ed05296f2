//! Counts that are summed over the nodes, for limits that hold for all of them together.
//!
//! Each node tells the others its own counts at intervals; what a node that lives has told last counts. So a sum is at
//! hand without asking anybody, and lags behind by an interval.
//!
//! ```text
//! each count:
//!   2 bytes  length of the name, then the name (UTF-8)
//!   8 bytes  the count
//! ```

use crate::bus::{Bus, Received, Subscription};
use crate::node::NodeId;
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Where nodes tell their counts.
const TOPIC: &str = "~counts";

/// Nodes that are remembered, so that a flood of made-up ones fills no memory.
const NODES_AT_MOST: usize = 4096;

#[derive(Default)]
struct Known {
    own: HashMap<Arc<str>, u64>,
    others: HashMap<NodeId, (Instant, HashMap<Arc<str>, u64>)>,
}

impl Known {
    fn elsewhere(&self, name: &str, expiry: Duration) -> u64 {
        let now = Instant::now();
        let living = self
            .others
            .values()
            .filter(|(told, _)| now.duration_since(*told) < expiry);
        living
            .filter_map(|(_, counts)| counts.get(name))
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

struct Inner {
    known: Mutex<Known>,
    /// What a node told longer ago does not count any more.
    expiry: Duration,
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, origin: NodeId, payload: &Bytes) {
        let Some(counts) = decode(payload) else {
            tracing::debug!(node = %origin, "what arrived as counts is none");
            return;
        };
        let mut known = self.known();
        if counts.is_empty() {
            known.others.remove(&origin);
        } else if known.others.len() < NODES_AT_MOST || known.others.contains_key(&origin) {
            known.others.insert(origin, (Instant::now(), counts));
        }
    }
}

/// The counts of all nodes, by name.
pub struct Counts {
    inner: Arc<Inner>,
    _subscription: Subscription,
    teller: AbortHandle,
}

impl fmt::Debug for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

impl Counts {
    /// Tells the others every `interval`; forgets who has not told anything for seven of them.
    pub(crate) fn start(bus: Arc<dyn Bus>, interval: Duration) -> Self {
        let inner = Arc::new(Inner {
            known: Mutex::default(),
            expiry: interval * 7,
        });
        let hears = Arc::downgrade(&inner);
        let listener = move |received: Received<'_>| {
            if let Some(inner) = hears.upgrade() {
                inner.hear(received.origin, received.payload);
            }
        };
        let subscription = bus.subscribe(TOPIC, Arc::new(listener));
        let teller = tokio::spawn(tell(bus, Arc::clone(&inner), interval)).abort_handle();
        Self {
            inner,
            _subscription: subscription,
            teller,
        }
    }

    /// Sets this node's count, which stands until it is set again. Zero forgets the name.
    pub fn set(&self, name: &str, count: u64) {
        let mut known = self.inner.known();
        if count == 0 {
            known.own.remove(name);
        } else if let Some(own) = known.own.get_mut(name) {
            *own = count;
        } else {
            known.own.insert(name.into(), count);
        }
    }

    /// The sum over this node, as of now, and all others that live, as of their last word.
    #[must_use]
    pub fn total(&self, name: &str) -> u64 {
        let known = self.inner.known();
        let own = known.own.get(name).copied().unwrap_or_default();
        own.saturating_add(known.elsewhere(name, self.inner.expiry))
    }

    /// The sum over all other nodes that live, as of their last word.
    #[must_use]
    pub fn elsewhere(&self, name: &str) -> u64 {
        self.inner.known().elsewhere(name, self.inner.expiry)
    }
}

async fn tell(bus: Arc<dyn Bus>, inner: Arc<Inner>, interval: Duration) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_some = false;
    loop {
        tick.tick().await;
        let bytes = {
            let mut known = inner.known();
            let now = Instant::now();
            known
                .others
                .retain(|_, (told, _)| now.duration_since(*told) < inner.expiry);
            encode(&known.own)
        };
        // Nothing is worth telling only after something was.
        if (told_some || !bytes.is_empty())
            && let Err(error) = bus.publish(TOPIC, &bytes)
        {
            tracing::debug!(%error, "counts are not told");
        }
        told_some = !bytes.is_empty();
    }
}

pub(crate) fn encode(counts: &HashMap<Arc<str>, u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, count) in counts {
        // A name that is too long is not for others.
        if let Ok(length) = u16::try_from(name.len()) {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&count.to_be_bytes());
        }
    }
    bytes
}

pub(crate) fn decode(payload: &Bytes) -> Option<HashMap<Arc<str>, u64>> {
    let mut rest = payload.clone();
    let mut counts = HashMap::new();
    while !rest.is_empty() {
        let length = usize::from(rest.try_get_u16().ok()?);
        if rest.len() < length {
            return None;
        }
        let name = rest.split_to(length);
        let count = rest.try_get_u64().ok()?;
        counts.insert(std::str::from_utf8(&name).ok()?.into(), count);
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_survive_the_journey(counts in prop::collection::hash_map(any::<String>(), any::<u64>(), 0..8)) {
            let counts = counts.into_iter().map(|(name, count)| (name.into(), count)).collect();
            let bytes = Bytes::from(encode(&counts));
            prop_assert_eq!(decode(&bytes), Some(counts));
        }
    }

    #[test]
    fn cut_off_counts_are_none() {
        let whole = encode(&HashMap::from([("users".into(), 7)]));
        for length in 1..whole.len() {
            assert_eq!(decode(&whole[..length].to_vec().into()), None, "{length}");
        }
    }
}
