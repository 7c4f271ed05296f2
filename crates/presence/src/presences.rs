//! All topics that somebody is present in: when their members are told, and of what.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use thiserror::Error;
use tokio::runtime::Handle;
use walcast_broadcast::{MemberId, Membership, Room, Rooms};
use walcast_protocol::{Outlet, Ref, Version, fan_out, push};

use crate::fields;
use crate::roster::{Full, NodeId, Owner, Place, Roster};

const DIFF: &str = "presence_diff";

/// How presence is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Changes of a topic within this time travel as one diff; zero: each by itself, at once.
    pub window: Duration,
    /// Bytes of keys and payloads that a topic may hold, roughly. A state is no longer than that.
    pub max_topic_bytes: usize,
}

/// Counts what happens.
pub trait Meter: Send + Sync {
    /// A diff was handed to so many members.
    fn told(&self, members: usize);

    /// There is one more presence.
    fn came(&self);

    /// There is one less.
    fn went(&self);
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
}

struct Topic {
    sub_topic: Arc<str>,
    is_private: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    roster: Roster,
    /// Members whose diffs carry a reference of their own.
    apart: Vec<Apart>,
    /// Whether the end of the window is awaited.
    is_due: bool,
    /// Whether the topic has been given up, and a new one may have taken its place.
    is_gone: bool,
}

struct Apart {
    member: MemberId,
    version: Version,
    reference: Ref,
    outlet: Arc<dyn Outlet>,
}

impl Topic {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> Room<'_> {
        Room {
            topic: &self.sub_topic,
            is_private: self.is_private,
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.roster.is_empty() && self.apart.is_empty() && !self.is_due
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
    /// Windows end there: a presence may go while no runtime is entered.
    runtime: Handle,
}

impl Presences {
    /// No presences yet. Diffs reach those members of the rooms that hear presence.
    #[must_use]
    pub fn new(rooms: Arc<Rooms>, options: Options, meter: Arc<dyn Meter>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            public: Floor::default(),
            private: Floor::default(),
            rooms,
            options,
            meter,
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
            place: Place {
                key: key.into(),
                owner: Owner {
                    node: NodeId::OURS,
                    member: member.id(),
                },
            },
            is_tracked: false,
            is_apart: false,
        }
    }

    /// Topics that somebody is present in, or was a moment ago.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.public.len() + self.private.len()
    }

    fn floor(&self, is_private: bool) -> &Floor {
        if is_private { &self.private } else { &self.public }
    }

    /// Does something to a topic, and sees to it that its members are told if that changed something.
    fn change<T>(
        self: &Arc<Self>,
        sub_topic: &Arc<str>,
        is_private: bool,
        act: impl FnOnce(&mut State) -> (T, bool),
    ) -> T {
        loop {
            let topic = Arc::clone(
                &self
                    .floor(is_private)
                    .entry(Arc::clone(sub_topic))
                    .or_insert_with(|| {
                        Arc::new(Topic {
                            sub_topic: Arc::clone(sub_topic),
                            is_private,
                            state: Mutex::default(),
                        })
                    }),
            );
            let mut state = topic.lock();
            if state.is_gone {
                continue;
            }
            let (outcome, is_changed) = act(&mut state);
            if is_changed && self.options.window.is_zero() {
                self.tell(&topic, &mut state);
            } else if is_changed && !state.is_due {
                state.is_due = true;
                self.tell_later(&topic);
            }
            let is_idle = state.is_idle();
            drop(state);
            if is_idle {
                self.give_up(&topic);
            }
            return outcome;
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
            let is_idle = state.is_idle();
            drop(state);
            if is_idle {
                presences.give_up(&topic);
            }
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
    place: Place,
    is_tracked: bool,
    is_apart: bool,
}

impl Presence {
    /// Tracks a payload, JSON, in the place of what was tracked.
    ///
    /// # Errors
    /// If it is no object, or the topic is full; then what was tracked stays.
    pub fn track(&mut self, payload: &str) -> Result<Tracked, TrackError> {
        let fields = fields::of_object(payload).ok_or(TrackError::NotAnObject)?;
        let max_bytes = self.presences.options.max_topic_bytes;
        let place = &self.place;
        let tracked = self.presences.change(&self.sub_topic, self.is_private, |state| {
            let tracked = state.roster.track(place, &fields, max_bytes);
            (tracked, tracked == Ok(true))
        });
        match tracked {
            Ok(false) => return Ok(Tracked::Same),
            Err(Full) => return Err(TrackError::Full),
            Ok(true) => {}
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
        self.presences.meter.went();
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
