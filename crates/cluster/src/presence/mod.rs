//! Presences across nodes: each node keeps its own with the others, and sees those of the others.
//!
//! A presence is written to the [`shelf`] first and told by a publication then. Who watches a place subscribes to it,
//! reads it whole, and follows the news; whenever news may have been missed it is read again. A node says at intervals
//! that it lives; one that does not is declared dead by one of the others, who tells all and cleans up after it. A node
//! that was declared dead and lives takes another name and puts everything again.

pub(crate) mod mine;
pub(crate) mod news;
pub(crate) mod shelf;
pub(crate) mod view;
mod vigil;
mod watch;
mod writer;

use crate::bus::{Bus, Received, Subscription};
use crate::config::Vitality;
use crate::error::ClusterError;
use crate::node::NodeId;
use bytes::Bytes;
use mine::Mine;
use news::{News, restored};
use shelf::Shelf;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use view::{Diff, Presence, View};
pub use watch::Watch;

/// The longest payload of a presence, in bytes.
pub const MAX_PRESENCE_BYTES: usize = 4 * 1024 * 1024;

/// The longest id of a presence, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// Where nodes tell each other of nodes.
const NODES: &str = "~nodes";

/// Places that are written or read at once.
const AT_ONCE: usize = 16;

/// Dead nodes that are remembered, for news that come late.
const REMEMBERED: usize = 1024;

/// After a failure.
const RETRY: Duration = Duration::from_millis(200);

/// Follows the presences of other nodes in a place. It is called in order, must not block, and must not call back.
pub trait Watcher: Send + Sync {
    /// Takes what changed. The first call has all that were there already, if any.
    fn changed(&self, diff: &Diff);
}

impl<Changed: Fn(&Diff) + Send + Sync> Watcher for Changed {
    fn changed(&self, diff: &Diff) {
        self(diff);
    }
}

#[derive(Default)]
struct Sight {
    view: View,
    watchers: Vec<(u64, Arc<dyn Watcher>)>,
}

/// A place that somebody of this node watches.
pub(crate) struct Watched {
    sight: Mutex<Sight>,
    subscription: Subscription,
    /// Whether it waits to be read.
    is_queued: AtomicBool,
    /// One reads it at a time.
    reading: tokio::sync::Mutex<()>,
    is_read: tokio::sync::watch::Sender<bool>,
}

impl Watched {
    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, change: impl FnOnce(&mut View) -> Diff) {
        let mut sight = self.sight();
        let diff = change(&mut sight.view);
        if !diff.is_empty() {
            for (_, watcher) in &sight.watchers {
                watcher.changed(&diff);
            }
        }
    }
}

pub(crate) struct Inner {
    bus: Arc<dyn Bus>,
    shelf: Arc<dyn Shelf>,
    vitality: Vitality,
    mine: Mutex<Mine>,
    /// There is something to write.
    dirty: Notify,
    /// Held while something is written.
    writing: tokio::sync::Mutex<()>,
    places: Mutex<HashMap<Arc<str>, Arc<Watched>>>,
    to_read: mpsc::UnboundedSender<Weak<Watched>>,
    /// Of the last beat, unless others may not have put their presences again since it began.
    epoch: Mutex<Option<String>>,
    dead: Mutex<VecDeque<NodeId>>,
    /// The next beat is wanted now.
    hurry: Notify,
    last_watcher: AtomicU64,
    malformed: AtomicU64,
}

/// The presences of all nodes.
pub struct Presences {
    inner: Arc<Inner>,
    _nodes: Subscription,
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for Presences {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Presences").finish_non_exhaustive()
    }
}

impl Drop for Presences {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The one name of a topic of a tenant. A tenant's own colons cannot be taken for the one between.
fn name_of(tenant: &str, topic: &str) -> Arc<str> {
    format!("{}:{topic}", tenant.replace('%', "%25").replace(':', "%3A")).into()
}

fn topic_of(place: &str) -> String {
    format!("~presence:{place}")
}

impl Presences {
    pub(crate) fn start(bus: Arc<dyn Bus>, shelf: Arc<dyn Shelf>, vitality: Vitality) -> Self {
        let (to_read, reads) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            mine: Mutex::new(Mine::new(bus.node())),
            bus,
            shelf,
            vitality,
            dirty: Notify::new(),
            writing: tokio::sync::Mutex::default(),
            places: Mutex::default(),
            to_read,
            epoch: Mutex::default(),
            dead: Mutex::default(),
            hurry: Notify::new(),
            last_watcher: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        });
        let hears = Arc::downgrade(&inner);
        let nodes = inner.bus.subscribe(
            NODES,
            Arc::new(move |received: Received<'_>| {
                if let Some(inner) = hears.upgrade() {
                    inner.hear_of_nodes(received.payload);
                }
            }),
        );
        let tasks = vec![
            tokio::spawn(vigil::keep(Arc::clone(&inner))).abort_handle(),
            tokio::spawn(writer::write(Arc::clone(&inner))).abort_handle(),
            tokio::spawn(read(Arc::downgrade(&inner), reads)).abort_handle(),
        ];
        Self {
            inner,
            _nodes: nodes,
            tasks,
        }
    }

    /// Puts a presence of this node, in place of one of the same id. The others learn of it soon; while Redis is away,
    /// once it is back. Presences that follow each other quickly may be told as one.
    ///
    /// # Errors
    /// [`ClusterError::TooLong`]: the id above [`MAX_ID_BYTES`] or the payload above [`MAX_PRESENCE_BYTES`].
    pub fn put(&self, tenant: &str, topic: &str, id: &str, payload: Bytes) -> Result<(), ClusterError> {
        for (what, bytes, limit_bytes) in [
            ("the id of a presence", id.len(), MAX_ID_BYTES),
            ("the payload of a presence", payload.len(), MAX_PRESENCE_BYTES),
        ] {
            if bytes > limit_bytes {
                return Err(ClusterError::TooLong {
                    what,
                    bytes,
                    limit_bytes,
                });
            }
        }
        self.inner.mine().put(&name_of(tenant, topic), id, payload);
        self.inner.dirty.notify_one();
        Ok(())
    }

    /// Removes a presence of this node. Says whether it was there.
    pub fn remove(&self, tenant: &str, topic: &str, id: &str) -> bool {
        let was_there = self.inner.mine().remove(&name_of(tenant, topic), id);
        self.inner.dirty.notify_one();
        was_there
    }

    /// Follows the presences of other nodes in a topic, until the returned value is dropped.
    pub fn watch(&self, tenant: &str, topic: &str, watcher: Arc<dyn Watcher>) -> Watch {
        let place = name_of(tenant, topic);
        let id = self.inner.last_watcher.fetch_add(1, Ordering::Relaxed);
        let mut places = self.inner.places();
        let watched = if let Some(watched) = places.get(&place) {
            let watched = Arc::clone(watched);
            let mut sight = watched.sight();
            let joins = sight.view.all();
            if !joins.is_empty() {
                watcher.changed(&Diff {
                    joins,
                    leaves: Vec::new(),
                });
            }
            sight.watchers.push((id, watcher));
            drop(sight);
            watched
        } else {
            let watched = self.inner.watched(&place, id, watcher);
            places.insert(Arc::clone(&place), Arc::clone(&watched));
            self.inner.queue(&watched);
            watched
        };
        drop(places);
        Watch::new(Arc::clone(&self.inner), place, watched, id)
    }

    /// Reads who is present in a topic, on all nodes.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn read(&self, tenant: &str, topic: &str) -> Result<Vec<Presence>, ClusterError> {
        let found = self.inner.read_all(&name_of(tenant, topic)).await?;
        let presences = found
            .into_iter()
            .map(|((owner, id), (_, payload))| Presence { owner, id, payload });
        Ok(presences.collect())
    }

    /// Takes all presences of this node away and tells the others, at once rather than when they find it dead. For a
    /// shutdown: nothing is put after this.
    pub async fn leave(&self) {
        for task in &self.tasks {
            task.abort();
        }
        let owner = {
            let mut mine = self.inner.mine();
            mine.is_registered = false;
            mine.owner
        };
        let _written = self.inner.writing.lock().await;
        if let Err(error) = self.inner.shelf.sweep(owner).await {
            tracing::info!(%error, "the presences of this node stay until the others find it gone");
            return;
        }
        self.inner.tell(NODES, &News::Gone { owner });
    }

    /// What arrived as news of presences and is none, since the start.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.inner.malformed.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Watched>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch(&self) -> MutexGuard<'_, Option<String>> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_watched(&self) -> Vec<Arc<Watched>> {
        self.places().values().cloned().collect()
    }

    fn watched(self: &Arc<Self>, place: &Arc<str>, id: u64, watcher: Arc<dyn Watcher>) -> Arc<Watched> {
        let (hears, place_of) = (Arc::downgrade(self), Arc::clone(place));
        let listener = move |received: Received<'_>| {
            if let Some(inner) = hears.upgrade() {
                inner.hear(&place_of, received.payload);
            }
        };
        Arc::new(Watched {
            sight: Mutex::new(Sight {
                view: View::default(),
                watchers: vec![(id, watcher)],
            }),
            subscription: self.bus.subscribe(&topic_of(place), Arc::new(listener)),
            is_queued: AtomicBool::new(false),
            reading: tokio::sync::Mutex::default(),
            is_read: tokio::sync::watch::Sender::new(false),
        })
    }

    /// Has a place read.
    fn queue(&self, watched: &Arc<Watched>) {
        if !watched.is_queued.swap(true, Ordering::AcqRel) {
            // The reader goes with this node.
            _ = self.to_read.send(Arc::downgrade(watched));
        }
    }

    /// Has all places read: news may have been missed.
    fn read_everything(&self) {
        for watched in self.all_watched() {
            self.queue(&watched);
        }
    }

    fn hear(&self, place: &str, payload: &Bytes) {
        match News::decode(payload) {
            Ok(News::Changes { owner, changes }) => {
                let watched = self.places().get(place).cloned();
                if let Some(watched) = watched
                    && !self.is_dead(owner)
                {
                    watched.apply(|view| view.hear(owner, changes));
                }
            }
            Ok(News::Gone { .. }) | Err(_) => self.count_malformed(),
        }
    }

    fn hear_of_nodes(&self, payload: &Bytes) {
        match News::decode(payload) {
            Ok(News::Gone { owner }) => {
                if owner == self.mine().owner {
                    // Not so; but the others believe it.
                    self.hurry.notify_one();
                } else {
                    self.is_gone(owner);
                }
            }
            Ok(News::Changes { .. }) | Err(_) => self.count_malformed(),
        }
    }

    fn count_malformed(&self) {
        if self.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "what arrived as news of presences is none; do nodes of another version share the prefix?"
            );
        }
    }

    fn is_dead(&self, owner: NodeId) -> bool {
        self.dead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&owner)
    }

    /// A node is gone. Its presences leave, the first time that this is heard.
    fn is_gone(&self, owner: NodeId) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if dead.contains(&owner) {
            return;
        }
        if dead.len() == REMEMBERED {
            dead.pop_front();
        }
        dead.push_back(owner);
        drop(dead);
        for watched in self.all_watched() {
            watched.apply(|view| view.forget(owner));
        }
    }

    /// Publishes news; says whether they were taken.
    fn tell(&self, topic: &str, news: &News) -> bool {
        match self.bus.publish(topic, &news.encode()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "news of presences wait");
                false
            }
        }
    }

    async fn read_all(&self, place: &str) -> Result<HashMap<(NodeId, Arc<str>), (u64, Bytes)>, ClusterError> {
        let mut found = HashMap::new();
        let mut cursor = 0;
        loop {
            let (piece, next) = self.shelf.read(place, cursor).await?;
            for stored in piece {
                let Ok(value) = restored(stored.value) else {
                    self.count_malformed();
                    continue;
                };
                found.insert((stored.owner, stored.id.into()), value);
            }
            if next == 0 {
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// Reads a place until that has come about, or nobody watches it any more.
    async fn read_watched(&self, watched: &Weak<Watched>) {
        loop {
            let Some(watched) = watched.upgrade() else { return };
            watched.is_queued.store(false, Ordering::Release);
            watched.subscription.ready().await;
            let _reading = watched.reading.lock().await;
            watched.sight().view.begin_reading();
            let place = watched
                .subscription
                .topic()
                .strip_prefix("~presence:")
                .unwrap_or_default();
            let read = async {
                let found = self.read_all(place).await?;
                Ok::<_, ClusterError>((found, self.shelf.epoch().await?))
            };
            match read.await {
                Ok((mut found, epoch)) => {
                    let owner = self.mine().owner;
                    let owners: HashSet<NodeId> = found.keys().map(|(owner, _)| *owner).collect();
                    let strangers: HashSet<NodeId> = owners
                        .into_iter()
                        .filter(|found| *found == owner || self.is_dead(*found))
                        .collect();
                    found.retain(|(owner, _), _| !strangers.contains(owner));
                    let may_lack = *self.epoch() != epoch;
                    watched.apply(|view| view.read(found, may_lack));
                    watched.is_read.send_replace(true);
                    return;
                }
                Err(error) => tracing::debug!(%error, "presences cannot be read now"),
            }
            drop(_reading);
            drop(watched);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn read(inner: Weak<Inner>, mut queue: mpsc::UnboundedReceiver<Weak<Watched>>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(watched) = queue.recv().await {
        let (Ok(permit), inner) = (Arc::clone(&room).acquire_owned().await, inner.clone()) else {
            return;
        };
        tokio::spawn(async move {
            if let Some(inner) = inner.upgrade() {
                inner.read_watched(&watched).await;
            }
            drop(permit);
        });
    }
}
