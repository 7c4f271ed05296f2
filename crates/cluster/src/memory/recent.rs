//! Kept publications within a process.

use crate::node::NodeId;
use crate::recent::{Keep, Kept, Recent};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Default)]
struct Shelf {
    last: u64,
    kept: VecDeque<Kept>,
    bytes: u64,
    /// When something with an id was published.
    once: HashMap<String, i64>,
}

#[derive(Default)]
struct State {
    shelves: HashMap<String, Shelf>,
    losses: u64,
}

/// What the nodes of a process keep of their topics. A number is never forgotten.
#[derive(Default)]
pub(crate) struct Shelves(Mutex<State>);

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that should have been kept is not.
    pub(crate) fn lose(&self) {
        self.lock().losses += 1;
    }

    /// Keeps a publication, and delivers it before there is a next; one with an id only once.
    pub(crate) fn keep(
        &self,
        (topic, id): (&str, Option<&str>),
        origin: NodeId,
        payload: &Bytes,
        keep: Keep,
        deliver: impl FnOnce(u64),
    ) {
        let mut state = self.lock();
        let shelf = state.shelves.entry(topic.to_owned()).or_default();
        let at_ms = now_ms();
        if let Some(id) = id {
            let remembered_ms = i64::try_from(keep.remembers().as_millis()).unwrap_or(i64::MAX);
            shelf.once.retain(|_, known| at_ms - *known < remembered_ms);
            if shelf.once.contains_key(id) {
                return;
            }
            shelf.once.insert(id.to_owned(), at_ms);
        }
        shelf.last += 1;
        shelf.bytes += payload.len() as u64;
        shelf.kept.push_back(Kept {
            number: shelf.last,
            origin,
            at_ms,
            payload: payload.clone(),
        });
        let age_ms = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
        while shelf.kept.len() > 1
            && let Some(oldest) = shelf.kept.front()
            && (shelf.kept.len() as u64 > keep.entries
                || shelf.bytes > keep.bytes
                || at_ms - oldest.at_ms > age_ms)
        {
            shelf.bytes -= oldest.payload.len() as u64;
            shelf.kept.pop_front();
        }
        deliver(shelf.last);
    }

    pub(crate) fn recent(&self, topic: &str, after: Option<u64>) -> Recent {
        let state = self.lock();
        let shelf = state.shelves.get(topic);
        let kept = shelf.iter().flat_map(|shelf| &shelf.kept);
        Recent {
            epoch: state.losses + 1,
            last: shelf.map_or(0, |shelf| shelf.last),
            kept: after.map_or_else(Vec::new, |after| {
                kept.filter(|kept| kept.number > after).cloned().collect()
            }),
        }
    }
}

fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
