//! The presences this node holds, and what of them the others do not know yet.

use crate::node::NodeId;
use crate::presence::news::{Change, stored};
use crate::presence::shelf::Changes;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What goes out in one piece.
const PIECE_IDS: usize = 256;
const PIECE_BYTES: usize = 1024 * 1024;

/// What is written and told of one place.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) kept: Changes,
    pub(crate) told: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct Mine {
    /// The name under which this node holds them.
    pub(crate) owner: NodeId,
    /// Whether the others know that name.
    pub(crate) is_registered: bool,
    places: HashMap<Arc<str>, HashMap<String, (u64, Bytes)>>,
    /// Put or removed since they were written. One that changes often is written as it is then.
    dirty: HashMap<Arc<str>, HashSet<String>>,
    last_version: u64,
}

impl Mine {
    pub(crate) fn new(owner: NodeId) -> Self {
        Self {
            owner,
            is_registered: false,
            places: HashMap::new(),
            dirty: HashMap::new(),
            last_version: 0,
        }
    }

    pub(crate) fn put(&mut self, place: &Arc<str>, id: &str, payload: Bytes) {
        self.last_version += 1;
        let entries = self.places.entry(Arc::clone(place)).or_default();
        entries.insert(id.to_owned(), (self.last_version, payload));
        self.mark(place, id.to_owned());
    }

    /// Says whether it was there.
    pub(crate) fn remove(&mut self, place: &Arc<str>, id: &str) -> bool {
        let Some(entries) = self.places.get_mut(place) else {
            return false;
        };
        let was_there = entries.remove(id).is_some();
        if entries.is_empty() {
            self.places.remove(place);
        }
        if was_there {
            self.mark(place, id.to_owned());
        }
        was_there
    }

    fn mark(&mut self, place: &Arc<str>, id: String) {
        self.dirty.entry(Arc::clone(place)).or_default().insert(id);
    }

    /// What was not written after all.
    pub(crate) fn put_back(&mut self, outgoing: &Outgoing) {
        for change in &outgoing.told {
            self.mark(&outgoing.kept.place, change.id.clone());
        }
    }

    /// Everything is to be written again.
    pub(crate) fn start_over(&mut self) {
        for (place, entries) in &self.places {
            let dirty = self.dirty.entry(Arc::clone(place)).or_default();
            dirty.extend(entries.keys().cloned());
        }
    }

    /// The next piece to write, if the others know who writes it.
    pub(crate) fn take(&mut self) -> Option<Outgoing> {
        if !self.is_registered {
            return None;
        }
        let place = Arc::clone(self.dirty.keys().next()?);
        let dirty = self.dirty.get_mut(&place)?;
        let entries = self.places.get(&place);
        let (mut puts, mut removes, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        while told.len() < PIECE_IDS
            && bytes < PIECE_BYTES
            && let Some(id) = dirty.iter().next().cloned()
        {
            dirty.remove(&id);
            bytes += id.len();
            if let Some((version, payload)) = entries.and_then(|entries| entries.get(&id)) {
                bytes += payload.len();
                puts.push((id.clone(), stored(*version, payload)));
                told.push(Change {
                    id,
                    version: *version,
                    payload: Some(payload.clone()),
                });
            } else {
                self.last_version += 1;
                removes.push(id.clone());
                told.push(Change {
                    id,
                    version: self.last_version,
                    payload: None,
                });
            }
        }
        let is_done = dirty.is_empty();
        if is_done {
            self.dirty.remove(&place);
        }
        Some(Outgoing {
            kept: Changes {
                owner: self.owner,
                puts,
                removes,
                is_last: is_done && entries.is_none(),
                place,
            },
            told,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_often_is_written_once_as_it_is_then() {
        let mut mine = Mine::new(NodeId::random());
        let place: Arc<str> = "t:room".into();
        for round in 0..1000_u32 {
            mine.put(&place, "a", round.to_string().into());
            mine.put(&place, "b", Bytes::new());
            assert!(mine.remove(&place, "b"));
        }
        assert!(mine.take().is_none(), "nobody knows this node yet");
        mine.is_registered = true;
        let outgoing = mine.take().unwrap();
        assert_eq!(outgoing.kept.puts.len(), 1);
        assert_eq!(outgoing.kept.removes, ["b"]);
        assert!(!outgoing.kept.is_last);
        assert!(mine.take().is_none());
        assert!(mine.remove(&place, "a") && !mine.remove(&place, "a"));
        assert!(mine.take().unwrap().kept.is_last);
    }

    #[test]
    fn much_goes_out_in_pieces_and_what_failed_again() {
        let mut mine = Mine::new(NodeId::random());
        mine.is_registered = true;
        let place: Arc<str> = "t:room".into();
        for number in 0..1000 {
            mine.put(&place, &number.to_string(), Bytes::from_static(&[0; 10_000]));
        }
        let mut ids = HashSet::new();
        let mut pieces = 0;
        while let Some(outgoing) = mine.take() {
            pieces += 1;
            assert!(outgoing.told.len() <= PIECE_BYTES / 10_000 + 1);
            if pieces == 2 {
                mine.put_back(&outgoing);
            } else {
                ids.extend(outgoing.told.into_iter().map(|change| change.id));
            }
        }
        assert_eq!(ids.len(), 1000);
    }
}
