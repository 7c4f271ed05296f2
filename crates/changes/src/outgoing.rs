//! The messages of one change, each built once however many channels get it.

use crate::index::ActionKind;
use crate::lane::{Delivery, Lane};
use crate::position::Position;
use crate::table::Part;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use walcast_protocol::{self as protocol, Frame, Version};

/// Which `data` a message carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Data {
    Shape(usize),
    /// That the row left.
    Left(usize),
    Refusal(&'static str),
}

/// What makes two frames of one change equal.
#[derive(PartialEq, Eq, Hash)]
struct FrameKey {
    version: Version,
    legacy: bool,
    topic: Arc<str>,
    ids: SmallVec<[u32; 4]>,
    data: Data,
}

/// The frames of one change, each built once.
pub(crate) struct Outgoing {
    position: String,
    /// Whether it was missed, and comes later.
    replayed: bool,
    data: HashMap<Data, String>,
    frames: HashMap<FrameKey, Frame>,
    /// By address of the lane.
    pub(crate) laned: HashMap<*const Lane, Vec<Delivery>>,
    pub(crate) count: u64,
}

impl Outgoing {
    pub(crate) fn new(position: Position, replayed: bool) -> Self {
        Self {
            position: position.to_string(),
            replayed,
            data: HashMap::new(),
            frames: HashMap::new(),
            laned: HashMap::new(),
            count: 0,
        }
    }

    /// Has one of the channels measure how long after the commit it gets the change. Which one is chance, for a map has
    /// no order: each is asked now and then, and none for every change.
    pub(crate) fn measure(&mut self, committed_at_us: i64) {
        let deliveries = self.laned.values_mut().next();
        if let Some((_, frame)) = deliveries.and_then(|deliveries| deliveries.first_mut()) {
            *frame = frame.clone().measured_from(committed_at_us);
        }
    }

    pub(crate) fn push<'a>(
        &mut self,
        kind: ActionKind,
        first: &Part,
        group: impl IntoIterator<Item = &'a Part>,
        data: Data,
        render: impl FnOnce() -> String,
    ) {
        let subscriber = &first.subscriber;
        let key = FrameKey {
            version: subscriber.version,
            legacy: subscriber.legacy,
            topic: Arc::clone(&subscriber.topic),
            ids: group.into_iter().map(|part| part.listener.id).collect(),
            data,
        };
        let frame = match self.frames.entry(key) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(vacant) => {
                let json = self.data.entry(data).or_insert_with(render);
                let key = vacant.key();
                let text = if key.legacy {
                    protocol::change_event(key.version, &key.topic, kind.as_str(), json)
                } else {
                    protocol::postgres_changes(
                        key.version,
                        &key.topic,
                        &key.ids,
                        json,
                        &self.position,
                        self.replayed,
                    )
                };
                vacant.insert(Frame::from(text)).clone()
            }
        };
        self.count += 1;
        self.laned
            .entry(Arc::as_ptr(&first.listener.lane))
            .or_default()
            .push((Arc::clone(subscriber), frame));
    }
}
