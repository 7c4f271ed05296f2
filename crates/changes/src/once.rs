//! Lets each change pass once: a slot that is resumed brings again what was not settled.

use crate::position::Position;
use walcast_replication::{Event, Lsn};

#[derive(Default)]
pub(crate) struct Once {
    last: Option<Position>,
}

impl Once {
    /// What was committed before `start` is not new, whoever brings it.
    pub(crate) fn begin(&mut self, start: Lsn) {
        self.last = self.last.max(Some(before(start)));
    }

    /// Whether an event is new. Changes come in the order of their positions; a new slot may begin anywhere, on another
    /// server after a failover.
    pub(crate) fn passes(&mut self, event: &Event) -> bool {
        match event {
            Event::Streaming {
                start,
                is_resumed: false,
                ..
            } => {
                self.last = Some(before(*start));
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

/// The last place of the log before this.
fn before(start: Lsn) -> Position {
    Position::after(Lsn(start.0.saturating_sub(1)))
}
