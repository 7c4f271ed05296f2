//! Leases.

use crate::fleet::{Fleet, ask, join, soon};
use crate::{Case, cases};
use redis::Value;
use std::time::{Duration, Instant};
use walcast_cluster::{Attempt, Lease, Leases, RedisConfig};
use walcast_testkit::Redis;

const TTL: Duration = Duration::from_millis(600);

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        one_node_holds_a_lease_and_the_others_are_told_for_how_long,
        a_lease_is_renewed_as_long_as_it_is_held,
        a_lease_that_is_released_or_dropped_is_free_at_once,
        tokens_grow_from_holder_to_holder,
        leases_of_other_names_are_independent,
        who_waits_gets_it_when_it_is_free,
    ]
}

pub(crate) fn of_redis() -> Vec<Case<()>> {
    cases![
        a_holder_out_of_touch_knows_of_its_loss_before_another_can_hold_it,
        a_lease_that_redis_has_forgotten_is_lost_and_tokens_grow_all_the_same,
    ]
}

async fn acquire(leases: &Leases, name: &str) -> Lease {
    match leases.acquire(name, TTL).await.unwrap() {
        Attempt::Acquired(lease) => lease,
        Attempt::Taken { expires_in } => panic!("{name} is taken for {expires_in:?}"),
    }
}

async fn is_taken(leases: &Leases, name: &str) -> Option<Duration> {
    match leases.acquire(name, TTL).await.unwrap() {
        Attempt::Acquired(_) => None,
        Attempt::Taken { expires_in } => Some(expires_in),
    }
}

async fn one_node_holds_a_lease_and_the_others_are_told_for_how_long(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let lease = acquire(a.leases(), "changes").await;
    assert!(lease.is_held());
    assert_eq!(lease.name(), "changes");
    for node in [&a, &b] {
        let expires_in = is_taken(node.leases(), "changes").await.unwrap();
        assert!(expires_in > Duration::ZERO && expires_in <= TTL, "{expires_in:?}");
    }
}

async fn a_lease_is_renewed_as_long_as_it_is_held(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let lease = acquire(a.leases(), "changes").await;
    // What is stated is that nothing happens for longer than it lasts by itself.
    let lost = tokio::time::timeout(TTL * 3, lease.lost()).await;
    assert!(lost.is_err() && lease.is_held());
    assert!(is_taken(b.leases(), "changes").await.is_some());
}

async fn a_lease_that_is_released_or_dropped_is_free_at_once(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    acquire(a.leases(), "changes").await.release().await;
    let begun = Instant::now();
    drop(acquire(b.leases(), "changes").await);
    soon("a lease", a.leases().wait("changes", Duration::from_secs(60))).await;
    assert!(begun.elapsed() < Duration::from_secs(60) / 3);
}

async fn tokens_grow_from_holder_to_holder(fleet: Fleet) {
    let nodes = [fleet.node().await, fleet.node().await];
    let mut last = 0;
    for round in 0..6 {
        let lease = acquire(nodes[round % 2].leases(), "changes").await;
        assert!(lease.token() > last);
        last = lease.token();
        lease.release().await;
    }
}

async fn leases_of_other_names_are_independent(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let first = acquire(a.leases(), "one").await;
    let second = acquire(b.leases(), "other").await;
    first.release().await;
    assert!(second.is_held());
    assert!(is_taken(a.leases(), "other").await.is_some());
}

async fn who_waits_gets_it_when_it_is_free(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let held = acquire(a.leases(), "changes").await;
    let leases = b.leases().clone();
    let waiting = tokio::spawn(async move { leases.wait("changes", TTL).await });
    let token = held.token();
    held.release().await;
    let lease = soon("a lease", waiting).await.unwrap();
    assert!(lease.token() > token && lease.is_held());
}

fn config(redis: &Redis) -> RedisConfig {
    let mut config = RedisConfig::from_url(&redis.url()).unwrap();
    config.reply_timeout = Duration::from_millis(500);
    config
}

async fn a_holder_out_of_touch_knows_of_its_loss_before_another_can_hold_it((): ()) {
    let ttl = Duration::from_secs(2);
    let redis = Redis::start(&[]).await;
    // The holder's user is locked out, so that it alone is out of touch.
    let _: Value = ask(
        &redis,
        &["ACL", "SETUSER", "holder", "on", ">x", "~*", "&*", "+@all"],
    )
    .await;
    let url = format!("redis://holder:x@127.0.0.1:{}", redis.port());
    let holder = join(&RedisConfig::from_url(&url).unwrap()).await;
    let other = join(&config(&redis)).await;
    let Attempt::Acquired(lease) = holder.leases().acquire("changes", ttl).await.unwrap() else {
        panic!("taken");
    };
    let waiting = other.leases().wait("changes", ttl);
    let held_by_another = async {
        let next = waiting.await;
        (Instant::now(), next)
    };
    let lost = async {
        lease.lost().await;
        Instant::now()
    };
    let locked_out = async {
        let _: Value = ask(
            &redis,
            &["ACL", "SETUSER", "holder", "off", "nopass", "resetkeys"],
        )
        .await;
        let _: Value = ask(&redis, &["CLIENT", "KILL", "USER", "holder"]).await;
    };
    let both = async { tokio::join!(lost, held_by_another, locked_out) };
    let (lost_at, (held_at, next), ()) = soon("another holder", both).await;
    assert!(
        lost_at < held_at,
        "lost {:?} after another held it",
        lost_at - held_at
    );
    assert!(!lease.is_held());
    assert!(next.token() > lease.token());
}

async fn a_lease_that_redis_has_forgotten_is_lost_and_tokens_grow_all_the_same((): ()) {
    let redis = Redis::start(&[]).await;
    let node = join(&config(&redis)).await;
    let lease = acquire(node.leases(), "changes").await;
    redis.restart().await;
    let next = soon("a lease", node.leases().wait("changes", TTL)).await;
    soon("the loss", lease.lost()).await;
    assert!(next.token() > lease.token());
}
