//! Nodes that share.

use redis::aio::MultiplexedConnection;
use redis::{Client, Value};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc};
use walcast_cluster::{Cluster, Config, Hub, Listener, NodeId, Received, RedisConfig, Vitality};
use walcast_testkit::{Redis, until};

/// Short, so that a test sees a node die.
pub(crate) const VITALITY: Vitality = Vitality {
    beat: Duration::from_millis(200),
    expiry: Duration::from_millis(1000),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Redis,
    RedisCluster,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::RedisCluster => "redis_cluster",
        })
    }
}

pub(crate) enum Fleet {
    Memory(Hub),
    Redis(RedisConfig, Option<Arc<Redis>>),
}

impl Fleet {
    pub(crate) async fn start(kind: Kind) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let (url, redis, is_cluster) = match kind {
            Kind::Memory => return Self::Memory(Hub::default()),
            Kind::Redis => {
                let redis = Redis::start(&[]).await;
                (redis.url(), Some(Arc::new(redis)), false)
            }
            Kind::RedisCluster => (redis_cluster().await, None, true),
        };
        let mut config = RedisConfig::from_url(&url).unwrap();
        config.prefix = format!("test{}:", LAST.fetch_add(1, Ordering::Relaxed));
        config.is_cluster = is_cluster;
        Self::Redis(config, redis)
    }

    /// Another node.
    pub(crate) async fn node(&self) -> Cluster {
        match self {
            Self::Memory(hub) => Cluster::in_memory(hub, VITALITY),
            Self::Redis(config, _) => join(config).await,
        }
    }

    /// Asks the single Redis of the fleet.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        match self {
            Self::Redis(_, Some(redis)) => Some(ask(redis, command).await),
            _ => None,
        }
    }
}

pub(crate) async fn join(config: &RedisConfig) -> Cluster {
    let config = Config {
        redis: Some(config.clone()),
        vitality: VITALITY,
    };
    Cluster::join(&config).await.unwrap()
}

async fn connection(redis: &Redis) -> MultiplexedConnection {
    let client = Client::open(format!("unix://{}", redis.socket().display())).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Asks a Redis, over its socket.
pub(crate) async fn ask<T: redis::FromRedisValue>(redis: &Redis, command: &[&str]) -> T {
    let mut connection = connection(redis).await;
    let mut asked = redis::cmd(command[0]);
    for argument in &command[1..] {
        asked.arg(argument);
    }
    asked.query_async(&mut connection).await.unwrap()
}

/// A Redis cluster for the whole run. Returns the URL of one of its masters.
async fn redis_cluster() -> String {
    static MASTERS: OnceCell<Vec<Redis>> = OnceCell::const_new();
    MASTERS.get_or_init(masters).await[1].url()
}

/// Three masters that share the slots.
pub(crate) async fn masters() -> Vec<Redis> {
    let settings = [("cluster-enabled", "yes"), ("cluster-node-timeout", "2000")];
    let mut masters = Vec::new();
    for range in [["0", "5460"], ["5461", "10922"], ["10923", "16383"]] {
        let master = Redis::start(&settings).await;
        let mut slots = redis::cmd("CLUSTER");
        let [first, last] = range.map(|slot| slot.parse::<u16>().unwrap());
        slots.arg("ADDSLOTS");
        for slot in first..=last {
            slots.arg(slot);
        }
        let _: Value = slots.query_async(&mut connection(&master).await).await.unwrap();
        masters.push(master);
    }
    let port = masters[0].port().to_string();
    for master in &masters[1..] {
        let _: Value = ask(master, &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
    }
    are_one(&masters).await;
    masters
}

/// Waits until the masters of a Redis cluster agree that they are one.
pub(crate) async fn are_one(masters: &[Redis]) {
    for master in masters {
        until("a Redis cluster", || async {
            let info: String = ask(master, &["CLUSTER", "INFO"]).await;
            (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
        })
        .await;
    }
}

/// What a node has heard.
pub(crate) struct Heard {
    pub(crate) messages: mpsc::UnboundedReceiver<(String, NodeId, Vec<u8>)>,
}

/// Something that hears.
pub(crate) fn ear() -> (Arc<dyn Listener>, Heard) {
    let (tell, messages) = mpsc::unbounded_channel();
    let tell = Mutex::new(tell);
    let listener = move |received: Received<'_>| {
        let message = (
            received.topic.to_owned(),
            received.origin,
            received.payload.to_vec(),
        );
        tell.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message)
            .ok();
    };
    (Arc::new(listener), Heard { messages })
}

impl Heard {
    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, NodeId, Vec<u8>) {
        soon("a message", self.messages.recv()).await.unwrap()
    }
}

/// What must happen soon.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), happens)
        .await
        .unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}
