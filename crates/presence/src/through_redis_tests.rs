//! Nodes that share a real Redis, which goes away, forgets and hangs, and nodes that are killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rand::seq::IndexedRandom as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use walcast_cluster::{Config, RedisConfig, Vitality};
use walcast_testkit::Redis;

use super::*;
use crate::scene::{Guest, Scene, WINDOW, truth};

const VITALITY: Vitality = Vitality {
    beat: Duration::from_millis(200),
    expiry: Duration::from_millis(1000),
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node with threads of its own, which end all at once when it is killed.
struct Node {
    runtime: Option<Runtime>,
    scene: Scene,
    guests: Vec<Guest>,
}

impl Node {
    async fn start(config: &RedisConfig) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = Config {
            redis: Some(config.clone()),
            vitality: VITALITY,
        };
        let started = runtime.spawn(async move {
            let cluster = Arc::new(Cluster::join(&config).await.unwrap());
            Scene::new(WINDOW, Some(Neighbours::new(cluster, "tenant")))
        });
        Self {
            scene: started.await.unwrap(),
            runtime: Some(runtime),
            guests: Vec::new(),
        }
    }

    async fn join(&mut self, key: &str) {
        let guest = Guest::join(&self.scene, key).await;
        self.guests.push(guest);
    }

    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Merging panics when something is told twice, or its end is.
async fn until_all_know(nodes: &mut [Node], after: &str) {
    let truth = truth(nodes.iter().flat_map(|node| &node.guests));
    let end = Instant::now() + PATIENCE;
    loop {
        let mut odd = None;
        for guest in nodes.iter_mut().flat_map(|node| &mut node.guests) {
            let sees = guest.sees();
            if sees != truth {
                odd = Some(sees);
            }
        }
        let Some(odd) = odd else { return };
        assert!(
            Instant::now() < end,
            "after {after}: {odd:?} instead of {truth:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_redis_and_nodes_every_member_knows_afterwards_what_is() {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return;
    }
    let redis = Redis::start(&[]).await;
    let mut config = RedisConfig::from_url(&redis.url()).unwrap();
    config.reply_timeout = Duration::from_millis(500);
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start(&config).await);
    }
    let events = [
        "nothing",
        "a loss of data",
        "a time without Redis",
        "a Redis that hangs",
        "a node that is killed",
        "a loss of data and a node that is killed",
    ];
    let mut random = rand::rng();
    for round in 0..2 * events.len() {
        let event = events[round % events.len()];
        act_at_random(&mut nodes).await;
        match event {
            "a loss of data" => redis.restart().await,
            "a time without Redis" => {
                redis.stop();
                act_at_random(&mut nodes).await;
                tokio::time::sleep(VITALITY.expiry * 2).await;
                redis.restart().await;
            }
            "a Redis that hangs" => {
                redis.hang();
                act_at_random(&mut nodes).await;
                tokio::time::sleep(VITALITY.expiry * 2).await;
                redis.resume();
            }
            "a node that is killed" => nodes.swap_remove(rand::random_range(0..3)).kill(),
            "a loss of data and a node that is killed" => {
                redis.stop();
                nodes.swap_remove(rand::random_range(0..3)).kill();
                redis.restart().await;
            }
            _ => {}
        }
        if nodes.len() < 3 {
            nodes.push(Node::start(&config).await);
        }
        act_at_random(&mut nodes).await;
        until_all_know(&mut nodes, event).await;
        // Whoever comes now is told the same.
        let key = ["late", "key 0"].choose(&mut random).copied().unwrap_or_default();
        for node in &mut nodes {
            node.join(key).await;
        }
        until_all_know(&mut nodes, event).await;
    }
}

async fn act_at_random(nodes: &mut [Node]) {
    for _ in 0..20 {
        let node = &mut nodes[rand::random_range(0..3)];
        let act: u8 = rand::random_range(0..10);
        if node.guests.is_empty() || act < 2 {
            node.join(&format!("key {}", rand::random_range(0..3))).await;
            continue;
        }
        let at = rand::random_range(0..node.guests.len());
        match act {
            2 | 3 => drop(node.guests.swap_remove(at)),
            4 => node.guests[at].untrack(),
            _ => node.guests[at].track(rand::random_range(0..4)),
        }
    }
}
