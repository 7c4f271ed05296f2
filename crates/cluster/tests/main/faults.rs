//! Redis goes away, hangs, forgets, or says odd things.

use crate::fleet::{Heard, are_one, ask, ear, join, masters, soon};
use crate::{Case, cases};
use redis::Value;
use std::time::Duration;
use tokio::sync::broadcast;
use walcast_cluster::{Cluster, Event, PublishError, RedisConfig, Subscription};
use walcast_testkit::{Redis, until};

pub(crate) fn all() -> Vec<Case<()>> {
    cases![
        connections_that_are_killed_come_back_and_the_loss_is_told,
        a_restart_of_redis_is_told_and_topics_are_subscribed_again,
        a_redis_that_hangs_is_noticed,
        what_cannot_be_sent_is_refused_above_a_bound,
        what_is_no_publication_is_counted_and_skipped,
        a_master_of_a_redis_cluster_that_restarts_is_told_and_all_topics_are_subscribed_again,
    ]
}

struct Pair {
    redis: Redis,
    a: Cluster,
    b: Cluster,
    heard: Heard,
    events: broadcast::Receiver<Event>,
    _subscription: Subscription,
}

/// Two nodes, of which the second listens to `room`.
async fn pair() -> Pair {
    let redis = Redis::start(&[]).await;
    let mut config = RedisConfig::from_url(&redis.url()).unwrap();
    config.reply_timeout = Duration::from_millis(500);
    let (a, b) = (join(&config).await, join(&config).await);
    let (listener, heard) = ear();
    let subscription = b.bus().subscribe("room", listener);
    soon("a subscription", subscription.ready()).await;
    let events = b.bus().events();
    Pair {
        redis,
        a,
        b,
        heard,
        events,
        _subscription: subscription,
    }
}

impl Pair {
    async fn event(&mut self) -> Event {
        soon("an event", self.events.recv()).await.unwrap()
    }

    async fn is_heard(&mut self, payload: &[u8]) {
        until("a publication that is taken", || async {
            self.a.bus().publish("room", payload).ok()
        })
        .await;
        assert_eq!(self.heard.next().await.2, payload);
    }
}

async fn connections_that_are_killed_come_back_and_the_loss_is_told((): ()) {
    let mut pair = pair().await;
    pair.is_heard(b"before").await;
    let _: Value = ask(&pair.redis, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert!(matches!(pair.event().await, Event::Lost { .. }));
    let Event::Resubscribed { gap } = pair.event().await else {
        panic!("not subscribed again");
    };
    assert!(gap > Duration::ZERO && gap < Duration::from_secs(10), "{gap:?}");
    pair.is_heard(b"after").await;
    let _: Value = ask(&pair.redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    assert!(matches!(pair.event().await, Event::Lost { .. }));
    assert!(matches!(pair.event().await, Event::Resubscribed { .. }));
    pair.is_heard(b"at last").await;
}

async fn a_restart_of_redis_is_told_and_topics_are_subscribed_again((): ()) {
    let mut pair = pair().await;
    pair.redis.stop();
    assert!(matches!(pair.event().await, Event::Lost { .. }));
    assert!(!pair.b.bus().is_connected());
    assert_eq!(pair.b.bus().publish("room", b"x"), Err(PublishError::Lost));
    // Topics come and go meanwhile.
    let (listener, mut heard) = ear();
    let meanwhile = pair.b.bus().subscribe("meanwhile", listener);
    let mut ready = Box::pin(meanwhile.ready());
    assert!(futures_util::poll!(&mut ready).is_pending());
    pair.redis.restart().await;
    assert!(matches!(pair.event().await, Event::Resubscribed { .. }));
    soon("a subscription", ready).await;
    pair.is_heard(b"after").await;
    pair.a.bus().publish("meanwhile", b"too").unwrap();
    assert_eq!(heard.next().await.2, b"too");
}

async fn a_redis_that_hangs_is_noticed((): ()) {
    let mut pair = pair().await;
    pair.redis.hang();
    assert!(matches!(pair.event().await, Event::Lost { .. }));
    assert_eq!(pair.b.bus().publish("room", b"x"), Err(PublishError::Lost));
    pair.redis.resume();
    let Event::Resubscribed { gap } = pair.event().await else {
        panic!("not subscribed again");
    };
    // It is missed since the last answer, which was before the loss was noticed.
    assert!(gap >= Duration::from_millis(500), "{gap:?}");
    pair.is_heard(b"after").await;
}

async fn what_cannot_be_sent_is_refused_above_a_bound((): ()) {
    let pair = pair().await;
    pair.redis.hang();
    let megabyte = vec![0; 1024 * 1024];
    let mut taken = 0;
    let refused = loop {
        match pair.a.bus().publish("room", &megabyte) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100, "{taken} MiB wait");
    };
    assert_eq!(refused, PublishError::Full);
    pair.redis.resume();
}

async fn what_is_no_publication_is_counted_and_skipped((): ()) {
    let mut pair = pair().await;
    let channel = "walcast:bus:0:room";
    for odd in ["", "x", "\u{1}short", "\u{2}0123456789abcdef and more"] {
        let receivers: u32 = ask(&pair.redis, &["PUBLISH", channel, odd]).await;
        assert_eq!(receivers, 1);
    }
    pair.is_heard(b"fine").await;
    until("the count", || async {
        let stats = pair.b.bus().stats();
        (stats.malformed == 4 && stats.received == 1).then_some(())
    })
    .await;
}

async fn a_master_of_a_redis_cluster_that_restarts_is_told_and_all_topics_are_subscribed_again((): ()) {
    let masters = masters().await;
    let mut config = RedisConfig::from_url(&masters[0].url()).unwrap();
    config.is_cluster = true;
    config.reply_timeout = Duration::from_millis(500);
    let (a, b) = (join(&config).await, join(&config).await);
    // Some on every master.
    let topics: Vec<String> = (0..12).map(|number| format!("room {number}")).collect();
    let (listener, mut heard) = ear();
    let subscriptions: Vec<_> = topics
        .iter()
        .map(|topic| b.bus().subscribe(topic, listener.clone()))
        .collect();
    for subscription in &subscriptions {
        soon("a subscription", subscription.ready()).await;
    }
    let mut events = b.bus().events();
    masters[2].stop();
    assert!(matches!(
        soon("the loss", events.recv()).await,
        Ok(Event::Lost { .. })
    ));
    masters[2].restart().await;
    are_one(&masters).await;
    // There may be a loss more until the masters have found each other.
    until("all to be well", || async {
        (a.bus().is_connected() && b.bus().is_connected()).then_some(())
    })
    .await;
    for topic in &topics {
        // One that is taken just when the connection breaks is lost, and another is sent.
        let is_heard = async {
            loop {
                let taken = a.bus().publish(topic, b"after");
                let next =
                    tokio::time::timeout(Duration::from_millis(500), heard_on(&mut heard, topic)).await;
                if taken.is_ok() && next.is_ok() {
                    return;
                }
            }
        };
        soon("a publication that is heard", is_heard).await;
    }
}

/// Waits for a publication to a topic.
async fn heard_on(heard: &mut Heard, topic: &str) {
    while heard.next().await.0 != topic {}
}
