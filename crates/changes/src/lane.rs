//! Commit order for channels bound to several tables.
//!
//! Each table's task decides at its own speed. A channel bound to several must not see a quick table's change before
//! an earlier one of a slow table; even one bound to a single name hears two when another table takes that name. All
//! channels with the same set of patterns share a lane: the dispatcher opens a slot in the lane for each change in
//! stream order, the table's task fills it, and filled slots leave from the front (`design.md 3`, promise 2).

use crate::subscription::Subscriber;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use walcast_protocol::Frame;

/// A frame and the channel it is for.
pub(crate) type Delivery = (Arc<Subscriber>, Frame);

#[derive(Default)]
struct Slots {
    /// Sequence number of the slot at the front.
    front: u64,
    waiting: VecDeque<Option<Vec<Delivery>>>,
}

/// The order of one set of channels.
#[derive(Default)]
pub(crate) struct Lane {
    slots: Mutex<Slots>,
}

impl Lane {
    /// Opens the next slot. Called by the dispatcher alone, in stream order.
    pub(crate) fn open(self: &Arc<Self>) -> Ticket {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slots.front + slots.waiting.len() as u64;
        slots.waiting.push_back(None);
        Ticket {
            lane: Arc::clone(self),
            number,
            filled: false,
        }
    }

    fn fill(&self, number: u64, deliveries: Vec<Delivery>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number - slots.front).unwrap_or(usize::MAX);
        if let Some(slot) = slots.waiting.get_mut(at) {
            *slot = Some(deliveries);
        }
        // Delivered under the lock: two tables that finish at the same time must not overtake each other.
        while let Some(Some(_)) = slots.waiting.front() {
            slots.front += 1;
            for (subscriber, frame) in slots.waiting.pop_front().flatten().unwrap_or_default() {
                subscriber.deliver(frame);
            }
        }
    }
}

/// The right and duty to fill one slot; dropped unfilled, the slot counts as empty, so that a change nobody decided
/// holds up nothing.
pub(crate) struct Ticket {
    lane: Arc<Lane>,
    number: u64,
    filled: bool,
}

impl Ticket {
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(crate) fn fill(mut self, deliveries: Vec<Delivery>) {
        self.filled = true;
        self.lane.fill(self.number, deliveries);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.filled {
            self.lane.fill(self.number, Vec::new());
        }
    }
}
