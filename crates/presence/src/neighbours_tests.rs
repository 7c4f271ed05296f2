//! Several nodes in one process: whoever is on whichever node knows in the end what is, and is told it once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use tokio::runtime::Builder;
use walcast_cluster::{Hub, Vitality};

use super::*;
use crate::merging::{Merging, reference};
use crate::presences::TrackError;
use crate::scene::{Channel, Guest, Scene, TOPIC_BYTES, WINDOW, truth};

const VITALITY: Vitality = Vitality {
    beat: Duration::from_millis(200),
    expiry: Duration::from_millis(1000),
};

/// Long enough for a node to be found dead, to take another name, and for all to be told.
const SETTLED: Duration = Duration::from_secs(5);

/// A node of a hub.
struct Node {
    cluster: Arc<Cluster>,
    scene: Scene,
}

impl Node {
    fn new(hub: &Hub, window: Duration) -> Self {
        let cluster = Arc::new(Cluster::in_memory(hub, VITALITY));
        let neighbours = Neighbours::new(Arc::clone(&cluster), "tenant");
        Self {
            scene: Scene::new(window, Some(neighbours)),
            cluster,
        }
    }

    async fn join(&self, key: &str) -> Guest {
        Guest::join(&self.scene, key).await
    }

    fn put(&self, id: &str, payload: Vec<u8>) {
        let presences = self.cluster.presences();
        presences
            .put("tenant", "public:room", id, payload.into())
            .unwrap();
    }

    /// Presences that nobody reports come and go nowhere.
    fn malformed(&self) -> usize {
        self.scene.counted.malformed.load(Ordering::Relaxed)
    }
}

fn diffs(channel: &Channel) -> Vec<Value> {
    let diffs = channel.diffs();
    diffs
        .iter()
        .map(|diff| serde_json::from_str(diff).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_joiner_is_told_a_state_with_everybody_on_all_nodes() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let mut ada = a.join("ada").await;
    ada.track(1);
    tokio::time::sleep(SETTLED).await;
    let mut ben = b.join("ben").await;
    assert_eq!(
        Merging::from_state(ben.channel.state.as_deref().unwrap()).known(),
        ada.known()
    );
    ben.track(2);
    tokio::time::sleep(SETTLED).await;
    let mut cleo = a.join("cleo").await;
    assert_eq!(
        cleo.channel
            .state
            .as_deref()
            .map(|state| state.matches("phx_ref").count()),
        Some(2)
    );
    assert_eq!((ada.known(), ben.known()), (cleo.known(), cleo.known()));
}

#[tokio::test(start_paused = true)]
async fn an_update_on_another_node_is_one_diff_that_names_the_meta_before() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let (mut ada, ben) = (a.join("ada").await, b.join("ben").await);
    ada.track(1);
    tokio::time::sleep(SETTLED).await;
    ada.track(2);
    tokio::time::sleep(SETTLED).await;
    let told = diffs(&ben.channel);
    let [came, changed] = &told[..] else {
        panic!("{told:?}")
    };
    let (first, second) = (
        &came["joins"]["ada"]["metas"][0],
        &changed["joins"]["ada"]["metas"][0],
    );
    assert_eq!((&first["n"], &second["n"]), (&1.into(), &2.into()));
    assert_eq!(second["phx_ref_prev"], first["phx_ref"]);
    assert_eq!(changed["leaves"], came["joins"]);
    // The one that tracks it sees the same references.
    assert_eq!(diffs(&ada.channel)[1]["joins"]["ada"]["metas"][0], *second);
}

#[tokio::test(start_paused = true)]
async fn changes_of_several_nodes_within_a_window_travel_as_one_diff() {
    let hub = Hub::default();
    let window = Duration::from_millis(500);
    let (a, b, c) = (
        Node::new(&hub, window),
        Node::new(&hub, window),
        Node::new(&hub, window),
    );
    let (mut ada, mut ben, cleo) = (a.join("key").await, b.join("key").await, c.join("cleo").await);
    tokio::time::sleep(SETTLED).await;
    ada.track(1);
    ben.track(2);
    tokio::time::sleep(SETTLED).await;
    let told = diffs(&cleo.channel);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["joins"]["key"]["metas"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_takes_its_members_along_in_one_diff() {
    let hub = Hub::default();
    let (a, b, dying) = (
        Node::new(&hub, WINDOW),
        Node::new(&hub, WINDOW),
        Node::new(&hub, WINDOW),
    );
    let (ada, ben) = (a.join("ada").await, b.join("ben").await);
    let mut lost = Vec::new();
    for key in ["x", "y", "y", "z"] {
        let mut guest = dying.join(key).await;
        guest.track(1);
        lost.push(guest);
    }
    tokio::time::sleep(SETTLED).await;
    hub.cut(dying.cluster.node());
    drop((lost, dying));
    tokio::time::sleep(SETTLED).await;
    for guest in [&ada, &ben] {
        let told = diffs(&guest.channel);
        let ended: Vec<_> = told
            .iter()
            .filter(|diff| diff["leaves"] != serde_json::json!({}))
            .collect();
        assert_eq!(ended.len(), 1, "{told:?}");
        assert_eq!(ended[0]["leaves"].as_object().map(serde_json::Map::len), Some(3));
        assert_eq!(ended[0]["leaves"]["y"]["metas"].as_array().map(Vec::len), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn while_others_cannot_be_heard_they_stay_listed_and_afterwards_only_what_changed_is_told() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let (mut ada, mut ben, mut carl) = (a.join("ada").await, b.join("ben").await, b.join("carl").await);
    for guest in [&mut ada, &mut ben, &mut carl] {
        guest.track(1);
    }
    tokio::time::sleep(SETTLED).await;
    assert_eq!(ada.sees(), ["ada=1", "ben=1", "carl=1"]);
    // For less time than a node is given.
    hub.cut(a.cluster.node());
    ben.track(2);
    ada.track(2);
    let late = tokio::time::timeout(VITALITY.expiry / 2, a.join("late")).await;
    assert_eq!(late.unwrap().sees(), ["ada=1", "ben=1", "carl=1"]);
    tokio::time::sleep(VITALITY.expiry / 2).await;
    assert_eq!(ada.sees(), ["ada=2", "ben=1", "carl=1"]);
    hub.mend(a.cluster.node());
    tokio::time::sleep(SETTLED).await;
    let told = diffs(&ada.channel);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["joins"].as_object().map(serde_json::Map::len), Some(1));
    ada.known.merge(&told[0].to_string());
    assert_eq!((ada.sees(), ben.sees()), (carl.sees(), carl.sees()));
    assert_eq!(ada.sees(), ["ada=2", "ben=2", "carl=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_taken_for_dead_comes_back_with_the_same_references() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let (mut ada, mut ben) = (a.join("ada").await, b.join("ben").await);
    ada.track(1);
    ben.track(1);
    tokio::time::sleep(SETTLED).await;
    let before = ada.known();
    hub.cut(a.cluster.node());
    tokio::time::sleep(SETTLED).await;
    assert_eq!(ben.sees(), ["ben=1"]);
    hub.mend(a.cluster.node());
    tokio::time::sleep(SETTLED).await;
    assert_eq!((ada.known(), ben.known()), (before.clone(), before));
}

#[tokio::test(start_paused = true)]
async fn what_others_track_counts_towards_the_limit_of_a_topic() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let (mut ada, mut ben) = (a.join("ada").await, b.join("ben").await);
    let long = format!(r#"{{"n":"{}"}}"#, "x".repeat(TOPIC_BYTES * 2 / 3));
    ada.channel.presence.track(&long).unwrap();
    tokio::time::sleep(SETTLED).await;
    assert_eq!(ben.channel.presence.track(&long), Err(TrackError::Full));
    drop(ada);
    tokio::time::sleep(SETTLED).await;
    ben.channel.presence.track(&long).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_watched_while_somebody_follows_it_and_forgotten_then() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let mut ada = a.join("ada").await;
    ada.track(1);
    tokio::time::sleep(SETTLED).await;
    let idle = b.cluster.bus().stats().topics;
    for _ in 0..2 {
        let (mut ben, carl) = (b.join("ben").await, b.join("carl").await);
        assert_eq!(ben.sees(), ["ada=1"]);
        assert_eq!(
            (b.cluster.bus().stats().topics, b.scene.presences.topics()),
            (idle + 1, 1)
        );
        drop(ben);
        assert_eq!(b.cluster.bus().stats().topics, idle + 1);
        drop(carl);
        assert_eq!(b.cluster.bus().stats().topics, idle);
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!(b.scene.presences.topics(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_presence_is_counted_and_left_out() {
    let hub = Hub::default();
    let (a, b) = (Node::new(&hub, WINDOW), Node::new(&hub, WINDOW));
    let (mut ada, mut ben) = (a.join("ada").await, b.join("ben").await);
    ada.track(1);
    b.put("odd", b"odd".to_vec());
    b.put("empty", Vec::new());
    tokio::time::sleep(SETTLED).await;
    assert_eq!(a.malformed(), 2);
    b.cluster.presences().remove("tenant", "public:room", "odd");
    tokio::time::sleep(SETTLED).await;
    assert_eq!(
        (ada.sees(), ben.sees(), a.malformed()),
        (ben.sees(), ada.sees(), 2)
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_travel_is_refused() {
    let hub = Hub::default();
    let node = Node::new(&hub, WINDOW);
    let mut ada = node.join("ada").await;
    let long = format!(r#"{{"n":"{}"}}"#, "x".repeat(walcast_cluster::MAX_PRESENCE_BYTES));
    assert_eq!(ada.channel.presence.track(&long), Err(TrackError::TooLong));
    assert!(ada.sees().is_empty());
}

#[derive(Clone, Debug)]
enum Act {
    Join { node: usize, key: u8 },
    Leave(usize),
    Track { guest: usize, n: usize },
    Untrack(usize),
    Cut(usize),
    Mend(usize),
    Kill(usize),
    Wait { ms: u64 },
    Quiet,
}

const NODES: usize = 3;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..NODES, 0..4_u8).prop_map(|(node, key)| Act::Join { node, key }),
        2 => any::<usize>().prop_map(Act::Leave),
        6 => (any::<usize>(), 0..4_usize).prop_map(|(guest, n)| Act::Track { guest, n }),
        2 => any::<usize>().prop_map(Act::Untrack),
        1 => (0..NODES).prop_map(Act::Cut),
        1 => (0..NODES).prop_map(Act::Mend),
        1 => (0..NODES).prop_map(Act::Kill),
        4 => prop_oneof![0..20_u64, 0..3000_u64].prop_map(|ms| Act::Wait { ms }),
        1 => Just(Act::Quiet),
    ];
    prop::collection::vec(act, 0..50)
}

/// Plays a history. Merging panics when something is told twice, or its end is.
async fn play(acts: Vec<Act>, window: Duration) {
    let hub = Hub::default();
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::new(&hub, window)).collect();
    let mut here: Vec<(usize, Guest)> = Vec::new();
    for act in acts.into_iter().chain([Act::Quiet]) {
        match act {
            Act::Join { node, key } => {
                here.push((node, nodes[node].join(&format!("key {key}")).await));
            }
            Act::Leave(guest) if !here.is_empty() => {
                let at = guest % here.len();
                drop(here.swap_remove(at));
            }
            Act::Track { guest, n } if !here.is_empty() => {
                let at = guest % here.len();
                here[at].1.track(n);
            }
            Act::Untrack(guest) if !here.is_empty() => {
                let at = guest % here.len();
                here[at].1.untrack();
            }
            Act::Leave(_) | Act::Track { .. } | Act::Untrack(_) => {}
            Act::Cut(node) => hub.cut(nodes[node].cluster.node()),
            Act::Mend(node) => hub.mend(nodes[node].cluster.node()),
            Act::Kill(node) => {
                // It tells nobody any more.
                hub.cut(nodes[node].cluster.node());
                here.retain(|(on, _)| *on != node);
                nodes[node] = Node::new(&hub, window);
            }
            Act::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Act::Quiet => {
                nodes.iter().for_each(|node| hub.mend(node.cluster.node()));
                tokio::time::sleep(SETTLED).await;
                let truth = truth(here.iter().map(|(_, guest)| guest));
                let mut references = BTreeSet::new();
                for (_, guest) in &mut here {
                    assert_eq!(guest.sees(), truth);
                    let known = guest.known();
                    let metas = known.values().flat_map(|known| &known.metas);
                    references.insert(metas.map(|meta| reference(meta).to_owned()).collect::<Vec<_>>());
                }
                assert!(references.len() <= 1, "{references:?}");
                for node in &nodes {
                    assert_eq!(node.join("late").await.sees(), truth);
                }
            }
        }
    }
    // Nothing is left of a topic that everybody left.
    drop(here);
    tokio::time::sleep(SETTLED).await;
    for node in &nodes {
        assert_eq!(node.scene.presences.topics(), 0);
        let kept = node.cluster.presences().read("tenant", "public:room").await;
        assert_eq!(kept, Ok(Vec::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_to_nodes_every_member_knows_at_a_quiet_moment_what_is(
        acts in acts(),
        has_window in any::<bool>(),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let window = if has_window { WINDOW } else { Duration::ZERO };
        runtime.block_on(play(acts, window));
    }
}
