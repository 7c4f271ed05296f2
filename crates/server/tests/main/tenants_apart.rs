//! What happens to one tenant is not felt by another: databases that hang or are away, and nodes that share a Redis.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::Instant;
use walcast_testkit::{Postgres, Redis, until};

use crate::server::{Client, Walcast, anon};
use crate::tenants_scene::{Records, changed, host, insert, listen, socket, todos, todos_in};

const CHANGES: &str = "realtime:todos";

/// Longer than a change may take on a busy machine, and shorter than anything waits for a database.
const SOON: Duration = Duration::from_secs(1);

const JOIN_TIMEOUT: (&str, &str) = ("WALCAST_JOIN_TIMEOUT_MS", "1500");

/// A cluster whose processes do nothing for as long as this lives.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn new(postgres: &Postgres) -> Self {
        let file = std::fs::read_to_string(postgres.folder().join("data/postmaster.pid")).unwrap();
        let postmaster: i32 = file.lines().next().unwrap().parse().unwrap();
        let stop = |pid: i32| {
            let pid = Pid::from_raw(pid).unwrap();
            // One that has ended since is none.
            kill_process(pid, Signal::STOP).ok().map(|()| pid)
        };
        let mut stopped: Vec<Pid> = stop(postmaster).into_iter().collect();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let children = children.expect("the kernel tells a process' children");
        stopped.extend(
            children
                .split_whitespace()
                .filter_map(|pid| stop(pid.parse().unwrap())),
        );
        Self(stopped)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _gone = kill_process(*pid, Signal::CONT);
        }
    }
}

/// The reason why a join with changes is refused, and how long that took. The tables are asked for in a way that nobody
/// has asked before, for what the catalog has said is known for a second.
async fn refused(socket: &mut Client, topic: &str) -> (String, Duration) {
    let asked = Instant::now();
    let config = json!({"config": {"postgres_changes": [{"event": "*", "schema": "public"}]}});
    let (status, response) = socket.join(topic, topic, config).await;
    assert_eq!(status, "error", "{response}");
    (response["reason"].as_str().unwrap().to_owned(), asked.elapsed())
}

const AWAY: &str = "UnableToConnectToProject: Realtime was unable to connect to the project database";

/// That changes come as they always do.
async fn expect_changes(
    socket: &mut Client,
    database: &walcast_testkit::Database,
    ids: std::ops::Range<usize>,
) {
    for id in ids {
        let committed = Instant::now();
        insert(database, id).await;
        assert_eq!(changed(socket).await, id);
        assert!(
            committed.elapsed() < SOON,
            "a change took {:?}",
            committed.elapsed()
        );
    }
}

#[tokio::test]
async fn a_database_that_hangs_holds_up_its_own_tenant_alone() {
    let records = Records::new().await;
    let (healthy, hanging) = (todos().await, Postgres::start(Postgres::options()).await);
    let (used, unused) = (todos_in(&hanging).await, todos_in(&hanging).await);
    records.put("healthy", &healthy, json!({})).await;
    records.put("used", &used, json!({})).await;
    // More than may begin at once.
    let names: Vec<String> = (0..12).map(|number| format!("unused{number}")).collect();
    for name in &names {
        records.put(name, &unused, json!({})).await;
    }
    records.put("later", &healthy, json!({})).await;
    let server = records.serve(&[JOIN_TIMEOUT]).await;
    let (mut well, mut stuck) = (socket(&server, "healthy").await, socket(&server, "used").await);
    listen(&mut well, CHANGES).await;
    listen(&mut stuck, CHANGES).await;
    expect_changes(&mut well, &healthy, 0..5).await;

    let frozen = Frozen::new(&hanging);
    let mut waiting = Vec::new();
    for name in &names {
        let mut socket = socket(&server, name).await;
        waiting.push(tokio::spawn(async move { refused(&mut socket, CHANGES).await }));
    }
    expect_changes(&mut well, &healthy, 5..15).await;
    let (reason, took) = refused(&mut stuck, "realtime:more").await;
    assert_eq!(reason, AWAY);
    assert!(took < Duration::from_secs(5), "{took:?}");
    // One that has not begun yet begins among all these.
    let mut later = socket(&server, "later").await;
    listen(&mut later, CHANGES).await;
    for waiting in waiting {
        let (reason, took) = waiting.await.unwrap();
        assert_eq!(reason, AWAY);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // Public channels without changes need no database.
    stuck.join_ok("realtime:public", "1").await;
    expect_changes(&mut well, &healthy, 15..25).await;

    drop(frozen);
    insert(&used, 1).await;
    assert_eq!(changed(&mut stuck).await, 1, "it goes on");
    server.stop().await;
}

#[tokio::test]
async fn a_database_that_is_shut_down_is_missed_by_its_own_tenant_alone() {
    let records = Records::new().await;
    let (healthy, failing) = (todos().await, Postgres::start(Postgres::options()).await);
    let away = todos_in(&failing).await;
    records.put("healthy", &healthy, json!({})).await;
    records.put("away", &away, json!({})).await;
    let server = records.serve(&[JOIN_TIMEOUT]).await;
    let (mut well, mut missing) = (socket(&server, "healthy").await, socket(&server, "away").await);
    listen(&mut well, CHANGES).await;
    listen(&mut missing, CHANGES).await;
    failing.stop().await;
    expect_changes(&mut well, &healthy, 0..10).await;
    let mut second = socket(&server, "away").await;
    let (reason, took) = refused(&mut second, CHANGES).await;
    assert_eq!(reason, AWAY);
    assert!(took < Duration::from_secs(5), "{took:?}");
    expect_changes(&mut well, &healthy, 10..20).await;
    failing.restart().await;
    let config =
        json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "todos"}]}});
    for attempt in 0.. {
        let (status, _) = second.join(CHANGES, "again", config.clone()).await;
        if status == "ok" {
            break;
        }
        assert!(attempt < 20, "the tenant is not served again");
    }
    insert(&away, 1).await;
    assert_eq!(changed(&mut second).await, 1);
}

#[tokio::test]
async fn while_the_control_database_is_away_tenants_in_use_are_served() {
    let (postgres, database) = (Postgres::start(Postgres::options()).await, todos().await);
    let records = Records::on(postgres.database().await).await;
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[("TENANT_CACHE_EXPIRATION_IN_MS", "200")]).await;
    let mut first = socket(&server, "t").await;
    listen(&mut first, CHANGES).await;
    postgres.stop().await;
    let mut second = socket(&server, "t").await;
    listen(&mut second, CHANGES).await;
    expect_changes(&mut first, &database, 0..3).await;
    postgres.restart().await;
    records
        .database
        .execute("update _realtime.tenants set suspend = true")
        .await;
    assert_eq!(first.close_code().await, Some(1012), "changes are heard of again");
}

#[tokio::test]
async fn nodes_that_share_a_redis_keep_tenants_apart() {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return;
    }
    let (records, one, two) = (Records::new().await, todos().await, todos().await);
    records.put("one", &one, json!({"max_concurrent_users": 2})).await;
    records.put("two", &two, json!({})).await;
    let redis = Redis::start(&[]).await;
    let url = redis.url();
    let settings = [("REDIS_URL", url.as_str())];
    let nodes: [Walcast; 2] = [records.serve(&settings).await, records.serve(&settings).await];
    let mut sockets = Vec::new();
    for (node, tenant) in [(0, "one"), (1, "one"), (0, "two"), (1, "two")] {
        let mut socket = socket(&nodes[node], tenant).await;
        listen(&mut socket, CHANGES).await;
        sockets.push(socket);
    }
    let [first, second, third, fourth] = &mut sockets[..] else {
        unreachable!("there are four")
    };
    insert(&one, 1).await;
    assert_eq!(
        (changed(first).await, changed(second).await),
        (json!(1), json!(1))
    );
    insert(&two, 2).await;
    assert_eq!(
        (changed(third).await, changed(fourth).await),
        (json!(2), json!(2))
    );
    first
        .send_json(
            json!([CHANGES, "b", CHANGES, "broadcast", {"type": "broadcast", "event": "e", "payload": {}}]),
        )
        .await;
    assert_eq!(second.receive().await[4]["event"], "e");
    third.expect_silence().await;
    fourth.expect_silence().await;

    // Both nodes together have as many sockets of the one as it may have.
    until("the limit counts both nodes", async || {
        let target = format!("/socket/websocket?vsn=2.0.0&apikey={}", anon());
        let one = nodes[0].request("GET", &target, &[("host", &host("one"))]).await;
        (one.status == 429).then_some(())
    })
    .await;
    let mut more = socket(&nodes[0], "two").await;
    more.join_ok("realtime:x", "1").await;
}
