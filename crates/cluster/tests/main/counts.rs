//! Counts over all nodes.

use crate::fleet::Fleet;
use crate::{Case, cases};
use walcast_cluster::Cluster;
use walcast_testkit::until;

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        every_node_knows_the_sum_of_all,
        a_node_that_is_gone_does_not_count,
    ]
}

async fn is_total(node: &Cluster, name: &str, total: u64) {
    until(&format!("{name} to be {total}"), || async {
        (node.counts().total(name) == total).then_some(())
    })
    .await;
}

async fn every_node_knows_the_sum_of_all(fleet: Fleet) {
    let (a, b, c) = (fleet.node().await, fleet.node().await, fleet.node().await);
    a.counts().set("users", 3);
    b.counts().set("users", 4);
    b.counts().set("events", 100);
    assert_eq!(a.counts().total("nothing"), 0);
    // A node's own counts at once, the others' soon.
    assert!(a.counts().total("users") >= 3);
    for node in [&a, &b, &c] {
        is_total(node, "users", 7).await;
        is_total(node, "events", 100).await;
    }
    b.counts().set("users", 0);
    b.counts().set("events", u64::MAX);
    a.counts().set("events", 5);
    for node in [&a, &b, &c] {
        is_total(node, "users", 3).await;
        is_total(node, "events", u64::MAX).await;
    }
    assert_eq!(b.counts().elsewhere("users"), 3);
    assert_eq!(a.counts().elsewhere("users"), 0);
}

async fn a_node_that_is_gone_does_not_count(fleet: Fleet) {
    let (a, b) = (fleet.node().await, fleet.node().await);
    a.counts().set("users", 1);
    b.counts().set("users", 2);
    is_total(&a, "users", 3).await;
    drop(b);
    is_total(&a, "users", 1).await;
}
