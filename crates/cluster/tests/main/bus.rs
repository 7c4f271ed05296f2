//! Publish and subscribe.

use crate::fleet::{Fleet, ear, soon};
use crate::{Case, cases};
use walcast_cluster::{MAX_PAYLOAD_BYTES, PublishError};
use walcast_testkit::until;

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        other_nodes_hear_a_publication_and_its_own_does_not,
        what_a_node_publishes_to_a_topic_arrives_in_order,
        every_listener_of_a_node_hears_a_publication_once,
        only_topics_that_somebody_listens_to_are_subscribed,
        payloads_of_all_lengths_arrive_as_they_are,
        odd_topics_are_kept_apart,
    ]
}

async fn other_nodes_hear_a_publication_and_its_own_does_not(fleet: Fleet) {
    let (a, b, c) = (fleet.node().await, fleet.node().await, fleet.node().await);
    let nodes = [&a, &b, &c];
    let mut ears = Vec::new();
    for node in nodes {
        let (listener, heard) = ear();
        let subscription = node.bus().subscribe("room", listener);
        soon("a subscription", subscription.ready()).await;
        ears.push((subscription, heard));
    }
    for (node, payload) in nodes.iter().zip([b"from a", b"from b", b"from c"]) {
        node.bus().publish("room", payload).unwrap();
    }
    for (index, (_, heard)) in ears.iter_mut().enumerate() {
        let mut found = [heard.next().await, heard.next().await];
        found.sort_by(|one, other| one.2.cmp(&other.2));
        let expected: Vec<_> = nodes
            .iter()
            .zip(["from a", "from b", "from c"])
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(_, (node, payload))| ("room".to_owned(), node.node(), payload.as_bytes().to_vec()))
            .collect();
        assert_eq!(found.as_slice(), expected);
        assert!(heard.messages.try_recv().is_err());
    }
}

async fn what_a_node_publishes_to_a_topic_arrives_in_order(fleet: Fleet) {
    const COUNT: u32 = 2000;
    let (a, b, c) = (fleet.node().await, fleet.node().await, fleet.node().await);
    let (listener, mut heard) = ear();
    let one = c.bus().subscribe("one", listener.clone());
    let other = c.bus().subscribe("other", listener);
    soon("a subscription", one.ready()).await;
    soon("a subscription", other.ready()).await;
    for number in 0..COUNT {
        for topic in ["one", "other"] {
            for node in [&a, &b] {
                node.bus().publish(topic, &number.to_be_bytes()).unwrap();
            }
        }
    }
    let mut next = std::collections::HashMap::new();
    for _ in 0..COUNT * 4 {
        let (topic, origin, payload) = heard.next().await;
        let expected = next.entry((topic, origin)).or_insert(0_u32);
        assert_eq!(payload, expected.to_be_bytes());
        *expected += 1;
    }
    assert!(next.values().all(|next| *next == COUNT), "{next:?}");
}

async fn every_listener_of_a_node_hears_a_publication_once(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (first, mut first_heard) = ear();
    let (second, mut second_heard) = ear();
    let first = b.bus().subscribe("room", first);
    let second = b.bus().subscribe("room", second);
    soon("a subscription", first.ready()).await;
    a.bus().publish("room", b"1").unwrap();
    assert_eq!(first_heard.next().await.2, b"1");
    assert_eq!(second_heard.next().await.2, b"1");
    // The one that stays hears on.
    drop(first);
    a.bus().publish("room", b"2").unwrap();
    assert_eq!(second_heard.next().await.2, b"2");
    assert!(first_heard.messages.recv().await.is_none());
    drop(second);
}

async fn only_topics_that_somebody_listens_to_are_subscribed(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (listener, mut heard) = ear();
    let kept = b.bus().subscribe("kept", listener.clone());
    let left = b.bus().subscribe("left", listener);
    soon("a subscription", left.ready()).await;
    soon("a subscription", kept.ready()).await;
    let with_both = b.bus().stats().topics;
    drop(left);
    until("the end of a subscription", || async {
        (b.bus().stats().topics == with_both - 1).then_some(())
    })
    .await;
    if fleet.redis::<String>(&["PING"]).await.is_some() {
        until("what Redis knows of it", || async {
            let channels: Vec<String> = fleet.redis(&["PUBSUB", "CHANNELS", "*"]).await?;
            let ends_with = |topic| channels.iter().any(|channel| channel.ends_with(topic));
            (ends_with(":kept") && !ends_with(":left")).then_some(())
        })
        .await;
    }
    a.bus().publish("left", b"unheard").unwrap();
    a.bus().publish("never", b"unheard").unwrap();
    a.bus().publish("kept", b"heard").unwrap();
    assert_eq!(heard.next().await.2, b"heard");
}

async fn payloads_of_all_lengths_arrive_as_they_are(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let (listener, mut heard) = ear();
    let subscription = b.bus().subscribe("room", listener);
    soon("a subscription", subscription.ready()).await;
    for length in [0, 1, 1000, 3_000_000, MAX_PAYLOAD_BYTES] {
        let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        a.bus().publish("room", &payload).unwrap();
        assert!(heard.next().await.2 == payload, "{length} bytes");
    }
    let bytes = MAX_PAYLOAD_BYTES + 1;
    assert_eq!(
        a.bus().publish("room", &vec![0; bytes]),
        Err(PublishError::TooLong { bytes })
    );
}

async fn odd_topics_are_kept_apart(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    let topics = ["", " ", "*", "a*", "{a}", "}{", "ä\r\n\0", &"x".repeat(1000)];
    let (listener, mut heard) = ear();
    let mut subscriptions = Vec::new();
    for topic in topics {
        let subscription = b.bus().subscribe(topic, listener.clone());
        soon("a subscription", subscription.ready()).await;
        subscriptions.push(subscription);
    }
    for topic in topics {
        a.bus().publish(topic, topic.as_bytes()).unwrap();
        let (found, _, payload) = heard.next().await;
        assert_eq!((found.as_str(), payload.as_slice()), (topic, topic.as_bytes()));
    }
    assert!(heard.messages.try_recv().is_err());
}
