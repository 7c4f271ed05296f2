//! The other nodes: what they are told of this node's presences, and what they report of theirs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use walcast_broadcast::Room;
use walcast_cluster::{Cluster, Diff, NodeId, Presence, Watch, Watcher};

use crate::meta::Meta;
use crate::presences::{Presences, Topic};
use crate::report::{Heading, Report, encode};
use crate::roster::{Place, Roster};

/// The other nodes of a cluster, as far as one tenant is concerned.
pub struct Neighbours {
    cluster: Arc<Cluster>,
    tenant: Box<str>,
    last_serial: AtomicU64,
}

impl Neighbours {
    /// Those in a cluster that serve the same tenant.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, tenant: &str) -> Self {
        Self {
            cluster,
            tenant: tenant.into(),
            last_serial: AtomicU64::new(0),
        }
    }

    /// This node, by the name that it keeps.
    pub(crate) fn node(&self) -> NodeId {
        self.cluster.node()
    }

    /// Whether they can be heard at the moment.
    pub(crate) fn is_connected(&self) -> bool {
        self.cluster.bus().is_connected()
    }

    /// Tells them what is tracked at a place of this node, now or when they can be reached. It must fit.
    pub(crate) fn tell(&self, room: Room<'_>, place: &Place, meta: &Meta) {
        let serial = self.last_serial.fetch_add(1, Ordering::Relaxed);
        let report = encode(place, serial, meta);
        // Refused would be what does not fit.
        _ = self
            .cluster
            .presences()
            .put(&self.tenant, &name(room), &id(place), report.into());
    }

    /// Tells them that nothing is tracked there any more.
    pub(crate) fn withdraw(&self, room: Room<'_>, place: &Place) {
        self.cluster
            .presences()
            .remove(&self.tenant, &name(room), &id(place));
    }

    /// Has a topic hear what they report.
    pub(crate) fn watch(&self, presences: &Arc<Presences>, topic: &Arc<Topic>) -> Watch {
        let listener = Listener {
            presences: Arc::downgrade(presences),
            topic: Arc::downgrade(topic),
        };
        self.cluster
            .presences()
            .watch(&self.tenant, &name(topic.room()), Arc::new(listener))
    }
}

/// The two rooms of a name are two topics to the nodes.
fn name(room: Room<'_>) -> String {
    let kind = if room.is_private { "private" } else { "public" };
    format!("{kind}:{}", room.topic)
}

/// Short, whatever the key is.
fn id(place: &Place) -> String {
    place.owner.member.number().to_string()
}

struct Listener {
    presences: Weak<Presences>,
    topic: Weak<Topic>,
}

impl Watcher for Listener {
    fn changed(&self, diff: &Diff) {
        let (Some(presences), Some(topic)) = (self.presences.upgrade(), self.topic.upgrade()) else {
            return;
        };
        presences.hear(&topic, News::read(diff, presences.node()));
    }
}

/// What other nodes reported, read.
pub(crate) struct News {
    joins: Vec<(NodeId, Report)>,
    leaves: Vec<(NodeId, Heading)>,
    /// Reports that are none.
    pub(crate) malformed: usize,
}

impl News {
    /// Reads what is about the presences of other nodes than ours.
    fn read(diff: &Diff, ours: NodeId) -> Self {
        let mut malformed = 0;
        let mut joins = Vec::with_capacity(diff.joins.len());
        for Presence { owner, payload, .. } in &diff.joins {
            match Report::decode(payload) {
                Ok(report) if report.place.owner.node == ours => {}
                Ok(report) => joins.push((*owner, report)),
                Err(_) => malformed += 1,
            }
        }
        let leaves = diff.leaves.iter().filter_map(|Presence { owner, payload, .. }| {
            let (heading, _) = Heading::decode(payload).ok()?;
            (heading.place.owner.node != ours).then_some((*owner, heading))
        });
        Self {
            leaves: leaves.collect(),
            joins,
            malformed,
        }
    }

    /// Enters it in a roster; says whether anything is different there.
    pub(crate) fn enter(self, roster: &mut Roster) -> bool {
        let mut is_changed = false;
        // Ends go last: what was put in the place of something else is told as its end and its beginning.
        for (holder, report) in self.joins {
            is_changed |= roster.report(holder, report);
        }
        for (holder, heading) in self.leaves {
            is_changed |= roster.retract(&heading.place, holder, heading.serial);
        }
        is_changed
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "through_redis_tests.rs"]
mod through_redis_tests;
