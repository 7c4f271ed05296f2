//! The presences of one topic: as they are, and as its members were last told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walcast_broadcast::MemberId;
use walcast_cluster::NodeId;

use crate::fields::are_same;
use crate::meta::{Meta, render_keys};
use crate::report::Report;

/// The channel that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    /// Where it is joined.
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
    /// Of another node's last report: the greater is the newer.
    serial: u64,
    /// The names under which another node has reported it. It has two for a while after it was taken for dead.
    holders: Vec<NodeId>,
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
    /// Tracks the fields of a payload at a place of this node; none if they are what is tracked there.
    ///
    /// # Errors
    /// If the topic would hold more than that many bytes.
    pub(crate) fn track(
        &mut self,
        place: &Place,
        fields: &str,
        max_bytes: usize,
    ) -> Result<Option<Arc<Meta>>, Full> {
        let entry = self.entries.get(place);
        let current = entry.and_then(|entry| entry.current.as_ref());
        if current.is_some_and(|current| are_same(&current.fields, fields)) {
            return Ok(None);
        }
        let untold = entry.and_then(Entry::untold);
        // Members never see what is replaced before they are told, so it is no predecessor to them.
        let previous = match untold {
            Some(untold) => untold.previous,
            None => current.map(|current| current.reference),
        };
        let meta = Arc::new(Meta::new(previous, fields));
        let more = meta.bytes() + if entry.is_none() { place.key.len() } else { 0 };
        let less = untold.map_or(0, |untold| untold.bytes());
        if self.bytes + more - less > max_bytes {
            return Err(Full);
        }
        self.put(place, Arc::clone(&meta));
        Ok(Some(meta))
    }

    /// Takes what another node reports, under a name it has; false if nothing is different. That is not refused above a
    /// limit: the node that tracked it has counted what it knew of.
    pub(crate) fn report(&mut self, holder: NodeId, report: Report) -> bool {
        let Report {
            place,
            serial,
            mut meta,
        } = report;
        if let Some(entry) = self.entries.get_mut(&place) {
            if entry.current.is_some() && serial <= entry.serial {
                if serial == entry.serial && !entry.holders.contains(&holder) {
                    entry.holders.push(holder);
                }
                return false;
            }
            if let (None, Some(told)) = (&entry.current, &entry.told)
                && told.reference == meta.reference
            {
                // It was gone for less than a window, and is the one that members know.
                entry.current = Some(Arc::clone(told));
                entry.serial = serial;
                entry.holders = vec![holder];
                self.changed.remove(&place);
                return false;
            }
            if meta.previous.is_some() {
                // What members here saw before, which may be older than what those there saw.
                meta.previous = match entry.untold() {
                    Some(untold) => untold.previous,
                    None => entry.told.as_ref().map(|told| told.reference),
                };
            }
        }
        let entry = self.put(&place, Arc::new(meta));
        entry.serial = serial;
        entry.holders = vec![holder];
        true
    }

    /// Another node does not report something any more, under one of its names; says whether anything is different.
    pub(crate) fn retract(&mut self, place: &Place, holder: NodeId, serial: u64) -> bool {
        let Some(entry) = self.entries.get_mut(place) else {
            return false;
        };
        if entry.serial != serial || !entry.holders.contains(&holder) {
            return false;
        }
        entry.holders.retain(|other| *other != holder);
        entry.holders.is_empty() && self.take(place)
    }

    /// Ends all that other nodes have reported; says whether that was anything.
    pub(crate) fn retract_all(&mut self) -> bool {
        let reported = self.entries.iter().filter(|(_, entry)| !entry.holders.is_empty());
        let places: Vec<Place> = reported.map(|(place, _)| place.clone()).collect();
        for place in &places {
            self.take(place);
        }
        !places.is_empty()
    }

    /// Makes a meta the one of a place.
    fn put(&mut self, place: &Place, meta: Arc<Meta>) -> &mut Entry {
        if !self.entries.contains_key(place) {
            self.bytes += place.key.len();
        }
        let entry = self.entries.entry(place.clone()).or_default();
        self.bytes -= entry.untold().map_or(0, |untold| untold.bytes());
        self.bytes += meta.bytes();
        entry.current = Some(meta);
        self.changed.insert(place.clone());
        entry
    }

    /// Ends the presence at a place; false if there is none.
    pub(crate) fn take(&mut self, place: &Place) -> bool {
        let Some(entry) = self.entries.get_mut(place) else {
            return false;
        };
        self.bytes -= entry.untold().map_or(0, |untold| untold.bytes());
        let was_there = entry.current.take().is_some();
        entry.holders.clear();
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
