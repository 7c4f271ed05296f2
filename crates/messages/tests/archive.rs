//! Stored messages: which are replayed, and how they are stored (`database.md 5`, `protocol.md 5.9`, `15.2`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walcast_messages::{
    Archive, ArchiveOptions, Body, Keep, NewMessage, PersistError, ReplayError, ReplayRange, StoredMessage,
};
use walcast_testkit::{Database, Postgres};

const EVERYTHING: ReplayRange = ReplayRange {
    since_ms: 0,
    limit: 25,
};
const ID: &str = "11111111-1111-4111-8111-111111111111";
const OTHER_ID: &str = "22222222-2222-4222-8222-222222222222";

struct Scene {
    database: Database,
    archive: Archive,
    client: Client,
}

impl Scene {
    /// With one partition for all days.
    async fn new() -> Self {
        let database = Postgres::shared().await.database().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
        pool.close().await;
        database
            .execute("create table realtime.messages_any_day partition of realtime.messages for values from (minvalue) to (maxvalue)")
            .await;
        let archive = Archive::new(&database.url().parse().unwrap(), ArchiveOptions::default());
        let client = database.client().await;
        Self {
            database,
            archive,
            client,
        }
    }

    /// Inserts a row; `values` are those of (payload, event, private, extension, inserted_at).
    async fn insert(&self, topic: &str, values: &str) {
        self.database
            .execute(&format!(
                "insert into realtime.messages (topic, payload, event, private, extension, inserted_at)
                 values ('{topic}', {values})"
            ))
            .await;
    }

    async fn events(&self, topic: &str, range: ReplayRange) -> Vec<String> {
        let messages = self.archive.replay(topic, range, &[]).await.unwrap();
        messages.iter().map(|message| message.event.to_string()).collect()
    }

    async fn count(&self, table: &str) -> i64 {
        let query = format!("select count(*) from {table}");
        self.client.query_one(&query, &[]).await.unwrap().get(0)
    }
}

fn new_message<'a>(body: &'a Body, keep: Keep) -> NewMessage<'a> {
    NewMessage {
        id: ID,
        topic: "room",
        event: "e",
        body,
        keep,
    }
}

fn json(text: &str) -> Body {
    Body::Json(text.into())
}

#[tokio::test]
async fn only_private_broadcasts_of_the_topic_that_can_be_delivered_are_replayed() {
    let scene = Scene::new().await;
    let now = "now() at time zone 'utc'";
    scene
        .insert("room", &format!("'{{}}', 'plain', true, 'broadcast', {now}"))
        .await;
    for (topic, values) in [
        ("other", "'{}', 'other topic', true, 'broadcast'"),
        ("room%", "'{}', 'odd topic', true, 'broadcast'"),
        ("room", "'{}', 'public', false, 'broadcast'"),
        ("room", "'{}', 'neither', null, 'broadcast'"),
        ("room", "'{}', 'presence', true, 'presence'"),
        ("room", "'{}', null, true, 'broadcast'"),
        ("room", "null, 'empty', true, 'broadcast'"),
    ] {
        scene.insert(topic, &format!("{values}, {now}")).await;
    }
    assert_eq!(scene.events("room", EVERYTHING).await, ["plain"]);
    assert_eq!(scene.events("nowhere", EVERYTHING).await, Vec::<String>::new());
    // Policies play no part, and there are none.
    assert_eq!(scene.events("room%", EVERYTHING).await, ["odd topic"]);
}

#[tokio::test]
async fn the_newest_since_then_come_oldest_first() {
    let scene = Scene::new().await;
    // Milliseconds of 2026-01-01 00:00 UTC.
    const NEW_YEAR_MS: i64 = 1_767_225_600_000;
    for (event, at) in [
        ("c", "'2026-01-01 00:00:02'"),
        ("a", "'2026-01-01 00:00:00'"),
        ("b", "'2026-01-01 00:00:01.999999'"),
        ("soon", "now() at time zone 'utc' + interval '50 seconds'"),
        ("later", "now() at time zone 'utc' + interval '90 seconds'"),
    ] {
        scene
            .insert("room", &format!("'{{}}', '{event}', true, 'broadcast', {at}"))
            .await;
    }
    for (since_ms, limit, expected) in [
        (0, 25, vec!["a", "b", "c", "soon"]),
        (-1, 25, vec!["a", "b", "c", "soon"]),
        (NEW_YEAR_MS, 25, vec!["a", "b", "c", "soon"]),
        (NEW_YEAR_MS + 1, 25, vec!["b", "c", "soon"]),
        (NEW_YEAR_MS + 2_000, 25, vec!["c", "soon"]),
        (0, 2, vec!["c", "soon"]),
        (0, 1, vec!["soon"]),
        (253_402_300_799_999, 25, vec![]),
    ] {
        let range = ReplayRange { since_ms, limit };
        assert_eq!(scene.events("room", range).await, expected, "{range:?}");
    }
}

#[tokio::test]
async fn the_range_is_in_utc_whatever_the_time_zone_of_the_database() {
    let scene = Scene::new().await;
    let zone = format!(
        "alter database {} set timezone = 'Pacific/Auckland'",
        scene.database.name()
    );
    scene.database.execute(&zone).await;
    let archive = Archive::new(&scene.database.url().parse().unwrap(), ArchiveOptions::default());
    let body = json("{}");
    archive
        .persist(new_message(&body, Keep::Retention))
        .await
        .unwrap();
    let now_ms: f64 = scene
        .client
        .query_one("select extract(epoch from now())::float8 * 1000", &[])
        .await
        .unwrap()
        .get(0);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "milliseconds of these centuries are small"
    )]
    let minute_ago = now_ms as i64 - 60_000;
    let found = |since_ms| {
        let archive = archive.clone();
        async move {
            archive
                .replay("room", ReplayRange { since_ms, limit: 25 }, &[])
                .await
                .unwrap()
                .len()
        }
    };
    assert_eq!(found(minute_ago).await, 1);
    assert_eq!(found(minute_ago + 120_000).await, 0);
}

#[tokio::test]
async fn any_body_comes_back_as_it_was_stored() {
    let scene = Scene::new().await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let text = "[^\\x00]{0,12}";
    let value = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        text.prop_map(Into::into),
    ]
    .prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(text, inner, 0..4)
                .prop_map(|object| serde_json::Value::Object(object.into_iter().collect())),
        ]
    });
    let body = prop_oneof![
        value.prop_map(|value| Body::Json(value.to_string().into())),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Body::Binary(bytes.into())),
    ];
    for _ in 0..60 {
        let body = body.new_tree(&mut runner).unwrap().current();
        scene
            .archive
            .persist(new_message(&body, Keep::Retention))
            .await
            .unwrap();
        let mut stored = scene.archive.replay("room", EVERYTHING, &[]).await.unwrap();
        let StoredMessage {
            id,
            event,
            body: found,
        } = stored.pop().unwrap();
        assert_eq!((&*id, &*event, stored.len()), (ID, "e", 0));
        match (&body, &found) {
            (Body::Json(sent), Body::Json(found)) => {
                let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
                assert_eq!(value(sent), value(found));
                // Compact; only the order of keys is Postgres' own.
                assert_eq!(sent.len(), found.len(), "{sent} {found}");
            }
            _ => assert_eq!(body, found),
        }
        scene.database.execute("delete from realtime.messages").await;
    }
}

#[tokio::test]
async fn a_message_is_stored_as_a_private_broadcast_of_its_topic() {
    let scene = Scene::new().await;
    let body = json(r#"{"a":1}"#);
    scene
        .archive
        .persist(new_message(&body, Keep::Retention))
        .await
        .unwrap();
    let stored: String = scene
        .client
        .query_one(
            "select row(id, topic, extension, event, private, payload, binary_payload, inserted_at = updated_at,
               abs(extract(epoch from inserted_at - (now() at time zone 'utc'))) < 60)::text from realtime.messages",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        stored,
        format!(r#"({ID},room,broadcast,e,t,"{{""a"": 1}}",,t,t)"#)
    );
    assert_eq!(scene.count("walcast.message_lifetimes").await, 0);
}

#[tokio::test]
async fn a_message_with_a_lifetime_is_not_replayed_after_it_and_is_deleted_then() {
    let scene = Scene::new().await;
    let body = json("{}");
    scene
        .archive
        .persist(new_message(&body, Keep::AtMost(Duration::from_secs(3_600))))
        .await
        .unwrap();
    scene
        .archive
        .persist(NewMessage {
            id: OTHER_ID,
            event: "kept",
            ..new_message(&body, Keep::Retention)
        })
        .await
        .unwrap();
    assert_eq!(scene.events("room", EVERYTHING).await, ["e", "kept"]);
    assert_eq!(scene.archive.delete_expired().await, Ok(0));
    let an_hour =
        "walcast.message_lifetimes where expires_at = (inserted_at at time zone 'utc') + interval '1 hour'";
    assert_eq!(scene.count(an_hour).await, 1);
    let hour_later = "update walcast.message_lifetimes set expires_at = expires_at - interval '1 hour'";
    scene.database.execute(hour_later).await;
    assert_eq!(scene.events("room", EVERYTHING).await, ["kept"]);
    assert_eq!(scene.archive.delete_expired().await, Ok(1));
    assert_eq!(scene.count("realtime.messages").await, 1);
    assert_eq!(scene.count("walcast.message_lifetimes").await, 0);
}

#[tokio::test]
async fn no_lifetime_is_too_short_or_too_long() {
    let scene = Scene::new().await;
    let body = json("{}");
    for (id, seconds) in [(ID, 0), (OTHER_ID, u64::MAX)] {
        let message = NewMessage {
            id,
            ..new_message(&body, Keep::AtMost(Duration::from_secs(seconds)))
        };
        scene.archive.persist(message).await.unwrap();
    }
    let left = scene.archive.replay("room", EVERYTHING, &[]).await.unwrap();
    assert_eq!(
        left.iter().map(|message| &*message.id).collect::<Vec<_>>(),
        [OTHER_ID]
    );
}

#[tokio::test]
async fn more_has_expired_than_one_statement_deletes() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "with stored as (
               insert into realtime.messages (topic, extension, event, private, payload)
               select 'room', 'broadcast', 'e', true, '{}' from generate_series(1, 2500) returning id, inserted_at)
             insert into walcast.message_lifetimes select id, inserted_at, now() from stored",
        )
        .await;
    let cancel = CancellationToken::new();
    let sweeper = tokio::spawn({
        let (archive, cancel) = (scene.archive.clone(), cancel.clone());
        async move { archive.keep_deleting_expired(cancel).await }
    });
    let none_left = "select not exists (select from realtime.messages)
        and not exists (select from walcast.message_lifetimes)";
    scene.database.until(none_left).await;
    cancel.cancel();
    sweeper.await.unwrap();
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_says_why_and_leaves_nothing() {
    let scene = Scene::new().await;
    let body = json("{}");
    let keep = Keep::AtMost(Duration::from_secs(60));
    for odd in [
        NewMessage {
            id: "no uuid",
            ..new_message(&body, keep)
        },
        NewMessage {
            event: "\0",
            ..new_message(&body, keep)
        },
        new_message(&json("no json"), keep),
        new_message(&json(r#""\u0000""#), keep),
    ] {
        let error = scene.archive.persist(odd).await.unwrap_err();
        assert!(matches!(error, PersistError::Refused(_)), "{odd:?}: {error}");
    }
    scene.archive.persist(new_message(&body, keep)).await.unwrap();
    let again = scene.archive.persist(new_message(&body, keep)).await.unwrap_err();
    assert!(matches!(again, PersistError::Refused(_)), "{again}");
    scene
        .database
        .execute("drop table realtime.messages_any_day")
        .await;
    let error = scene
        .archive
        .persist(NewMessage {
            id: OTHER_ID,
            ..new_message(&body, keep)
        })
        .await;
    assert_eq!(error, Err(PersistError::MissingPartition));
    assert_eq!(scene.count("walcast.message_lifetimes").await, 1);
}

#[tokio::test]
async fn a_stored_message_comes_through_the_stream_with_its_id() {
    let scene = Scene::new().await;
    let slot = format!("archive_{}", scene.database.name());
    scene
        .client
        .query(
            "select pg_create_logical_replication_slot($1, 'test_decoding', true)",
            &[&slot],
        )
        .await
        .unwrap();
    scene
        .archive
        .persist(new_message(&json("{}"), Keep::Retention))
        .await
        .unwrap();
    let changes = scene
        .client
        .query(
            "select data from pg_logical_slot_get_changes($1, null, null)",
            &[&slot],
        )
        .await
        .unwrap();
    let inserts: Vec<String> = changes
        .iter()
        .map(|row| row.get::<_, String>(0))
        .filter(|change| change.contains("INSERT"))
        .collect();
    assert_eq!(inserts.len(), 1, "{inserts:?}");
    assert!(inserts[0].contains(ID), "{inserts:?}");
    scene
        .client
        .query("select pg_drop_replication_slot($1)", &[&slot])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_index_made_for_replay_serves_it() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "insert into realtime.messages (topic, extension, event, private, payload, inserted_at)
             select 'room' || n % 100, 'broadcast', 'e', true, '{}', now() at time zone 'utc' - n * interval '1 second'
             from generate_series(1, 5000) as n;
             analyze realtime.messages",
        )
        .await;
    assert_eq!(scene.events("room1", EVERYTHING).await.len(), 25);
    // Statistics are told when the session that gathered them is idle or ends.
    drop(scene.archive);
    scene
        .database
        .until(
            "select idx_scan > 0 from pg_stat_user_indexes
             where relname = 'messages_any_day' and indexrelname like '%topic%'",
        )
        .await;
}

#[tokio::test]
async fn a_role_bound_by_policies_gets_an_error_and_not_an_empty_replay() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "do $$ begin
               create role archive_server login;
             exception when duplicate_object or unique_violation then null;
             end $$;
             grant usage on schema walcast, realtime to archive_server;
             grant select on realtime.messages, walcast.message_lifetimes to archive_server;",
        )
        .await;
    let connect = scene.database.url_as("archive_server", "").parse().unwrap();
    let bound = Archive::new(&connect, ArchiveOptions::default());
    let error = bound.replay("room", EVERYTHING, &[]).await.unwrap_err();
    assert!(error.to_string().contains("row-level security"), "{error}");
    scene.database.execute("drop owned by archive_server").await;
}

#[tokio::test]
async fn a_table_that_is_locked_and_a_database_that_hangs_are_errors_in_time() {
    let scene = Scene::new().await;
    let options = ArchiveOptions {
        timeout_ms: 300,
        ..ArchiveOptions::default()
    };
    scene
        .client
        .batch_execute("begin; lock table realtime.messages in access exclusive mode")
        .await
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let body = json("{}");
    for url in [scene.database.url(), format!("postgres://x@127.0.0.1:{port}/x")] {
        let archive = Archive::new(&url.parse().unwrap(), options);
        let started = Instant::now();
        let error = archive.replay("room", EVERYTHING, &[]).await.unwrap_err();
        assert!(matches!(error, ReplayError::Unreadable { .. }), "{error}");
        let error = archive
            .persist(new_message(&body, Keep::Retention))
            .await
            .unwrap_err();
        assert!(matches!(error, PersistError::Unavailable(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    scene.client.batch_execute("rollback").await.unwrap();
    let archive = Archive::new(&scene.database.url().parse().unwrap(), ArchiveOptions::default());
    assert_eq!(archive.replay("room", EVERYTHING, &[]).await, Ok(Vec::new()));
}
