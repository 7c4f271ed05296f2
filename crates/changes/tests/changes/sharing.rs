//! Nodes that share one slot (decision 27): each with a runtime of its own, so that it can be killed or halted as a
//! process is.

use crate::scene::{Listener, all, service, subscribe, table};
use serde_json::Value;
use sqlx::PgPool;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use walcast_changes::{Changes, Options, Sharing, Status, Tap};
use walcast_cluster::{self as cluster, Bound, Cluster, Hub, RedisConfig, Vitality};
use walcast_replication::{Change, Config, Relation, Slot, StreamOptions};
use walcast_testkit::{Database, Postgres, Redis, until};

/// Within this a failover is over (the lease of five seconds, and what Postgres takes).
const FAILOVER: Duration = Duration::from_secs(10);
const MISSED: &str = "Changes may have been missed";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Redis,
}

enum Between {
    Memory(Hub),
    Redis(Arc<Redis>),
}

/// A database and what its nodes have between them.
struct Fleet {
    database: Database,
    between: Between,
    name: String,
    slot: Slot,
    bound: Option<Bound>,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

impl Fleet {
    /// None, with a word, where there is no Redis.
    async fn new(kind: Kind, setup: &str) -> Option<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let between = match kind {
            Kind::Memory => Between::Memory(Hub::default()),
            Kind::Redis if Redis::program().is_none() => {
                eprintln!("skipped: there is no Redis; run scripts/provide-redis");
                return None;
            }
            Kind::Redis => Between::Redis(Arc::new(Redis::start(&[]).await)),
        };
        let database = Postgres::shared().await.database().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
        database.execute(setup).await;
        Some(Self {
            database,
            between,
            name: format!("test{}:", LAST.fetch_add(1, Ordering::Relaxed)),
            slot: Slot::Temporary,
            bound: None,
        })
    }

    /// With a slot that outlives its connection.
    fn permanent(mut self) -> Self {
        self.slot = Slot::Permanent {
            name: format!("kept_{}", self.database.name().replace('-', "_")),
            resumes: false,
        };
        self
    }

    async fn node(&self) -> Node {
        Node::start(self).await
    }

    /// Waits until so many slots are there.
    async fn slots(&self, count: usize) {
        self.database
            .until(&format!(
                "select count(*) = {count} from pg_replication_slots where database = current_database()"
            ))
            .await;
    }

    /// Ends the session that streams.
    async fn terminate_walsender(&self) {
        self.database
            .execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots
                 where database = current_database()",
            )
            .await;
    }

    async fn insert(&self, ids: impl IntoIterator<Item = i64>) {
        for id in ids {
            self.database
                .execute(&format!("insert into t values ({id})"))
                .await;
        }
    }

    /// Permanent slots must not outlive their database.
    async fn drop_slots(&self) {
        self.database
            .until(
                "select not exists (select from pg_replication_slots where database = current_database() and active)",
            )
            .await;
        self.database
            .execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots
                 where database = current_database()",
            )
            .await;
    }
}

/// The rows that a tap sees, and how often it is told that it may have missed some.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>, AtomicUsize);

impl Seen {
    fn rows(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn interruptions(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

impl Tap for Seen {
    fn wants(&self, relation: &Relation) -> bool {
        relation.name == "tapped"
    }

    fn take(&self, change: &Change) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(format!("{}:{}", change.transaction.commit, change.index));
    }

    fn interrupted(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// A node: an engine, and everything it needs, in a runtime of one thread.
struct Node {
    runtime: Option<Runtime>,
    changes: Changes,
    cancel: CancellationToken,
    tapped: Arc<Seen>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    async fn start(fleet: &Fleet) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = match &fleet.between {
            Between::Memory(_) => cluster::Config::default(),
            Between::Redis(redis) => {
                let mut redis = RedisConfig::from_url(&redis.url()).unwrap();
                redis.prefix.clone_from(&fleet.name);
                cluster::Config {
                    redis: Some(redis),
                    vitality: Vitality::default(),
                }
            }
        };
        let hub = match &fleet.between {
            Between::Memory(hub) => Some(hub.clone()),
            Between::Redis(_) => None,
        };
        let (url, name, slot, bound) = (
            fleet.database.url(),
            fleet.name.clone(),
            fleet.slot.clone(),
            fleet.bound,
        );
        let cancel = CancellationToken::new();
        let (tapped, stop) = (Arc::<Seen>::default(), cancel.clone());
        let tap = Arc::clone(&tapped) as Arc<dyn Tap>;
        let starting = runtime.spawn(async move {
            let cluster = match hub {
                Some(hub) => Cluster::in_memory(&hub, Vitality::default()),
                None => Cluster::join(&config).await.unwrap(),
            };
            let mut sharing = Sharing::new(Arc::new(cluster), name);
            if let Some(bound) = bound {
                sharing.bound = bound;
            }
            let options = Options {
                cluster: Some(sharing),
                tap: Some(tap),
                stream: StreamOptions {
                    slot,
                    backoff_max_ms: 200,
                    ..StreamOptions::default()
                },
                ..Options::default()
            };
            let pool = PgPool::connect(&url).await.unwrap();
            Changes::start(Config::from_url(&url).unwrap(), pool, options, stop)
        });
        let changes = starting.await.unwrap();
        Self {
            runtime: Some(runtime),
            changes,
            cancel,
            tapped,
        }
    }

    async fn listen(&self, entries: Value) -> Listener {
        let changes = self.changes.clone();
        let runtime = self.runtime.as_ref().unwrap();
        let subscribed = runtime.spawn(async move { subscribe(&changes, service(), entries).await });
        subscribed
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn is_holder(&self) -> bool {
        self.changes.sharing_figures().unwrap().is_holder()
    }

    fn is_apart(&self) -> bool {
        self.changes.sharing_figures().unwrap().is_apart()
    }

    /// Nothing of it runs on, and nobody is told: sockets are closed by the system.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Stands still with its connections open, as a process that is stopped, until the returned value is dropped.
    fn halt(&self) -> mpsc::Sender<()> {
        let (going_on, wait) = mpsc::channel::<()>();
        let (halted, is_halted) = mpsc::channel();
        self.runtime.as_ref().unwrap().spawn(async move {
            halted.send(()).unwrap();
            // Ends with an error when the other end is dropped.
            let _ = wait.recv();
        });
        is_halted.recv().unwrap();
        going_on
    }

    /// Ends in good order.
    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(FAILOVER, self.changes.stopped())
            .await
            .unwrap_or_else(|_| panic!("it does not stop"));
    }
}

/// The nodes, the first of which is the holder.
async fn nodes(fleet: &Fleet, count: usize) -> Vec<Node> {
    let first = fleet.node().await;
    until("the first node holds the slot", async || {
        first.is_holder().then_some(())
    })
    .await;
    let mut status = first.changes.status();
    status
        .wait_for(|status| *status == Status::Streaming)
        .await
        .unwrap();
    let mut nodes = vec![first];
    while nodes.len() < count {
        nodes.push(fleet.node().await);
    }
    nodes
}

async fn listeners(nodes: &[Node]) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for node in nodes {
        listeners.push(node.listen(all("t")).await);
    }
    listeners
}

async fn assert_ids(listener: &mut Listener, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        assert_eq!(listener.id().await, id);
    }
}

/// The channel is told that it may have missed something, and that it goes on.
async fn assert_told(listener: &mut Listener) {
    let (status, text) = listener.system().await;
    assert!(status == "error" && text.starts_with(MISSED), "{status} {text}");
    assert_eq!(
        listener.system().await,
        ("ok".to_owned(), "Subscribed to PostgreSQL".to_owned())
    );
}

fn setup() -> String {
    format!(
        "{} {} {}",
        table("t", "id int primary key"),
        table("u", "id int primary key"),
        table("tapped", "id int primary key")
    )
}

async fn one_order_from_one_slot(kind: Kind) {
    let Some(fleet) = Fleet::new(kind, &setup()).await else {
        return;
    };
    let nodes = nodes(&fleet, 3).await;
    let mut listeners = Vec::new();
    for node in &nodes {
        let entries = serde_json::json!([
            { "event": "*", "schema": "public", "table": "t" },
            { "event": "*", "schema": "public", "table": "u" }
        ]);
        listeners.push(node.listen(entries).await);
    }
    // Several sessions at once, so that the order is not that of one.
    let sessions = (0..4).map(|session| {
        let database = &fleet.database;
        async move {
            let client = database.client().await;
            for round in 0..25 {
                let id = session * 100 + round;
                client
                    .batch_execute(&format!(
                        "begin; insert into t values ({id}); insert into u values ({id}); commit;
                         insert into tapped values ({id})"
                    ))
                    .await
                    .unwrap();
            }
        }
    });
    futures_util::future::join_all(sessions).await;
    let mut orders: Vec<Vec<String>> = Vec::new();
    for listener in &mut listeners {
        let mut order = Vec::new();
        for _ in 0..200 {
            let payload = listener.payload().await;
            order.push(payload["position"].as_str().unwrap().to_owned());
        }
        orders.push(order);
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "{kind}");
    let mut once = orders[0].clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 200);
    for node in &nodes {
        until("a tap has seen everything", async || {
            (node.tapped.rows().len() >= 100).then_some(())
        })
        .await;
        assert_eq!(node.tapped.rows(), nodes[0].tapped.rows(), "{kind}");
        assert_eq!(node.tapped.rows().len(), 100, "{kind}");
    }
    // The others came to a stream that ran.
    let interruptions: Vec<usize> = nodes.iter().map(|node| node.tapped.interruptions()).collect();
    assert_eq!(interruptions, [1, 0, 0]);
    fleet.slots(1).await;
    assert_eq!(nodes.iter().filter(|node| node.is_holder()).count(), 1);
    for node in nodes {
        node.stop().await;
    }
    fleet.slots(0).await;
}

#[tokio::test]
async fn every_node_delivers_every_change_once_and_in_one_order_from_one_slot() {
    one_order_from_one_slot(Kind::Memory).await;
}

#[tokio::test]
async fn every_node_delivers_every_change_once_and_in_one_order_from_one_slot_through_redis() {
    one_order_from_one_slot(Kind::Redis).await;
}

async fn killed_holder(kind: Kind) {
    let Some(fleet) = Fleet::new(kind, &setup()).await else {
        return;
    };
    let mut nodes = nodes(&fleet, 3).await;
    let mut listeners = listeners(&nodes[1..]).await;
    fleet.insert([1]).await;
    for listener in &mut listeners {
        assert_ids(listener, [1]).await;
    }
    let killed = Instant::now();
    nodes.remove(0).kill();
    for listener in &mut listeners {
        assert_told(listener).await;
    }
    // From the loss on, and from where it goes on.
    assert!(nodes.iter().all(|node| node.tapped.interruptions() == 2));
    fleet.insert([2]).await;
    for listener in &mut listeners {
        assert_ids(listener, [2]).await;
    }
    assert!(killed.elapsed() < FAILOVER, "{kind}: {:?}", killed.elapsed());
    fleet.slots(1).await;
    assert!(nodes.iter().all(|node| !node.is_apart()));
}

#[tokio::test]
async fn when_the_holder_is_killed_another_takes_over_and_says_that_changes_may_be_missing() {
    killed_holder(Kind::Memory).await;
}

#[tokio::test]
async fn when_the_holder_is_killed_another_takes_over_through_redis() {
    killed_holder(Kind::Redis).await;
}

#[tokio::test]
async fn a_holder_that_stops_in_good_order_is_replaced_at_once() {
    let fleet = Fleet::new(Kind::Memory, &setup()).await.unwrap();
    let mut nodes = nodes(&fleet, 2).await;
    let mut listener = nodes[1].listen(all("t")).await;
    let stopped = Instant::now();
    nodes.remove(0).stop().await;
    assert_told(&mut listener).await;
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "{:?}",
        stopped.elapsed()
    );
    fleet.insert([1]).await;
    assert_ids(&mut listener, [1]).await;
}

async fn halted_holder(kind: Kind) {
    let Some(fleet) = Fleet::new(kind, &setup()).await else {
        return;
    };
    let nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes).await;
    let halted = Instant::now();
    let still = nodes[0].halt();
    assert_told(&mut listeners[1]).await;
    fleet.insert([1, 2]).await;
    assert_ids(&mut listeners[1], [1, 2]).await;
    assert!(halted.elapsed() < FAILOVER, "{kind}: {:?}", halted.elapsed());
    // Its session was ended, and with it its slot.
    fleet.slots(1).await;
    drop(still);
    until("it knows that it is not the holder", async || {
        (!nodes[0].is_holder()).then_some(())
    })
    .await;
    fleet.insert([3]).await;
    assert_ids(&mut listeners[1], [3]).await;
    assert_told(&mut listeners[0]).await;
    assert_ids(&mut listeners[0], [1, 2, 3]).await;
    fleet.slots(1).await;
    assert!(nodes[1].is_holder());
}

#[tokio::test]
async fn a_holder_that_stands_still_is_replaced_and_writes_nothing_when_it_wakes() {
    halted_holder(Kind::Memory).await;
}

#[tokio::test]
async fn a_holder_that_stands_still_is_replaced_and_writes_nothing_when_it_wakes_through_redis() {
    halted_holder(Kind::Redis).await;
}

async fn nothing_lost(kind: Kind) {
    let Some(fleet) = Fleet::new(kind, &setup()).await else {
        return;
    };
    let fleet = fleet.permanent();
    let mut nodes = nodes(&fleet, 3).await;
    let mut listeners = listeners(&nodes[1..]).await;
    let committing = async { fleet.insert(1..=400).await };
    let failing = async {
        fleet.database.until("select count(*) >= 100 from t").await;
        fleet.terminate_walsender().await;
        fleet.database.until("select count(*) >= 200 from t").await;
        nodes.remove(0).kill();
    };
    tokio::join!(committing, failing);
    fleet.insert(401..=450).await;
    for listener in &mut listeners {
        assert_ids(listener, 1..=450).await;
    }
    fleet.slots(1).await;
    for node in nodes {
        node.stop().await;
    }
    fleet.slots(1).await;
    fleet.drop_slots().await;
}

#[tokio::test]
async fn with_a_permanent_slot_nothing_is_lost_when_a_connection_breaks_and_the_holder_dies() {
    nothing_lost(Kind::Memory).await;
}

#[tokio::test]
async fn with_a_permanent_slot_nothing_is_lost_through_redis() {
    nothing_lost(Kind::Redis).await;
}

#[tokio::test]
async fn a_node_that_came_late_tells_nothing_of_before_when_another_resumes_the_slot() {
    let fleet = Fleet::new(Kind::Memory, &setup()).await.unwrap().permanent();
    let mut nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes[1..]).await;
    // Postgres is told only now and then that the slot may forget what was appended.
    fleet.insert(1..=5).await;
    assert_ids(&mut listeners[0], 1..=5).await;
    nodes.push(fleet.node().await);
    let mut late = nodes[2].listen(all("t")).await;
    nodes.remove(0).kill();
    fleet.insert([6]).await;
    assert_ids(&mut listeners[0], [6]).await;
    assert_ids(&mut late, [6]).await;
    for node in nodes {
        node.stop().await;
    }
    fleet.drop_slots().await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_on_every_node() {
    let fleet = Fleet::new(Kind::Memory, &setup()).await.unwrap();
    let nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes).await;
    fleet.terminate_walsender().await;
    for listener in &mut listeners {
        assert_told(listener).await;
    }
    fleet.insert([1]).await;
    for listener in &mut listeners {
        assert_ids(listener, [1]).await;
    }
    fleet.slots(1).await;
}

#[tokio::test]
async fn without_redis_each_node_goes_on_by_itself_and_comes_back() {
    let Some(fleet) = Fleet::new(Kind::Redis, &setup()).await else {
        return;
    };
    let Between::Redis(redis) = &fleet.between else {
        panic!("no Redis");
    };
    let nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes).await;
    fleet.insert([1]).await;
    for listener in &mut listeners {
        assert_ids(listener, [1]).await;
    }
    redis.stop();
    for (listener, node) in listeners.iter_mut().zip(&nodes) {
        assert_told(listener).await;
        assert!(node.is_apart());
    }
    fleet.slots(2).await;
    fleet.insert([2]).await;
    for listener in &mut listeners {
        assert_ids(listener, [2]).await;
    }
    redis.restart().await;
    for (listener, node) in listeners.iter_mut().zip(&nodes) {
        assert_told(listener).await;
        assert!(!node.is_apart());
    }
    fleet.slots(1).await;
    fleet.insert([3]).await;
    for listener in &mut listeners {
        assert_ids(listener, [3]).await;
    }
}

#[tokio::test]
async fn a_node_that_falls_too_far_behind_tells_its_channels_alone() {
    let mut fleet = Fleet::new(Kind::Memory, &setup()).await.unwrap();
    fleet.bound = Some(Bound {
        entries: 5,
        bytes: 1024 * 1024,
    });
    let nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes).await;
    let still = nodes[1].halt();
    // Each is read before the next is made, so that each is appended by itself.
    for id in 1..=20 {
        fleet.insert([id]).await;
        assert_ids(&mut listeners[0], [id]).await;
    }
    drop(still);
    assert_told(&mut listeners[1]).await;
    fleet.insert([21]).await;
    assert_ids(&mut listeners[0], [21]).await;
    // What is kept of the rest comes, in order.
    let mut last = 0;
    while last < 21 {
        let id = listeners[1].id().await;
        assert!(id > last, "{id} after {last}");
        last = id;
    }
}

#[tokio::test]
async fn a_large_transaction_travels_in_pieces_and_arrives_whole() {
    const ROWS: i64 = 20_000;
    const PIECE_BYTES: u64 = 300 * 1024;
    let Some(fleet) = Fleet::new(Kind::Redis, &table("t", "id int primary key, body text")).await else {
        return;
    };
    let nodes = nodes(&fleet, 2).await;
    let mut listeners = listeners(&nodes).await;
    fleet
        .database
        .execute(&format!(
            "insert into t select id, repeat('x', 100) from generate_series(1, {ROWS}) id"
        ))
        .await;
    for listener in &mut listeners {
        assert_ids(listener, 1..=ROWS).await;
    }
    let (parcels, bytes) = nodes[0].changes.sharing_figures().unwrap().appended();
    assert!(
        bytes > 2_000_000 && bytes / parcels < PIECE_BYTES,
        "{bytes} bytes in {parcels} pieces"
    );
}

#[tokio::test]
async fn a_node_that_joins_late_streams_and_every_node_tells_its_lag() {
    let fleet = Fleet::new(Kind::Memory, &setup()).await.unwrap();
    let mut nodes = nodes(&fleet, 1).await;
    fleet.insert([1]).await;
    nodes.push(fleet.node().await);
    let mut late = nodes[1].listen(all("t")).await;
    assert_eq!(*nodes[1].changes.status().borrow(), Status::Streaming);
    fleet.insert([2]).await;
    assert_ids(&mut late, [2]).await;
    for node in &nodes {
        let lag = node.changes.sharing_figures().unwrap().lag().unwrap();
        assert!(lag < Duration::from_secs(5), "{lag:?}");
    }
    let still = nodes[1].halt();
    until("the lag of a node that stands still grows", async || {
        let lag = nodes[1].changes.sharing_figures().unwrap().lag().unwrap();
        (lag > Duration::from_secs(3)).then_some(())
    })
    .await;
    drop(still);
}
