//! A binding with `"leave": true` is told of rows that are not shown to it any more (decision 19).

use crate::scene::{ALICE, BOB, Listener, OWNS, Scene, filtered, service, table, user};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use walcast_changes::{Options, Visibility};

/// An entry of `t` that wants to know, with more in it.
fn leaving(more: Value) -> Value {
    let mut entry = json!({ "event": "*", "schema": "public", "table": "t", "leave": true });
    let Value::Object(more) = more else {
        panic!("not an object")
    };
    entry.as_object_mut().unwrap().extend(more);
    entry
}

/// A table `t`, whose old rows are known as a whole.
fn whole(columns: &str) -> String {
    format!("{} alter table t replica identity full;", table("t", columns))
}

/// A table `t` of rows that their owner sees, told by `condition`.
fn owned(condition: &str) -> String {
    format!(
        "{} alter table t enable row level security;
         create policy own on t for select to authenticated using ({condition});",
        whole("id int primary key, owner uuid, n int")
    )
}

/// The next message in short: what happened, whether it is a leaving, and to which row.
async fn told(listener: &mut Listener) -> (String, bool, i64) {
    let change = listener.change().await;
    let row = if change["type"] == "DELETE" {
        "old_record"
    } else {
        "record"
    };
    (
        change["type"].as_str().unwrap().to_owned(),
        change["left"] == true,
        change[row]["id"]
            .as_i64()
            .unwrap_or_else(|| panic!("no id in {change}")),
    )
}

async fn expect(listener: &mut Listener, expected: &[(&str, bool, i64)]) {
    for (kind, left, id) in expected {
        assert_eq!(told(listener).await, ((*kind).to_owned(), *left, *id));
    }
}

#[tokio::test]
async fn a_row_that_stops_passing_the_filter_is_told_as_a_delete_of_what_it_was_once() {
    let scene = Scene::new(&whole("id int primary key, state text, n int8")).await;
    let open = json!({ "filter": "state=eq.open" });
    let mut listener = scene.listen(service(), json!([leaving(open)])).await;
    let mut plain = scene.listen(service(), filtered("t", "state=eq.open")).await;
    scene
        .run(
            "insert into t values (1, 'open', 1), (2, 'done', 2);
             update t set n = 7 where id = 1; update t set state = 'done' where id = 1;
             update t set n = 8; update t set state = 'open' where id = 1; delete from t where id = 1",
        )
        .await;
    expect(&mut listener, &[("INSERT", false, 1), ("UPDATE", false, 1)]).await;
    let left = listener.payload().await;
    assert_eq!(left["ids"], json!(listener.ids));
    let mut data = left["data"].clone();
    assert!(data["commit_timestamp"].is_string());
    data.as_object_mut().unwrap().remove("commit_timestamp");
    let column = |name: &str, kind: &str| json!({ "name": name, "type": kind });
    assert_eq!(
        data,
        json!({
            "schema": "public", "table": "t", "type": "DELETE", "left": true, "errors": null,
            "columns": [column("id", "int4"), column("state", "text"), column("n", "int8")],
            "old_record": { "id": 1, "state": "open", "n": 7 }
        })
    );
    expect(&mut listener, &[("UPDATE", false, 1), ("DELETE", false, 1)]).await;
    let kept = [
        ("INSERT", false, 1),
        ("UPDATE", false, 1),
        ("UPDATE", false, 1),
        ("DELETE", false, 1),
    ];
    expect(&mut plain, &kept).await;
}

#[tokio::test]
async fn it_is_told_to_those_bindings_alone_that_asked_and_that_the_row_left() {
    let scene = Scene::new(&whole("id int primary key, n int, body text")).await;
    let entries = json!([
        leaving(json!({ "filter": "n=eq.1" })),
        leaving(json!({ "filter": "n=in.(1,2)", "select": ["n"] })),
        leaving(json!({ "filter": "n=lt.2", "event": "DELETE" })),
        leaving(json!({ "filter": "n=eq.1", "event": "UPDATE" })),
        leaving(json!({ "filter": "n=eq.1", "leave": "yes" })),
        leaving(json!({}))
    ]);
    let mut listener = scene.listen(service(), entries).await;
    let ids = listener.ids.clone();
    scene
        .run("insert into t values (1, 1, 'a'); update t set n = 2; update t set n = 3; update t set n = 4")
        .await;
    let mut messages = Vec::new();
    // The INSERT twice, for there are two selections.
    for _ in 0..8 {
        let payload = listener.payload().await;
        let data = &payload["data"];
        let left = data.get("left").is_some();
        let kind = data["type"].as_str().unwrap().to_owned();
        messages.push((kind, left, payload["ids"].clone(), data["old_record"].clone()));
    }
    let row = |n: i64| json!({ "id": 1, "n": n, "body": "a" });
    let of = |kind: &str, left: bool, ids: Value, old: Value| (kind.to_owned(), left, ids, old);
    let expected = [
        of("INSERT", false, json!([ids[5], ids[4], ids[0]]), Value::Null),
        of("INSERT", false, json!([ids[1]]), Value::Null),
        of("UPDATE", false, json!([ids[5]]), row(1)),
        of("UPDATE", false, json!([ids[1]]), json!({ "id": 1, "n": 1 })),
        of("DELETE", true, json!([ids[2], ids[0]]), row(1)),
        of("UPDATE", false, json!([ids[5]]), row(2)),
        of("DELETE", true, json!([ids[1]]), json!({ "id": 1, "n": 2 })),
        of("UPDATE", false, json!([ids[5]]), row(3)),
    ];
    assert_eq!(messages, expected);
    assert_eq!(
        listener.subscription.warnings(),
        ["`leave` has no effect with `event: \"UPDATE\"`, for that a row left is told as a DELETE"]
    );
}

#[tokio::test]
async fn a_row_that_policies_hide_now_is_told_to_those_they_showed_it_to() {
    let scene = Scene::new(&owned("owner = auth.uid()")).await;
    let entries = json!([leaving(json!({}))]);
    let mut alice = scene.listen(user(ALICE), entries.clone()).await;
    let mut bob = scene.listen(user(BOB), entries.clone()).await;
    let mut nobody = scene.listen(user("no uuid"), entries.clone()).await;
    let mut service = scene.listen(service(), entries).await;
    assert_eq!(alice.subscription.warnings(), [] as [&str; 0]);
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1); update t set owner = '{BOB}'; update t set n = 2;
             update t set owner = null; update t set n = 3; update t set owner = '{ALICE}'"
        ))
        .await;
    expect(&mut alice, &[("INSERT", false, 1)]).await;
    let left = alice.change().await;
    assert_eq!(left["left"], true);
    // As it was: what it became is not for everybody to see.
    assert_eq!(left["old_record"], json!({ "id": 1, "owner": ALICE, "n": 1 }));
    expect(&mut alice, &[("UPDATE", false, 1)]).await;
    let of_bob = [("UPDATE", false, 1), ("UPDATE", false, 1), ("DELETE", true, 1)];
    expect(&mut bob, &of_bob).await;
    expect(&mut service, &[("INSERT", false, 1)]).await;
    for _ in 0..5 {
        expect(&mut service, &[("UPDATE", false, 1)]).await;
    }
    // Told that the policies raise for him, and nothing else.
    assert_eq!(nobody.system().await.0, "error");
    for listener in [&mut alice, &mut bob, &mut nobody] {
        assert!(listener.frames.try_recv().is_err());
    }
}

#[tokio::test]
async fn filter_and_policies_must_both_have_shown_the_row() {
    let scene = Scene::new(&owned("owner = auth.uid()")).await;
    let entries = json!([leaving(json!({ "filter": "n=eq.1" }))]);
    let mut alice = scene.listen(user(ALICE), entries).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1), (2, '{ALICE}', 2), (3, '{BOB}', 1), (4, '{ALICE}', 1);
             update t set n = 3, owner = '{BOB}' where id in (2, 3);
             update t set owner = '{BOB}' where id = 1; update t set n = 4 where id = 4; update t set n = 5"
        ))
        .await;
    let told = [
        ("INSERT", false, 1),
        ("INSERT", false, 4),
        ("DELETE", true, 1),
        ("DELETE", true, 4),
    ];
    expect(&mut alice, &told).await;
    scene
        .run(&format!("insert into t values (9, '{ALICE}', 1)"))
        .await;
    expect(&mut alice, &[("INSERT", false, 9)]).await;
}

#[tokio::test]
async fn what_a_role_may_not_read_and_what_the_identity_lacks_is_not_told() {
    let scene = Scene::new(&format!(
        "{} create policy all_of_them on t using (true);
         revoke all on t from authenticated; grant select (id, owner) on t to authenticated;",
        table("t", "id int primary key, owner uuid, n int")
    ))
    .await;
    let entries = json!([leaving(json!({ "filter": "id=lt.10" }))]);
    let mut alice = scene.listen(user(ALICE), entries).await;
    let unknowable = json!([leaving(json!({ "filter": format!("owner=eq.{ALICE}") }))]);
    let mut unknowing = scene.listen(user(ALICE), unknowable).await;
    let warnings = unknowing.subscription.warnings().join("; ");
    assert!(
        warnings.contains("that a row left is not told")
            && warnings.contains("needs owner of public.t")
            && warnings.contains("alter table public.t replica identity full"),
        "{warnings}"
    );
    assert_eq!(alice.subscription.warnings(), [] as [&str; 0]);
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1); update t set owner = '{BOB}'; update t set id = 11;
             insert into t values (2, '{ALICE}', 1)"
        ))
        .await;
    expect(&mut alice, &[("INSERT", false, 1), ("UPDATE", false, 1)]).await;
    let left = alice.change().await;
    // The key changed, so its old value is all there is.
    assert_eq!(
        (&left["left"], &left["old_record"]),
        (&json!(true), &json!({ "id": 1 }))
    );
    scene
        .run("alter table t replica identity full; update t set id = 12 where id = 2")
        .await;
    expect(&mut alice, &[("INSERT", false, 2)]).await;
    assert_eq!(
        alice.change().await["old_record"],
        json!({ "id": 2, "owner": ALICE })
    );
    expect(&mut unknowing, &[("INSERT", false, 1), ("INSERT", false, 2)]).await;
    // From here on it is known.
    expect(&mut unknowing, &[("UPDATE", false, 12)]).await;
    scene.run("update t set owner = null").await;
    expect(&mut unknowing, &[("DELETE", true, 12)]).await;
}

#[tokio::test]
async fn where_only_postgres_can_tell_who_saw_the_row_nobody_is_told_and_that_is_said() {
    let cases = [
        (Visibility::Compiled, format!("{OWNS} {}", owned("owns(owner)"))),
        (Visibility::Sql, owned("owner = auth.uid()")),
        (Visibility::Verify, owned("owner = auth.uid()")),
    ];
    for (visibility, setup) in cases {
        let options = Options {
            visibility,
            ..Options::default()
        };
        let scene = Scene::with(&setup, options).await;
        let entries = json!([leaving(json!({ "filter": "n=eq.1" }))]);
        let mut alice = scene.listen(user(ALICE), entries.clone()).await;
        let mut exempt = scene.listen(service(), entries).await;
        let warnings = alice.subscription.warnings().join("; ");
        assert!(
            warnings.contains("only Postgres can decide") && warnings.contains("that a row left is not told"),
            "{visibility:?}: {warnings}"
        );
        assert_eq!(exempt.subscription.warnings(), [] as [&str; 0]);
        scene
            .run(&format!("insert into t values (1, '{ALICE}', 1)"))
            .await;
        expect(&mut exempt, &[("INSERT", false, 1)]).await;
        expect(&mut alice, &[("INSERT", false, 1)]).await;
        scene.run("update t set n = 2").await;
        // Who is shown every row needs nobody to ask.
        expect(&mut exempt, &[("DELETE", true, 1)]).await;
        scene
            .run(&format!("insert into t values (2, '{ALICE}', 1)"))
            .await;
        expect(&mut alice, &[("INSERT", false, 2)]).await;
    }
}

#[tokio::test]
async fn a_filter_only_postgres_can_evaluate_is_asked_about_both_rows() {
    let scene = Scene::new(&whole("id int primary key, name text")).await;
    let entries = json!([leaving(json!({ "filter": "name=match.^a+b" }))]);
    let mut listener = scene.listen(service(), entries).await;
    scene
        .run(
            "insert into t values (1, 'aab'), (2, 'b'), (3, 'ab'); update t set name = 'b' where id = 1;
             update t set name = 'abb' where id > 1; update t set name = null where id = 3",
        )
        .await;
    let told = [
        ("INSERT", false, 1),
        ("INSERT", false, 3),
        ("DELETE", true, 1),
        ("UPDATE", false, 2),
        ("UPDATE", false, 3),
        ("DELETE", true, 3),
    ];
    expect(&mut listener, &told).await;
}

#[tokio::test]
async fn a_filter_that_cannot_be_evaluated_for_the_new_row_tells_no_leaving() {
    // The pattern is found to be wrong only where a value gets as far as its end.
    let scene = Scene::new(&whole("id int primary key, body text")).await;
    let entries = json!([leaving(json!({ "filter": r"body=not.like.ab\" }))]);
    let mut listener = scene.listen(service(), entries).await;
    scene.run("insert into t values (1, 'x'), (2, 'y')").await;
    expect(&mut listener, &[("INSERT", false, 1), ("INSERT", false, 2)]).await;
    scene
        .run("update t set body = 'abc' where id = 1; update t set body = 'z' where id = 2")
        .await;
    let (status, text) = listener.system().await;
    assert_eq!(status, "error");
    assert!(text.contains("could not be evaluated"), "{text}");
    expect(&mut listener, &[("UPDATE", false, 2)]).await;
}

#[tokio::test]
async fn a_channel_that_comes_back_is_told_what_left_meanwhile() {
    let scene = Scene::new(&owned("owner = auth.uid()")).await;
    let entry = |since: Option<&Value>| json!([leaving(json!({ "filter": "n=eq.1", "since": since }))]);
    let mut first = scene.listen(user(ALICE), entry(None)).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1), (2, '{ALICE}', 1), (3, '{BOB}', 1)"
        ))
        .await;
    expect(&mut first, &[("INSERT", false, 1)]).await;
    let heard = first.payload().await;
    scene
        .run(&format!(
            "update t set n = 2 where id = 1; update t set owner = '{BOB}' where id = 2; update t set n = 3"
        ))
        .await;
    expect(&mut first, &[("DELETE", true, 1), ("DELETE", true, 2)]).await;
    drop(first);
    let mut back = scene.listen(user(ALICE), entry(Some(&heard["position"]))).await;
    for id in [1, 2] {
        let payload = back.payload().await;
        assert_eq!(payload["replayed"], true);
        let data = &payload["data"];
        assert_eq!(
            (&data["left"], &data["old_record"]["id"]),
            (&json!(true), &json!(id))
        );
    }
    scene
        .run(&format!("insert into t values (9, '{ALICE}', 1)"))
        .await;
    expect(&mut back, &[("INSERT", false, 9)]).await;
}

#[tokio::test]
async fn the_old_row_is_judged_for_the_identity_a_channel_has_now() {
    let scene = Scene::new(&owned("owner = auth.uid()")).await;
    let mut listener = scene.listen(user(ALICE), json!([leaving(json!({}))])).await;
    let mut witness = scene.listen(service(), json!([leaving(json!({}))])).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1), (2, '{BOB}', 1)"
        ))
        .await;
    expect(&mut witness, &[("INSERT", false, 1), ("INSERT", false, 2)]).await;
    expect(&mut listener, &[("INSERT", false, 1)]).await;
    listener
        .subscription
        .reauthorize(Arc::new(user(BOB)))
        .await
        .unwrap();
    scene.run("update t set owner = null").await;
    expect(&mut listener, &[("DELETE", true, 2)]).await;
    expect(&mut witness, &[("UPDATE", false, 1), ("UPDATE", false, 2)]).await;
    assert!(listener.frames.try_recv().is_err());
}

/// Does things to rows at random, each in a transaction of its own or all in one.
fn stirring() -> String {
    format!(
        "create procedure stir(is_one boolean) language plpgsql as $$
         declare it int; other int; who uuid;
         begin
           for _ in 1..150 loop
             it := floor(random() * 12);
             other := floor(random() * 12);
             who := (array['{ALICE}', '{BOB}', null])[floor(random() * 3) + 1];
             case floor(random() * 6)::int
               when 0 then delete from t where id = it;
               when 1 then update t set owner = who where id = it;
               when 2 then update t set n = floor(random() * 4) where id = it;
               when 3 then update t set id = other where id = it and not exists (select from t where id = other);
               else insert into t values (it, who, floor(random() * 4)) on conflict do nothing;
             end case;
             if not is_one then commit; end if;
           end loop;
         end $$;"
    )
}

#[tokio::test]
async fn a_list_kept_by_what_is_told_is_what_a_select_finds() {
    let setup = format!("{} {}", owned("owner = auth.uid()"), stirring());
    let scene = Scene::new(&setup).await;
    let entries = json!([leaving(json!({ "filter": "n=in.(1,2)" }))]);
    let mut people = Vec::new();
    for name in [ALICE, BOB] {
        let listener = scene.listen(user(name), entries.clone()).await;
        people.push((name, listener, BTreeMap::<i64, Value>::new()));
    }
    let client = scene.database.client().await;
    let mut left = 0;
    let mut markers = 1_000..;
    for round in 1..=6 {
        let is_one = round % 2 == 0;
        client
            .batch_execute(&format!("select setseed(0.{round})"))
            .await
            .unwrap();
        client
            .batch_execute(&format!("call stir({is_one})"))
            .await
            .unwrap();
        for (name, listener, list) in &mut people {
            let marker = markers.next().unwrap();
            scene
                .run(&format!("insert into t values ({marker}, '{name}', 1)"))
                .await;
            while !list.contains_key(&marker) {
                let change = listener.change().await;
                let id = |row: &str| change[row]["id"].as_i64().unwrap();
                if change["type"] != "INSERT" {
                    let known = list.remove(&id("old_record"));
                    if change["left"] == true {
                        left += 1;
                        assert_eq!(known.as_ref(), Some(&change["old_record"]), "never shown");
                    }
                }
                if change["type"] != "DELETE" {
                    list.insert(id("record"), change["record"].clone());
                }
            }
            let query = format!("select id from t where owner = '{name}' and n in (1, 2) order by id");
            let rows = client.query(&query, &[]).await.unwrap();
            let selected: Vec<i64> = rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).collect();
            assert_eq!(list.keys().copied().collect::<Vec<_>>(), selected, "{round}");
        }
    }
    assert!(left > 20, "{left}");
}
