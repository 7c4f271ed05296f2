//! What this node knows of the presences of others in one place.

use crate::node::NodeId;
use crate::presence::news::Change;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A presence that another node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who holds it.
    pub owner: NodeId,
    /// Its name, unique with its owner and place.
    pub id: Arc<str>,
    /// What was put.
    pub payload: Bytes,
}

/// What changed among the presences of other nodes in a place. A presence that was put again is in both lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Those that came.
    pub joins: Vec<Presence>,
    /// Those that went.
    pub leaves: Vec<Presence>,
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.leaves.is_empty()
    }
}

type Key = (NodeId, Arc<str>);

/// What is known of a place.
#[derive(Debug, Default)]
pub(crate) struct View {
    known: HashMap<Key, (u64, Bytes)>,
    /// While the place is read: what news told meanwhile, which may be newer than what is read.
    touched: Option<HashMap<Key, u64>>,
}

fn presence((owner, id): &Key, payload: &Bytes) -> Presence {
    Presence {
        owner: *owner,
        id: Arc::clone(id),
        payload: payload.clone(),
    }
}

impl View {
    /// All that are present.
    pub(crate) fn all(&self) -> Vec<Presence> {
        self.known
            .iter()
            .map(|(key, (_, payload))| presence(key, payload))
            .collect()
    }

    /// Whose presences are known.
    pub(crate) fn owners(&self) -> HashSet<NodeId> {
        self.known.keys().map(|(owner, _)| *owner).collect()
    }

    fn put(&mut self, key: Key, version: u64, payload: Bytes, diff: &mut Diff) {
        if self.known.get(&key).is_some_and(|(known, _)| *known >= version) {
            return;
        }
        let came = presence(&key, &payload);
        if let Some((_, earlier)) = self.known.insert(key, (version, payload)) {
            diff.leaves.push(Presence {
                payload: earlier,
                ..came.clone()
            });
        }
        diff.joins.push(came);
    }

    fn remove(&mut self, key: &Key, diff: &mut Diff) {
        if let Some((_, payload)) = self.known.remove(key) {
            diff.leaves.push(presence(key, &payload));
        }
    }

    /// Takes news.
    pub(crate) fn hear(&mut self, owner: NodeId, changes: Vec<Change>) -> Diff {
        let mut diff = Diff::default();
        for Change { id, version, payload } in changes {
            let key: Key = (owner, id.into());
            if let Some(touched) = &mut self.touched {
                touched.insert(key.clone(), version);
            }
            match payload {
                Some(payload) => self.put(key, version, payload, &mut diff),
                None => {
                    if self.known.get(&key).is_some_and(|(known, _)| *known < version) {
                        self.remove(&key, &mut diff);
                    }
                }
            }
        }
        diff
    }

    /// A node is gone, and all it had.
    pub(crate) fn forget(&mut self, owner: NodeId) -> Diff {
        let mut diff = Diff::default();
        let keys: Vec<Key> = self
            .known
            .keys()
            .filter(|(of, _)| *of == owner)
            .cloned()
            .collect();
        for key in keys {
            self.remove(&key, &mut diff);
        }
        diff
    }

    /// The place is about to be read: from now on news are remembered.
    pub(crate) fn begin_reading(&mut self) {
        self.touched = Some(HashMap::new());
    }

    /// The place was read. Without `may_lack` what was not found is gone.
    pub(crate) fn read(&mut self, found: HashMap<Key, (u64, Bytes)>, may_lack: bool) -> Diff {
        let touched = self.touched.take().unwrap_or_default();
        let mut diff = Diff::default();
        if !may_lack {
            let gone: Vec<Key> = self
                .known
                .keys()
                .filter(|key| !found.contains_key(*key) && !touched.contains_key(*key))
                .cloned()
                .collect();
            for key in gone {
                self.remove(&key, &mut diff);
            }
        }
        for (key, (version, payload)) in found {
            // What was removed meanwhile may have been read before.
            if touched.get(&key).is_none_or(|told| *told < version) {
                self.put(key, version, payload, &mut diff);
            }
        }
        diff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: &str, version: u64, payload: Option<&'static str>) -> Change {
        Change {
            id: id.to_owned(),
            version,
            payload: payload.map(|payload| Bytes::from_static(payload.as_bytes())),
        }
    }

    fn names(presences: &[Presence]) -> Vec<String> {
        let mut names: Vec<_> = presences
            .iter()
            .map(|presence| format!("{}={}", presence.id, String::from_utf8_lossy(&presence.payload)))
            .collect();
        names.sort();
        names
    }

    fn found(node: NodeId, entries: &[(&str, u64, &'static str)]) -> HashMap<Key, (u64, Bytes)> {
        entries
            .iter()
            .map(|(id, version, payload)| {
                (
                    (node, Arc::from(*id)),
                    (*version, Bytes::from_static(payload.as_bytes())),
                )
            })
            .collect()
    }

    #[test]
    fn news_join_change_and_leave_and_old_ones_do_nothing() {
        let node = NodeId::random();
        let mut view = View::default();
        let diff = view.hear(node, vec![change("a", 1, Some("1")), change("b", 2, Some("2"))]);
        assert_eq!(names(&diff.joins), ["a=1", "b=2"]);
        let diff = view.hear(node, vec![change("a", 3, Some("3"))]);
        assert_eq!(
            (names(&diff.joins), names(&diff.leaves)),
            (vec!["a=3".to_owned()], vec!["a=1".to_owned()])
        );
        assert!(
            view.hear(node, vec![change("a", 2, None), change("a", 3, Some("3"))])
                .is_empty()
        );
        assert_eq!(
            names(&view.hear(node, vec![change("a", 4, None)]).leaves),
            ["a=3"]
        );
        assert_eq!(names(&view.forget(node).leaves), ["b=2"]);
        assert!(view.all().is_empty());
    }

    #[test]
    fn what_is_told_while_a_place_is_read_counts_more_than_what_was_read_before() {
        let node = NodeId::random();
        let mut view = View::default();
        view.hear(
            node,
            vec![change("stays", 1, Some("")), change("gone", 2, Some(""))],
        );
        view.begin_reading();
        view.hear(
            node,
            vec![
                change("came", 5, Some("")),
                change("left", 6, None),
                change("newer", 3, Some("old")),
            ],
        );
        let diff = view.read(
            found(
                node,
                &[
                    ("stays", 1, ""),
                    ("left", 4, ""),
                    ("newer", 7, "new"),
                    ("missed", 4, ""),
                ],
            ),
            false,
        );
        assert_eq!(names(&diff.joins), ["missed=", "newer=new"]);
        assert_eq!(names(&diff.leaves), ["gone=", "newer=old"]);
        assert_eq!(names(&view.all()), ["came=", "missed=", "newer=new", "stays="]);
    }

    #[test]
    fn what_is_not_found_where_it_may_be_lacking_stays() {
        let node = NodeId::random();
        let mut view = View::default();
        view.hear(node, vec![change("a", 1, Some(""))]);
        view.begin_reading();
        assert!(view.read(HashMap::new(), true).is_empty());
        view.begin_reading();
        assert_eq!(names(&view.read(HashMap::new(), false).leaves), ["a="]);
    }
}
