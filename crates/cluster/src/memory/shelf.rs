//! Presences within a process.

use crate::error::ClusterError;
use crate::memory::Line;
use crate::node::NodeId;
use crate::presence::shelf::{Beat, Changes, Shelf, Standing, Stored};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
struct Kept {
    places: HashMap<String, HashMap<(NodeId, String), Bytes>>,
    alive: HashMap<NodeId, Instant>,
    dead: HashMap<NodeId, Option<Instant>>,
}

/// The presences of the nodes of a process.
#[derive(Default)]
pub(crate) struct Rack {
    kept: Mutex<Kept>,
}

/// One node's way to them.
pub(crate) struct MemoryShelf {
    rack: Arc<Rack>,
    line: Arc<Line>,
}

impl MemoryShelf {
    pub(crate) fn new(rack: Arc<Rack>, line: Arc<Line>) -> Self {
        Self { rack, line }
    }

    fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Kept) -> T,
    ) -> BoxFuture<'static, Result<T, ClusterError>> {
        let done = self.line.check().map(|()| {
            let mut kept = self.rack.kept.lock().unwrap_or_else(PoisonError::into_inner);
            act(&mut kept)
        });
        ready(done).boxed()
    }
}

impl Shelf for MemoryShelf {
    fn beat(
        &self,
        owner: NodeId,
        expiry: Duration,
        claim: Duration,
    ) -> BoxFuture<'_, Result<Beat, ClusterError>> {
        self.with(|kept| {
            let now = Instant::now();
            let standing = if kept.dead.contains_key(&owner) {
                Standing::Dead
            } else if kept.alive.insert(owner, now + expiry).is_some() {
                Standing::Known
            } else {
                Standing::New
            };
            let dying: Vec<NodeId> = kept
                .alive
                .iter()
                .filter(|(_, by)| **by < now)
                .map(|(node, _)| *node)
                .collect();
            for node in dying {
                kept.alive.remove(&node);
                kept.dead.insert(node, None);
            }
            let mut claimed = Vec::new();
            for (node, by) in &mut kept.dead {
                if *node != owner && by.is_none_or(|by| by < now) {
                    *by = Some(now + claim);
                    claimed.push(*node);
                }
            }
            Beat {
                epoch: String::new(),
                standing,
                alive: kept.alive.keys().copied().collect(),
                claimed,
            }
        })
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.with(|_| Some(String::new()))
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.with(|kept| {
            let place = kept.places.entry(changes.place.to_string()).or_default();
            for (id, value) in &changes.puts {
                place.insert((changes.owner, id.clone()), value.clone());
            }
            for id in &changes.removes {
                place.remove(&(changes.owner, id.clone()));
            }
            if place.is_empty() {
                kept.places.remove(&*changes.place);
            }
        })
    }

    fn read<'a>(
        &'a self,
        place: &'a str,
        _cursor: u64,
    ) -> BoxFuture<'a, Result<(Vec<Stored>, u64), ClusterError>> {
        self.with(|kept| {
            let found = kept.places.get(place).into_iter().flatten();
            let found = found.map(|((owner, id), value)| Stored {
                owner: *owner,
                id: id.clone(),
                value: value.clone(),
            });
            (found.collect(), 0)
        })
    }

    fn sweep(&self, owner: NodeId) -> BoxFuture<'_, Result<(), ClusterError>> {
        self.with(|kept| {
            for place in kept.places.values_mut() {
                place.retain(|(of, _), _| *of != owner);
            }
            kept.places.retain(|_, place| !place.is_empty());
            kept.alive.remove(&owner);
            kept.dead.remove(&owner);
        })
    }
}
