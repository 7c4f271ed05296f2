//! The presences of one topic: as they are, and as its members were last told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walcast_broadcast::MemberId;

use crate::fields::are_same;
use crate::meta::{Meta, render_keys};

/// The node that answers for a presence, and ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(u64);

impl NodeId {
    /// This one.
    pub(crate) const OURS: Self = Self(0);
}

/// The channel that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) node: NodeId,
    pub(crate) member: MemberId,
}

/// Where a meta is: a channel has one under its key, and several channels may share a key (`protocol.md 6.2`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) key: Arc<str>,
    pub(crate) owner: Owner,
}

/// A topic cannot hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Default)]
struct Entry {
    /// What members were last told.
    told: Option<Arc<Meta>>,
    /// What is.
    current: Option<Arc<Meta>>,
}

impl Entry {
    /// The current meta, if members know nothing of it.
    fn untold(&self) -> Option<&Arc<Meta>> {
        self.current.as_ref().filter(|_| !self.is_told())
    }

    fn is_told(&self) -> bool {
        match (&self.told, &self.current) {
            (Some(told), Some(current)) => Arc::ptr_eq(told, current),
            (None, None) => true,
            _ => false,
        }
    }
}

/// All presences of a topic.
#[derive(Default)]
pub(crate) struct Roster {
    entries: BTreeMap<Place, Entry>,
    /// Entries that are not as told.
    changed: BTreeSet<Place>,
    /// Of all keys and metas that are held.
    bytes: usize,
    /// The state as told, if somebody asked for it since.
    state: Option<Arc<str>>,
}

impl Roster {
    /// Tracks the fields of a payload at a place; false if they are what is tracked there.
    ///
    /// # Errors
    /// If the topic would hold more than that many bytes.
    pub(crate) fn track(&mut self, place: &Place, fields: &str, max_bytes: usize) -> Result<bool, Full> {
        let entry = self.entries.get(place);
        let current = entry.and_then(|entry| entry.current.as_ref());
        if current.is_some_and(|current| are_same(&current.fields, fields)) {
            return Ok(false);
        }
        let untold = entry.and_then(Entry::untold);
        // Members never see what is replaced before they are told, so it is no predecessor to them.
        let previous = match untold {
            Some(untold) => untold.previous,
            None => current.map(|current| current.reference),
        };
        let meta = Meta::new(previous, fields);
        let more = meta.bytes() + if entry.is_none() { place.key.len() } else { 0 };
        let less = untold.map_or(0, |untold| untold.bytes());
        if self.bytes + more - less > max_bytes {
            return Err(Full);
        }
        self.put(place, meta);
        Ok(true)
    }

    /// Makes a meta the one of a place.
    pub(crate) fn put(&mut self, place: &Place, meta: Arc<Meta>) {
        if !self.entries.contains_key(place) {
            self.bytes += place.key.len();
        }
        let entry = self.entries.entry(place.clone()).or_default();
        self.bytes -= entry.untold().map_or(0, |untold| untold.bytes());
        self.bytes += meta.bytes();
        entry.current = Some(meta);
        self.changed.insert(place.clone());
    }

    /// Ends the presence at a place; false if there is none.
    pub(crate) fn take(&mut self, place: &Place) -> bool {
        let Some(entry) = self.entries.get_mut(place) else {
            return false;
        };
        self.bytes -= entry.untold().map_or(0, |untold| untold.bytes());
        let was_there = entry.current.take().is_some();
        if entry.told.is_some() {
            self.changed.insert(place.clone());
        } else {
            // It came and went untold.
            self.changed.remove(place);
            self.forget(place);
        }
        was_there
    }

    /// The state as members were last told, JSON: what a new member needs to go on from with the next diff.
    pub(crate) fn state(&mut self) -> Arc<str> {
        let state = self.state.take().unwrap_or_else(|| {
            let told = self
                .entries
                .iter()
                .filter_map(|(place, entry)| Some((&*place.key, &**entry.told.as_ref()?)));
            let mut state = String::new();
            render_keys(told, &mut state);
            state.into()
        });
        self.state = Some(Arc::clone(&state));
        state
    }

    /// What is different from what was last told, JSON, and counts as told from now on; none if nothing is.
    pub(crate) fn diff(&mut self) -> Option<String> {
        if self.changed.is_empty() {
            return None;
        }
        self.state = None;
        let changed = std::mem::take(&mut self.changed);
        let metas = |which: fn(&Entry) -> Option<&Arc<Meta>>| {
            let entries = &self.entries;
            changed
                .iter()
                .filter_map(move |place| Some((&*place.key, &**which(entries.get(place)?)?)))
        };
        let mut diff = String::from(r#"{"joins":"#);
        render_keys(metas(|entry| entry.current.as_ref()), &mut diff);
        diff.push_str(r#","leaves":"#);
        render_keys(metas(|entry| entry.told.as_ref()), &mut diff);
        diff.push('}');
        for place in &changed {
            let Some(entry) = self.entries.get_mut(place) else {
                continue;
            };
            self.bytes -= entry.told.as_ref().map_or(0, |told| told.bytes());
            entry.told.clone_from(&entry.current);
            if entry.told.is_none() {
                self.forget(place);
            }
        }
        Some(diff)
    }

    /// Whether nobody is here, and everybody knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget(&mut self, place: &Place) {
        if self.entries.remove(place).is_some() {
            self.bytes -= place.key.len();
        }
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
