//! Tables that come, go and change while channels listen (`database.md 2.12`, `9.31`, `9.32`, `9.34`).

use crate::scene::{ALICE, BOB, OWNS, Scene, all, filtered, publish, service, table, user};
use serde_json::{Value, json};

fn told(change: &Value) -> (&str, i64) {
    (
        change["table"].as_str().unwrap(),
        change["record"]["id"].as_i64().unwrap(),
    )
}

#[tokio::test]
async fn a_table_that_is_dropped_and_made_again_under_its_name_is_heard() {
    let setup = format!(
        "{} {}",
        table("t", "id int primary key"),
        table("other", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let mut by_name = scene.listen(service(), all("t")).await;
    let mut by_filter = scene.listen(service(), filtered("t", "id=gt.2")).await;
    let mut by_schema = scene.listen(service(), json!([{ "schema": "public" }])).await;
    for id in 1..=4 {
        scene
            .run(&format!(
                "drop table t; {}; insert into t values ({id}); insert into other values ({id})",
                table("t", "id bigint primary key")
            ))
            .await;
        assert_eq!(told(&by_name.change().await), ("t", id));
        assert_eq!(told(&by_schema.change().await), ("t", id));
        assert_eq!(told(&by_schema.change().await), ("other", id));
        if id > 2 {
            assert_eq!(told(&by_filter.change().await), ("t", id));
        }
    }
}

#[tokio::test]
async fn the_new_table_is_guarded_by_its_own_rights() {
    let scene = Scene::new(&format!(
        "{OWNS} {}",
        table("t", "id int primary key, owner uuid, secret text")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene
        .run(&format!("insert into t values (1, '{BOB}', 's')"))
        .await;
    assert_eq!(alice.id().await, 1);
    scene
        .run(&format!(
            "drop table t; create table t (id int primary key, owner uuid, secret text);
             revoke all on t from authenticated; grant select (id, owner) on t to authenticated;
             alter table t enable row level security; create policy own on t for select using (owns(owner));
             alter publication supabase_realtime add table t;
             insert into t values (2, '{BOB}', 's'), (3, '{ALICE}', 's')"
        ))
        .await;
    assert_eq!(alice.change().await["record"], json!({ "id": 3, "owner": ALICE }));
}

#[tokio::test]
async fn a_renamed_table_is_still_the_one_subscribed_to() {
    let scene = Scene::new(&format!(
        "{OWNS} {} alter table t enable row level security; create policy own on t for select using (owns(owner));",
        table("t", "id int primary key, owner uuid")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    for (id, name) in [(1, "t"), (2, "u"), (3, "v")] {
        let rename = match id {
            2 => "alter table t rename to u;",
            3 => "alter table u rename to v;",
            _ => "",
        };
        scene
            .run(&format!("{rename} insert into {name} values ({id}, '{ALICE}')"))
            .await;
        assert_eq!(told(&alice.change().await), (name, id));
    }
    // And one that takes its name is heard too.
    scene
        .run(&format!(
            "{} insert into t values (4, '{BOB}'); insert into v values (5, '{ALICE}')",
            table("t", "id int primary key, owner uuid")
        ))
        .await;
    assert_eq!(told(&alice.change().await), ("t", 4));
    assert_eq!(told(&alice.change().await), ("v", 5));
}

#[tokio::test]
async fn a_wildcard_hears_a_table_once_it_is_published_and_not_after_it_was_withdrawn() {
    let setup = format!(
        "create table late (id int primary key); grant select on late to service_role; {}",
        table("other", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene.run("insert into late values (1)").await;
    scene
        .run(&format!("{} insert into late values (2)", publish("late")))
        .await;
    assert_eq!(told(&listener.change().await), ("late", 2));
    scene
        .run("alter publication supabase_realtime drop table late; insert into late values (3)")
        .await;
    scene.run("insert into other values (4)").await;
    assert_eq!(told(&listener.change().await), ("other", 4));
}

#[tokio::test]
async fn a_new_table_that_lacks_a_wildcards_column_is_told_to_that_channel_alone() {
    let scene = Scene::new(&table("first", "id int primary key, n int")).await;
    let by_n = json!([{ "event": "*", "schema": "public", "table": "*", "filter": "n=eq.1" }]);
    let mut filtering = scene.listen(service(), by_n).await;
    let mut everything = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene
        .run(&format!(
            "{} insert into second values (1)",
            table("second", "id int primary key")
        ))
        .await;
    assert_eq!(told(&everything.change().await), ("second", 1));
    let (status, text) = filtering.system().await;
    assert_eq!(status, "error");
    assert!(text.ends_with("invalid column for filter n"), "{text}");
    scene.run("insert into first values (2, 1)").await;
    assert_eq!(told(&filtering.change().await), ("first", 2));
}

#[tokio::test]
async fn columns_that_come_go_and_change_are_shown_as_they_were_when_the_row_was_written() {
    let scene = Scene::new(&table("t", "id int primary key, a text")).await;
    let mut listener = scene.listen(service(), all("t")).await;
    let mut of_a = scene.listen(service(), filtered("t", "a=eq.x")).await;
    let steps = [
        ("", "(1, 'x')", json!({ "id": 1, "a": "x" })),
        (
            "alter table t add column b int default 7;",
            "(2, 'x')",
            json!({ "id": 2, "a": "x", "b": 7 }),
        ),
        (
            "alter table t rename column b to c;",
            "(3, 'x', 8)",
            json!({ "id": 3, "a": "x", "c": 8 }),
        ),
        (
            "alter table t alter column c type text;",
            "(4, 'x', '9')",
            json!({ "id": 4, "a": "x", "c": "9" }),
        ),
        (
            "alter table t drop column c;",
            "(5, 'x')",
            json!({ "id": 5, "a": "x" }),
        ),
    ];
    for (ddl, row, record) in &steps {
        scene.run(&format!("{ddl} insert into t values {row}")).await;
        assert_eq!(listener.change().await["record"], *record, "{ddl}");
        assert_eq!(of_a.change().await["record"], *record, "{ddl}");
    }
    // A filter's column that is gone matches nothing, which is said, and comes back with its name.
    for (there, back, ids) in [("z", "a", (6, 7)), ("y", "a", (8, 9))] {
        scene
            .run(&format!(
                "alter table t rename column {back} to {there}; insert into t values ({}, 'x')",
                ids.0
            ))
            .await;
        assert_eq!(
            listener.change().await["record"],
            json!({ "id": ids.0, there: "x" })
        );
        let (status, text) = of_a.system().await;
        assert_eq!(status, "error");
        assert!(text.contains("public.t has no column a any more"), "{text}");
        scene
            .run(&format!(
                "alter table t rename column {there} to {back}; insert into t values ({}, 'x')",
                ids.1
            ))
            .await;
        assert_eq!(listener.id().await, ids.1);
        assert_eq!(of_a.id().await, ids.1);
    }
}

#[tokio::test]
async fn a_column_that_is_dropped_or_has_a_type_the_filter_does_not_fit_is_told_to_who_named_it_once() {
    let scene = Scene::new(&table("t", "id int primary key, a text, n int")).await;
    let mut everything = scene.listen(service(), all("t")).await;
    let mut by_n = scene.listen(service(), filtered("t", "n=gt.1")).await;
    let selected = json!([{ "schema": "public", "table": "t", "select": ["a"] }]);
    let mut selecting = scene.listen(service(), selected).await;
    scene
        .run("alter table t drop column a; alter table t alter column n type uuid using null; insert into t values (1)")
        .await;
    scene
        .run("comment on table t is 'again'; grant select on t to anon; insert into t values (2)")
        .await;
    let (_, text) = by_n.system().await;
    assert!(
        text.contains("column n of table public.t has another type") && text.contains("ERROR 22P02"),
        "{text}"
    );
    let (_, text) = selecting.system().await;
    assert!(text.contains("public.t has no column a any more"), "{text}");
    for id in [1, 2] {
        assert_eq!(everything.id().await, id);
        assert_eq!(selecting.change().await["record"], json!({ "id": id }));
    }
    assert!(everything.frames.try_recv().is_err());
    assert!(selecting.frames.try_recv().is_err());
}

#[tokio::test]
async fn a_filter_goes_on_by_the_type_its_column_has_become() {
    // A filter, and of two types each: one value that does not pass and one that does.
    let cases = [
        ("n=gt.9", ("int", "8", "10"), ("text", "'10'", "'a'")),
        ("n=eq.01", ("text", "'1'", "'01'"), ("int", "2", "1")),
        ("n=eq.5", ("int", "6", "5"), ("numeric", "5.5", "5.0")),
        ("n=in.(1,2)", ("bigint", "3", "2"), ("text", "'01'", "'2'")),
        (
            "n=eq.{\"a\":1}",
            ("text", "'{}'", "'{\"a\":1}'"),
            ("jsonb", "'{}'", "'{ \"a\" : 1 }'"),
        ),
        ("n=not.eq.1,id=gt.0", ("int", "1", "2"), ("text", "'1'", "'one'")),
        (
            "n=lt.2020-02-01",
            ("text", "'21'", "'0'"),
            ("date", "'2020-03-01'", "'1999-12-31'"),
        ),
    ];
    let tables: String = cases
        .iter()
        .enumerate()
        .map(|(at, (_, (before, ..), _))| {
            table(&format!("t{at}"), &format!("id int primary key, n {before}"))
        })
        .collect();
    let scene = Scene::new(&tables).await;
    for (at, (filter, before, after)) in cases.iter().enumerate() {
        let name = format!("t{at}");
        let mut first = scene.listen(service(), filtered(&name, filter)).await;
        let mut second = scene.listen(service(), filtered(&name, filter)).await;
        let steps = [(1, before, ""), (3, after, "retyped"), (5, before, "as it was")];
        for (id, (kind, misses, passes), _) in steps {
            if id > 1 {
                scene
                    .run(&format!(
                        "truncate {name}; alter table {name} alter column n type {kind} using null"
                    ))
                    .await;
            }
            scene
                .run(&format!(
                    "insert into {name} values ({id}, {misses}), ({}, {passes})",
                    id + 1
                ))
                .await;
            for listener in [&mut first, &mut second] {
                assert_eq!(listener.id().await, id + 1, "{filter} as {kind}");
            }
        }
        assert!(
            first.frames.try_recv().is_err() && second.frames.try_recv().is_err(),
            "{filter}"
        );
    }
}

#[tokio::test]
async fn a_channel_whose_filter_does_not_fit_holds_up_no_other_and_hears_again_when_it_does() {
    let scene = Scene::new(&table("t", "id int primary key, n int")).await;
    let mut fitting = scene.listen(service(), filtered("t", "n=neq.1")).await;
    let mut unfit = scene.listen(service(), filtered("t", "n=in.(1,7)")).await;
    scene
        .run(
            "alter table t alter column n type bool using n = 1;
             insert into t values (1, false), (2, true)",
        )
        .await;
    assert_eq!(fitting.id().await, 1);
    let (status, text) = unfit.system().await;
    assert_eq!(status, "error");
    assert!(
        text.contains("does not fit that type") && text.contains("subscribe again"),
        "{text}"
    );
    let (_, text) = unfit.system().await;
    assert!(text.contains("n=in.{1,7} could not be evaluated"), "{text}");
    scene
        .run("alter table t alter column n type int using 3; insert into t values (3, 7)")
        .await;
    assert_eq!(fitting.id().await, 3);
    assert_eq!(unfit.id().await, 3);
    // Who listened by several types is forgotten whole.
    drop((fitting, unfit));
    assert_eq!(scene.changes.subscribed_tables(), 0);
    let mut next = scene.listen(user(ALICE), filtered("t", "n=eq.8")).await;
    scene.run("insert into t values (4, 7), (5, 8)").await;
    assert_eq!(next.id().await, 5);
}

#[tokio::test]
async fn a_new_primary_key_is_what_rows_are_found_by() {
    let scene = Scene::new(&format!(
        "{OWNS} {} alter table t enable row level security; create policy own on t for select using (owns(owner));",
        table("t", "id int primary key, code text not null, owner uuid")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene
        .run(&format!("insert into t values (1, 'a', '{ALICE}')"))
        .await;
    assert_eq!(alice.id().await, 1);
    scene
        .run(&format!(
            "alter table t drop constraint t_pkey; alter table t add primary key (code);
             insert into t values (1, 'b', '{BOB}'), (1, 'c', '{ALICE}'); delete from t where code = 'b'"
        ))
        .await;
    assert_eq!(alice.change().await["record"]["code"], "c");
    assert_eq!(alice.change().await["old_record"], json!({ "code": "b" }));
    scene
        .run(&format!(
            "alter table t drop constraint t_pkey; insert into t values (2, 'd', '{ALICE}')"
        ))
        .await;
    assert_eq!(
        alice.change().await["errors"],
        json!(["Error 400: Bad Request, no primary key"])
    );
}

#[tokio::test]
async fn a_table_that_is_gone_takes_its_last_changes_with_it_and_nothing_else() {
    let setup = format!(
        "{} {}",
        table("t", "id int primary key"),
        table("other", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let both = json!([{ "schema": "public", "table": "t" }, { "schema": "public", "table": "other" }]);
    let mut both = scene.listen(service(), both).await;
    scene
        .run("insert into other values (1); insert into t values (2); drop table t; insert into other values (3)")
        .await;
    assert_eq!(told(&both.change().await), ("other", 1));
    assert_eq!(told(&both.change().await), ("other", 3));
}

#[tokio::test]
async fn a_wildcard_hears_a_new_table_that_another_channel_named_first() {
    let scene = Scene::new("").await;
    scene.run(&table("first", "id int primary key")).await;
    let mut everything = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene.run(&table("later", "id int primary key")).await;
    let mut exact = scene.listen(service(), all("later")).await;
    let mut again = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene.run("insert into later values (1)").await;
    assert_eq!(exact.id().await, 1);
    assert_eq!(everything.id().await, 1);
    assert_eq!(again.id().await, 1);
}

#[tokio::test]
async fn a_name_is_heard_at_the_table_that_takes_it_although_others_listen_to_that_already() {
    let scene = Scene::new(&format!(
        "{}{}",
        table("todos", "id int primary key"),
        table("todos_new", "id int primary key")
    ))
    .await;
    let mut by_name = scene.listen(service(), all("todos")).await;
    let mut other = scene.listen(service(), all("todos_new")).await;
    scene.run("insert into todos_new values (1)").await;
    assert_eq!(other.id().await, 1);
    scene
        .run("alter table todos rename to todos_old; alter table todos_new rename to todos; insert into todos values (2)")
        .await;
    assert_eq!(other.id().await, 2);
    assert_eq!(by_name.id().await, 2);
}
