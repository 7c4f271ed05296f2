//! The row of a change is found by its primary key, whatever that is made of (`database.md 2.5`, `12`).

use crate::scene::{ALICE, BOB, OWNS, Scene, all, service, user};
use serde_json::{Value, json};

/// A published table whose row security only Postgres can decide.
fn guarded(name: &str, columns: &str) -> String {
    format!(
        "create table {name} ({columns}, owner uuid);
         alter table {name} enable row level security;
         create policy own on {name} for select to authenticated using (owns(owner));
         {}",
        crate::scene::publish(name)
    )
}

#[tokio::test]
async fn keys_of_every_type_find_their_row() {
    // Type, a key as SQL, and as a message shows it.
    let cases: [(&str, &str, Value); 22] = [
        (
            "text",
            r#"'a"b\c, {d} ''e'' (f) NULL'"#,
            json!(r#"a"b\c, {d} 'e' (f) NULL"#),
        ),
        ("text", "''", json!("")),
        ("text", "'null'", json!("null")),
        ("text", "E'two\\nlines\\ttab'", json!("two\nlines\ttab")),
        ("varchar(20)", "'ü€😀'", json!("ü€😀")),
        ("char(5)", "'ab'", json!("ab   ")),
        ("\"char\"", "'x'", json!("x")),
        ("name", "'n'", json!("n")),
        (
            "uuid",
            "'ABCDEFAB-0000-4000-8000-000000000001'",
            json!("abcdefab-0000-4000-8000-000000000001"),
        ),
        (
            "bigint",
            "9223372036854775807",
            json!(9_223_372_036_854_775_807_i64),
        ),
        ("numeric", "1.500", json!(1.500)),
        ("numeric", "'NaN'", Value::Null),
        ("float8", "'-Infinity'", Value::Null),
        ("bool", "true", json!(true)),
        (
            "timestamptz",
            "'2024-02-03 04:05:06.123456+02'",
            json!("2024-02-03T02:05:06.123456+00:00"),
        ),
        ("timestamp", "'infinity'", json!("infinity")),
        ("date", "'2024-02-03'", json!("2024-02-03")),
        ("bytea", "'\\x00ff27'", json!("00ff27")),
        ("bit(3)", "B'101'", json!("101")),
        ("mood", "'so, \"so\"'", json!("so, \"so\"")),
        (
            "text[]",
            r#"array['a"b', null, '{c,d}', '']"#,
            json!(["a\"b", null, "{c,d}", ""]),
        ),
        ("short", "'x y'", json!("x y")),
    ];
    let mut setup = format!(
        "{OWNS} create type mood as enum ('sad', 'so, \"so\"'); create domain short as varchar(5) check (value <> '');"
    );
    for (at, (kind, ..)) in cases.iter().enumerate() {
        setup += &guarded(&format!("t{at}"), &format!("k {kind} primary key"));
    }
    let scene = Scene::new(&setup).await;
    for (at, (kind, key, shown)) in cases.iter().enumerate() {
        let name = format!("t{at}");
        let mut alice = scene.listen(user(ALICE), all(&name)).await;
        let mut bob = scene.listen(user(BOB), all(&name)).await;
        scene
            .run(&format!("insert into {name} values ({key}, '{ALICE}')"))
            .await;
        assert_eq!(
            alice.change().await["record"],
            json!({ "k": shown, "owner": ALICE }),
            "{kind} {key}"
        );
        scene.run(&format!("update {name} set owner = '{BOB}'")).await;
        assert_eq!(
            bob.change().await["record"],
            json!({ "k": shown, "owner": BOB }),
            "{kind} {key}"
        );
        assert!(alice.frames.try_recv().is_err(), "{kind} {key}");
    }
}

#[tokio::test]
async fn all_columns_of_a_composite_key_tell_a_row() {
    let setup = format!(
        "{OWNS} {}",
        guarded("t", "id int, day date, place text, primary key (place, id, day)")
    );
    let scene = Scene::new(&setup).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut everything = scene.listen(service(), all("t")).await;
    scene
        .run(&format!(
            "insert into t values
               (1, '2024-01-01', 'a', '{BOB}'), (1, '2024-01-02', 'a', '{ALICE}'), (2, '2024-01-01', 'a', '{BOB}'),
               (1, '2024-01-01', 'b', '{ALICE}'), (1, '2024-01-02', 'b', '{BOB}')"
        ))
        .await;
    let shown = |change: Value| (change["record"]["day"].clone(), change["record"]["place"].clone());
    for _ in 0..5 {
        everything.change().await;
    }
    assert_eq!(shown(alice.change().await), (json!("2024-01-02"), json!("a")));
    assert_eq!(shown(alice.change().await), (json!("2024-01-01"), json!("b")));
    scene
        .run("delete from t where place = 'b' and day = '2024-01-02'")
        .await;
    // Never hidden, so nothing can have come between.
    assert_eq!(
        alice.change().await["old_record"],
        json!({ "id": 1, "day": "2024-01-02", "place": "b" })
    );
}

#[tokio::test]
async fn a_row_is_looked_up_under_its_new_key_when_the_key_changes() {
    let setup = format!("{OWNS} {}", guarded("t", "id int primary key"));
    let scene = Scene::new(&setup).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene.run(&format!("insert into t values (1, '{ALICE}')")).await;
    assert_eq!(alice.id().await, 1);
    // Another's row takes the old key in the same transaction.
    scene
        .run(&format!(
            "update t set id = 2 where id = 1; insert into t values (1, '{BOB}')"
        ))
        .await;
    let change = alice.change().await;
    assert_eq!(
        (&change["type"], &change["record"]["id"], &change["old_record"]),
        (&json!("UPDATE"), &json!(2), &json!({ "id": 1 }))
    );
}

#[tokio::test]
async fn a_row_that_is_gone_when_it_is_looked_for_is_not_shown() {
    let setup = format!("{OWNS} {}", guarded("t", "id int primary key"));
    let scene = Scene::new(&setup).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}'), (2, '{ALICE}'); delete from t where id = 1"
        ))
        .await;
    assert_eq!(alice.id().await, 2);
    assert_eq!(alice.change().await["old_record"], json!({ "id": 1 }));
}
