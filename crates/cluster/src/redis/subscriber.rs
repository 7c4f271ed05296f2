//! The connection that publications of other nodes arrive on.

use crate::envelope;
use crate::interest::Interest;
use crate::node::NodeId;
use crate::redis::backoff::Backoff;
use crate::redis::dial::{Connection, Dial, Pushed, is_broken};
use crate::redis::health::{Health, Line};
use crate::redis::keys::Keys;
use crate::redis::link::PING_INTERVAL;
use bytes::Bytes;
use futures_util::stream::{self, TryStreamExt};
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{PushInfo, PushKind, RedisError, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Channels in one command, or commands under way at once.
const AT_ONCE: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: AtomicU64,
    pub(crate) malformed: AtomicU64,
}

/// Keeps the subscriptions that this node's interest asks for.
pub(crate) struct Subscriber {
    keeper: AbortHandle,
    counts: Arc<Counts>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Subscriber {
    pub(crate) fn start(
        dial: Dial,
        node: NodeId,
        keys: Keys,
        interest: Arc<Interest>,
        health: Arc<Health>,
    ) -> Self {
        let counts = Arc::<Counts>::default();
        let keeper = Keeper {
            dial,
            node,
            keys,
            interest,
            health,
            counts: Arc::clone(&counts),
        };
        let keeper = tokio::spawn(async move { keeper.keep().await }).abort_handle();
        Self { keeper, counts }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

struct Keeper {
    dial: Dial,
    node: NodeId,
    keys: Keys,
    interest: Arc<Interest>,
    health: Arc<Health>,
    counts: Arc<Counts>,
}

impl Keeper {
    async fn keep(&self) {
        let mut backoff = Backoff::new();
        let mut served = Instant::now();
        loop {
            let gone = Arc::new(Notify::new());
            let serving = async {
                let connection = self
                    .dial
                    .connect(Some(self.pushed(&gone)), Duration::ZERO)
                    .await?;
                let everything = self.interest.start_over();
                self.subscribe(&connection, &everything).await?;
                backoff.reset();
                self.health.up(Line::Subscriptions);
                self.serve(connection, &gone, &mut served).await
            };
            let ended: Result<(), RedisError> = serving.await;
            let reason = match ended {
                Ok(()) => "the connection was closed".to_owned(),
                Err(error) => {
                    if !is_broken(&error) {
                        tracing::warn!(%error, "Redis refuses subscriptions; see the rights of the configured user");
                    }
                    error.to_string()
                }
            };
            self.health.down(Line::Subscriptions, served, &reason);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Follows the interest until the connection ends.
    async fn serve(
        &self,
        connection: Connection,
        gone: &Notify,
        served: &mut Instant,
    ) -> Result<(), RedisError> {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = gone.notified() => return Ok(()),
                _ = ping.tick() => {
                    // A connection that ends meanwhile answers nothing.
                    tokio::select! {
                        () = gone.notified() => return Ok(()),
                        answer = ask_all(&connection) => answer?,
                    }
                    *served = Instant::now();
                }
                () = self.interest.changed() => {}
            }
            // First what to give up: who comes back to such a topic is found among the wanted.
            self.unsubscribe(&connection, &self.interest.take_idle()).await?;
            self.subscribe(&connection, &self.interest.take_wanted()).await?;
        }
    }

    async fn subscribe(&self, connection: &Connection, topics: &[Arc<str>]) -> Result<(), RedisError> {
        match connection {
            Connection::Single(connection) => {
                for some in topics.chunks(AT_ONCE) {
                    connection.clone().subscribe(self.channels(some)).await?;
                    self.interest.confirm(some);
                }
                Ok(())
            }
            // Channels of several slots cannot be in one command.
            Connection::Cluster(connection) => {
                stream::iter(topics.iter().map(Ok))
                    .try_for_each_concurrent(AT_ONCE, |topic| {
                        let mut connection = connection.clone();
                        async move {
                            connection.ssubscribe(self.keys.channel(topic)).await?;
                            self.interest.confirm(std::slice::from_ref(topic));
                            Ok(())
                        }
                    })
                    .await
            }
        }
    }

    async fn unsubscribe(&self, connection: &Connection, topics: &[Arc<str>]) -> Result<(), RedisError> {
        match connection {
            Connection::Single(connection) => {
                for some in topics.chunks(AT_ONCE) {
                    connection.clone().unsubscribe(self.channels(some)).await?;
                }
                Ok(())
            }
            Connection::Cluster(connection) => {
                stream::iter(topics.iter().map(Ok))
                    .try_for_each_concurrent(AT_ONCE, |topic| {
                        let mut connection = connection.clone();
                        async move { connection.sunsubscribe(self.keys.channel(topic)).await }
                    })
                    .await
            }
        }
    }

    fn channels(&self, topics: &[Arc<str>]) -> Vec<String> {
        topics.iter().map(|topic| self.keys.channel(topic)).collect()
    }

    /// Takes what arrives on a connection.
    fn pushed(&self, gone: &Arc<Notify>) -> Pushed {
        let gone = Arc::clone(gone);
        let (node, keys) = (self.node, self.keys.clone());
        let (interest, counts) = (Arc::clone(&self.interest), Arc::clone(&self.counts));
        Arc::new(move |PushInfo { kind, data }: PushInfo| match kind {
            PushKind::Message | PushKind::SMessage => {
                let opened = publication(data).and_then(|(channel, sealed)| {
                    let topic = keys.topic(&channel).ok_or(NoPublication::Channel)?;
                    let (number, sealed) = envelope::unnumber(sealed)?;
                    let (origin, payload) = envelope::open(&sealed)?;
                    if (origin != node || number.is_some())
                        && interest.deliver(topic, origin, &payload, number)
                    {
                        counts.received.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                });
                if let Err(error) = opened {
                    // The first is worth a line; a flood of them is not worth a flood of lines.
                    if counts.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::warn!(%error, "what arrived on a channel is no publication of a node");
                    }
                }
            }
            PushKind::Disconnection => gone.notify_one(),
            // Redis ends a subscription by itself when its slot moves to another Redis.
            PushKind::SUnsubscribe => {
                let is_ours = channel_of(&data)
                    .is_some_and(|channel| keys.topic(&channel).is_some_and(|topic| interest.has(topic)));
                if is_ours {
                    gone.notify_one();
                }
            }
            _ => {}
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum NoPublication {
    #[error("a push message without channel and payload")]
    Shape,
    #[error("a message on a channel that was not subscribed to")]
    Channel,
    #[error(transparent)]
    Envelope(#[from] envelope::EnvelopeError),
}

fn publication(data: Vec<Value>) -> Result<(String, Bytes), NoPublication> {
    let mut parts = data.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Value::BulkString(channel)), Some(Value::BulkString(sealed)), None) => {
            let channel = String::from_utf8(channel).map_err(|_| NoPublication::Channel)?;
            Ok((channel, sealed.into()))
        }
        _ => Err(NoPublication::Shape),
    }
}

fn channel_of(data: &[Value]) -> Option<String> {
    match data.first() {
        Some(Value::BulkString(channel)) => String::from_utf8(channel.clone()).ok(),
        _ => None,
    }
}

/// Asks all Redis there are whether they live.
async fn ask_all(connection: &Connection) -> Result<(), RedisError> {
    let ping = redis::cmd("PING");
    match connection {
        Connection::Single(connection) => ping.exec_async(&mut connection.clone()).await,
        Connection::Cluster(connection) => {
            let everywhere = RoutingInfo::MultiNode((
                MultipleNodeRoutingInfo::AllMasters,
                Some(ResponsePolicy::AllSucceeded),
            ));
            connection.clone().route_command(ping, everywhere).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(bytes: &[u8]) -> Value {
        Value::BulkString(bytes.to_vec())
    }

    #[test]
    fn only_a_channel_and_a_payload_are_a_publication() {
        let found = publication(vec![bulk(b"channel"), bulk(b"payload")]).unwrap();
        assert_eq!(found, ("channel".to_owned(), Bytes::from_static(b"payload")));
        for data in [
            vec![],
            vec![bulk(b"channel")],
            vec![bulk(b"channel"), Value::Int(1)],
            vec![bulk(b"\xff"), bulk(b"payload")],
            vec![bulk(b"a"), bulk(b"b"), bulk(b"c")],
        ] {
            assert!(publication(data.clone()).is_err(), "{data:?}");
        }
    }
}
