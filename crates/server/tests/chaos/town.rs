//! Nodes, Redis and Postgres, and what the weather does to them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use walcast_testkit::{Database, Postgres, Redis};

use crate::log::Log;
use crate::member::Members;
use crate::node::Node;
use crate::weather::{Fault, Gust, NODES, Weather};
use crate::writer::Sent;

/// `plain` is for everybody; whose rows of `own` are whose a node can decide, of `club` only Postgres.
const TABLES: &str = "
    create table public.plain (id int primary key, n bigint not null);
    create table public.own (id bigserial primary key, owner uuid not null, n bigint not null);
    create table public.club (id bigserial primary key, owner uuid not null, n bigint not null);
    create table public.clubs (owner uuid primary key, member uuid not null);
    alter table public.own enable row level security;
    alter table public.club enable row level security;
    create policy own on public.own for select to authenticated using (owner = (select auth.uid()));
    create policy club on public.club for select to authenticated using (
      exists (select from public.clubs c where c.owner = club.owner and c.member = (select auth.uid())));
    grant select on public.plain, public.own, public.club, public.clubs to authenticated;
    alter publication supabase_realtime add table public.plain, public.own, public.club;";

/// The tables that are listened to.
pub(crate) const HEARD: [&str; 3] = ["plain", "own", "club"];

/// The two users; each sees rows of its own.
pub(crate) const USERS: [&str; 2] = [
    "11111111-1111-4111-8111-111111111111",
    "22222222-2222-4222-8222-222222222222",
];

pub(crate) struct Town {
    pub(crate) log: Log,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sent: Sent,
    redis: Redis,
    postgres: Postgres,
    pub(crate) database: Database,
}

impl Town {
    pub(crate) async fn build(weather: &Weather) -> Arc<Self> {
        let postgres = Postgres::start(Postgres::options()).await;
        let database = postgres.database().await;
        let redis = Redis::start(&[]).await;
        let slot = if weather.is_slot_permanent {
            "permanent"
        } else {
            "temporary"
        };
        let settings = [
            ("DATABASE_URL", database.url()),
            ("REDIS_URL", redis.url()),
            ("WALCAST_SLOT", slot.to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        let nodes = (0..NODES).map(|n| Node::new(format!("node-{n}"), settings.to_vec()));
        let town = Arc::new(Self {
            log: Log::new(),
            nodes: nodes.collect(),
            sent: Sent::default(),
            redis,
            postgres,
            database,
        });
        town.log.note(format!("the slot is {slot}"));
        for node in &town.nodes {
            node.start(&town.log.folder);
        }
        town.is_ready().await;
        town.database.execute(TABLES).await;
        for user in USERS {
            let member = format!("insert into public.clubs values ('{user}', '{user}')");
            town.database.execute(&member).await;
        }
        let weighed = Arc::downgrade(&town);
        tokio::spawn(async move {
            while let Some(town) = weighed.upgrade() {
                town.nodes.iter().for_each(Node::weigh);
                drop(town);
                sleep(Duration::from_millis(250)).await;
            }
        });
        town
    }

    /// Waits until each node is ready.
    pub(crate) async fn is_ready(&self) {
        for node in &self.nodes {
            while node.health().await.as_deref() != Some("ready") {
                assert_eq!(node.ended(), None);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Returns when the last fault is over.
    pub(crate) async fn weather_through(self: &Arc<Self>, weather: &Weather, members: &Members) {
        let start = Instant::now();
        let mut faults = JoinSet::new();
        for gust in &weather.gusts {
            sleep_until(start + gust.at).await;
            self.log.note(gust.to_string());
            if gust.fault == Fault::ClientsLost {
                members.lose_some();
                continue;
            }
            let (town, gust) = (Arc::clone(self), *gust);
            faults.spawn(async move { Box::pin(town.suffer(gust)).await });
        }
        while let Some(ended) = faults.join_next().await {
            ended.unwrap();
        }
    }

    async fn suffer(&self, gust: Gust) {
        match gust.fault {
            Fault::NodeKilled(at) => {
                if let Some(ended) = self.nodes[at].ended() {
                    self.log.complain(ended);
                }
                self.nodes[at].kill().await;
                sleep(gust.lasts).await;
                self.nodes[at].start(&self.log.folder);
            }
            Fault::NodeHung(at) => {
                self.nodes[at].halt();
                sleep(gust.lasts).await;
                self.nodes[at].resume();
            }
            Fault::RedisKilled => {
                self.redis.stop();
                sleep(gust.lasts).await;
                self.redis.restart().await;
            }
            Fault::RedisStopped => {
                self.ask_redis("SHUTDOWN NOSAVE");
                sleep(gust.lasts).await;
                self.redis.restart().await;
            }
            Fault::RedisHung => {
                self.redis.hang();
                sleep(gust.lasts).await;
                self.redis.resume();
            }
            Fault::RedisDroppedListeners => self.ask_redis("CLIENT KILL TYPE pubsub SKIPME yes"),
            Fault::RedisDroppedPublishers => self.ask_redis("CLIENT KILL TYPE normal SKIPME yes"),
            Fault::PostgresRestarted => {
                self.postgres.stop().await;
                sleep(gust.lasts).await;
                self.postgres.restart().await;
            }
            Fault::PostgresCrashed => {
                self.postgres.kill().await;
                sleep(gust.lasts).await;
                self.postgres.restart().await;
            }
            Fault::WalsenderEnded => {
                let end = "select pg_terminate_backend(pid) from pg_stat_replication";
                self.database.execute(end).await;
            }
            Fault::ClientsLost => {}
        }
        self.log.note(format!("{:?} is over", gust.fault));
    }

    fn ask_redis(&self, command: &str) {
        let mut stream = UnixStream::connect(self.redis.socket()).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        // A Redis that shuts down says nothing.
        let _ = stream.read(&mut [0; 64]).unwrap();
    }

    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.nodes.iter().map(Node::peak_bytes).max().unwrap_or(0)
    }
}
