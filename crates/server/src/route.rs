//! What a socket does with a client's message (`protocol.md 8.2`), and with a join when it is decided.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use tracing::Instrument;
use walcast_changes::Subscription;
use walcast_messages::{PersistError, ReadRights, RightsError, WriteRights};
use walcast_protocol::{Frame, Message, Payload, Ref, Status};

use crate::channel::Channel;
use crate::join::{Accepted, Attempt, Refused, join};
use crate::metrics;
use crate::outbox::Gate;
use crate::socket::Socket;
use crate::subscribe::Unfulfilled;
use crate::token::Claims;

/// Channels of one socket that the framework of the reference allows (`protocol.md 1.5`).
const MAX_TOPICS: usize = 99_999;

/// Frames for a topic that may wait until its join is decided; then the socket reads no further until it is.
const BACKLOG_FRAMES: usize = 64;

/// Joins of one socket that may be under way; then it reads no further until one is decided.
const JOINS_UNDER_WAY: usize = 256;

/// A topic of a socket.
pub(crate) struct Slot {
    /// Number of its join.
    pub(crate) generation: u64,
    pub(crate) state: SlotState,
}

/// How far a topic is.
pub(crate) enum SlotState {
    /// Its join is under way.
    Joining(Box<Joining>),
    /// It is joined.
    Joined(Box<Channel>),
}

/// A join that is under way.
pub(crate) struct Joining {
    join_ref: Ref,
    reference: Ref,
    /// `join_ref` of the channel this join replaces; closed after the reply (`protocol.md 8.5`).
    replaced: Option<Ref>,
    /// What arrived for the topic meanwhile, in order.
    backlog: Vec<Message>,
    gate: Arc<Gate>,
    abort: AbortHandle,
    begun: Instant,
}

/// A piece of slow work that is done.
pub(crate) enum Done {
    /// A join.
    Joined {
        topic: Arc<str>,
        generation: u64,
        joined: Box<Result<Accepted, Refused>>,
    },
    /// A subscription of a joined channel.
    Subscribed {
        topic: Arc<str>,
        generation: u64,
        claims: Arc<Claims>,
        subscribed: Result<Arc<Subscription>, Unfulfilled>,
    },
    /// A change of claims of a subscription.
    Reauthorized {
        topic: Arc<str>,
        generation: u64,
        claims: Arc<Claims>,
        reauthorized: Result<(), Unfulfilled>,
    },
    /// What a private channel may hear with a new token.
    ReadChecked {
        topic: Arc<str>,
        generation: u64,
        claims: Arc<Claims>,
        checked: Result<ReadRights, RightsError>,
    },
    /// What a private channel may say.
    WriteChecked {
        topic: Arc<str>,
        generation: u64,
        claims: Arc<Claims>,
        checked: Result<WriteRights, RightsError>,
    },
    /// What a private channel may do with presence: to read it, if that was not known, and what it may say.
    TrackChecked {
        topic: Arc<str>,
        generation: u64,
        claims: Arc<Claims>,
        checked: Result<(Option<ReadRights>, WriteRights), RightsError>,
    },
    /// A broadcast that was to be stored.
    Stored {
        topic: Arc<str>,
        generation: u64,
        reference: Ref,
        stored: Result<(), PersistError>,
    },
    /// The wait for database broadcasts.
    ReplicationReady {
        topic: Arc<str>,
        generation: u64,
        is_streaming: bool,
    },
    /// Work that nobody waits for any more.
    Abandoned,
}

impl Socket {
    /// Routes one message.
    pub(crate) fn route(&mut self, message: Message) {
        let Some(topic) = message.topic.as_str() else {
            return self.say_unmatched(&message);
        };
        let event = message.event.as_str().unwrap_or_default();
        if topic == "phoenix" && event == "heartbeat" {
            return self.push(walcast_protocol::heartbeat_reply(
                self.version,
                &message.reference,
            ));
        }
        let Some(slot) = self.topics.get_mut(topic) else {
            return match event {
                "phx_join" if topic.starts_with("realtime:") => self.begin_join(message, None),
                "phx_leave" => self.reply(&message.join_ref, &message.reference, topic, Status::Ok, "{}"),
                _ => self.say_unmatched(&message),
            };
        };
        match (&mut slot.state, event) {
            (SlotState::Joining(_), "phx_join") => self.supersede(message),
            (SlotState::Joining(joining), _) => {
                joining.backlog.push(message);
                if joining.backlog.len() >= BACKLOG_FRAMES {
                    self.full_backlog = Some(slot.generation);
                }
            }
            (SlotState::Joined(channel), _) if channel.is_being_checked() => {
                let generation = slot.generation;
                if let Some(waiting) = channel.waiting() {
                    waiting.push(message);
                    if waiting.len() >= BACKLOG_FRAMES {
                        self.full_backlog = Some(generation);
                    }
                }
            }
            (SlotState::Joined(_), "phx_join") => {
                let replaced = self.remove(topic).map(|channel| channel.join_ref);
                self.begin_join(message, replaced);
            }
            (SlotState::Joined(_), "phx_leave") => self.leave(&message),
            (SlotState::Joined(_), _) => self.push_on_channel(&message),
        }
    }

    /// A push on a joined topic; a stale or missing `join_ref` does not matter (`protocol.md 2.5`).
    fn push_on_channel(&mut self, message: &Message) {
        let (Some(topic), Some(event)) = (message.topic.as_str(), message.event.as_str()) else {
            return;
        };
        let event = match event {
            "access_token" if self.refresh_token(topic, &message.payload) => return,
            "broadcast" => return self.relay(topic, message),
            "presence" => return self.attend(topic, message),
            _ => {
                self.tenant.rates.events.count(1);
                "other"
            }
        };
        metrics::ignored_push(event);
        tracing::debug!(
            socket = self.registration.number(),
            topic,
            event,
            "push without effect"
        );
    }

    fn begin_join(&mut self, message: Message, replaced: Option<Ref>) {
        let Some(topic) = message.topic.as_str().map(Arc::<str>::from) else {
            return;
        };
        if self.topics.len() >= MAX_TOPICS {
            let response = r#"{"reason":"too many channels joined"}"#;
            return self.reply(
                &message.join_ref,
                &message.reference,
                &topic,
                Status::Error,
                response,
            );
        }
        self.last_generation += 1;
        let generation = self.last_generation;
        let gate = self.outbox.gate();
        let reference = if message.join_ref.is_null() {
            message.reference.clone()
        } else {
            message.join_ref.clone()
        };
        let attempt = Attempt {
            tenant: Arc::clone(&self.tenant),
            version: self.version,
            topic: Arc::clone(&topic),
            join_ref: message.join_ref.clone(),
            reference: reference.clone(),
            payload: match message.payload {
                Payload::Json(json) => Some(json),
                Payload::UserBroadcast(_) | Payload::Bytes(_) => None,
            },
            connection: self.credentials.clone(),
            headers: Arc::clone(&self.headers),
            gate: Arc::clone(&gate),
            channels: self.topics.len(),
            is_user: self.registration.is_user(),
        };
        let (abort, registration) = AbortHandle::new_pair();
        let span = tracing::info_span!(
            "join",
            tenant = self.tenant.label(),
            topic = &*topic,
            socket = self.registration.number(),
            code = tracing::field::Empty
        );
        let work = Abortable::new(join(attempt).instrument(span), registration);
        let done_topic = Arc::clone(&topic);
        let work: BoxFuture<'static, Done> = Box::pin(work.map(move |joined| match joined {
            Ok(joined) => Done::Joined {
                topic: done_topic,
                generation,
                joined: Box::new(joined),
            },
            Err(_) => Done::Abandoned,
        }));
        self.work.push(work);
        self.joining += 1;
        let joining = Joining {
            join_ref: message.join_ref,
            reference: message.reference,
            replaced,
            backlog: Vec::new(),
            gate,
            abort,
            begun: Instant::now(),
        };
        self.topics.insert(
            topic,
            Slot {
                generation,
                state: SlotState::Joining(Box::new(joining)),
            },
        );
    }

    /// A newer join of a topic whose join is under way: the older is answered and given up.
    fn supersede(&mut self, message: Message) {
        let Some(topic) = message.topic.as_str() else {
            return;
        };
        let topic: Arc<str> = topic.into();
        let Some(joining) = self.take_joining(&topic) else {
            return;
        };
        joining.abort.abort();
        let refused = Refused {
            code: walcast_protocol::ErrorCode::UnknownErrorOnChannel.as_str(),
            reason: "UnknownErrorOnChannel: a newer join of this topic took the place of this one".to_owned(),
            remedy: "wait for the answer before joining again",
            end: None,
        };
        self.refuse_join(&topic, joining, &refused);
        self.route(message);
    }

    /// Takes a join that is under way out of its topic, which is free then.
    fn take_joining(&mut self, topic: &str) -> Option<Joining> {
        let slot = self.topics.remove(topic)?;
        match slot.state {
            SlotState::Joining(joining) => {
                self.joining -= 1;
                self.full_backlog
                    .take_if(|generation| *generation == slot.generation);
                Some(*joining)
            }
            joined @ SlotState::Joined(_) => {
                self.topics.insert(
                    topic.into(),
                    Slot {
                        generation: slot.generation,
                        state: joined,
                    },
                );
                None
            }
        }
    }

    /// A join is decided.
    pub(crate) fn finish_join(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        joined: Result<Accepted, Refused>,
    ) {
        if self
            .topics
            .get(topic)
            .is_none_or(|slot| slot.generation != generation)
        {
            return;
        }
        let Some(joining) = self.take_joining(topic) else {
            return;
        };
        let took = joining.begun.elapsed();
        self.tenant.metrics.join_seconds.record(took.as_secs_f64());
        self.note_opening(&joined);
        match joined {
            Ok(accepted) => self.accept_join(topic, generation, joining, accepted),
            Err(refused) => self.refuse_join(topic, joining, &refused),
        }
        self.go_on_opening();
    }

    /// Wire order: reply, close of the replaced channel, `system`, `presence_state`, then what the gate held
    /// (`protocol.md 3.5`).
    fn accept_join(&mut self, topic: &Arc<str>, generation: u64, joining: Joining, accepted: Accepted) {
        self.tenant.metrics.joins_ok.increment(1);
        self.tenant.metrics.channels.increment(1.0);
        self.registration.count_user();
        self.without_channel_since = None;
        self.reply(
            &joining.join_ref,
            &joining.reference,
            topic,
            Status::Ok,
            &accepted.response,
        );
        self.close_replaced(topic, joining.replaced);
        let Accepted {
            channel,
            replayed,
            casting,
            awaits_replication,
            ..
        } = accepted;
        for frame in replayed {
            self.push(frame);
        }
        self.wake_by(channel.lease.next_check);
        self.topics.insert(
            Arc::clone(topic),
            Slot {
                generation,
                state: SlotState::Joined(channel),
            },
        );
        if let Some(casting) = casting {
            self.announce_casting(topic, generation, &casting);
            self.forsake(topic, generation);
        }
        if awaits_replication {
            self.await_replication(topic, generation);
        }
        self.introduce(topic, generation);
        joining.gate.open();
        joining
            .backlog
            .into_iter()
            .for_each(|message| self.route(message));
    }

    fn refuse_join(&mut self, topic: &Arc<str>, joining: Joining, refused: &Refused) {
        metrics::join_refused(refused.code);
        joining.gate.shut();
        let response = serde_json::json!({"reason": refused.reason}).to_string();
        self.reply(
            &joining.join_ref,
            &joining.reference,
            topic,
            Status::Error,
            &response,
        );
        self.close_replaced(topic, joining.replaced);
        if let Some(end) = &refused.end {
            self.outbox.end(end.clone());
        }
        self.note_emptiness();
        joining
            .backlog
            .into_iter()
            .for_each(|message| self.route(message));
    }

    fn close_replaced(&mut self, topic: &str, replaced: Option<Ref>) {
        if let Some(join_ref) = replaced {
            self.push(walcast_protocol::close(self.version, &join_ref, topic));
        }
    }

    /// Whether the client's next message can be dealt with; what it sends meanwhile waits in its own buffers.
    pub(crate) fn may_read(&self) -> bool {
        self.full_backlog.is_none() && self.joining < JOINS_UNDER_WAY
    }

    /// `protocol.md 8.3`.
    fn leave(&mut self, message: &Message) {
        let Some(topic) = message.topic.as_str() else {
            return;
        };
        let Some(channel) = self.channel(topic) else {
            return;
        };
        if !channel.join_ref.is_null() && channel.join_ref != message.join_ref {
            tracing::debug!(
                socket = self.registration.number(),
                topic,
                "leave of an older join ignored"
            );
            return;
        }
        let Some(channel) = self.remove(topic) else { return };
        self.reply(&channel.reference, &message.reference, topic, Status::Ok, "{}");
        self.push(walcast_protocol::close(self.version, &channel.join_ref, topic));
        self.note_emptiness();
    }

    /// The joined channel of a topic.
    pub(crate) fn channel(&mut self, topic: &str) -> Option<&mut Channel> {
        match &mut self.topics.get_mut(topic)?.state {
            SlotState::Joined(channel) => Some(channel),
            SlotState::Joining(_) => None,
        }
    }

    /// The joined channel of a topic, if it is still the one of that join.
    pub(crate) fn channel_of(&mut self, topic: &str, generation: u64) -> Option<&mut Channel> {
        self.topics
            .get(topic)
            .filter(|slot| slot.generation == generation)?;
        self.channel(topic)
    }

    /// Takes a joined channel out: its subscription ends, and nothing of it reaches the socket any more.
    pub(crate) fn remove(&mut self, topic: &str) -> Option<Box<Channel>> {
        self.channel(topic)?;
        match self.topics.remove(topic)?.state {
            SlotState::Joined(mut channel) => {
                channel.gate.shut();
                channel.casting = None;
                self.tenant.metrics.channels.decrement(1.0);
                Some(channel)
            }
            SlotState::Joining(_) => None,
        }
    }

    /// Starts the time after which a socket without a channel is closed, if it had one (`protocol.md 1.6`).
    pub(crate) fn note_emptiness(&mut self) {
        if self.topics.is_empty() && self.registration.is_user() && self.without_channel_since.is_none() {
            let now = Instant::now();
            self.without_channel_since = Some(now);
            self.wake_by(now + self.tenant.config.socket.no_channel_timeout);
        }
    }

    /// Channels that are joined.
    pub(crate) fn joined(&self) -> u32 {
        let joined = self
            .topics
            .values()
            .filter(|slot| matches!(slot.state, SlotState::Joined(_)))
            .count();
        u32::try_from(joined).unwrap_or(u32::MAX)
    }

    fn say_unmatched(&mut self, message: &Message) {
        self.push(walcast_protocol::unmatched_topic(
            self.version,
            &message.reference,
            &message.topic,
        ));
    }

    fn reply(&self, join_ref: &Ref, reference: &Ref, topic: &str, status: Status, response: &str) {
        self.push(walcast_protocol::reply(
            self.version,
            join_ref,
            reference,
            topic,
            status,
            response,
        ));
    }

    /// Queues a frame of this socket's own.
    pub(crate) fn push(&self, frame: impl Into<Frame>) {
        self.outbox.push(frame.into());
    }
}
