//! Publish and subscribe by topic.

use crate::error::ClusterError;
use crate::interest::Interest;
use crate::node::NodeId;
use crate::recent::{Keep, Recent};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// A publication of another node.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// What it was published under.
    pub topic: &'a str,
    /// Who published it.
    pub origin: NodeId,
    /// What was published.
    pub payload: &'a Bytes,
    /// Its number among those of the topic that are kept, if it is.
    pub number: Option<u64>,
}

/// Hears the publications of other nodes.
///
/// It is called on the task that reads from Redis, one message after the other, and must not block. While it works
/// nothing more is read, so that what is too much waits in Redis and not in this process.
pub trait Listener: Send + Sync {
    /// Takes one publication.
    fn hear(&self, received: Received<'_>);
}

impl<Hear: Fn(Received<'_>) + Send + Sync> Listener for Hear {
    fn hear(&self, received: Received<'_>) {
        self(received);
    }
}

/// Why a publication was not taken. The other nodes' clients do not get it: tell the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More waits to be sent than may.
    #[error("too much waits to be sent to other nodes; send less, or give Redis more capacity")]
    Full,
    /// There is no connection to the others.
    #[error("the connection to the other nodes is lost; it is being restored")]
    Lost,
    /// It was to be kept, and cannot be. Who asks for what is kept of such a topic is told so.
    #[error("nothing can be kept of a topic of this name; leave the brace out that closes nothing")]
    Unkept,
    /// Longer than [`crate::MAX_PAYLOAD_BYTES`].
    #[error("{bytes} bytes are above the limit of 16 MiB on what is sent to other nodes; send less at once")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// What happens to the connection between the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is there, for the first time.
    Connected,
    /// It broke: nothing is published, and what others publish is missed.
    Lost {
        /// Why, as far as is known.
        reason: String,
    },
    /// It is there again, and all topics are subscribed to.
    Resubscribed {
        /// Publications of this long may have been missed.
        gap: Duration,
    },
}

/// Publish and subscribe by topic, between the nodes of a cluster.
///
/// A publication reaches each other node that subscribes to its topic once at most, and never the node it comes from.
/// What one node publishes to one topic arrives in order. Nothing is kept: who subscribes later, or is disconnected
/// meanwhile, misses it; the latter is told by [`Event::Resubscribed`].
pub trait Bus: Send + Sync {
    /// This node.
    fn node(&self) -> NodeId;

    /// Hands a publication over, without waiting for anything. Whether others are there to hear it is not known.
    ///
    /// # Errors
    /// It was not taken, and nobody gets it.
    fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), PublishError>;

    /// As [`Bus::publish`], but it is also kept for those who ask for it later, and the node it comes from hears it, too,
    /// if it subscribes to the topic: with its number. Not to be called by a [`Listener`]. If it is refused, or lost on its way, a new
    /// epoch begins ([`Recent::epoch`]).
    ///
    /// # Errors
    /// As there.
    fn publish_kept(&self, topic: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError>;

    /// As [`Bus::publish_kept`], of something that several nodes publish, each as it learns of it: once for each `id` of the
    /// topic, for as long as it is kept and a minute at least. What another node has published before is taken and
    /// goes nowhere. The publisher hears it like all others, if it comes from here.
    ///
    /// # Errors
    /// As there, and [`PublishError::Unkept`].
    fn publish_once(&self, topic: &str, id: &str, payload: &[u8], keep: Keep) -> Result<(), PublishError>;

    /// Begins a new epoch ([`Recent::epoch`]): something that should have been kept was missed by all nodes, perhaps.
    fn lose_kept(&self);

    /// The number of the last publication to a topic that was kept, and those after a number, if one is given; those of
    /// this node are among them.
    ///
    /// # Errors
    /// Redis is away or refuses, or something was lost and that is not known to all yet.
    fn recent<'a>(
        &'a self,
        topic: &'a str,
        after: Option<u64>,
    ) -> BoxFuture<'a, Result<Recent, ClusterError>>;

    /// Hears what others publish to a topic, until the returned value is dropped.
    fn subscribe(&self, topic: &str, listener: Arc<dyn Listener>) -> Subscription;

    /// Whether publications travel at the moment.
    fn is_connected(&self) -> bool;

    /// What happens to the connection from now on.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// What was counted so far.
    fn stats(&self) -> BusStats;
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BusStats {
    /// Publications handed to Redis.
    pub published: u64,
    /// Publications that were taken, but of which it is not known whether they arrived: the connection broke, or they
    /// had waited too long for it.
    pub lost: u64,
    /// Publications of others that were heard.
    pub received: u64,
    /// What arrived and is no publication of a node.
    pub malformed: u64,
    /// Topics subscribed to, now.
    pub topics: u64,
    /// How long the last publications that Redis confirmed were on their way to it.
    pub lag: Duration,
}

/// A topic that is listened to.
#[derive(Debug)]
#[must_use = "what is not held is unsubscribed"]
pub struct Subscription {
    interest: Arc<Interest>,
    topic: Arc<str>,
    id: u64,
}

impl Subscription {
    pub(crate) fn new(interest: Arc<Interest>, topic: Arc<str>, id: u64) -> Self {
        Self { interest, topic, id }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns when the subscription is in force: what others publish from now on is heard. While the connection is
    /// lost that takes as long as it does; the caller may stop waiting at any time.
    pub async fn ready(&self) {
        self.interest.confirmed(&self.topic).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.interest.leave(&self.topic, self.id);
    }
}
