//! What the publication offers decides what is heard: tables that are added and withdrawn, columns, rows, actions
//! (`database.md 2.11`, `2.12`, `9.7`, `9.26`, `9.34`).

use crate::scene::{Scene, all, filtered, publish, service, table};
use serde_json::{Value, json};

fn told(change: &Value) -> (&str, i64) {
    (
        change["table"].as_str().unwrap(),
        change["record"]["id"].as_i64().unwrap(),
    )
}

#[tokio::test]
async fn other_tables_feel_nothing_when_one_is_added_or_withdrawn() {
    let setup = format!(
        "{} create table late (id int primary key); grant select on late to service_role;",
        table("steady", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let mut steady = scene.listen(service(), all("steady")).await;
    let mut everything = scene.listen(service(), json!([{ "schema": "public" }])).await;
    for round in 0..3 {
        let id = 10 * round;
        scene
            .run(&format!(
                "{} insert into late values ({id}); insert into steady values ({id})",
                publish("late")
            ))
            .await;
        for expected in ["late", "steady"] {
            assert_eq!(told(&everything.change().await), (expected, id));
        }
        let next = id + 1;
        scene
            .run(&format!(
                "alter publication supabase_realtime drop table late;
                 insert into late values ({next}); insert into steady values ({next})"
            ))
            .await;
        assert_eq!(told(&everything.change().await), ("steady", next));
        assert_eq!((steady.id().await, steady.id().await), (id, next));
    }
    assert!(steady.frames.try_recv().is_err(), "not even a system message");
}

#[tokio::test]
async fn only_the_rows_and_columns_that_are_published_are_shown() {
    let scene = Scene::new(
        "create table t (id int primary key, a int, secret text, twice int generated always as (a * 2) stored);
         grant select on t to service_role; alter publication supabase_realtime add table t (id, a) where (id > 1);",
    )
    .await;
    let mut listener = scene.listen(service(), all("t")).await;
    let mut by_secret = scene.listen(service(), filtered("t", "secret=eq.s")).await;
    scene
        .run(
            "insert into t values (1, 1, 's'), (2, 2, 's'); update t set a = 3 where id = 2;
             update t set id = 0 where id = 2; update t set id = 4 where id = 1; delete from t",
        )
        .await;
    let insert = listener.change().await;
    assert_eq!(insert["record"], json!({ "id": 2, "a": 2 }));
    assert_eq!(insert["columns"].as_array().unwrap().len(), 2);
    assert_eq!(listener.change().await["record"], json!({ "id": 2, "a": 3 }));
    // A row that leaves what is published is deleted there, one that comes is inserted.
    let left = listener.change().await;
    assert_eq!(
        (&left["type"], &left["old_record"]),
        (&json!("DELETE"), &json!({ "id": 2 }))
    );
    let came = listener.change().await;
    assert_eq!(
        (&came["type"], &came["record"]),
        (&json!("INSERT"), &json!({ "id": 4, "a": 1 }))
    );
    assert_eq!(listener.change().await["old_record"], json!({ "id": 4 }));
    let (_, text) = by_secret.system().await;
    assert!(
        text.contains("no column secret any more, or does not publish it"),
        "{text}"
    );
}

#[tokio::test]
async fn a_truncate_is_not_told_and_stops_nothing() {
    let setup = format!(
        "{} {}",
        table("t", "id int primary key"),
        table("other", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let mut both = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene
        .run("insert into t values (1); truncate t, other restart identity cascade; insert into t values (1); insert into other values (2)")
        .await;
    for expected in [("t", 1), ("t", 1), ("other", 2)] {
        assert_eq!(told(&both.change().await), expected);
    }
}

#[tokio::test]
async fn actions_that_are_not_published_are_not_heard() {
    let setup = format!(
        "{} alter publication supabase_realtime set (publish = 'insert, delete');",
        table("t", "id int primary key, a int")
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run("insert into t values (1); update t set a = 1; delete from t")
        .await;
    assert_eq!(listener.id().await, 1);
    assert_eq!(listener.change().await["type"], "DELETE");
}

#[tokio::test]
async fn publications_of_all_tables_or_of_a_schema_offer_tables_that_come_later() {
    for (publication, schemas) in [
        ("for all tables", ["public", "other"].as_slice()),
        ("for tables in schema other", ["other"].as_slice()),
    ] {
        let scene = Scene::new(&format!(
            "drop publication supabase_realtime; create schema other; grant usage on schema other to service_role;
             create publication supabase_realtime {publication};
             alter default privileges grant select on tables to service_role;"
        ))
        .await;
        scene.run("create table public.early (id int primary key); create table other.early (id int primary key)").await;
        let mut everything = scene.listen(service(), json!([{ "schema": "*" }])).await;
        let mut early = scene
            .listen(service(), json!([{ "schema": "other", "table": "early" }]))
            .await;
        scene
            .run(
                "create table public.late (id int primary key); create table other.late (id int primary key);
                 insert into public.early values (1); insert into other.early values (1);
                 insert into public.late values (1); insert into other.late values (1)",
            )
            .await;
        assert_eq!(early.id().await, 1);
        for name in ["early", "late"] {
            for schema in schemas {
                let change = everything.change().await;
                assert_eq!(
                    (&change["schema"], &change["table"]),
                    (&json!(schema), &json!(name)),
                    "{publication}"
                );
            }
        }
    }
}
