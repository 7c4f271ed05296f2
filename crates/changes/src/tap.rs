//! Somebody else who reads the one replication stream: rows of `realtime.messages` become broadcasts
//! (`protocol.md 5.8`).

use dashmap::DashSet;
use std::sync::Arc;
use walcast_replication::{Change, Relation};

/// Takes changes of some tables as they come, whoever subscribed to those.
pub trait Tap: Send + Sync {
    /// Whether changes of this table are wanted. Asked once for each version of a table.
    fn wants(&self, relation: &Relation) -> bool;

    /// Takes a change, in commit order. Must not block: the stream waits.
    fn take(&self, change: &Change);

    /// Changes may be missing between the last that was taken and the next. Not said by a node that begins to read what others
    /// read already: they took what came before.
    fn interrupted(&self) {}
}

/// A tap and the tables it wants.
pub(crate) struct Tapped {
    tap: Option<Arc<dyn Tap>>,
    oids: DashSet<u32>,
}

impl Tapped {
    pub(crate) fn new(tap: Option<Arc<dyn Tap>>) -> Self {
        Self {
            tap,
            oids: DashSet::new(),
        }
    }

    pub(crate) fn announced(&self, relation: &Relation) {
        let Some(tap) = &self.tap else { return };
        if tap.wants(relation) {
            self.oids.insert(relation.oid);
        } else {
            self.oids.remove(&relation.oid);
        }
    }

    pub(crate) fn wants(&self, oid: u32) -> bool {
        self.tap.is_some() && self.oids.contains(&oid)
    }

    pub(crate) fn interrupted(&self) {
        if let Some(tap) = &self.tap {
            tap.interrupted();
        }
    }

    pub(crate) fn offer(&self, change: &Change) {
        if let Some(tap) = &self.tap
            && tap.wants(&change.relation)
        {
            tap.take(change);
        }
    }
}
