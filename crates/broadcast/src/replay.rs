//! Stored messages for a channel that joins while live ones arrive: each reaches it once (`protocol.md 5.4`, `5.9`).

use std::sync::{Mutex, PoisonError};

/// Which stored messages a channel has had.
///
/// The channel is a member of its room before the stored messages are read, so that none is missed in between. A
/// message that came live meanwhile is left out of the replay, and one that was replayed is not delivered again.
#[derive(Debug, Default)]
pub struct Replay(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Ids that came live while the stored messages are being read.
    Reading(Vec<Box<str>>),
    /// Ids that were replayed: 25 at most (`database.md 5`).
    Done(Vec<Box<str>>),
}

impl Default for State {
    fn default() -> Self {
        Self::Reading(Vec::new())
    }
}

impl Replay {
    /// Whether a live message with this id is still to be delivered; notes that it was.
    pub(crate) fn admits(&self, id: &str) -> bool {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Reading(live) => {
                live.push(id.into());
                true
            }
            State::Done(replayed) => !replayed.iter().any(|known| **known == *id),
        }
    }

    /// Ends the reading: of the stored messages, those that did not come live meanwhile are to be sent.
    pub fn finish<T>(&self, stored: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = match &mut *state {
            State::Reading(live) => std::mem::take(live),
            State::Done(_) => Vec::new(),
        };
        let missing: Vec<T> = stored
            .into_iter()
            .filter(|message| !live.iter().any(|known| **known == *id(message)))
            .collect();
        *state = State::Done(missing.iter().map(|message| id(message).into()).collect());
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_reaches_the_channel_once() {
        let replay = Replay::default();
        assert!(replay.admits("live"));
        let sent = replay.finish(vec!["old", "live"], |id| id);
        assert_eq!(sent, ["old"]);
        assert!(!replay.admits("old"));
        assert!(replay.admits("new"));
    }
}
