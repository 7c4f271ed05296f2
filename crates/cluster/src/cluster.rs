//! A node's place among the others.

use crate::bus::Bus;
use crate::config::{Config, RedisConfig, Vitality};
use crate::counts::Counts;
use crate::lease::Leases;
use crate::memory::{MemoryBus, MemoryLeases, MemoryShelf, MemoryStreams, Wire};
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
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How often a node tells the others its counts.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The nodes of one process. For tests of several nodes without Redis.
#[derive(Clone, Default)]
pub struct Hub {
    wire: Arc<Wire>,
    leases: Arc<MemoryLeases>,
    streams: Arc<MemoryStreams>,
    shelf: Arc<MemoryShelf>,
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
            Some(redis) => Self::through_redis(redis, config.vitality).await,
            None => Ok(Self::in_memory(&Hub::default(), config.vitality)),
        }
    }

    /// A node among those of a process.
    #[must_use]
    pub fn in_memory(hub: &Hub, vitality: Vitality) -> Self {
        let node = NodeId::random();
        let leases: Arc<MemoryLeases> = Arc::clone(&hub.leases);
        let shelf: Arc<MemoryShelf> = Arc::clone(&hub.shelf);
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::join(Arc::clone(&hub.wire), node));
        Self {
            node,
            presences: Presences::start(Arc::clone(&bus), shelf, vitality),
            counts: Counts::start(Arc::clone(&bus), COUNT_INTERVAL),
            bus,
            leases: Leases::new(leases),
            streams: Arc::<MemoryStreams>::clone(&hub.streams),
        }
    }

    async fn through_redis(config: &RedisConfig, vitality: Vitality) -> Result<Self, ConnectError> {
        let node = NodeId::random();
        let dial = Dial::new(config)?;
        dial.probe().await?;
        let keys = Keys::new(config);
        let health = Arc::new(Health::new());
        let link = Arc::new(Link::start(dial.clone(), Arc::clone(&health)));
        let mut events = health.events();
        let leases = RedisLeases::new(Arc::clone(&link), keys.clone());
        let streams = RedisStreams::new(Arc::clone(&link), dial.clone(), keys.clone());
        let shelf: Arc<dyn Shelf> = Arc::new(RedisShelf::new(Arc::clone(&link), keys.clone()));
        let bus = RedisBus::start(node, dial, keys, link, health);
        // The first event is that of being connected; a Redis that went away meanwhile is waited for.
        while !bus.is_connected() && events.recv().await.is_ok() {}
        let bus: Arc<dyn Bus> = Arc::new(bus);
        Ok(Self {
            node,
            presences: Presences::start(Arc::clone(&bus), shelf, vitality),
            counts: Counts::start(Arc::clone(&bus), COUNT_INTERVAL),
            bus,
            leases: Leases::new(Arc::new(leases)),
            streams: Arc::new(streams),
        })
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
