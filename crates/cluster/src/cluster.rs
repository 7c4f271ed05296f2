//! A node's place among the others.

use crate::bus::Bus;
use crate::config::{Config, RedisConfig, Vitality};
use crate::counts::Counts;
use crate::lease::Leases;
use crate::memory::{Line, MemoryBus, MemoryLeases, MemoryShelf, MemoryStreams, Rack, Wire};
use crate::node::NodeId;
use crate::presence::Presences;
use crate::presence::shelf::Shelf;
use crate::redis::bus::RedisBus;
use crate::redis::dial::{ConnectError, Dial};
use crate::redis::health::Health;
use crate::redis::keys::Keys;
use crate::redis::lease::RedisLeases;
use crate::redis::link::Link;
use crate::redis::shelf::RedisShelf;
use crate::redis::stream::RedisStreams;
use crate::stream::Streams;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How often a node tells the others its counts.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);

/// The nodes of one process. For tests of several nodes without Redis.
#[derive(Clone, Default)]
pub struct Hub {
    wire: Arc<Wire>,
    leases: Arc<MemoryLeases>,
    streams: Arc<MemoryStreams>,
    rack: Arc<Rack>,
    lines: Arc<Mutex<HashMap<NodeId, Weak<Line>>>>,
}

impl Hub {
    /// Cuts a node off from the others, as a network does: it neither hears nor tells anything, and its presences
    /// cannot be written or renewed. Leases and streams go on.
    pub fn cut(&self, node: NodeId) {
        if let Some(line) = self.line(node) {
            line.cut();
        }
    }

    /// Lets a node that was cut off hear and tell again. What was published meanwhile it has missed.
    pub fn mend(&self, node: NodeId) {
        if let Some(line) = self.line(node) {
            line.mend();
        }
    }

    fn line(&self, node: NodeId) -> Option<Arc<Line>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(&node)?.upgrade()
    }

    fn add_line(&self, node: NodeId) -> Arc<Line> {
        let line = Arc::<Line>::default();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.strong_count() > 0);
        lines.insert(node, Arc::downgrade(&line));
        line
    }
}

/// What a node shares with the others.
pub struct Cluster {
    node: NodeId,
    bus: Arc<dyn Bus>,
    leases: Leases,
    streams: Arc<dyn Streams>,
    presences: Presences,
    counts: Counts,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Takes its place: through Redis if one is configured, else alone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Redis cannot be reached now, refuses the login, or cannot be used as it is. Once this has returned, a Redis that
    /// goes away is waited for.
    pub async fn join(config: &Config) -> Result<Self, ConnectError> {
        match &config.redis {
            Some(redis) => {
                let dial = Dial::new(redis)?;
                dial.probe().await?;
                Ok(Self::through_redis(redis, dial, true, config.vitality).await)
            }
            None => Ok(Self::in_memory(&Hub::default(), config.vitality)),
        }
    }

    /// As [`Self::join`], but a Redis that cannot be reached is waited for, as one that goes away later is:
    /// [`Bus::is_connected`] tells. It takes no longer than two answers of Redis may.
    ///
    /// # Errors
    /// What waiting does not cure: Redis refuses the login, or cannot be used as it is.
    pub async fn join_when_there(config: &Config) -> Result<Self, ConnectError> {
        let Some(redis) = &config.redis else {
            return Ok(Self::in_memory(&Hub::default(), config.vitality));
        };
        let dial = Dial::new(redis)?;
        let is_there = match dial.probe().await {
            Ok(_) => true,
            Err(error @ ConnectError::Unreachable { .. }) => {
                tracing::warn!(%error, "out of touch with the other nodes; Redis is tried again until it answers");
                false
            }
            Err(error) => return Err(error),
        };
        Ok(Self::through_redis(redis, dial, is_there, config.vitality).await)
    }

    /// A node among those of a process.
    #[must_use]
    pub fn in_memory(hub: &Hub, vitality: Vitality) -> Self {
        let node = NodeId::random();
        let leases: Arc<MemoryLeases> = Arc::clone(&hub.leases);
        let line = hub.add_line(node);
        let shelf = Arc::new(MemoryShelf::new(Arc::clone(&hub.rack), Arc::clone(&line)));
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::join(Arc::clone(&hub.wire), node, line));
        Self {
            node,
            presences: Presences::start(Arc::clone(&bus), shelf, vitality),
            counts: Counts::start(Arc::clone(&bus), COUNT_INTERVAL),
            bus,
            leases: Leases::new(leases),
            streams: Arc::<MemoryStreams>::clone(&hub.streams),
        }
    }

    /// With a Redis that was found fit, or is looked at when it is there.
    async fn through_redis(config: &RedisConfig, dial: Dial, is_probed: bool, vitality: Vitality) -> Self {
        let node = NodeId::random();
        let keys = Keys::new(config);
        let health = Arc::new(Health::new());
        let link = Arc::new(Link::start(dial.clone(), is_probed, Arc::clone(&health)));
        let mut events = health.events();
        let leases = RedisLeases::new(Arc::clone(&link), keys.clone());
        let streams = RedisStreams::new(Arc::clone(&link), dial.clone(), keys.clone());
        let shelf: Arc<dyn Shelf> = Arc::new(RedisShelf::new(Arc::clone(&link), keys.clone()));
        let bus = RedisBus::start(node, dial, keys, link, health);
        if is_probed {
            // The first event is that of being connected. A Redis that went away since is not waited for here.
            let connected = async { while !bus.is_connected() && events.recv().await.is_ok() {} };
            _ = tokio::time::timeout(config.reply_timeout, connected).await;
        }
        let bus: Arc<dyn Bus> = Arc::new(bus);
        Self {
            node,
            presences: Presences::start(Arc::clone(&bus), shelf, vitality),
            counts: Counts::start(Arc::clone(&bus), COUNT_INTERVAL),
            bus,
            leases: Leases::new(Arc::new(leases)),
            streams: Arc::new(streams),
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Publish and subscribe.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// What only one node may do at a time.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What one node writes and others read in order.
    #[must_use]
    pub fn streams(&self) -> &Arc<dyn Streams> {
        &self.streams
    }

    /// Who is present where.
    #[must_use]
    pub fn presences(&self) -> &Presences {
        &self.presences
    }

    /// What limits over all nodes count.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}
