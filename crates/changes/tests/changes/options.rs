//! What the reference does not offer and is off by default (decision 19).

use crate::scene::{ALICE, BOB, Listener, OWNS, Scene, all, filtered, service, table, user};
use serde_json::{Value, json};
use walcast_changes::{DeleteVisibility, Digits, Options};

fn with_row_security() -> Options {
    Options {
        delete_visibility: DeleteVisibility::RowSecurity,
        ..Options::default()
    }
}

/// A table guarded by a policy of which the condition is given.
fn guarded(name: &str, condition: &str) -> String {
    format!(
        "{} alter table {name} enable row level security;
         create policy own on {name} for select to authenticated using ({condition});",
        table(name, "id int primary key, owner uuid, n int")
    )
}

/// The key of the next message, which is a DELETE.
async fn deleted(listener: &mut Listener) -> Value {
    let change = listener.change().await;
    assert_eq!(change["type"], "DELETE", "{change}");
    change["old_record"].clone()
}

#[tokio::test]
async fn with_delete_visibility_rls_a_delete_reaches_only_who_could_see_the_row_and_then_whole() {
    let setup = format!(
        "{} alter table t replica identity full;",
        guarded("t", "owner = auth.uid()")
    );
    let scene = Scene::with(&setup, with_row_security()).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let deletes = json!([{ "event": "DELETE", "schema": "public", "table": "t", "filter": "n=gt.1" }]);
    let mut filtering = scene.listen(user(ALICE), deletes).await;
    let mut service = scene.listen(service(), all("t")).await;
    assert_eq!(alice.subscription.warnings(), [] as [&str; 0]);
    scene
        .run(&format!(
            "insert into t values (1, '{BOB}', 1), (2, '{ALICE}', 1), (3, '{ALICE}', 2);
             delete from t where id = 1; delete from t where id = 2; delete from t where id = 3"
        ))
        .await;
    assert_eq!((alice.id().await, alice.id().await), (2, 3));
    let (second, third) = (
        json!({ "id": 2, "owner": ALICE, "n": 1 }),
        json!({ "id": 3, "owner": ALICE, "n": 2 }),
    );
    assert_eq!(
        (deleted(&mut alice).await, deleted(&mut alice).await),
        (second, third.clone())
    );
    assert_eq!(deleted(&mut filtering).await, third);
    for id in 1..=3 {
        assert_eq!(service.id().await, id);
    }
    assert_eq!(
        deleted(&mut service).await,
        json!({ "id": 1, "owner": BOB, "n": 1 })
    );
}

#[tokio::test]
async fn with_delete_visibility_rls_a_delete_that_cannot_be_judged_is_hidden_and_that_is_said() {
    let setup = format!(
        "{OWNS} {} {} {} alter table asked replica identity full; alter table open replica identity full;
         create table closed (id int primary key); alter table closed enable row level security;
         grant select on closed to authenticated, service_role; alter publication supabase_realtime add table closed;",
        guarded("asked", "owns(owner)"),
        guarded("brief", "owner = auth.uid()"),
        table("open", "id int primary key, n int")
    );
    let scene = Scene::with(&setup, with_row_security()).await;
    for (name, cause) in [
        ("asked", "cannot be decided"),
        ("brief", "alter table public.brief replica identity full"),
        ("closed", "no policy of public.closed"),
    ] {
        let mut alice = scene.listen(user(ALICE), all(name)).await;
        let warnings = alice.subscription.warnings();
        assert!(
            warnings.iter().any(|warning| warning
                .starts_with("DELETE is hidden from role \"authenticated\"")
                && warning.contains(cause)),
            "{warnings:?}"
        );
        let mut exempt = scene.listen(service(), all(name)).await;
        let mut open = scene.listen(user(ALICE), all("open")).await;
        assert_eq!(open.subscription.warnings(), [] as [&str; 0]);
        scene
            .run(&format!(
                "insert into {name} (id) values (1); delete from {name}; insert into open values (1); delete from open"
            ))
            .await;
        assert_eq!(open.id().await, 1);
        assert_eq!(deleted(&mut open).await, json!({ "id": 1, "n": null }));
        scene.run(&format!("insert into {name} (id) values (2)")).await;
        assert_eq!(exempt.id().await, 1);
        assert_eq!(deleted(&mut exempt).await["id"], 1);
        assert_eq!(exempt.id().await, 2);
        assert!(alice.frames.try_recv().is_err(), "{name}");
    }
}

#[tokio::test]
async fn with_delete_visibility_rls_a_policy_on_the_key_needs_no_full_identity() {
    let scene = Scene::with(&guarded("t", "id > 1"), with_row_security()).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene.run("insert into t values (1), (2); delete from t").await;
    assert_eq!(alice.id().await, 2);
    assert_eq!(deleted(&mut alice).await, json!({ "id": 2 }));
}

#[tokio::test]
async fn int8_and_numeric_are_strings_for_the_binding_that_asks_for_it() {
    let columns = "id int8 primary key, small int, exact numeric, list int8[], n int8";
    let scene = Scene::new(&format!(
        "{} alter table t replica identity full;",
        table("t", columns)
    ))
    .await;
    let entry = |options: Value| {
        let mut entry = json!({ "event": "*", "schema": "public", "table": "t" });
        entry
            .as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        entry
    };
    let entries = json!([
        entry(json!({ "int8": "string" })),
        entry(json!({})),
        entry(json!({ "int8": "string", "numeric": "string" })),
        entry(json!({ "int8": "octal", "numeric": 5 })),
        entry(json!({ "numeric": "string", "select": ["exact"] }))
    ]);
    let mut listener = scene.listen(service(), entries).await;
    let ids = listener.ids.clone();
    scene
        .run("insert into t values (9007199254740993, 1, 1.10, '{9007199254740993,null}', null)")
        .await;
    let mut messages = Vec::new();
    for _ in 0..4 {
        let payload = listener.payload().await;
        let types: Vec<Value> = payload["data"]["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["type"].clone())
            .collect();
        messages.push((
            payload["ids"].clone(),
            payload["data"]["record"].to_string(),
            Value::Array(types),
        ));
    }
    let record = |text: &str| serde_json::from_str::<Value>(text).unwrap().to_string();
    for expected in [
        (
            json!([ids[0]]),
            record(
                r#"{"id":"9007199254740993","small":1,"exact":1.10,"list":["9007199254740993",null],"n":null}"#,
            ),
            json!(["text", "int4", "numeric", "_int8", "text"]),
        ),
        (
            json!([ids[3], ids[1]]),
            record(
                r#"{"id":9007199254740993,"small":1,"exact":1.10,"list":[9007199254740993,null],"n":null}"#,
            ),
            json!(["int8", "int4", "numeric", "_int8", "int8"]),
        ),
        (
            json!([ids[2]]),
            record(
                r#"{"id":"9007199254740993","small":1,"exact":"1.10","list":["9007199254740993",null],"n":null}"#,
            ),
            json!(["text", "int4", "text", "_int8", "text"]),
        ),
        (
            json!([ids[4]]),
            record(r#"{"id":9007199254740993,"exact":"1.10"}"#),
            json!(["int8", "text"]),
        ),
    ] {
        assert!(
            messages.contains(&expected),
            "{expected:?} is not among {messages:?}"
        );
    }
    scene.run("delete from t").await;
    let forms: Vec<String> = [
        listener.change().await,
        listener.change().await,
        listener.change().await,
        listener.change().await,
    ]
    .iter()
    .map(|change| change["old_record"]["id"].to_string())
    .collect();
    assert_eq!(
        forms.iter().filter(|form| form.starts_with('"')).count(),
        2,
        "{forms:?}"
    );
}

#[tokio::test]
async fn the_server_says_which_numbers_are_strings_where_a_binding_does_not() {
    let options = Options {
        digits: Digits {
            int8: true,
            numeric: false,
        },
        ..Options::default()
    };
    let scene = Scene::with(&table("t", "id int8 primary key, exact numeric"), options).await;
    let mut by_default = scene.listen(service(), filtered("t", "id=eq.1")).await;
    let other = json!([{ "schema": "public", "table": "t", "int8": "number", "numeric": "string" }]);
    let mut other = scene.listen(service(), other).await;
    scene.run("insert into t values (1, 1.5)").await;
    assert_eq!(
        by_default.change().await["record"],
        json!({ "id": "1", "exact": 1.5 })
    );
    assert_eq!(other.change().await["record"], json!({ "id": 1, "exact": "1.5" }));
}
