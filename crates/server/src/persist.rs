//! Broadcasts that are stored so that they can be replayed (`protocol.md 15.2`).
//!
//! A stored message comes back as a row of the replication stream, on every node, and reaches its members from there
//! alone; here it is only remembered which member sent it and does not want its own.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::sync::Arc;
use walcast_broadcast::Speaker;
use walcast_messages::{Body, Keep, NewMessage, PersistError};
use walcast_protocol::{Encoding, Ref, Status, UserBroadcastPush};

use crate::join::sub_topic;
use crate::metrics;
use crate::route::Done;
use crate::shutdown::within;
use crate::socket::Socket;
use crate::tenant::Tenant;

/// A stored message that does not come back within this time is one that was never committed.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Stored messages under way that their sender shall not hear.
#[derive(Default)]
pub struct Withheld(DashMap<Box<str>, (Speaker, Instant)>);

impl Withheld {
    fn withhold(&self, id: &str, from: Speaker) {
        self.0.retain(|_, (_, since)| since.elapsed() < REMEMBERED_FOR);
        self.0.insert(id.into(), (from, Instant::now()));
    }

    /// Who shall not hear a message that is to come back.
    pub fn of(&self, id: &str) -> Option<Speaker> {
        self.0.get(id).map(|entry| entry.value().0.clone())
    }

    /// Who shall not hear the message that came back.
    pub fn take(&self, id: &str) -> Option<Speaker> {
        self.0.remove(id).map(|(_, (speaker, _))| speaker)
    }
}

/// What kind 3's metadata, as a client writes it, asks for.
#[derive(Deserialize)]
struct Metadata {
    persist: Option<Persist>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Persist {
    Wish(bool),
    Lifetime { ttl: u64 },
}

/// How long a push asks to be kept; none if it does not ask, or in a way that means nothing.
pub(crate) fn wish(push: &UserBroadcastPush) -> Option<Keep> {
    if push.metadata.is_empty() {
        return None;
    }
    match serde_json::from_str::<Metadata>(&push.metadata).ok()?.persist? {
        Persist::Wish(true) => Some(Keep::Retention),
        Persist::Wish(false) => None,
        Persist::Lifetime { ttl } => Some(Keep::AtMost(Duration::from_secs(ttl))),
    }
}

/// Stores a message that then reaches its members through the stream; within the time a join may take.
pub(crate) async fn store(tenant: &Tenant, message: NewMessage<'_>) -> Result<(), PersistError> {
    let storing = async {
        // What is committed while the stream is down never comes back to the members.
        tenant.streaming().await;
        tenant.prepared_archive().await.persist(message).await
    };
    within(tenant.config.join.timeout, Box::pin(storing))
        .await
        .unwrap_or_else(|| {
            Err(PersistError::Unavailable(
                "the stream of changes does not run".to_owned(),
            ))
        })
}

impl Socket {
    /// Stores a broadcast of a private channel; the answer comes when that is done.
    pub(crate) fn persist(&mut self, topic: &str, reference: &Ref, push: &UserBroadcastPush, keep: Keep) {
        let Some((topic, slot)) = self.topics.get_key_value(topic) else {
            return;
        };
        let (topic, generation) = (Arc::clone(topic), slot.generation);
        let tenant = Arc::clone(&self.tenant);
        let Some(channel) = self.channel(&topic) else {
            return;
        };
        let body = match push.encoding {
            Encoding::Binary => Body::Binary(push.payload.as_ref().into()),
            Encoding::Json => Body::Json(String::from_utf8_lossy(&push.payload).as_ref().into()),
        };
        let event = push.event.clone();
        let id = uuid::Uuid::new_v4().to_string();
        let sender = (!channel.relay.own).then(|| channel.relay.membership.speaker());
        let reference = reference.clone();
        let work: BoxFuture<'static, Done> = Box::pin(async move {
            if let Some(sender) = sender {
                tenant.withheld.withhold(&id, sender);
            }
            let message = NewMessage {
                id: &id,
                topic: sub_topic(&topic),
                event: &event,
                body: &body,
                keep,
            };
            let stored = store(&tenant, message).await;
            Done::Stored {
                topic,
                generation,
                reference,
                stored,
            }
        });
        self.work.push(work);
    }

    /// A broadcast is stored, or is not.
    pub(crate) fn finish_persist(
        &mut self,
        topic: &str,
        generation: u64,
        reference: &Ref,
        stored: Result<(), PersistError>,
    ) {
        if let Err(error) = &stored {
            tracing::warn!(code = "UnableToPersistBroadcast", topic, cause = %error, "a broadcast was not stored");
            metrics::broadcast_refused("UnableToPersistBroadcast");
        }
        let Some(channel) = self
            .channel_of(topic, generation)
            .filter(|channel| channel.relay.ack)
        else {
            return;
        };
        let join_ref = channel.reference.clone();
        match stored {
            Ok(()) => self.acknowledge(&join_ref, reference, topic, Status::Ok, "{}"),
            Err(error) => {
                let response = serde_json::json!({"error": error.told()}).to_string();
                self.acknowledge(&join_ref, reference, topic, Status::Error, &response);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_true_or_a_lifetime_in_seconds() {
        let cases = [
            ("", None),
            ("{}", None),
            (r#"{"persist":true}"#, Some(Keep::Retention)),
            (r#"{"persist":false}"#, None),
            (
                r#"{"persist":{"ttl":60},"x":1}"#,
                Some(Keep::AtMost(Duration::from_secs(60))),
            ),
            (r#"{"persist":{"ttl":-1}}"#, None),
            (r#"{"persist":"yes"}"#, None),
            ("[1]", None),
        ];
        for (metadata, expected) in cases {
            let push = UserBroadcastPush {
                event: "e".to_owned(),
                metadata: metadata.to_owned(),
                encoding: Encoding::Json,
                payload: b"{}".to_vec().into(),
            };
            assert_eq!(wish(&push), expected, "{metadata}");
        }
    }
}
