//! Lets each change pass once: a slot that is resumed brings again what was not settled.

use crate::position::Position;
use walcast_replication::Event;

#[derive(Default)]
pub(crate) struct Once {
    last: Option<Position>,
}

impl Once {
    /// Whether an event is new. Changes come in the order of their positions; a new slot may begin anywhere, on another
    /// server after a failover.
    pub(crate) fn passes(&mut self, event: &Event) -> bool {
        match event {
            Event::Streaming {
                is_resumed: false, ..
            } => {
                self.last = None;
                true
            }
            Event::Change(change) => {
                let position = Position::of(change);
                let is_new = self.last.is_none_or(|last| position > last);
                if is_new {
                    self.last = Some(position);
                }
                is_new
            }
            _ => true,
        }
    }
}
