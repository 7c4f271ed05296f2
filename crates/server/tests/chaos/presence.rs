//! Who is present, as clients work it out (`protocol.md 6.4`).

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

#[derive(Deserialize)]
struct Metas {
    metas: Vec<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    phx_ref: String,
    n: u64,
}

type State = HashMap<String, Metas>;

#[derive(Deserialize)]
struct Diff {
    joins: State,
    leaves: State,
}

/// What one member holds to be present.
#[derive(Default)]
pub(crate) struct View(BTreeMap<String, BTreeMap<String, u64>>);

impl View {
    /// Takes a `presence_state` or a `presence_diff` into account.
    pub(crate) fn learn(&mut self, event: &str, payload: &str) -> Result<(), String> {
        let read = |error: serde_json::Error| format!("{event}: {error}: {payload}");
        if event == "presence_state" {
            self.0.clear();
            self.join(serde_json::from_str(payload).map_err(read)?);
        } else {
            let diff: Diff = serde_json::from_str(payload).map_err(read)?;
            self.join(diff.joins);
            for (key, Metas { metas }) in diff.leaves {
                let present = self.0.entry(key).or_default();
                for meta in metas {
                    present.remove(&meta.phx_ref);
                }
            }
            self.0.retain(|_, present| !present.is_empty());
        }
        Ok(())
    }

    fn join(&mut self, state: State) {
        for (key, Metas { metas }) in state {
            let present = self.0.entry(key).or_default();
            present.extend(metas.into_iter().map(|meta| (meta.phx_ref, meta.n)));
        }
    }

    /// Keys, and what is tracked under each.
    pub(crate) fn present(&self) -> BTreeMap<String, Vec<u64>> {
        let tracked = |present: &BTreeMap<String, u64>| present.values().copied().collect();
        self.0
            .iter()
            .map(|(key, present)| (key.clone(), tracked(present)))
            .collect()
    }
}
