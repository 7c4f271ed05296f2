//! A member as clients are: it holds a state and merges diffs into it. For tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The metas of a key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Metas {
    pub(crate) metas: Vec<Value>,
}

pub(crate) type Keys = BTreeMap<String, Metas>;

#[derive(Debug, Deserialize)]
struct Diff {
    joins: Keys,
    leaves: Keys,
}

/// Joins go before leaves, and metas are told apart by `phx_ref`.
#[derive(Clone, Debug)]
pub(crate) struct Merging(Keys);

impl Merging {
    pub(crate) fn from_state(state: &str) -> Self {
        Self(serde_json::from_str(state).unwrap())
    }

    /// Panics if the diff tells of something again, or of the end of something it never told of.
    pub(crate) fn merge(&mut self, diff: &str) {
        let diff: Diff = serde_json::from_str(diff).unwrap();
        for (key, joined) in diff.joins {
            let known = self.0.entry(key).or_default();
            for meta in joined.metas {
                let is_known = known
                    .metas
                    .iter()
                    .any(|other| reference(other) == reference(&meta));
                assert!(!is_known, "told twice: {meta}");
                known.metas.push(meta);
            }
        }
        for (key, left) in diff.leaves {
            let known = self.0.get_mut(&key).expect("a key ends that nobody knows of");
            for meta in left.metas {
                let at = known.metas.iter().position(|other| *other == meta);
                known.metas.remove(at.expect("a meta ends that nobody knows of"));
            }
            if known.metas.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// What it knows, in an order of its own.
    pub(crate) fn known(&self) -> Keys {
        let mut keys = self.0.clone();
        for known in keys.values_mut() {
            known.metas.sort_by_key(|meta| reference(meta).to_owned());
        }
        keys
    }
}

pub(crate) fn reference(meta: &Value) -> &str {
    meta["phx_ref"].as_str().unwrap()
}
