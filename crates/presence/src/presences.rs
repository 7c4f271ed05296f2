//! All topics that somebody is present in: when their members are told, and of what.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use thiserror::Error;
use tokio::runtime::Handle;
use walcast_broadcast::{MemberId, Membership, Room, Rooms};
use walcast_cluster::NodeId;
use walcast_protocol::{Outlet, Ref, Version, fan_out, push};

use crate::fields;
use crate::following::{Following, Watching};
use crate::neighbours::{Neighbours, News};
use crate::report;
use crate::roster::{Full, Owner, Place, Roster};

const DIFF: &str = "presence_diff";

/// How presence is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Changes of a topic within this time travel as one diff; zero: each by itself, at once.
    pub window: Duration,
    /// Bytes of keys and payloads that a topic may hold, roughly. A state is no longer than that.
    pub max_topic_bytes: usize,
}

/// Counts what happens. Those who come and go are this node's.
pub trait Meter: Send + Sync {
    /// A diff was handed to so many members.
    fn told(&self, members: usize);

    /// There is one more presence.
    fn came(&self);

    /// There is one less.
    fn went(&self);

    /// What came as so many presences of other nodes is none, and is left out.
    fn malformed(&self, presences: usize);
}

/// What a `track` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// Members will be told.
    Changed,
    /// Nothing: that was tracked already.
    Same,
}

/// Why nothing was tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TrackError {
    /// The text is the reference's (`protocol.md 6.1`).
    #[error("Presence track payload must be a map")]
    NotAnObject,
    /// The topic is full.
    #[error(
        "too much is tracked on this channel: track smaller payloads, spread the members over several channels, or \
         raise WALCAST_PRESENCE_TOPIC_KB"
    )]
    Full,
    /// It cannot travel to other nodes.
    #[error("what is tracked takes more than 4 MiB with its key: track a smaller payload")]
    TooLong,
}

pub(crate) struct Topic {
    sub_topic: Arc<str>,
    is_private: bool,
    pub(crate) watching: Mutex<Watching>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    roster: Roster,
    /// Whether the presences of other nodes count.
    pub(crate) is_followed: bool,
    /// Whether those that were there first have been told.
    is_caught_up: bool,
    /// Members whose diffs carry a reference of their own.
    apart: Vec<Apart>,
    /// Whether the end of the window is awaited.
    is_due: bool,
    /// Whether the topic has been given up, and a new one may have taken its place.
    pub(crate) is_gone: bool,
}

struct Apart {
    member: MemberId,
    version: Version,
    reference: Ref,
    outlet: Arc<dyn Outlet>,
}

impl Topic {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn room(&self) -> Room<'_> {
        Room {
            topic: &self.sub_topic,
            is_private: self.is_private,
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.roster.is_empty() && self.apart.is_empty() && !self.is_due && !self.is_followed
    }
}

type Floor = DashMap<Arc<str>, Arc<Topic>>;

/// The presences of a server.
///
/// While a topic is locked its members are told, and new ones introduced, so that each gets exactly the diffs that
/// follow on its state. Members' queues are bounded and never wait.
pub struct Presences {
    public: Floor,
    private: Floor,
    rooms: Arc<Rooms>,
    options: Options,
    meter: Arc<dyn Meter>,
    neighbours: Option<Neighbours>,
    /// This node.
    node: NodeId,
    /// Windows end there: a presence may go while no runtime is entered.
    runtime: Handle,
}

impl Presences {
    /// No presences yet. Diffs reach those members of the rooms that hear presence. Without neighbours there is this
    /// node alone.
    #[must_use]
    pub fn new(
        rooms: Arc<Rooms>,
        neighbours: Option<Neighbours>,
        options: Options,
        meter: Arc<dyn Meter>,
        runtime: Handle,
    ) -> Arc<Self> {
        let node = neighbours.as_ref().map_or_else(NodeId::random, Neighbours::node);
        Arc::new(Self {
            public: Floor::default(),
            private: Floor::default(),
            rooms,
            options,
            meter,
            neighbours,
            node,
            runtime,
        })
    }

    /// Tells a member who is present, as the payload of a `presence_state`, and has it hear the diffs from there on.
    pub fn introduce(&self, member: &Membership, tell: impl FnOnce(&str)) {
        let room = member.room();
        loop {
            let topic = match self.floor(room.is_private).entry(room.topic.into()) {
                Entry::Occupied(topic) => Arc::clone(topic.get()),
                // Nobody can come while the place is held.
                Entry::Vacant(_place) => {
                    member.set_hears_presence(true);
                    return tell("{}");
                }
            };
            let mut state = topic.lock();
            if !state.is_gone {
                member.set_hears_presence(true);
                return tell(&state.roster.state());
            }
        }
    }

    /// A member that may track something under a key, until the returned value is dropped.
    #[must_use]
    pub fn attend(self: &Arc<Self>, member: &Membership, key: &str) -> Presence {
        let room = member.room();
        Presence {
            presences: Arc::clone(self),
            sub_topic: room.topic.into(),
            is_private: room.is_private,
            _following: self.follow(room),
            place: Place {
                key: key.into(),
                owner: Owner {
                    node: self.node,
                    member: member.id(),
                },
            },
            is_tracked: false,
            is_apart: false,
        }
    }

    /// Topics that somebody is present in or follows, or did a moment ago.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.public.len() + self.private.len()
    }

    pub(crate) fn neighbours(&self) -> Option<&Neighbours> {
        self.neighbours.as_ref()
    }

    /// This node, by the name its presences have.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Takes what other nodes report.
    pub(crate) fn hear(self: &Arc<Self>, topic: &Arc<Topic>, news: News) {
        if news.malformed > 0 {
            self.meter.malformed(news.malformed);
        }
        let mut state = topic.lock();
        let is_changed = news.enter(&mut state.roster);
        self.settle(topic, state, is_changed);
    }

    /// All that were on other nodes have been entered: the next state has them.
    pub(crate) fn tell_first_sight(&self, topic: &Topic) {
        let mut state = topic.lock();
        if !std::mem::replace(&mut state.is_caught_up, true) {
            self.tell(topic, &mut state);
        }
    }

    /// Nobody is left to whom the presences of other nodes matter.
    pub(crate) fn forget_others(self: &Arc<Self>, topic: &Arc<Topic>) {
        let mut state = topic.lock();
        state.is_followed = false;
        state.is_caught_up = false;
        let is_changed = state.roster.retract_all();
        self.settle(topic, state, is_changed);
    }

    fn floor(&self, is_private: bool) -> &Floor {
        if is_private { &self.private } else { &self.public }
    }

    /// The topic of that name, which may be about to be given up.
    pub(crate) fn topic(&self, sub_topic: &Arc<str>, is_private: bool) -> Arc<Topic> {
        let topic = self
            .floor(is_private)
            .entry(Arc::clone(sub_topic))
            .or_insert_with(|| {
                Arc::new(Topic {
                    sub_topic: Arc::clone(sub_topic),
                    is_private,
                    watching: Mutex::default(),
                    state: Mutex::default(),
                })
            });
        Arc::clone(&topic)
    }

    /// Does something to a topic, and sees to it that its members are told if that changed something.
    fn change<T>(
        self: &Arc<Self>,
        sub_topic: &Arc<str>,
        is_private: bool,
        act: impl FnOnce(&mut State) -> (T, bool),
    ) -> T {
        loop {
            let topic = self.topic(sub_topic, is_private);
            let mut state = topic.lock();
            if state.is_gone {
                continue;
            }
            let (outcome, is_changed) = act(&mut state);
            self.settle(&topic, state, is_changed);
            return outcome;
        }
    }

    /// Sees to it that members are told if something changed, and that a topic goes that nobody needs.
    fn settle(self: &Arc<Self>, topic: &Arc<Topic>, mut state: MutexGuard<'_, State>, is_changed: bool) {
        if is_changed && self.options.window.is_zero() {
            self.tell(topic, &mut state);
        } else if is_changed && !state.is_due {
            state.is_due = true;
            self.tell_later(topic);
        }
        let is_idle = state.is_idle();
        drop(state);
        if is_idle {
            self.give_up(topic);
        }
    }

    /// Ends the window of a topic in time.
    fn tell_later(self: &Arc<Self>, topic: &Arc<Topic>) {
        let (presences, topic) = (Arc::clone(self), Arc::clone(topic));
        self.runtime.spawn(async move {
            tokio::time::sleep(presences.options.window).await;
            let mut state = topic.lock();
            state.is_due = false;
            presences.tell(&topic, &mut state);
            presences.settle(&topic, state, false);
        });
    }

    fn tell(&self, topic: &Topic, state: &mut State) {
        let Some(diff) = state.roster.diff() else { return };
        let name = format!("realtime:{}", topic.sub_topic);
        let mut members = self.rooms.cast_presence(topic.room(), |version| {
            fan_out(version, &name, DIFF, &diff).into()
        });
        for apart in &state.apart {
            let frame = push(apart.version, &apart.reference, &name, DIFF, &diff);
            apart.outlet.deliver(frame.into());
            members += 1;
        }
        self.meter.told(members);
    }

    fn give_up(&self, topic: &Topic) {
        self.floor(topic.is_private)
            .remove_if(&topic.sub_topic, |_, topic| {
                let mut state = topic.lock();
                state.is_gone = state.is_idle();
                state.is_gone
            });
    }
}

/// What a channel tracks; dropping it ends that.
pub struct Presence {
    presences: Arc<Presences>,
    sub_topic: Arc<str>,
    is_private: bool,
    _following: Following,
    place: Place,
    is_tracked: bool,
    is_apart: bool,
}

impl Presence {
    /// Tracks a payload, JSON, in the place of what was tracked.
    ///
    /// # Errors
    /// If it is no object, the topic is full, or it is too long for other nodes; then what was tracked stays.
    pub fn track(&mut self, payload: &str) -> Result<Tracked, TrackError> {
        let fields = fields::of_object(payload).ok_or(TrackError::NotAnObject)?;
        let max_bytes = self.presences.options.max_topic_bytes;
        let (place, neighbours) = (&self.place, self.presences.neighbours());
        if neighbours.is_some() && !report::fits(&place.key, &fields) {
            return Err(TrackError::TooLong);
        }
        let tracked = self.presences.change(&self.sub_topic, self.is_private, |state| {
            let tracked = state.roster.track(place, &fields, max_bytes);
            let is_changed = matches!(tracked, Ok(Some(_)));
            (tracked, is_changed)
        });
        let meta = match tracked {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok(Tracked::Same),
            Err(Full) => return Err(TrackError::Full),
        };
        if let Some(neighbours) = neighbours {
            neighbours.tell(self.room(), place, &meta);
        }
        if !std::mem::replace(&mut self.is_tracked, true) {
            self.presences.meter.came();
        }
        Ok(Tracked::Changed)
    }

    /// Ends what is tracked, if something is.
    pub fn untrack(&mut self) {
        if !std::mem::take(&mut self.is_tracked) {
            return;
        }
        let place = &self.place;
        self.presences.change(&self.sub_topic, self.is_private, |state| {
            ((), state.roster.take(place))
        });
        if let Some(neighbours) = self.presences.neighbours() {
            neighbours.withdraw(self.room(), place);
        }
        self.presences.meter.went();
    }

    /// Where the channel is.
    fn room(&self) -> Room<'_> {
        Room {
            topic: &self.sub_topic,
            is_private: self.is_private,
        }
    }

    /// Has the channel hear diffs in frames that carry its reference, from now on and without a state: a private one
    /// that joined without presence (`protocol.md 6.3`).
    pub fn hear_apart(&mut self, version: Version, reference: &Ref, outlet: Arc<dyn Outlet>) {
        if std::mem::replace(&mut self.is_apart, true) {
            return;
        }
        let apart = Apart {
            member: self.place.owner.member,
            version,
            reference: reference.clone(),
            outlet,
        };
        self.presences.change(&self.sub_topic, self.is_private, |state| {
            (state.apart.push(apart), false)
        });
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.is_apart {
            let member = self.place.owner.member;
            self.presences.change(&self.sub_topic, self.is_private, |state| {
                (state.apart.retain(|apart| apart.member != member), false)
            });
        }
        self.untrack();
    }
}

#[cfg(test)]
#[path = "presences_tests.rs"]
mod tests;
