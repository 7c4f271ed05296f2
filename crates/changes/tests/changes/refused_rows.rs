//! Rows that are shown in part or not at all, with the reason (`protocol.md 7.5`, `database.md 2.5`, `2.9`).

use crate::scene::{ALICE, Scene, all, filtered, role, service, table, user};
use serde_json::json;
use std::sync::Arc;
use walcast_changes::Options;

#[tokio::test]
async fn values_up_to_64_bytes_of_json_stay_in_a_row_that_is_too_large() {
    let scene = Scene::new(&table(
        "t",
        "id int primary key, at text, over text, wide text, nothing text, digits numeric, list int[], body text",
    ))
    .await;
    let mut listener = scene.listen(service(), all("t")).await;
    let mut by_body = scene.listen(service(), filtered("t", "over=like.xxx%")).await;
    // The quotes of a string count, and so does every byte of a character.
    scene
        .run(
            "insert into t values (1, repeat('x', 62), repeat('x', 63), repeat('ü', 32), null, 12.50,
               array(select generate_series(10, 40)), repeat('x', 1100000))",
        )
        .await;
    let change = listener.change().await;
    assert_eq!(change["errors"], json!(["Error 413: Payload Too Large"]));
    assert_eq!(
        change["record"],
        json!({ "id": 1, "at": "x".repeat(62), "digits": 12.50 })
    );
    assert_eq!(change["columns"].as_array().unwrap().len(), 8);
    assert_ne!(change["commit_timestamp"], json!(null));
    // Filters see the whole values.
    assert_eq!(by_body.id().await, 1);
}

#[tokio::test]
async fn the_limit_is_of_one_change_and_of_both_its_rows() {
    let options = Options {
        max_record_bytes: 2_000,
        ..Options::default()
    };
    let setup = format!(
        "{} alter table t replica identity full;",
        table("t", "id int primary key, body text")
    );
    let scene = Scene::with(&setup, options).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run(
            "insert into t values (1, repeat('a', 1200)); insert into t values (2, repeat('b', 2100));
             update t set body = repeat('c', 1200) where id = 1; update t set body = 'd' where id = 2;
             delete from t where id = 2",
        )
        .await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let change = listener.change().await;
        seen.push((change["type"].clone(), change["errors"].is_array()));
    }
    let expected = [
        ("INSERT", false),
        ("INSERT", true),
        ("UPDATE", true),
        ("UPDATE", true),
        ("DELETE", false),
    ];
    assert_eq!(seen, expected.map(|(kind, cut)| (json!(kind), cut)));
}

#[tokio::test]
async fn a_role_that_may_not_read_the_key_hears_of_the_very_first_change() {
    let setup = format!(
        "{} revoke all on t from anon; grant select (body) on t to anon;",
        table("t", "id int primary key, body text")
    );
    let scene = Scene::new(&setup).await;
    let mut known = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1, 'x')").await;
    assert_eq!(known.id().await, 1);
    // The table's task has looked at who listens a moment ago.
    let mut blind = scene.listen(role("anon", "x"), all("t")).await;
    let mut filtering = scene
        .listen(role("anon", "x"), filtered("t", "body=eq.nothing"))
        .await;
    scene.run("insert into t values (2, 'x')").await;
    for listener in [&mut blind, &mut filtering] {
        let change = listener.change().await;
        assert_eq!(change["errors"], json!(["Error 401: Unauthorized"]));
        assert_eq!(
            (&change["record"], &change["columns"], &change["commit_timestamp"]),
            (&json!({}), &json!([]), &json!(null))
        );
    }
    assert_eq!(known.id().await, 2);
}

#[tokio::test]
async fn a_channel_that_goes_on_with_such_a_role_hears_of_the_next_change() {
    let setup = format!(
        "{} revoke all on t from anon; grant select (body) on t to anon;",
        table("t", "id int primary key, body text")
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), filtered("t", "body=eq.x")).await;
    scene.run("insert into t values (1, 'x')").await;
    assert_eq!(listener.id().await, 1);
    listener
        .subscription
        .reauthorize(Arc::new(role("anon", "x")))
        .await
        .unwrap();
    scene.run("insert into t values (2, 'y')").await;
    assert_eq!(
        listener.change().await["errors"],
        json!(["Error 401: Unauthorized"])
    );
}

#[tokio::test]
async fn error_rows_concern_a_role_and_an_action_alone() {
    let setup = format!(
        "{} revoke all on t from anon; grant select (body) on t to anon;",
        table("t", "id int primary key, body text")
    );
    let scene = Scene::new(&setup).await;
    let updates = json!([{ "event": "UPDATE", "schema": "public", "table": "t" }]);
    let mut updates = scene.listen(role("anon", "x"), updates).await;
    let mut user = scene.listen(user(ALICE), all("t")).await;
    scene
        .run("insert into t values (1, 'x'); update t set body = 'y'")
        .await;
    let refused = updates.change().await;
    assert_eq!(
        (&refused["type"], &refused["old_record"], &refused["errors"]),
        (&json!("UPDATE"), &json!({}), &json!(["Error 401: Unauthorized"]))
    );
    for _ in 0..2 {
        assert_eq!(user.change().await["errors"], json!(null));
    }
}
