//! A node with its rooms and channels. For tests.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use walcast_broadcast::{Member, Membership, Room, Rooms};
use walcast_protocol::{Frame, Outlet, Version, decode_server_text};

use crate::following::Following;
use crate::merging::{Keys, Merging};
use crate::neighbours::Neighbours;
use crate::presences::{Meter, Options, Presence, Presences, Tracked};

#[derive(Default)]
pub(crate) struct Inbox(pub(crate) Mutex<Vec<Frame>>);

impl Outlet for Inbox {
    fn deliver(&self, frame: Frame) {
        self.0.lock().unwrap().push(frame);
    }
}

#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) told: AtomicUsize,
    pub(crate) present: AtomicIsize,
    pub(crate) malformed: AtomicUsize,
}

impl Meter for Counted {
    fn told(&self, members: usize) {
        self.told.fetch_add(members, Ordering::Relaxed);
    }

    fn came(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
    }

    fn went(&self) {
        self.present.fetch_sub(1, Ordering::Relaxed);
    }

    fn malformed(&self, presences: usize) {
        self.malformed.fetch_add(presences, Ordering::Relaxed);
    }
}

/// A node.
pub(crate) struct Scene {
    rooms: Arc<Rooms>,
    pub(crate) presences: Arc<Presences>,
    pub(crate) counted: Arc<Counted>,
}

pub(crate) const WINDOW: Duration = Duration::from_millis(10);

/// More than all that a test tracks, unless it means to.
pub(crate) const TOPIC_BYTES: usize = 100_000;

impl Scene {
    pub(crate) fn alone(window: Duration) -> Self {
        Self::new(window, None)
    }

    pub(crate) fn new(window: Duration, neighbours: Option<Neighbours>) -> Self {
        let rooms = Arc::new(Rooms::default());
        let counted = Arc::new(Counted::default());
        let options = Options {
            window,
            max_topic_bytes: TOPIC_BYTES,
        };
        let meter = Arc::clone(&counted) as Arc<dyn Meter>;
        let presences = Presences::new(Arc::clone(&rooms), neighbours, options, meter, Handle::current());
        Self {
            rooms,
            presences,
            counted,
        }
    }

    /// A channel that joins with presence.
    pub(crate) fn join(&self, key: &str, is_private: bool) -> Channel {
        let mut channel = self.join_without(key, is_private);
        channel.introduce(&self.presences);
        channel
    }

    pub(crate) fn join_without(&self, key: &str, is_private: bool) -> Channel {
        let inbox = Arc::new(Inbox::default());
        let member = Member {
            version: Version::V2,
            outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: None,
            name: None,
        };
        let room = Room {
            topic: "room",
            is_private,
        };
        let membership = self.rooms.enter(room, member);
        Channel {
            presence: self.presences.attend(&membership, key),
            membership,
            inbox,
            state: None,
        }
    }
}

/// A channel of a client.
pub(crate) struct Channel {
    pub(crate) presence: Presence,
    pub(crate) membership: Membership,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) state: Option<String>,
}

impl Channel {
    pub(crate) fn introduce(&mut self, presences: &Presences) {
        presences.introduce(&self.membership, |state| self.state = Some(state.to_owned()));
    }

    pub(crate) fn track(&mut self, n: usize) -> Tracked {
        self.presence.track(&format!(r#"{{"n":{n}}}"#)).unwrap()
    }

    /// The diffs it got since, as they are in the frames.
    pub(crate) fn diffs(&self) -> Vec<String> {
        let frames = std::mem::take(&mut *self.inbox.0.lock().unwrap());
        let payload = |frame: Frame| {
            let text = String::from_utf8(frame.bytes().to_vec()).unwrap();
            let message = decode_server_text(Version::V2, &text).unwrap();
            assert_eq!(
                (&*message.topic, &*message.event),
                ("realtime:room", "presence_diff")
            );
            message.payload.get().to_owned()
        };
        frames.into_iter().map(payload).collect()
    }

    pub(crate) fn merged(&self) -> Merging {
        let mut merging = Merging::from_state(self.state.as_deref().unwrap());
        self.diffs().iter().for_each(|diff| merging.merge(diff));
        merging
    }
}

/// A member of a node among others, which merges what it is told.
pub(crate) struct Guest {
    pub(crate) channel: Channel,
    pub(crate) known: Merging,
    key: String,
    tracks: Option<usize>,
    _following: Following,
}

impl Guest {
    /// A channel that joins with presence, as the server does it.
    pub(crate) async fn join(node: &Scene, key: &str) -> Self {
        let room = Room {
            topic: "room",
            is_private: false,
        };
        let following = node.presences.follow(room);
        following.caught_up(Duration::from_secs(1)).await;
        let channel = node.join(key, false);
        Self {
            known: Merging::from_state(channel.state.as_deref().unwrap()),
            channel,
            key: key.to_owned(),
            tracks: None,
            _following: following,
        }
    }

    pub(crate) fn track(&mut self, n: usize) {
        self.channel.track(n);
        self.tracks = Some(n);
    }

    pub(crate) fn untrack(&mut self) {
        self.channel.presence.untrack();
        self.tracks = None;
    }

    /// Panics if it was told something twice.
    pub(crate) fn known(&mut self) -> Keys {
        for diff in self.channel.diffs() {
            self.known.merge(&diff);
        }
        self.known.known()
    }

    /// Keys and what is tracked under them, as far as it knows.
    pub(crate) fn sees(&mut self) -> Vec<String> {
        let known = self.known();
        let metas = known
            .iter()
            .flat_map(|(key, known)| known.metas.iter().map(move |meta| format!("{key}={}", meta["n"])));
        let mut sees: Vec<_> = metas.collect();
        sees.sort();
        sees
    }
}

/// What all of these should see.
pub(crate) fn truth<'g>(guests: impl Iterator<Item = &'g Guest>) -> Vec<String> {
    let mut truth: Vec<_> = guests
        .filter_map(|guest| Some(format!("{}={}", guest.key, guest.tracks?)))
        .collect();
    truth.sort();
    truth
}
