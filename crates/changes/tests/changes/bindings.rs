//! Several bindings on one channel, wildcards, selections (`protocol.md 7.1`, `7.4`).

use crate::scene::{ALICE, Scene, all, publish, role, service, table, user};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use walcast_changes::{Options, Tap};
use walcast_replication::{Action, Change, Relation, StreamOptions, TablePublication, Value as RowValue};

#[tokio::test]
async fn entries_with_equal_selections_share_a_message_that_lists_their_ids_in_reverse() {
    let scene = Scene::new(&table("t", "id int primary key, a text, b text")).await;
    let entries = json!([
        { "event": "*", "schema": "public", "table": "t" },
        { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=gt.0" },
        { "event": "UPDATE", "schema": "public", "table": "t" },
        { "event": "*", "schema": "public", "table": "t" },
        { "event": "INSERT", "schema": "public" },
        { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=lt.0" }
    ]);
    let mut listener = scene.listen(service(), entries).await;
    let ids = listener.ids.clone();
    assert_eq!(ids[0], ids[3], "equal entries have equal ids");
    scene
        .run("insert into t values (1, 'a', 'b'); update t set a = 'c'; delete from t")
        .await;
    for (kind, expected) in [
        ("INSERT", vec![ids[4], ids[3], ids[1], ids[0]]),
        ("UPDATE", vec![ids[3], ids[2], ids[0]]),
        ("DELETE", vec![ids[3], ids[0]]),
    ] {
        let payload = listener.payload().await;
        assert_eq!(
            (&payload["data"]["type"], &payload["ids"]),
            (&json!(kind), &json!(expected))
        );
    }
}

#[tokio::test]
async fn entries_with_different_selections_get_a_message_each() {
    let scene = Scene::new(&table("t", "a text, id int, b text, c text, primary key (id)")).await;
    let entries = json!([
        { "event": "*", "schema": "public", "table": "t", "select": ["c", "a"] },
        { "event": "*", "schema": "public", "table": "t" },
        { "event": "INSERT", "schema": "public", "table": "t", "select": ["a", "c", "a"] },
        { "event": "*", "schema": "public", "table": "t", "select": ["b"] },
        { "event": "*", "schema": "public", "table": "t", "select": [] }
    ]);
    let mut listener = scene.listen(service(), entries).await;
    let ids = listener.ids.clone();
    scene.run("insert into t values ('x', 1, 'y', 'z')").await;
    let mut messages = Vec::new();
    for _ in 0..3 {
        let payload = listener.payload().await;
        let columns: Vec<Value> = payload["data"]["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].clone())
            .collect();
        messages.push((
            payload["ids"].clone(),
            payload["data"]["record"].clone(),
            Value::Array(columns),
        ));
    }
    let whole = json!({ "a": "x", "id": 1, "b": "y", "c": "z" });
    let expected = [
        (json!([ids[4], ids[1]]), whole, json!(["a", "id", "b", "c"])),
        (
            json!([ids[2], ids[0]]),
            json!({ "a": "x", "id": 1, "c": "z" }),
            json!(["a", "id", "c"]),
        ),
        (json!([ids[3]]), json!({ "id": 1, "b": "y" }), json!(["id", "b"])),
    ];
    for message in expected {
        assert!(
            messages.contains(&message),
            "{message:?} is not among {messages:?}"
        );
    }
    assert!(listener.frames.try_recv().is_err());
}

#[tokio::test]
async fn only_a_star_is_a_wildcard() {
    let setup = format!(
        "create schema other; {} {} {}",
        table("a_b", "id int primary key"),
        table("axb", "id int primary key"),
        table("other.a_b", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let cases = [
        (json!({ "schema": "public", "table": "a_b" }), vec!["public.a_b"]),
        (json!({ "table": "a_b" }), vec!["public.a_b"]),
        (
            json!({ "schema": "*", "table": "a_b" }),
            vec!["public.a_b", "other.a_b"],
        ),
        (
            json!({ "schema": "public", "table": "*" }),
            vec!["public.a_b", "public.axb"],
        ),
        (json!({ "schema": "other" }), vec!["other.a_b"]),
        (
            json!({ "schema": "*" }),
            vec!["public.a_b", "public.axb", "other.a_b"],
        ),
    ];
    let mut listeners = Vec::new();
    for (entry, expected) in cases {
        listeners.push((scene.listen(service(), json!([entry])).await, entry, expected));
    }
    scene
        .run("insert into a_b values (1); insert into axb values (1); insert into other.a_b values (1)")
        .await;
    for (listener, entry, expected) in &mut listeners {
        for name in expected {
            let change = listener.change().await;
            let heard = format!("{}.{}", change["schema"], change["table"]).replace('"', "");
            assert_eq!(heard, *name, "{entry}");
        }
    }
    scene
        .run("insert into a_b values (2); insert into axb values (2); insert into other.a_b values (2)")
        .await;
    for (listener, entry, expected) in &mut listeners {
        for _ in expected {
            assert_eq!(listener.id().await, 2, "{entry}: nothing else came");
        }
    }
    for entry in [
        json!({ "table": "a%b" }),
        json!({ "table": "A_B" }),
        json!({ "schema": "othe_" }),
    ] {
        let refusal = scene.refusal(service(), json!([entry])).await;
        assert!(
            refusal.starts_with(
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled"
            ),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn names_are_shown_as_the_catalog_has_them() {
    let name = r#"Ümlaut "and" \ 'blank', ${x}"#;
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let setup = format!(
        "create schema {quoted}; grant usage on schema {quoted} to authenticated;
         create table {quoted}.{quoted} ({quoted} int primary key, owner uuid);
         alter table {quoted}.{quoted} enable row level security;
         create policy p on {quoted}.{quoted} for select using (pg_catalog.length(owner::text) = length(pg_catalog.current_setting('request.jwt.claims', true)::json ->> 'sub'));
         {}",
        publish(&format!("{quoted}.{quoted}"))
    );
    let scene = Scene::new(&setup).await;
    let entry = json!([{ "schema": name, "table": name, "filter": format!("{name}=eq.1") }]);
    // A comma and quotes are syntax to a filter, not to a name in an entry.
    assert!(scene.refusal(user(ALICE), entry).await.contains("filter"));
    let entry = json!([{ "schema": name, "table": name, "select": [name] }]);
    let mut listener = scene.listen(user(ALICE), entry).await;
    scene
        .run(&format!("insert into {quoted}.{quoted} values (1, '{ALICE}')"))
        .await;
    let change = listener.change().await;
    assert_eq!(
        (&change["schema"], &change["table"]),
        (&json!(name), &json!(name))
    );
    assert_eq!(change["record"], json!({ name: 1 }));
    assert_eq!(change["columns"], json!([{ "name": name, "type": "int4" }]));
}

#[tokio::test]
async fn one_bad_entry_makes_the_whole_subscription_fail() {
    let scene = Scene::new(&format!(
        "create domain percent as int check (value <= 100);
         {} {} revoke all on t from anon; grant select (id) on t to anon;",
        table(
            "t",
            "id int primary key, n int, body text, v varchar(10), j jsonb, p percent"
        ),
        table("u", "id int primary key")
    ))
    .await;
    let hundred_and_one: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let too_many = format!("n=in.({})", hundred_and_one.join(","));
    let cases = [
        (
            json!({ "schema": "public", "table": "t", "filter": "nope=eq.1" }),
            "ERROR P0001 (raise_exception) invalid column for filter nope",
        ),
        (
            json!({ "schema": "public", "filter": "n=eq.1", "table": "*" }),
            "ERROR P0001 (raise_exception) invalid column for filter n",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "n=eq.hey" }),
            "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"hey\"",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "p=eq.101" }),
            "ERROR 23514 (check_violation) value for domain percent violates check constraint \"percent_check\"",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": too_many }),
            "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "n=is.yes" }),
            "ERROR P0001 (raise_exception) invalid value for is filter: must be null, true, false, or unknown",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "n=is.true" }),
            "ERROR P0001 (raise_exception) is true filter requires a boolean column, got integer",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "n=like.1" }),
            "ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got integer",
        ),
        (
            json!({ "schema": "public", "table": "t", "filter": "body=match.(" }),
            "ERROR P0001 (raise_exception) invalid regular expression for match filter: invalid regular expression: parentheses () not balanced",
        ),
        (
            json!({ "schema": "public", "table": "t", "select": ["id", "nope"] }),
            "ERROR P0001 (raise_exception) invalid column for select nope",
        ),
        (
            json!({ "schema": "public", "table": "v" }),
            "[event: *, schema: public, table: v, filters: [], select: nil]",
        ),
    ];
    for (entry, expected) in cases {
        let entries = json!([{ "schema": "public", "table": "u" }, entry]);
        let refusal = scene.refusal(service(), entries).await;
        assert!(refusal.ends_with(expected), "{refusal}");
    }
    assert_eq!(scene.changes.subscribed_tables(), 0);
    let hidden_column = json!([{ "schema": "public", "table": "t", "filter": "body=eq.x" }]);
    let refusal = scene.refusal(role("anon", "x"), hidden_column).await;
    assert!(refusal.ends_with("invalid column for filter body"), "{refusal}");
    // The good entry alone is fine.
    let mut listener = scene.listen(role("anon", "x"), all("u")).await;
    scene.run("insert into u values (1)").await;
    assert_eq!(listener.id().await, 1);
}

/// Takes the rows of one table.
struct Ears {
    table: &'static str,
    heard: mpsc::UnboundedSender<String>,
}

impl Tap for Ears {
    fn wants(&self, relation: &Relation) -> bool {
        relation.name == self.table
    }

    fn take(&self, change: &Change) {
        let Action::Insert { new } = &change.action else {
            return;
        };
        if let Some(RowValue::Text(text)) = new.get(0) {
            let _: Result<_, _> = self.heard.send(text.to_owned());
        }
    }
}

#[tokio::test]
async fn a_table_that_is_streamed_for_a_tap_is_nothing_for_a_wildcard_until_it_is_published() {
    let (sender, mut heard) = mpsc::unbounded_channel();
    let ears = Ears {
        table: "tapped",
        heard: sender,
    };
    let options = Options {
        tap: Some(Arc::new(ears)),
        stream: StreamOptions {
            table_publications: vec![TablePublication {
                name: "beside".to_owned(),
                schema: "public".to_owned(),
                table: "tapped".to_owned(),
            }],
            ..StreamOptions::default()
        },
        ..Options::default()
    };
    let setup = format!(
        "create table tapped (id int primary key); {}",
        table("other", "id int primary key")
    );
    let scene = Scene::with(&setup, options).await;
    let mut listener = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene
        .run("insert into tapped values (1); insert into other values (2)")
        .await;
    assert_eq!(listener.id().await, 2);
    assert_eq!(heard.recv().await.unwrap(), "1");
    scene
        .run(&format!("{} insert into tapped values (3)", publish("tapped")))
        .await;
    assert_eq!(listener.id().await, 3);
    assert_eq!(heard.recv().await.unwrap(), "3");
}

#[tokio::test]
async fn a_table_made_anew_and_a_right_granted_a_moment_ago_are_known_to_the_next_subscription() {
    let t = table("t", "id int primary key, a text");
    let scene = Scene::new(&t).await;
    let entries = json!([{ "event": "*", "schema": "public", "table": "t", "select": ["id"] }]);
    let _before = scene.listen(user(ALICE), entries.clone()).await;
    scene.run(&format!("begin; drop table t; {t}; commit")).await;
    let mut listener = scene.listen(user(ALICE), entries.clone()).await;
    scene.run("insert into t values (1)").await;
    assert_eq!(listener.id().await, 1);

    scene.run("revoke select on t from anon").await;
    let refused = scene.refusal(role("anon", ""), entries.clone()).await;
    assert!(refused.ends_with("invalid column for select id"), "{refused}");
    scene.run("grant select on t to anon").await;
    scene.listen(role("anon", ""), entries).await;
}
