//! Presences across nodes.

use crate::fleet::{Fleet, VITALITY, ask, join, soon};
use crate::{Case, cases};
use redis::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use walcast_cluster::{Cluster, ClusterError, Diff, MAX_PRESENCE_BYTES, RedisConfig, Watch};
use walcast_testkit::{Redis, until};

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        who_watches_sees_those_that_are_there_come_and_go_on_other_nodes,
        a_second_watcher_begins_with_all_that_are_there,
        tenants_and_topics_are_kept_apart,
        a_crowd_is_read_whole,
        a_node_that_dies_takes_its_presences_with_it_once,
        a_node_that_leaves_takes_its_presences_with_it_at_once,
        a_payload_above_the_limit_is_refused,
    ]
}

pub(crate) fn of_redis() -> Vec<Case<()>> {
    cases![
        a_redis_that_lost_its_data_is_filled_again_and_nobody_leaves,
        a_redis_that_hangs_longer_than_a_node_may_kills_nobody,
        a_node_that_was_taken_for_dead_puts_its_presences_again,
        presences_that_changed_while_redis_was_away_are_told_afterwards,
        what_is_no_presence_is_counted_and_skipped,
    ]
}

/// What a watcher was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Diff>>>);

impl Told {
    /// Joins and leaves so far, in order, with their ids and payloads.
    fn all(&self) -> Vec<String> {
        let diffs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        diffs
            .iter()
            .flat_map(|diff| {
                let text = |sign: &str, presence: &walcast_cluster::Presence| {
                    format!(
                        "{sign}{}={}",
                        presence.id,
                        String::from_utf8_lossy(&presence.payload)
                    )
                };
                let leaves = diff.leaves.iter().map(move |presence| text("-", presence));
                leaves
                    .chain(diff.joins.iter().map(move |presence| text("+", presence)))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    async fn are(&self, expected: &[&str]) {
        let is_told = async {
            while self.all() != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(20), is_told).await;
        assert!(told.is_ok(), "told {:?} instead of {expected:?}", self.all());
    }
}

async fn watch(node: &Cluster, topic: &str) -> (Watch, Told) {
    let told = Told::default();
    let tell = told.clone();
    let watch = node.presences().watch(
        "tenant",
        topic,
        Arc::new(move |diff: &Diff| {
            tell.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(diff.clone());
        }),
    );
    soon("a view", watch.ready()).await;
    (watch, told)
}

fn put(node: &Cluster, id: &str, payload: &str) {
    let payload = payload.to_owned().into();
    node.presences().put("tenant", "room", id, payload).unwrap();
}

fn present(watch: &Watch) -> BTreeSet<String> {
    watch
        .present()
        .iter()
        .map(|presence| presence.id.to_string())
        .collect()
}

/// Waits until so many are kept.
async fn are_kept(node: &Cluster, count: usize) {
    until(&format!("{count} presences"), || async {
        let found = node.presences().read("tenant", "room").await.ok()?;
        (found.len() == count).then_some(())
    })
    .await;
}

async fn who_watches_sees_those_that_are_there_come_and_go_on_other_nodes(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    put(&a, "early", "0");
    put(&b, "own", "unseen");
    are_kept(&a, 2).await;
    let (watch, told) = watch(&b, "room").await;
    told.are(&["+early=0"]).await;
    put(&a, "late", "1");
    told.are(&["+early=0", "+late=1"]).await;
    put(&a, "late", "2");
    told.are(&["+early=0", "+late=1", "-late=1", "+late=2"]).await;
    assert!(a.presences().remove("tenant", "room", "early"));
    assert!(!a.presences().remove("tenant", "room", "early"));
    told.are(&["+early=0", "+late=1", "-late=1", "+late=2", "-early=0"])
        .await;
    assert_eq!(present(&watch), ["late".to_owned()].into());
    assert_eq!(watch.present()[0].owner, a.node());
    are_kept(&b, 2).await;
}

async fn a_second_watcher_begins_with_all_that_are_there(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (first, told) = watch(&b, "room").await;
    put(&a, "x", "1");
    told.are(&["+x=1"]).await;
    let (_second, told) = watch(&b, "room").await;
    assert_eq!(told.all(), ["+x=1"]);
    drop(first);
    put(&a, "y", "2");
    told.are(&["+x=1", "+y=2"]).await;
}

async fn tenants_and_topics_are_kept_apart(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let places = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("", "}{"), ("a", "")];
    for (tenant, topic) in places {
        let id = format!("{tenant}/{topic}");
        a.presences().put(tenant, topic, &id, "".into()).unwrap();
    }
    for (tenant, topic) in places {
        let found = until("a presence", || async {
            let found = b.presences().read(tenant, topic).await.unwrap();
            (!found.is_empty()).then_some(found)
        })
        .await;
        let ids: Vec<_> = found.iter().map(|presence| presence.id.to_string()).collect();
        assert_eq!(ids, [format!("{tenant}/{topic}")]);
    }
}

async fn a_crowd_is_read_whole(fleet: Fleet) {
    const CROWD: usize = 3000;
    let (a, b) = (fleet.node().await, fleet.node().await);
    for number in 0..CROWD {
        put(&a, &number.to_string(), &"x".repeat(number % 300));
    }
    are_kept(&b, CROWD).await;
    let (view, told) = watch(&b, "room").await;
    let everybody: BTreeSet<String> = (0..CROWD).map(|number| number.to_string()).collect();
    assert_eq!(present(&view), everybody);
    // And it is told once, whatever was told by news meanwhile.
    assert_eq!(told.all().len(), CROWD);
}

async fn a_node_that_dies_takes_its_presences_with_it_once(fleet: Fleet) {
    let (a, b, c, dying) = (
        fleet.node().await,
        fleet.node().await,
        fleet.node().await,
        fleet.node().await,
    );
    put(&a, "stays", "0");
    put(&dying, "goes", "1");
    are_kept(&a, 2).await;
    let (_b_watch, b_told) = watch(&b, "room").await;
    let (_c_watch, c_told) = watch(&c, "room").await;
    // It just ends, as a process that is killed.
    drop(dying);
    for told in [&b_told, &c_told] {
        until("a leave", || async {
            told.all().contains(&"-goes=1".to_owned()).then_some(())
        })
        .await;
    }
    are_kept(&a, 1).await;
    // Nothing else happens in the time in which it could be found dead again.
    tokio::time::sleep(VITALITY.expiry * 2).await;
    for told in [b_told, c_told] {
        let all = told.all();
        assert_eq!(
            all.iter().filter(|told| told.starts_with('-')).count(),
            1,
            "{all:?}"
        );
        assert_eq!(
            all.iter().filter(|told| told.starts_with('+')).count(),
            2,
            "{all:?}"
        );
    }
}

async fn a_node_that_leaves_takes_its_presences_with_it_at_once(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (_watch, told) = watch(&b, "room").await;
    put(&a, "x", "1");
    told.are(&["+x=1"]).await;
    a.presences().leave().await;
    are_kept(&b, 0).await;
    told.are(&["+x=1", "-x=1"]).await;
}

async fn a_payload_above_the_limit_is_refused(fleet: Fleet) {
    let node = fleet.node().await;
    let long = vec![0; MAX_PRESENCE_BYTES + 1].into();
    let refused = node.presences().put("tenant", "room", "x", long);
    assert!(matches!(refused, Err(ClusterError::TooLong { .. })));
    let refused = node
        .presences()
        .put("tenant", "room", &"x".repeat(1025), "".into());
    assert!(matches!(refused, Err(ClusterError::TooLong { .. })));
}

fn config(redis: &Redis) -> RedisConfig {
    let mut config = RedisConfig::from_url(&redis.url()).unwrap();
    config.reply_timeout = Duration::from_millis(500);
    config
}

async fn a_redis_that_lost_its_data_is_filled_again_and_nobody_leaves((): ()) {
    let redis = Redis::start(&[]).await;
    let (a, b) = (join(&config(&redis)).await, join(&config(&redis)).await);
    put(&a, "a", "1");
    put(&b, "b", "2");
    are_kept(&a, 2).await;
    let (_a_watch, a_told) = watch(&a, "room").await;
    let (_b_watch, b_told) = watch(&b, "room").await;
    redis.restart().await;
    are_kept(&a, 2).await;
    let newcomer = join(&config(&redis)).await;
    let (seen, _) = watch(&newcomer, "room").await;
    assert_eq!(present(&seen), ["a".to_owned(), "b".to_owned()].into());
    tokio::time::sleep(VITALITY.expiry * 2).await;
    assert_eq!(
        (a_told.all(), b_told.all()),
        (vec!["+b=2".to_owned()], vec!["+a=1".to_owned()])
    );
}

async fn a_redis_that_hangs_longer_than_a_node_may_kills_nobody((): ()) {
    let redis = Redis::start(&[]).await;
    let (a, b) = (join(&config(&redis)).await, join(&config(&redis)).await);
    put(&a, "a", "1");
    let (_watch, told) = watch(&b, "room").await;
    told.are(&["+a=1"]).await;
    redis.hang();
    tokio::time::sleep(VITALITY.expiry * 3).await;
    redis.resume();
    put(&a, "later", "2");
    told.are(&["+a=1", "+later=2"]).await;
    tokio::time::sleep(VITALITY.expiry * 2).await;
    assert_eq!(told.all(), ["+a=1", "+later=2"]);
}

async fn a_node_that_was_taken_for_dead_puts_its_presences_again((): ()) {
    let redis = Redis::start(&[]).await;
    let (a, b) = (join(&config(&redis)).await, join(&config(&redis)).await);
    put(&a, "a", "1");
    let (seen, told) = watch(&b, "room").await;
    told.are(&["+a=1"]).await;
    // As if it had been halted for too long.
    let name = a.node().to_string();
    let _: Value = ask(
        &redis,
        &[
            "EVAL",
            "redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('HSET', KEYS[2], ARGV[1], '0')",
            "2",
            "walcast:{nodes}:alive",
            "walcast:{nodes}:dead",
            &name,
        ],
    )
    .await;
    told.are(&["+a=1", "-a=1", "+a=1"]).await;
    are_kept(&b, 1).await;
    assert_ne!(seen.present()[0].owner, a.node());
    // Under its new name it is as alive as ever.
    put(&a, "more", "2");
    told.are(&["+a=1", "-a=1", "+a=1", "+more=2"]).await;
    tokio::time::sleep(VITALITY.expiry * 2).await;
    assert_eq!(told.all().len(), 4, "{:?}", told.all());
}

async fn presences_that_changed_while_redis_was_away_are_told_afterwards((): ()) {
    let redis = Redis::start(&[]).await;
    let (a, b) = (join(&config(&redis)).await, join(&config(&redis)).await);
    put(&a, "goes", "1");
    let (seen, told) = watch(&b, "room").await;
    told.are(&["+goes=1"]).await;
    redis.stop();
    until("the loss to be noticed", || async {
        (!a.bus().is_connected()).then_some(())
    })
    .await;
    a.presences().remove("tenant", "room", "goes");
    put(&a, "comes", "2");
    redis.restart().await;
    until("the change", || async {
        (present(&seen) == ["comes".to_owned()].into()).then_some(())
    })
    .await;
}

async fn what_is_no_presence_is_counted_and_skipped((): ()) {
    let redis = Redis::start(&[]).await;
    let (a, b) = (join(&config(&redis)).await, join(&config(&redis)).await);
    put(&a, "fine", "1");
    are_kept(&b, 1).await;
    let field = format!("{}:odd", a.node());
    let _: Value = ask(
        &redis,
        &["HSET", "walcast:presence:{tenant:room}", &field, "short"],
    )
    .await;
    let (_watch, told) = watch(&b, "room").await;
    told.are(&["+fine=1"]).await;
    assert!(b.presences().malformed() >= 1);
    let before = b.presences().malformed();
    a.bus().publish("~presence:tenant:room", b"odd").unwrap();
    until("the count", || async {
        (b.presences().malformed() > before).then_some(())
    })
    .await;
    put(&a, "next", "2");
    told.are(&["+fine=1", "+next=2"]).await;
}
