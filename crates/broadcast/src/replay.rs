//! Stored messages for a channel that joins while live ones arrive: each reaches it once (`protocol.md 5.4`, `5.9`).

use std::sync::{Mutex, PoisonError};

use walcast_protocol::{Frame, Outlet};

/// Live messages that wait for the stored ones, at most; more of them go out at once.
const HELD_MESSAGES: usize = 1_000;
const HELD_BYTES: usize = 4 * 1024 * 1024;

/// Which stored messages a channel has had.
///
/// The channel is a member of its room before the stored messages are read, so that none is missed in between. What
/// comes live meanwhile waits behind them, unless it is one of them; and one that was replayed is not delivered again.
#[derive(Debug, Default)]
pub struct Replay(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The stored messages are being read. Live ones, with the id of those that are stored, too.
    Reading(Vec<(Option<Box<str>>, Frame)>),
    /// They are still being read, and too many came live: these ids are out.
    Overflown(Vec<Box<str>>),
    /// Ids that were replayed: 25 at most (`database.md 5`).
    Done(Vec<Box<str>>),
}

impl Default for State {
    fn default() -> Self {
        Self::Reading(Vec::new())
    }
}

impl Replay {
    /// Passes a live message on to the channel, at once or later; false if the channel has had it.
    pub(crate) fn deliver(&self, id: Option<&str>, frame: Frame, outlet: &dyn Outlet) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Reading(held) => {
                held.push((id.map(Into::into), frame));
                let bytes: usize = held.iter().map(|(_, frame)| frame.len()).sum();
                if held.len() > HELD_MESSAGES || bytes > HELD_BYTES {
                    let mut out = Vec::new();
                    for (id, frame) in std::mem::take(held) {
                        outlet.deliver(frame);
                        out.extend(id);
                    }
                    *state = State::Overflown(out);
                }
                true
            }
            State::Overflown(out) => {
                outlet.deliver(frame);
                out.extend(id.map(Into::into));
                true
            }
            State::Done(replayed) => {
                let is_new = id.is_none_or(|id| !replayed.iter().any(|known| **known == *id));
                if is_new {
                    outlet.deliver(frame);
                }
                is_new
            }
        }
    }

    /// Ends the reading: says which of the stored messages are to be sent, in front of what the outlet got and gets.
    pub fn finish<T>(&self, stored: Vec<T>, id: impl Fn(&T) -> &str, outlet: &dyn Outlet) -> Vec<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, out) = match std::mem::take(&mut *state) {
            State::Reading(held) => (held, Vec::new()),
            State::Overflown(out) => (Vec::new(), out),
            State::Done(_) => return Vec::new(),
        };
        let due: Vec<T> = stored
            .into_iter()
            .filter(|message| !out.iter().any(|known| **known == *id(message)))
            .collect();
        let replayed: Vec<Box<str>> = due.iter().map(|message| id(message).into()).collect();
        for (id, frame) in held {
            if id.is_none_or(|id| !replayed.contains(&id)) {
                outlet.deliver(frame);
            }
        }
        *state = State::Done(replayed);
        due
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<String>>);

    impl Outlet for Inbox {
        fn deliver(&self, frame: Frame) {
            let text = String::from_utf8(frame.bytes().to_vec()).unwrap();
            self.0.lock().unwrap().push(text);
        }
    }

    impl Inbox {
        fn taken(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    fn frame(text: &str) -> Frame {
        Frame::from(text.to_owned())
    }

    #[test]
    fn what_comes_live_meanwhile_waits_behind_the_stored_messages_unless_it_is_one() {
        let (replay, inbox) = (Replay::default(), Inbox::default());
        assert!(replay.deliver(Some("old"), frame("old, live"), &inbox));
        assert!(replay.deliver(None, frame("from a client"), &inbox));
        assert!(replay.deliver(Some("new"), frame("new"), &inbox));
        assert_eq!(inbox.taken(), Vec::<String>::new());
        let due = replay.finish(vec!["older", "old"], |id| id, &inbox);
        assert_eq!(due, ["older", "old"]);
        assert_eq!(inbox.taken(), ["from a client", "new"]);
        assert!(!replay.deliver(Some("older"), frame("older, live"), &inbox));
        assert!(replay.deliver(Some("newer"), frame("newer"), &inbox));
        assert_eq!(inbox.taken(), ["newer"]);
    }

    #[test]
    fn too_much_to_wait_goes_out_at_once_and_is_not_replayed() {
        let (replay, inbox) = (Replay::default(), Inbox::default());
        for n in 0..=HELD_MESSAGES {
            assert!(replay.deliver(Some(&n.to_string()), frame("live"), &inbox));
        }
        assert_eq!(inbox.taken().len(), HELD_MESSAGES + 1);
        assert!(replay.deliver(Some("last"), frame("last"), &inbox));
        assert_eq!(inbox.taken(), ["last"]);
        assert_eq!(replay.finish(vec!["old", "7", "last"], |id| id, &inbox), ["old"]);
        assert!(!replay.deliver(Some("old"), frame("old"), &inbox));
    }
}
