//! What a change tells of the row before it (`protocol.md 7.4`, `database.md 2.8`, `2.9`, `9.1` to `9.5`).

use crate::scene::{Scene, all, filtered, publish, role, service, table};
use serde_json::{Value, json};

/// A table with a key, an index that can be its identity, and a column besides.
fn table_with_identity(name: &str, identity: &str, row_security: bool) -> String {
    let guard = if row_security {
        format!("alter table {name} enable row level security;")
    } else {
        String::new()
    };
    format!(
        "create table {name} (id int primary key, code text not null, n int);
         create unique index {name}_code on {name} (code); create unique index {name}_both on {name} (code, id);
         alter table {name} replica identity {identity}; {guard} {}",
        publish(name)
    )
}

#[tokio::test]
async fn the_old_row_is_told_as_the_replica_identity_knows_it() {
    let key = || json!({ "id": 1 });
    let code = || json!({ "code": "a" });
    let both = || json!({ "id": 1, "code": "a" });
    let whole = || json!({ "id": 1, "code": "a", "n": 1 });
    // Identity, row security; the old row of an UPDATE, and that of a DELETE.
    let cases = [
        ("default", false, key(), key()),
        ("default", true, key(), key()),
        ("using index {name}_code", false, code(), code()),
        ("using index {name}_code", true, code(), json!({})),
        ("using index {name}_both", false, both(), both()),
        ("using index {name}_both", true, both(), key()),
        ("full", false, whole(), whole()),
        ("full", true, whole(), key()),
    ];
    let mut setup = String::new();
    for (at, (identity, row_security, ..)) in cases.iter().enumerate() {
        let name = format!("t{at}");
        let identity = identity.replace("{name}", &name);
        setup += &table_with_identity(&name, &identity, *row_security);
    }
    let scene = Scene::new(&setup).await;
    for (at, (identity, row_security, old_of_update, old_of_delete)) in cases.into_iter().enumerate() {
        let name = format!("t{at}");
        let case = format!("{identity}, row security {row_security}");
        let mut listener = scene.listen(service(), all(&name)).await;
        scene
            .run(&format!(
                "insert into {name} values (1, 'a', 1);
                 -- The identity as it was, then all of it new, then all of it old again.
                 update {name} set n = 1;
                 update {name} set id = 2, code = 'b', n = 2;
                 update {name} set id = 1, code = 'a', n = 1;
                 delete from {name}"
            ))
            .await;
        let insert = listener.change().await;
        assert_eq!(insert.get("old_record"), None, "{case}");
        assert_eq!(listener.change().await["old_record"], old_of_update, "{case}");
        let moved = listener.change().await;
        assert_eq!(moved["old_record"], old_of_update, "{case}");
        assert_eq!(moved["record"], json!({ "id": 2, "code": "b", "n": 2 }), "{case}");
        listener.change().await;
        let delete = listener.change().await;
        assert_eq!(delete["old_record"], old_of_delete, "{case}");
        assert_eq!(delete.get("record"), None, "{case}");
        let columns = delete["columns"].as_array().unwrap().len();
        assert_eq!(columns, 3, "{case}: every selectable column is listed");
    }
}

#[tokio::test]
async fn an_old_row_is_cut_to_the_columns_the_role_may_read_and_the_selection() {
    let setup = "create table t (id int primary key, a text, b text, secret text);
        alter table t replica identity full;
        create table unreadable (id int primary key, a text);
        alter table unreadable replica identity full;
        revoke all on t, unreadable from anon;
        grant select (id, a, b) on t to anon;
        alter publication supabase_realtime add table t, unreadable;";
    let scene = Scene::new(setup).await;
    let selected = json!([{ "event": "*", "schema": "public", "table": "t", "select": ["b"] }]);
    let mut anon = scene.listen(role("anon", "x"), all("t")).await;
    let mut narrow = scene.listen(role("anon", "x"), selected).await;
    scene
        .run("insert into t values (1, 'a', 'b', 's'); update t set a = 'A', secret = 'S'; delete from t")
        .await;
    for (listener, old, new) in [
        (
            &mut anon,
            json!({ "id": 1, "a": "a", "b": "b" }),
            json!({ "id": 1, "a": "A", "b": "b" }),
        ),
        (
            &mut narrow,
            json!({ "id": 1, "b": "b" }),
            json!({ "id": 1, "b": "b" }),
        ),
    ] {
        assert_eq!(listener.change().await["record"], old);
        let update = listener.change().await;
        assert_eq!((&update["old_record"], &update["record"]), (&old, &new));
        let delete = listener.change().await;
        assert_eq!(delete["old_record"], new);
    }
    // A DELETE is announced even to a role that may read nothing of it.
    let mut blind = scene.listen(role("anon", "x"), all("unreadable")).await;
    assert!(blind.subscription.warnings()[0].contains("may not SELECT"));
    scene
        .run("with row as (insert into unreadable values (1, 'a') returning 1) select * from row; delete from unreadable")
        .await;
    assert_eq!(blind.change().await["errors"], json!(["Error 401: Unauthorized"]));
    let delete = blind.change().await;
    assert_eq!(
        (
            &delete["type"],
            &delete["old_record"],
            &delete["columns"],
            &delete["errors"]
        ),
        (&json!("DELETE"), &json!({}), &json!([]), &Value::Null)
    );
}

#[tokio::test]
async fn a_keyless_table_with_a_full_identity_tells_its_deletes_only() {
    let setup = format!(
        "{} alter table t replica identity full; {} alter table hidden replica identity full;
         alter table hidden enable row level security;",
        table("t", "a int, b text"),
        table("hidden", "a int, b text")
    );
    let scene = Scene::new(&setup).await;
    for (name, old) in [("t", json!({ "a": 2, "b": "x" })), ("hidden", json!({}))] {
        let mut listener = scene.listen(service(), all(name)).await;
        scene
            .run(&format!(
                "insert into {name} values (1, 'x'); update {name} set a = 2; delete from {name}"
            ))
            .await;
        let refused = json!(["Error 400: Bad Request, no primary key"]);
        let insert = listener.change().await;
        assert_eq!(
            (&insert["errors"], insert.get("old_record")),
            (&refused, None),
            "{name}"
        );
        let update = listener.change().await;
        assert_eq!(
            (&update["errors"], &update["old_record"]),
            (&refused, &json!({})),
            "{name}"
        );
        let delete = listener.change().await;
        assert_eq!(
            (&delete["errors"], &delete["old_record"]),
            (&Value::Null, &old),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_large_value_that_an_update_leaves_alone_is_told_only_where_the_old_row_is_known() {
    let setup = format!(
        "{} {} alter table whole replica identity full;
         alter table brief alter body set storage external; alter table whole alter body set storage external;",
        table("brief", "id int primary key, n int, body text"),
        table("whole", "id int primary key, n int, body text")
    );
    let scene = Scene::new(&setup).await;
    let body = "x".repeat(10_000);
    for (name, is_told) in [("brief", false), ("whole", true)] {
        let mut listener = scene.listen(service(), all(name)).await;
        let mut by_body = scene
            .listen(service(), filtered(name, &format!("body=eq.{body}")))
            .await;
        scene
            .run(&format!(
                "insert into {name} values (1, 1, repeat('x', 10000)); update {name} set n = 2; update {name} set n = 3, body = 'y'"
            ))
            .await;
        assert_eq!(listener.change().await["record"]["body"], body, "{name}");
        let update = listener.change().await;
        assert_eq!(update["columns"].as_array().unwrap().len(), 3, "{name}");
        let expected = if is_told {
            json!({ "id": 1, "n": 2, "body": body })
        } else {
            json!({ "id": 1, "n": 2 })
        };
        assert_eq!(update["record"], expected, "{name}");
        assert_eq!(
            listener.change().await["record"],
            json!({ "id": 1, "n": 3, "body": "y" }),
            "{name}"
        );
        // A filter holds on what is known of the new row (`database.md 9.5`).
        assert_eq!(by_body.change().await["record"]["n"], 1, "{name}");
        if is_told {
            assert_eq!(by_body.change().await["record"]["n"], 2, "{name}");
        }
        assert!(by_body.frames.try_recv().is_err(), "{name}");
    }
}
