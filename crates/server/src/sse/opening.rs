//! The time between the request for a stream and its response: as long as its joins take.

use tokio::sync::oneshot;
use walcast_changes::Position;
use walcast_protocol::Message;

use crate::channel::CastingState;
use crate::join::{Accepted, Refused};

/// What a stream's request waits for: that all its joins succeed, or that one is refused.
pub struct Opening {
    /// Joins that wait for the first one, which makes the stream a user (`protocol.md 9`).
    later: Vec<Message>,
    /// Joins that are not decided.
    left: usize,
    answer: oneshot::Sender<Result<(), Refused>>,
}

impl Opening {
    /// Waits for a first join and for these, and answers there.
    pub(super) fn new(later: Vec<Message>, answer: oneshot::Sender<Result<(), Refused>>) -> Self {
        Self {
            left: 1 + later.len(),
            later,
            answer,
        }
    }

    /// The joins whose time has come.
    pub(crate) fn take_later(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.later)
    }

    /// A join is decided. Returns what there is still to wait for.
    pub(crate) fn note(mut self, joined: Result<(), Refused>) -> Option<Self> {
        self.left = self.left.saturating_sub(1);
        if joined.is_ok() && self.left > 0 {
            return Some(self);
        }
        // A request that is gone takes its body along, which ends the socket.
        let _ = self.answer.send(joined);
        None
    }
}

/// Where the changes of a channel begin.
pub(crate) fn start_of(accepted: &Accepted) -> Option<Position> {
    match &accepted.channel.casting.as_deref()?.state {
        CastingState::Active { subscription, .. } => Some(subscription.start()),
        CastingState::Trying | CastingState::Refused => None,
    }
}
