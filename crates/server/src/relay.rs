//! A client's broadcast on its way to the room (`protocol.md 5.1` to `5.3`).

use walcast_broadcast::{Body, Membership, Message as Broadcast, PayloadCost, Stamp, payload_cost};
use walcast_cluster::PublishError;
use walcast_protocol::{Encoding, ErrorCode, Message, Payload, Ref, Status, UserBroadcastPush, Version};

use crate::crossing::Crossing;
use crate::metrics;
use crate::persist;
use crate::private::Leave;
use crate::socket::Socket;

/// What a channel's broadcasts need to know.
pub struct Relay {
    /// Its place in the room.
    pub membership: Membership,
    /// Its part in hearing the room from other nodes, if there are any.
    pub crossing: Option<Crossing>,
    /// Whether it wants an answer to each broadcast.
    pub ack: bool,
    /// Whether it hears its own broadcasts.
    pub own: bool,
}

/// Why a broadcast is not relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unrelayed {
    /// The reference's word for it, as clients know it.
    #[error("payload_size_exceeded")]
    TooLarge,
    #[error("payload_not_json")]
    NotJson,
    /// A text broadcast that members on 2.0.0 cannot be given (`protocol.md 2.4`).
    #[error("payload_not_an_object")]
    NotAnObject,
    /// The framework's binary push, which no client of 2.0.0 can be given.
    #[error("binary_push_not_supported")]
    BinaryPush,
    #[error("payload_not_framed")]
    Unframeable,
    /// Only private channels have stored messages (`protocol.md 15.2`).
    #[error("not_storable")]
    NotStorable,
}

impl Socket {
    /// Handles a `broadcast` push on a joined channel.
    pub(crate) fn relay(&mut self, topic: &str, message: &Message) {
        match self.may_broadcast(topic, message) {
            Leave::Granted => {}
            Leave::Asked => return,
            // Without a reply, even with `ack` (`protocol.md 5.3`).
            Leave::Denied => return metrics::broadcast_refused(ErrorCode::Unauthorized.as_str()),
        }
        let limit_bytes = self.tenant.settings().limits.max_payload_bytes;
        let Some(channel) = self.channel(topic) else {
            return;
        };
        let ack = channel.relay.ack;
        let wish = match &message.payload {
            Payload::UserBroadcast(push) => persist::wish(push).map(|keep| (push, keep)),
            Payload::Json(_) | Payload::Bytes(_) => None,
        };
        let relayed = match wish {
            None => channel.relay.send(&message.payload, limit_bytes),
            Some((push, keep)) => match channel.relay.check_storable(push, limit_bytes) {
                Ok(()) => return self.persist(topic, &message.reference, push, keep),
                Err(unstorable) => Err(unstorable),
            },
        };
        let join_ref = channel.reference.clone();
        match relayed {
            Ok(Relayed { receivers, published }) => {
                self.tenant.note_broadcast(receivers);
                if ack {
                    let (status, response) = match published {
                        Ok(()) => (Status::Ok, "{}"),
                        Err(_) => (Status::Error, UNPUBLISHED),
                    };
                    self.acknowledge(&join_ref, &message.reference, topic, status, response);
                }
            }
            Err(unrelayed) => {
                metrics::broadcast_refused(&unrelayed.to_string());
                tracing::debug!(
                    socket = self.registration.number(),
                    topic,
                    cause = %unrelayed,
                    "broadcast not relayed"
                );
                if ack {
                    let response = match unrelayed {
                        Unrelayed::NotStorable => {
                            r#"{"error":"only broadcasts of private channels can be stored"}"#.to_owned()
                        }
                        unrelayed => format!("\"{unrelayed}\""),
                    };
                    self.acknowledge(&join_ref, &message.reference, topic, Status::Error, &response);
                }
            }
        }
    }

    /// Through the channel's own way, so that an echo comes before it (`protocol.md 5.3`).
    pub(crate) fn acknowledge(
        &self,
        join_ref: &Ref,
        reference: &Ref,
        topic: &str,
        status: Status,
        response: &str,
    ) {
        self.push(walcast_protocol::reply(
            self.version,
            join_ref,
            reference,
            topic,
            status,
            response,
        ));
    }
}

/// What became of a broadcast.
struct Relayed {
    /// Members on this node that got it.
    receivers: usize,
    /// Whether it is on its way to the others.
    published: Result<(), PublishError>,
}

/// The answer if members here got it, and those on other nodes will not.
const UNPUBLISHED: &str = r#""other_nodes_not_reached""#;

impl Relay {
    fn send(&self, payload: &Payload, limit_bytes: usize) -> Result<Relayed, Unrelayed> {
        match payload {
            Payload::Json(json) => self.send_text(json.get(), limit_bytes),
            Payload::UserBroadcast(push) => self.send_event(push, limit_bytes),
            Payload::Bytes(_) => Err(Unrelayed::BinaryPush),
        }
    }

    fn send_text(&self, payload: &str, limit_bytes: usize) -> Result<Relayed, Unrelayed> {
        if !matches!(payload_cost(payload, limit_bytes), Ok(PayloadCost::Fits)) {
            return Err(Unrelayed::TooLarge);
        }
        if !payload.starts_with('{') && self.is_heard_by(Version::V2) {
            return Err(Unrelayed::NotAnObject);
        }
        self.cast(&Broadcast::Verbatim { payload })
    }

    fn send_event(&self, push: &UserBroadcastPush, limit_bytes: usize) -> Result<Relayed, Unrelayed> {
        let body = body(push, limit_bytes)?;
        self.cast(&Broadcast::Event {
            event: &push.event,
            body,
            id: None,
        })
    }

    /// Whether a broadcast may be stored instead of relayed at once.
    fn check_storable(&self, push: &UserBroadcastPush, limit_bytes: usize) -> Result<(), Unrelayed> {
        if !self.membership.room().is_private {
            return Err(Unrelayed::NotStorable);
        }
        body(push, limit_bytes).map(|_| ())
    }

    fn is_heard_by(&self, version: Version) -> bool {
        self.membership.is_heard_by(version, self.own)
    }

    fn cast(&self, message: &Broadcast<'_>) -> Result<Relayed, Unrelayed> {
        let publish = |stamp: Option<Stamp<'_>>| match &self.crossing {
            Some(crossing) => crossing.publish(message, stamp),
            None => Ok(()),
        };
        let (receivers, published) = self
            .membership
            .cast_out(message, self.own, publish)
            .map_err(|_| Unrelayed::Unframeable)?;
        Ok(Relayed { receivers, published })
    }
}

/// What a push carries, if it can be passed on.
fn body(push: &UserBroadcastPush, limit_bytes: usize) -> Result<Body<'_>, Unrelayed> {
    /// What the reference adds for each (`protocol.md 5.5`).
    const EVENT_OVERHEAD_BYTES: usize = 26;
    if push.event.len() + push.payload.len() + EVENT_OVERHEAD_BYTES > limit_bytes {
        return Err(Unrelayed::TooLarge);
    }
    match push.encoding {
        Encoding::Binary => Ok(Body::Binary(&push.payload)),
        Encoding::Json => json_text(&push.payload).map(Body::Json).ok_or(Unrelayed::NotJson),
    }
}

/// The bytes as JSON text. Members embed it in frames of theirs, so it is looked through, though not read.
fn json_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(text)
}
