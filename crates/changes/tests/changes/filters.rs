//! A filter holds where Postgres says it does (`protocol.md 7.2`, `database.md 2.6`).

use crate::scene::{Listener, Scene, all, filtered, service, table};
use serde_json::json;
use walcast_changes::Options;

/// Rows of a table that a filter lets through, in order of their id. `last` is one it lets through for sure.
async fn ids_until(listener: &mut Listener, last: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let id = listener.id().await;
        if id == last {
            return ids;
        }
        ids.push(id);
    }
}

/// What one channel hears of `rows` (SQL of a value each, from id 1) under each filter on a column `c` of `kind`.
async fn what_passes(kind: &str, rows: &[&str], cases: &[(&str, &[i64])]) {
    let scene = Scene::new(&table("t", &format!("id int primary key, c {kind}"))).await;
    let mut listeners = Vec::new();
    for (filter, _) in cases {
        // The second entry hears of the last row, whatever the first says.
        let entries = json!([
            { "event": "INSERT", "schema": "public", "table": "t", "filter": format!("c={filter}") },
            { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=eq.1000" }
        ]);
        listeners.push(scene.listen(service(), entries).await);
    }
    let values: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(at, value)| format!("({}, {value})", at + 1))
        .collect();
    scene
        .run(&format!(
            "insert into t values {}, (1000, null)",
            values.join(", ")
        ))
        .await;
    for (listener, (filter, expected)) in listeners.iter_mut().zip(cases) {
        assert_eq!(ids_until(listener, 1000).await, *expected, "{kind}: {filter}");
    }
}

#[tokio::test]
async fn numbers_compare_as_numbers_and_null_never_does() {
    let cases: &[(&str, &[i64])] = &[
        ("eq.10", &[3]),
        ("neq.10", &[1, 2, 5]),
        ("not.eq.10", &[1, 2, 5]),
        ("not.neq.10", &[3]),
        ("gt.9", &[3]),
        ("gte.9", &[2, 3]),
        ("lt.9", &[1, 5]),
        ("lte.9", &[1, 2, 5]),
        ("not.gt.9", &[1, 2, 5]),
        ("in.(9, 10)", &[2, 3]),
        ("not.in.(9,10)", &[1, 5]),
        ("in.(9,null)", &[2]),
        ("not.in.(9,null)", &[]),
        ("in.()", &[]),
        ("is.null", &[4]),
        ("not.is.null", &[1, 2, 3, 5]),
        ("isdistinct.10", &[1, 2, 4, 5]),
        ("not.isdistinct.10", &[3]),
    ];
    what_passes("int", &["-1", "9", "10", "null", "0"], cases).await;
    what_passes("int", &["1", "2"], &[("in.()", &[]), ("not.in.()", &[1, 2])]).await;
}

#[tokio::test]
async fn a_list_is_read_as_an_array_literal() {
    let cases: &[(&str, &[i64])] = &[
        (r#"in.("a,b", c ,"null")"#, &[1, 2, 3]),
        (r#"in.("d\"e"," f")"#, &[5, 6]),
        (r#"in.(d\"e,"")"#, &[5, 7]),
        (r#"not.in.("a,b",c,"")"#, &[3, 5, 6]),
        ("in.(c,NULL)", &[2]),
        (r#"not.in.("null",NULL)"#, &[]),
    ];
    let rows = ["'a,b'", "'c'", "'null'", "null", "'d\"e'", "' f'", "''"];
    what_passes("text", &rows, cases).await;
}

#[tokio::test]
async fn numeric_scale_is_no_difference_and_not_a_number_counts_as_null() {
    let cases: &[(&str, &[i64])] = &[
        ("eq.1.0", &[1, 2]),
        ("eq.1.00", &[1, 2]),
        ("eq.1e0", &[1, 2]),
        ("neq.1", &[3, 5]),
        ("gt.2", &[3]),
        ("in.(1.000,1e2)", &[1, 2, 3]),
        ("eq.NaN", &[]),
        ("is.null", &[4]),
        ("eq.0.00", &[5]),
    ];
    what_passes("numeric", &["1.00", "1", "100", "'NaN'", "0"], cases).await;
    let cases: &[(&str, &[i64])] = &[
        ("eq.100", &[1]),
        ("eq.0", &[2, 3]),
        ("gt.1", &[1]),
        ("eq.Infinity", &[]),
    ];
    what_passes("float8", &["1e2", "0", "'-0'", "'Infinity'"], cases).await;
    what_passes("real", &["0.1", "0.2"], &[("eq.0.1", &[1]), ("eq.0.10", &[1])]).await;
}

#[tokio::test]
async fn text_compares_byte_by_byte_and_by_pattern() {
    let rows = &[
        "'red'",
        "'Red'",
        "''",
        "'a,b'",
        "'she said \"hi\"'",
        "'a_c'",
        "'red '",
        "null",
        "'(x)'",
    ];
    let cases: &[(&str, &[i64])] = &[
        ("eq.red", &[1]),
        ("eq.\"\"", &[3]),
        ("eq.", &[3]),
        ("eq.\"a,b\"", &[4]),
        ("eq.\"she said \\\"hi\\\"\"", &[5]),
        ("in.(red,\"a,b\")", &[1, 4]),
        ("like.re%", &[1, 7]),
        ("ilike.RED", &[1, 2]),
        ("not.like.%e%", &[3, 4, 6, 9]),
        ("like.a\\_c", &[6]),
        ("match.^[rR]ed$", &[1, 2]),
        ("imatch.^RED", &[1, 2, 7]),
        ("not.imatch.[a-z]", &[3]),
        ("eq.(x)", &[9]),
        ("isdistinct.red", &[2, 3, 4, 5, 6, 7, 8, 9]),
    ];
    what_passes("text", rows, cases).await;
    // `database.md 12`: patterns on varchar are accepted.
    what_passes("varchar(20)", rows, cases).await;
}

#[tokio::test]
async fn trailing_blanks_of_a_fixed_width_do_not_count() {
    let cases: &[(&str, &[i64])] = &[
        ("eq.ab", &[1]),
        ("eq.ab   ", &[1]),
        ("neq.ab", &[2]),
        ("in.(ab,zz)", &[1]),
        ("like.a%", &[1, 2]),
        ("gt.ab", &[2]),
    ];
    what_passes("char(5)", &["'ab'", "'abc'", "null"], cases).await;
}

#[tokio::test]
async fn booleans_are_understood_in_all_their_spellings() {
    let cases: &[(&str, &[i64])] = &[
        ("eq.true", &[1]),
        ("eq.t", &[1]),
        ("eq.yes", &[1]),
        ("eq.0", &[2]),
        ("neq.true", &[2]),
        ("is.true", &[1]),
        ("is.false", &[2]),
        ("is.unknown", &[3, 1000]),
        ("not.is.true", &[2, 3, 1000]),
        ("not.is.unknown", &[1, 2]),
    ];
    // The last row's own NULL passes some of these.
    let cases: Vec<(&str, Vec<i64>)> = cases
        .iter()
        .map(|(filter, ids)| (*filter, ids.iter().copied().filter(|id| *id != 1000).collect()))
        .collect();
    let cases: Vec<(&str, &[i64])> = cases
        .iter()
        .map(|(filter, ids)| (*filter, ids.as_slice()))
        .collect();
    what_passes("boolean", &["true", "false", "null"], &cases).await;
}

#[tokio::test]
async fn values_are_understood_in_every_spelling_of_their_type() {
    let uuid = "abcdefab-0000-4000-8000-000000000001";
    let upper = uuid.to_uppercase();
    let quoted = format!("'{uuid}'");
    let eq = format!("eq.{upper}");
    let list = format!("in.({upper})");
    what_passes(
        "uuid",
        &[&quoted, "gen_random_uuid()"],
        &[(&eq, &[1]), (&list, &[1])],
    )
    .await;
    let cases: &[(&str, &[i64])] = &[
        ("eq.2024-02-03T04:05:06+02:00", &[1]),
        ("eq.Sat Feb 03 02:05:06 2024 UTC", &[1]),
        ("gt.2024-02-03T02:05:06Z", &[2, 3]),
        ("eq.infinity", &[3]),
        ("lt.yesterday", &[1]),
    ];
    what_passes(
        "timestamptz",
        &["'2024-02-03 02:05:06+00'", "now()", "'infinity'"],
        cases,
    )
    .await;
    let cases: &[(&str, &[i64])] = &[
        ("eq.20240203", &[1]),
        ("eq.\"February 3, 2024\"", &[1]),
        ("lt.2024-02-03", &[2]),
    ];
    what_passes("date", &["'2024-02-03'", "'2023-01-01'"], cases).await;
    let cases: &[(&str, &[i64])] = &[
        ("eq.0001ff", &[1]),
        ("eq.\\x0001FF", &[1]),
        ("neq.0001ff", &[2]),
        ("eq.\"\"", &[2]),
    ];
    what_passes("bytea", &["'\\x0001ff'", "''"], cases).await;
    let cases: &[(&str, &[i64])] = &[
        ("eq.\"{\\\"b\\\": 2.0, \\\"a\\\": 1}\"", &[1]),
        ("neq.{\"a\":1}", &[1]),
    ];
    what_passes("jsonb", &[r#"'{"a": 1, "b": 2}'"#], cases).await;
    let cases: &[(&str, &[i64])] = &[("eq.\"{1,2}\"", &[1]), ("gt.\"{1,2}\"", &[2]), ("is.null", &[3])];
    what_passes("int[]", &["'{1,2}'", "'{1,3}'", "null"], cases).await;
    let cases: &[(&str, &[i64])] = &[("eq.10.0.0.1/32", &[1]), ("lt.10.0.0.2", &[1])];
    what_passes("inet", &["'10.0.0.1'", "'10.0.0.2'"], cases).await;
    let cases: &[(&str, &[i64])] = &[("eq.24:00:00", &[1]), ("gt.1 hour", &[1])];
    what_passes("interval", &["'1 day'", "'1 minute'"], cases).await;
}

#[tokio::test]
async fn enums_compare_in_their_own_order_and_citext_without_case() {
    let setup = format!(
        "create type mood as enum ('sad', 'ok', 'happy'); create extension if not exists citext with schema extensions;
         create domain percent as numeric check (value between 0 and 100); {}",
        table("t", "id int primary key, m mood, ci extensions.citext, p percent")
    );
    let scene = Scene::new(&setup).await;
    let cases: &[(&str, &[i64])] = &[
        ("m=gt.sad", &[2, 3]),
        ("m=eq.ok", &[2]),
        ("m=in.(sad,happy)", &[1, 3]),
        ("ci=eq.ALPHA", &[1]),
        ("ci=neq.alpha", &[2, 3]),
        ("ci=in.(BETA)", &[2]),
        ("ci=like.AL%", &[1]),
        ("p=eq.50.0", &[2]),
        ("p=lt.50", &[1]),
    ];
    let mut listeners = Vec::new();
    for (filter, _) in cases {
        let entries = json!([
            { "event": "INSERT", "schema": "public", "table": "t", "filter": filter },
            { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=eq.1000" }
        ]);
        listeners.push(scene.listen(service(), entries).await);
    }
    scene
        .run("insert into t values (1, 'sad', 'Alpha', 1), (2, 'ok', 'beta', 50), (3, 'happy', 'Gamma', 99.9), (1000, null, null, null)")
        .await;
    for (listener, (filter, expected)) in listeners.iter_mut().zip(cases) {
        assert_eq!(ids_until(listener, 1000).await, *expected, "{filter}");
    }
}

#[tokio::test]
async fn a_label_that_an_enum_gets_later_is_found_in_its_place() {
    let setup = format!(
        "create type mood as enum ('sad', 'happy'); {}",
        table("t", "id int primary key, m mood")
    );
    let scene = Scene::new(&setup).await;
    let cases: &[(&str, &[i64])] = &[
        ("m=gt.sad", &[2, 3]),
        ("m=lt.happy", &[1, 2]),
        ("m=neq.happy", &[1, 2]),
        ("m=not.in.(sad)", &[2, 3]),
        ("m=isdistinct.sad", &[2, 3]),
    ];
    let mut listeners = Vec::new();
    for (filter, _) in cases {
        let entries = json!([
            { "event": "INSERT", "schema": "public", "table": "t", "filter": filter },
            { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=eq.1000" }
        ]);
        listeners.push(scene.listen(service(), entries).await);
    }
    scene.run("alter type mood add value 'ok' before 'happy'").await;
    scene
        .run("insert into t values (1, 'sad'), (2, 'ok'), (3, 'happy'), (1000, 'sad')")
        .await;
    for (listener, (filter, expected)) in listeners.iter_mut().zip(cases) {
        assert_eq!(ids_until(listener, 1000).await, *expected, "{filter}");
    }
}

#[tokio::test]
async fn a_filter_found_by_one_condition_has_to_meet_the_others() {
    let scene = Scene::new(&table(
        "t",
        "id int primary key, owner int, n numeric, tz timestamptz",
    ))
    .await;
    let cases: &[(&str, &[i64])] = &[
        ("owner=eq.7,n=gt.1.5", &[2]),
        ("n=in.(1,2.00,2),owner=neq.8", &[1, 2]),
        ("owner=in.(7,8,7,null)", &[1, 2, 3]),
        ("owner=in.(8),n=is.null", &[3]),
        ("tz=eq.2024-02-03T04:05:06+02", &[4]),
    ];
    let mut listeners = Vec::new();
    for (filter, _) in cases {
        let entries = json!([
            { "event": "INSERT", "schema": "public", "table": "t", "filter": filter },
            { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=eq.1000" }
        ]);
        listeners.push(scene.listen(service(), entries).await);
    }
    scene
        .run(
            "insert into t values (1, 7, 1.0, null), (2, 7, 2.0, null), (3, 8, null, null),
             (4, null, null, '2024-02-03 02:05:06+00'), (1000, null, null, null)",
        )
        .await;
    for (listener, (filter, expected)) in listeners.iter_mut().zip(cases) {
        assert_eq!(ids_until(listener, 1000).await, *expected, "{filter}");
    }
}

#[tokio::test]
async fn spellings_do_not_depend_on_the_settings_of_the_database() {
    let database = walcast_testkit::Postgres::shared().await.database().await;
    let name = database.name().to_owned();
    let setup = format!(
        "alter database {name} set bytea_output = 'escape'; alter database {name} set intervalstyle = 'sql_standard';
         alter database {name} set datestyle = 'German'; alter database {name} set timezone = 'Asia/Tokyo';
         alter database {name} set extra_float_digits = 0; {}",
        table("t", "id int primary key, by bytea, d date, ts timestamp, tz timestamptz, i interval, f float8")
    );
    let scene = Scene::on(database, &setup, Options::default()).await;
    let cases = [
        ("by", "eq.0001ff41", "'\\x0001ff41'::bytea"),
        ("d", "eq.2024-02-03", "date '2024-02-03'"),
        ("ts", "eq.2024-02-03 04:05:06", "timestamp '2024-02-03 04:05:06'"),
        (
            "tz",
            "eq.2024-02-03T04:05:06Z",
            "timestamptz '2024-02-03 04:05:06Z'",
        ),
        ("i", "eq.-1 days +2 hours", "interval '-1 days 2 hours'"),
        ("f", "eq.0.30000000000000004", "0.1::float8 + 0.2::float8"),
    ];
    for (id, (column, filter, value)) in (1..).zip(cases) {
        let mut listener = scene
            .listen(service(), filtered("t", &format!("{column}={filter}")))
            .await;
        scene
            .run(&format!(
                "insert into t (id, {column}) values ({id}, {value}), (-{id}, null)"
            ))
            .await;
        assert_eq!(listener.id().await, id, "{column}={filter}");
    }
}

#[tokio::test]
async fn a_delete_is_filtered_by_what_its_identity_tells() {
    let setup = format!(
        "{} {} alter table whole replica identity full;",
        table("brief", "id int primary key, n int"),
        table("whole", "id int primary key, n int")
    );
    let scene = Scene::new(&setup).await;
    for (name, filter, expected) in [
        ("brief", "id=eq.1", vec![1]),
        ("brief", "n=eq.1", vec![]),
        ("brief", "n=is.null", vec![]),
        ("brief", "n=not.eq.5", vec![]),
        ("whole", "id=gt.1", vec![2]),
        ("whole", "n=eq.1", vec![1]),
        ("whole", "n=is.null", vec![2]),
    ] {
        let entries = json!([
            { "event": "DELETE", "schema": "public", "table": name, "filter": filter },
            { "event": "INSERT", "schema": "public", "table": name, "filter": "id=eq.1000" }
        ]);
        let mut listener = scene.listen(service(), entries).await;
        scene
            .run(&format!(
                "insert into {name} values (1, 1), (2, null); delete from {name}; insert into {name} values (1000, 0);
                 delete from {name} where id = 1000 and false; truncate {name}"
            ))
            .await;
        let mut deleted = Vec::new();
        loop {
            let change = listener.change().await;
            if change["type"] == "INSERT" {
                break;
            }
            deleted.push(change["old_record"]["id"].as_i64().unwrap());
        }
        assert_eq!(deleted, expected, "{name}: {filter}");
    }
}

#[tokio::test]
async fn conditions_are_all_to_hold_and_an_update_is_judged_by_its_new_row() {
    let scene = Scene::new(&table("t", "id int primary key, n int, body text")).await;
    let mut listener = scene
        .listen(service(), filtered("t", "n=gte.2,n=lt.5,body=not.ilike.%no%"))
        .await;
    scene
        .run(
            "insert into t values (1, 1, 'a'), (2, 2, 'NO'), (3, 3, 'b'), (4, 5, 'c'), (5, 4, null);
             update t set n = 3 where id = 1; update t set n = 9 where id = 3; update t set body = 'yes' where id = 2",
        )
        .await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let change = listener.change().await;
        seen.push((change["type"].clone(), change["record"]["id"].clone()));
    }
    let expected = [("INSERT", 3), ("UPDATE", 1), ("UPDATE", 2)];
    assert_eq!(seen, expected.map(|(kind, id)| (json!(kind), json!(id))));
}

#[tokio::test]
async fn a_filter_that_raises_for_one_row_costs_only_that_row() {
    let scene = Scene::new(&table("t", "id int primary key, body text")).await;
    let mut raising = scene.listen(service(), filtered("t", r"body=like.ab\")).await;
    // The pattern is found to be wrong only where a value gets as far as its end.
    let rows = "insert into t values (1, 'x'), (2, 'ab'), (3, 'y'), (4, 'abc')";
    scene.run(rows).await;
    let (status, text) = raising.system().await;
    assert_eq!(status, "error");
    assert!(text.contains("could not be evaluated"), "{text}");
    let mut negated = scene.listen(service(), filtered("t", r"body=not.like.ab\")).await;
    scene
        .run("insert into t values (5, 'x'), (6, 'abc'), (7, 'y')")
        .await;
    let mut ids = Vec::new();
    while ids.last() != Some(&7) {
        let message = negated.message().await;
        if message[3] == "postgres_changes" {
            ids.push(message[4]["data"]["record"]["id"].as_i64().unwrap());
        }
    }
    ids.retain(|id| *id > 4);
    assert_eq!(ids, [5, 7]);
}

#[tokio::test]
async fn a_filter_that_raises_costs_only_its_own_channel() {
    let scene = Scene::new(&table("t", "id int primary key, body text")).await;
    let mut raising = scene.listen(service(), filtered("t", "body=like.a\\")).await;
    let mut fine = scene.listen(service(), filtered("t", "body=like.a%")).await;
    scene.run("insert into t values (1, 'abc'), (2, 'a')").await;
    assert_eq!([fine.id().await, fine.id().await], [1, 2]);
    let (status, text) = raising.system().await;
    assert_eq!(status, "error");
    assert!(
        text.contains(r"the filter body=like.a\ could not be evaluated"),
        "{text}"
    );
}

#[tokio::test]
async fn a_delete_passes_a_filter_that_only_postgres_can_decide() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let mut listener = scene.listen(service(), filtered("t", "id=gt.5")).await;
    scene
        .run("insert into t values (4), (6); delete from t where id = 4; delete from t where id = 6")
        .await;
    assert_eq!(listener.id().await, 6);
    let deleted = listener.change().await;
    assert_eq!(
        (&deleted["type"], &deleted["old_record"]),
        (&json!("DELETE"), &json!({"id": 6}))
    );
}

#[tokio::test]
async fn a_filter_that_never_ends_costs_only_its_own_channel() {
    let options = Options {
        visibility_timeout_ms: 300,
        ..Options::default()
    };
    let scene = Scene::with(&table("t", "id int primary key, body text"), options).await;
    let mut stuck = scene
        .listen(
            service(),
            filtered("t", r"body=match.^(.+)(.+)(.+)(.+)(.+)(.+)\6\5\4\3\2\1.$"),
        )
        .await;
    let mut other = scene.listen(service(), all("t")).await;
    for id in 1..=20 {
        scene
            .run(&format!("insert into t values ({id}, repeat('ab', 200))"))
            .await;
        assert_eq!(other.id().await, id);
    }
    let (status, text) = stuck.system().await;
    assert_eq!(status, "error");
    assert!(text.contains("filter"), "{text}");
}

async fn with_groups(setup: &str) -> Scene {
    let options = Options {
        filter_or: true,
        ..Options::default()
    };
    Scene::with(setup, options).await
}

#[tokio::test]
async fn alternatives_hold_where_one_of_them_does() {
    let scene = with_groups(&table("t", "id int primary key, a int, b text, c bool")).await;
    let cases: &[(&str, &[i64])] = &[
        ("or=(a.eq.1,b.eq.y)", &[1, 2]),
        ("or=(a.eq.2,and(a.gt.2,c.is.true))", &[2, 3]),
        ("not.or=(a.eq.1,b.eq.y)", &[3, 4]),
        // NULL is neither true nor false.
        ("or=(a.neq.1,c.is.null)", &[2, 3, 4, 5]),
        ("not.and=(a.gt.1,b.eq.z)", &[1, 2, 4]),
        ("c=is.true,or=(a.in.(1,2),b.like.z%)", &[1, 3]),
        // What only Postgres can tell.
        ("or=(a.eq.1,b.match.^[yz])", &[1, 2, 3]),
        ("not.or=(a.eq.1,b.match.^y)", &[3, 4]),
        (
            "and=(or(b.imatch.Y,b.match.w),not.or(a.eq.1,b.match.^zz))",
            &[2, 4],
        ),
    ];
    let mut listeners = Vec::new();
    for (filter, _) in cases {
        let entries = json!([
            { "event": "INSERT", "schema": "public", "table": "t", "filter": filter },
            { "event": "INSERT", "schema": "public", "table": "t", "filter": "id=eq.1000" }
        ]);
        listeners.push(scene.listen(service(), entries).await);
    }
    scene
        .run(
            "insert into t values (1, 1, 'x', true), (2, 2, 'y', false), (3, 3, 'z', true), (4, 4, 'w', null),
             (5, null, null, null), (1000, 1, 'zz', false)",
        )
        .await;
    for (listener, (filter, expected)) in listeners.iter_mut().zip(cases) {
        assert_eq!(ids_until(listener, 1000).await, *expected, "{filter}");
    }
}

#[tokio::test]
async fn an_alternative_that_raises_costs_only_rows_that_hang_on_it() {
    let scene = with_groups(&table("t", "id int primary key, body text")).await;
    let mut listener = scene
        .listen(service(), filtered("t", r"or=(id.eq.1,body.like.a\)"))
        .await;
    scene
        .run("insert into t values (1, 'abc'); insert into t values (2, 'x')")
        .await;
    assert_eq!(listener.id().await, 1);
    scene.run("insert into t values (3, 'abc')").await;
    let (status, text) = listener.system().await;
    assert_eq!(status, "error");
    assert!(
        text.contains(r"the filter body=like.a\ could not be evaluated"),
        "{text}"
    );
}

#[tokio::test]
async fn alternatives_that_do_not_fit_are_refused() {
    let scene = with_groups(&table("t", "id int primary key, a int, b text")).await;
    let parameters = "[event: *, schema: public, table: t, filters: ";
    let cases = [
        ("or=(a.eq.1,nope.eq.2)", "invalid column for filter nope"),
        (
            "or=(a.like.1)",
            "operator like requires a text-compatible column type, got integer",
        ),
        (
            "id=eq.1,or=(a.eq.1,and(b.eq.x,a.eq.hey))",
            "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"hey\"",
        ),
        (
            "or=(a.eq.1,,b.eq.2)",
            "filter must not contain empty segments (check for extra commas)",
        ),
        ("or=(a.eq.1", "`or` filter value must be wrapped by parentheses"),
        ("or=(a.foo.hey)", r#"["foo", "hey"]"#),
    ];
    for (filter, expected) in cases {
        let refusal = scene.refusal(service(), filtered("t", filter)).await;
        assert!(refusal.ends_with(expected), "{refusal}");
    }
    let refusal = scene
        .refusal(
            service(),
            filtered("t", "id=eq.1,or=(a.eq.1,and(b.eq.x,a.eq.hey))"),
        )
        .await;
    let dump = r#"[{"id", "eq", "1", false}, {"or", [{"a", "eq", "1", false}, {"and", [{"b", "eq", "x", false}, {"a", "eq", "hey", false}], false}], false}]"#;
    assert!(refusal.contains(&format!("{parameters}{dump}")), "{refusal}");
}

#[tokio::test]
async fn alternatives_are_refused_unless_they_are_switched_on() {
    let scene = Scene::new(&table("t", "id int primary key, a int, b text")).await;
    let refusal = scene
        .refusal(service(), filtered("t", "or=(a.eq.1,b.lt.2)"))
        .await;
    assert_eq!(
        refusal,
        r#"Error parsing `filter` params: ["(a", "eq.1,b.lt.2)"]"#
    );
}
