//! Publications that are kept for those who were away.

use crate::fleet::{Fleet, ask, join, soon};
use crate::{Case, cases};
use redis::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use walcast_cluster::{Cluster, Keep, PublishError, Received, Recent, RedisConfig, Subscription};
use walcast_testkit::{Redis, until};

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        what_is_heard_and_what_is_kept_have_one_order_on_all_nodes,
        who_names_the_last_it_has_heard_is_given_the_rest,
        no_more_is_kept_than_was_asked_for,
        what_several_nodes_publish_under_one_id_is_heard_and_kept_once,
        odd_topics_are_kept_apart_or_not_at_all,
    ]
}

pub(crate) fn faults() -> Vec<Case<()>> {
    cases![
        what_was_refused_or_lost_begins_a_new_epoch_for_all_nodes,
        a_redis_that_forgets_begins_a_new_epoch,
        what_is_too_old_is_forgotten_and_the_last_number_is_not,
    ]
}

const KEEP: Keep = Keep {
    age: Duration::from_secs(60),
    entries: 10_000,
    bytes: 1 << 20,
};

/// A subscription that tells numbers and payloads.
async fn numbers(node: &Cluster, topic: &str) -> (Subscription, mpsc::UnboundedReceiver<(u64, Vec<u8>)>) {
    let (tell, heard) = mpsc::unbounded_channel();
    let listener = move |received: Received<'_>| {
        let number = received.number.unwrap();
        tell.send((number, received.payload.to_vec())).ok();
    };
    let subscription = node.bus().subscribe(topic, Arc::new(listener));
    soon("a subscription", subscription.ready()).await;
    (subscription, heard)
}

/// What is kept, once it is complete.
async fn recent(node: &Cluster, topic: &str, after: u64, count: usize) -> Recent {
    until("all that was published", || async {
        let recent = node.bus().recent(topic, Some(after)).await.ok()?;
        (recent.kept.len() == count).then_some(recent)
    })
    .await
}

async fn last(node: &Cluster, topic: &str) -> u64 {
    node.bus().recent(topic, None).await.unwrap().last
}

fn payloads(recent: &Recent) -> Vec<&[u8]> {
    recent.kept.iter().map(|kept| &*kept.payload).collect()
}

async fn what_is_heard_and_what_is_kept_have_one_order_on_all_nodes(fleet: Fleet) {
    const COUNT: u32 = 300;
    let (a, b, c) = (fleet.node().await, fleet.node().await, fleet.node().await);
    let (_one, mut at_c) = numbers(&c, "room").await;
    let (_other, mut at_b) = numbers(&b, "room").await;
    for number in 0..COUNT {
        for node in [&a, &b] {
            node.bus()
                .publish_kept("room", &number.to_be_bytes(), KEEP)
                .unwrap();
        }
    }
    let mut heard = Vec::new();
    for _ in 0..2 * COUNT {
        heard.push(soon("a publication", at_c.recv()).await.unwrap());
    }
    let recent = recent(&c, "room", 0, 2 * COUNT as usize).await;
    let kept: Vec<_> = recent
        .kept
        .iter()
        .map(|kept| (kept.number, kept.payload.to_vec()))
        .collect();
    assert_eq!(heard, kept);
    assert!(recent.reaches(kept[0].0 - 1));
    // One that publishes hears its own among those of others, and learns their numbers by that.
    for kept in &recent.kept {
        assert_eq!(soon("a publication", at_b.recv()).await.unwrap().0, kept.number);
    }
    let own = recent.kept.iter().filter(|kept| kept.origin == b.node());
    assert_eq!(own.count(), COUNT as usize);
}

async fn who_names_the_last_it_has_heard_is_given_the_rest(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let before = last(&b, "room").await;
    for payload in [b"1", b"2", b"3"] {
        a.bus().publish_kept("room", payload, KEEP).unwrap();
    }
    // Its own are there at once, for it does not hear them.
    assert_eq!(a.bus().recent("room", Some(0)).await.unwrap().kept.len(), 3);
    let all = recent(&b, "room", 0, 3).await;
    assert_eq!(payloads(&all), [b"1", b"2", b"3"]);
    assert!(all.kept.iter().all(|kept| kept.origin == a.node()));
    assert!(recent(&b, "room", before, 3).await.reaches(before));
    assert_eq!(last(&b, "room").await, all.last);
    let rest = recent(&b, "room", all.kept[0].number, 2).await;
    assert_eq!(payloads(&rest), [b"2", b"3"]);
    assert!(rest.reaches(all.kept[0].number) && !rest.reaches(0));
    let none = recent(&b, "room", all.last, 0).await;
    assert!(none.reaches(all.last) && !none.reaches(all.last + 1));
    assert_eq!(recent(&b, "elsewhere", 0, 0).await.kept, []);
}

async fn what_several_nodes_publish_under_one_id_is_heard_and_kept_once(fleet: Fleet) {
    const COUNT: u32 = 100;
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (_one, mut at_a) = numbers(&a, "room").await;
    let (_other, mut at_b) = numbers(&b, "room").await;
    for number in 0..COUNT {
        for node in [&a, &b, &a] {
            let (id, payload) = (number.to_string(), number.to_be_bytes());
            node.bus().publish_once("room", &id, &payload, KEEP).unwrap();
        }
    }
    // In another topic it is something else.
    b.bus().publish_once("elsewhere", "0", b"0", KEEP).unwrap();
    b.bus().publish_once("room", "last", b"last", KEEP).unwrap();
    let all = recent(&a, "room", 0, COUNT as usize + 1).await;
    let mut kept = payloads(&all);
    assert_eq!(kept.pop(), Some(&b"last"[..]));
    assert_eq!(kept, (0..COUNT).map(u32::to_be_bytes).collect::<Vec<_>>());
    for kept in &all.kept {
        for heard in [&mut at_a, &mut at_b] {
            let heard = soon("a publication", heard.recv()).await.unwrap();
            assert_eq!(heard, (kept.number, kept.payload.to_vec()));
        }
    }
    assert!(at_a.try_recv().is_err() && at_b.try_recv().is_err());
    assert_eq!(recent(&a, "elsewhere", 0, 1).await.kept.len(), 1);
}

async fn no_more_is_kept_than_was_asked_for(fleet: Fleet) {
    let node = fleet.node().await;
    let few = Keep { entries: 3, ..KEEP };
    for payload in [b"1", b"2", b"3", b"4", b"5"] {
        node.bus().publish_kept("few", payload, few).unwrap();
    }
    let kept = until("the last", || async {
        let recent = node.bus().recent("few", Some(0)).await.unwrap();
        (payloads(&recent).last() == Some(&&b"5"[..])).then_some(recent)
    })
    .await;
    assert_eq!(payloads(&kept), [b"3", b"4", b"5"]);
    assert!(kept.reaches(kept.kept[0].number - 1) && !kept.reaches(kept.kept[0].number - 2));
    // In Redis with an envelope of 17 bytes each.
    let small = Keep { bytes: 250, ..KEEP };
    for payload in [[1; 100], [2; 100], [3; 100]] {
        node.bus().publish_kept("small", &payload, small).unwrap();
    }
    let kept = until("the last", || async {
        let recent = node.bus().recent("small", Some(0)).await.unwrap();
        (payloads(&recent).last() == Some(&&[3; 100][..])).then_some(recent)
    })
    .await;
    assert_eq!(payloads(&kept), [[2; 100], [3; 100]]);
}

async fn odd_topics_are_kept_apart_or_not_at_all(fleet: Fleet) {
    let node = fleet.node().await;
    let topics = ["a", "{a}", "a{b}c", "{", "a b", "\u{e9}", "a}b"];
    for topic in topics {
        node.bus().publish_kept(topic, topic.as_bytes(), KEEP).unwrap();
    }
    for topic in topics {
        let once = node.bus().publish_once(topic, "id", b"once", KEEP);
        if node.bus().recent(topic, None).await.is_ok() {
            assert_eq!(once, Ok(()));
            let recent = recent(&node, topic, 0, 2).await;
            assert_eq!(payloads(&recent), [topic.as_bytes(), b"once"]);
        } else {
            assert_eq!((topic, once), ("a}b", Err(PublishError::Unkept)));
        }
    }
}

/// Two nodes and their Redis.
async fn pair() -> (Redis, Cluster, Cluster) {
    let redis = Redis::start(&[]).await;
    let mut config = RedisConfig::from_url(&redis.url()).unwrap();
    config.reply_timeout = Duration::from_millis(500);
    let (a, b) = (join(&config).await, join(&config).await);
    (redis, a, b)
}

async fn epoch(node: &Cluster) -> u64 {
    until("an epoch", || async {
        let recent = node.bus().recent("room", None).await.ok()?;
        Some(recent.epoch)
    })
    .await
}

async fn what_was_refused_or_lost_begins_a_new_epoch_for_all_nodes((): ()) {
    let (_redis, a, b) = pair().await;
    let first = epoch(&a).await;
    a.bus().publish_kept("room", b"1", KEEP).unwrap();
    recent(&b, "room", 0, 1).await;
    assert_eq!(epoch(&b).await, first);
    let too_long = vec![0; walcast_cluster::MAX_PAYLOAD_BYTES + 1];
    let refused = a.bus().publish_kept("room", &too_long, KEEP);
    assert!(matches!(refused, Err(PublishError::TooLong { .. })));
    // Not even for a moment is it taken for whole on the node that knows.
    assert_ne!(epoch(&a).await, first);
    assert_eq!(epoch(&a).await, epoch(&b).await);
    let first = epoch(&a).await;
    b.bus().lose_kept();
    assert_ne!(epoch(&b).await, first);
    // One that is not kept takes no part.
    let second = epoch(&a).await;
    assert!(a.bus().publish("room", &too_long).is_err());
    assert_eq!(epoch(&b).await, second);
}

async fn a_redis_that_forgets_begins_a_new_epoch((): ()) {
    let (redis, a, b) = pair().await;
    let first = epoch(&a).await;
    a.bus().publish_kept("room", b"1", KEEP).unwrap();
    let known = recent(&b, "room", 0, 1).await;
    let _: Value = ask(&redis, &["FLUSHALL"]).await;
    assert_ne!(epoch(&b).await, first);
    a.bus().publish_kept("room", b"2", KEEP).unwrap();
    let after = recent(&b, "room", known.last, 1).await;
    assert!(!after.reaches(known.last));
}

async fn what_is_too_old_is_forgotten_and_the_last_number_is_not((): ()) {
    let (_redis, a, b) = pair().await;
    let brief = Keep {
        age: Duration::from_millis(100),
        ..KEEP
    };
    let before = last(&b, "room").await;
    a.bus().publish_kept("room", b"1", brief).unwrap();
    let number = until("a number", || async {
        Some(last(&b, "room").await).filter(|last| *last > before)
    })
    .await;
    let gone = recent(&b, "room", number - 1, 0).await;
    assert!(gone.reaches(number) && !gone.reaches(number - 1));
    a.bus().publish_kept("room", b"2", KEEP).unwrap();
    assert!(recent(&b, "room", number, 1).await.reaches(number));
}
