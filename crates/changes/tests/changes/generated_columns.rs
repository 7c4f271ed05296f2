//! Stored generated columns, which the stream leaves out, are shown like any other (`database.md 2.10`, `9.6`).

use crate::scene::{ALICE, BOB, Scene, all, filtered, role, service, table, user};
use serde_json::{Value, json};

#[tokio::test]
async fn generated_columns_are_shown_in_their_place_with_what_the_row_held() {
    let setup = format!(
        "create type mood as enum ('sad', 'happy');
         create function shout(a text) returns text language sql immutable as 'select upper($1) || ''!''';
         {} alter table t replica identity full;",
        table(
            "t",
            r#"id int primary key, "Twice" int generated always as (n * 2) stored, n int, a text, m mood, at timestamptz,
               loud text generated always as (shout(a)) stored,
               parts text[] generated always as (array[a, null, a || '"']) stored,
               same mood generated always as (m) stored,
               bytes bytea generated always as ('\x01ff'::bytea) stored,
               later timestamptz generated always as (coalesce(at, '2024-01-02 03:04:05.6+00')) stored,
               span interval generated always as (make_interval(days => n)) stored,
               _t0 int generated always as (n + 1) stored"#
        )
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run(
            r"insert into t (id, n, a, m) values (1, 2, 'x', 'happy'), (2, null, null, null);
              update t set n = 3 where id = 1; delete from t",
        )
        .await;
    let first = |n: i32| {
        json!({
            "id": 1, "Twice": 2 * n, "n": n, "a": "x", "m": "happy", "at": null, "loud": "X!", "parts": ["x", null, "x\""],
            "same": "happy", "bytes": "01ff", "later": "2024-01-02T03:04:05.6+00:00", "span": format!("{n} days"), "_t0": n + 1
        })
    };
    let second = json!({
        "id": 2, "Twice": null, "n": null, "a": null, "m": null, "at": null, "loud": null, "parts": [null, null, null],
        "same": null, "bytes": "01ff", "later": "2024-01-02T03:04:05.6+00:00", "span": null, "_t0": null
    });
    let insert = listener.change().await;
    assert_eq!(insert["record"], first(2));
    let names: Vec<&Value> = insert["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(
        names,
        [
            "id", "Twice", "n", "a", "m", "at", "loud", "parts", "same", "bytes", "later", "span", "_t0"
        ]
    );
    assert_eq!(insert["columns"][8], json!({ "name": "same", "type": "mood" }));
    assert_eq!(listener.change().await["record"], second);
    let update = listener.change().await;
    assert_eq!((&update["record"], &update["old_record"]), (&first(3), &first(2)));
    assert_eq!(listener.change().await["old_record"], second);
    assert_eq!(listener.change().await["old_record"], first(3));
}

#[tokio::test]
async fn the_value_is_that_of_the_change_whatever_became_of_the_row() {
    let columns = "id int primary key, n int, twice int generated always as (n * 2) stored";
    let scene = Scene::new(&table("t", columns)).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run("insert into t values (1, 1); update t set n = 2; update t set n = 3; delete from t")
        .await;
    for n in 1..=3 {
        assert_eq!(
            listener.change().await["record"],
            json!({ "id": 1, "n": n, "twice": 2 * n })
        );
    }
    assert_eq!(listener.change().await["old_record"], json!({ "id": 1 }));
}

#[tokio::test]
async fn filters_rights_selections_and_policies_hold_for_them() {
    let columns = "id int primary key, owner uuid, n int, twice int generated always as (n * 2) stored,
                   reader uuid generated always as (owner) stored";
    let setup = format!(
        "{} {} alter table guarded enable row level security;
         create policy own on guarded for select to authenticated using (reader = auth.uid());
         revoke all on t from anon; grant select (id, n) on t to anon;",
        table("t", columns),
        table("guarded", columns)
    );
    let scene = Scene::new(&setup).await;
    let mut filtering = scene.listen(service(), filtered("t", "twice=eq.4")).await;
    let mut comparing = scene.listen(service(), filtered("t", "twice=gt.3")).await;
    let selected = json!([{ "schema": "public", "table": "t", "select": ["twice"] }]);
    let mut selecting = scene.listen(service(), selected).await;
    let mut anon = scene.listen(role("anon", "x"), all("t")).await;
    let mut alice = scene.listen(user(ALICE), all("guarded")).await;
    scene
        .run(&format!(
            "insert into t values (1, null, 1), (2, null, 2);
             insert into guarded values (1, '{BOB}', 1), (2, '{ALICE}', 2)"
        ))
        .await;
    assert_eq!(filtering.id().await, 2);
    assert_eq!(comparing.id().await, 2);
    assert_eq!(selecting.change().await["record"], json!({ "id": 1, "twice": 2 }));
    let seen = anon.change().await;
    assert_eq!(seen["record"], json!({ "id": 1, "n": 1 }));
    assert_eq!(seen["columns"].as_array().unwrap().len(), 2);
    assert_eq!(alice.id().await, 2);
}

#[tokio::test]
async fn a_column_computed_from_a_value_that_was_not_sent_is_left_out() {
    let setup = format!(
        "{} alter table t alter body set storage external;",
        table(
            "t",
            "id int primary key, n int, body text, size int generated always as (length(body)) stored,
             twice int generated always as (n * 2) stored"
        )
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run("insert into t values (1, 1, repeat('x', 10000)); update t set n = 2; update t set body = 'y'")
        .await;
    assert_eq!(listener.change().await["record"]["size"], 10_000);
    let update = listener.change().await;
    assert_eq!(update["record"], json!({ "id": 1, "n": 2, "twice": 4 }));
    assert_eq!(update["columns"].as_array().unwrap().len(), 5);
    assert_eq!(
        listener.change().await["record"],
        json!({ "id": 1, "n": 2, "body": "y", "size": 1, "twice": 4 })
    );
}

#[tokio::test]
async fn a_key_may_be_generated() {
    let setup = table(
        "t",
        "n int, id int generated always as (n * 2) stored primary key, a int",
    );
    let scene = Scene::new(&format!(
        "{setup} alter table t enable row level security;
         create policy asked on t for select to authenticated using (exists (select where n > 1));"
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene.run("insert into t values (1), (2)").await;
    assert_eq!(
        alice.change().await["record"],
        json!({ "n": 2, "id": 4, "a": null })
    );
}

#[tokio::test]
async fn an_expression_that_raises_leaves_its_column_out_and_says_so() {
    let setup = format!(
        "create function careful(n int) returns int language plpgsql immutable as 'begin return n; end'; {}",
        table(
            "t",
            "id int primary key, n int, copy int generated always as (careful(n)) stored"
        )
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1, 1)").await;
    assert_eq!(
        listener.change().await["record"],
        json!({ "id": 1, "n": 1, "copy": 1 })
    );
    // From here on it raises where it is evaluated again.
    scene
        .run(
            "create or replace function careful(n int) returns int language plpgsql immutable as
               'begin if n = 2 and current_setting(''application_name'') = ''walcast_visibility'' then
                  raise ''no''; end if; return n; end'",
        )
        .await;
    scene.run("insert into t values (2, 2), (3, 3)").await;
    let (status, text) = listener.system().await;
    assert_eq!(status, "error");
    assert!(
        text.contains("generated columns of public.t are missing"),
        "{text}"
    );
    assert_eq!(listener.change().await["record"], json!({ "id": 2, "n": 2 }));
    assert_eq!(
        listener.change().await["record"],
        json!({ "id": 3, "n": 3, "copy": 3 })
    );
}

#[tokio::test]
async fn expressions_run_with_the_rights_of_the_tables_owner() {
    let scene = Scene::new(
        "create role scene_owner; grant create, usage on schema public to scene_owner; set role scene_owner;
         create function me(n int) returns text language plpgsql immutable as 'begin return current_user; end';
         create table t (id int primary key, who text generated always as (me(id)) stored);
         grant select on t to service_role; reset role; alter publication supabase_realtime add table t;",
    )
    .await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1)").await;
    assert_eq!(listener.change().await["record"]["who"], "scene_owner");
    scene
        .run("drop owned by scene_owner; drop role scene_owner")
        .await;
}
