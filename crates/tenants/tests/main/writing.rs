//! What the API wants is judged and written (`protocol.md 10`).

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::timeout;
use walcast_tenants::{Control, Defaults, Tenant, WriteError, Written};

use crate::scene::{connect, database, reference};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

fn settings() -> Value {
    json!({"region": "us-east-1", "db_host": "127.0.0.1", "db_port": "5499", "db_name": "n", "db_user": "u",
           "db_password": "p"})
}

fn wanted(more: Value) -> Map<String, Value> {
    let mut wanted = object(json!({
        "jwt_secret": "s",
        "extensions": [{"type": "postgres_cdc_rls", "settings": settings()}],
    }));
    wanted.extend(object(more));
    wanted
}

async fn put(control: &Control, name: &str, more: Value) -> Result<Written, WriteError> {
    control
        .upsert_named(name, &wanted(more), Defaults::default())
        .await
}

fn errors(written: Result<Written, WriteError>) -> String {
    match written {
        Err(WriteError::Invalid(invalid)) => serde_json::to_string(&invalid).unwrap(),
        other => panic!("{other:?} is no invalid tenant"),
    }
}

fn created(written: Result<Written, WriteError>) -> Tenant {
    match written.unwrap() {
        Written::Created(tenant) => tenant,
        Written::Updated(tenant) => panic!("{tenant:?} was there before"),
    }
}

fn updated(written: Result<Written, WriteError>) -> Tenant {
    match written.unwrap() {
        Written::Updated(tenant) => tenant,
        Written::Created(tenant) => panic!("{tenant:?} was not there before"),
    }
}

#[tokio::test]
async fn a_new_tenant_has_what_was_wanted_and_the_defaults_of_the_rest() {
    let database = database().await;
    let control = connect(&database).await;
    let defaults = Defaults {
        max_joins_per_second: 77,
        ..Defaults::default()
    };
    let wanted =
        wanted(json!({"max_concurrent_users": "3", "suspend": true, "client_presence_window_ms": null}));
    let tenant = created(control.upsert_named("dev", &wanted, defaults).await);
    assert_eq!(
        (tenant.name.as_deref(), tenant.external_id.as_str()),
        (Some("dev"), "dev")
    );
    assert_eq!(
        (tenant.max_concurrent_users, tenant.max_joins_per_second),
        (3, 77)
    );
    assert_eq!(tenant.max_payload_size_in_kb, Some(3000));
    assert!(tenant.is_suspended());
    let secret = tenant.open_jwt_secret(control.cipher()).unwrap().unwrap();
    assert_eq!(secret.expose(), "s");
    let reached = tenant.open_database(control.cipher()).unwrap();
    assert_eq!(
        reached.url().expose(),
        "postgres://u:p@127.0.0.1:5499/n?sslmode=require"
    );
    let shown = serde_json::to_value(tenant.shown()).unwrap();
    assert_eq!(
        shown["extensions"][0]["settings"],
        json!({"region": "us-east-1", "db_host": "7DdgtSK7rYs2fSvlK2dwYA==", "db_port": "YlyojHpzq95/MAx5dd8T2A==",
               "db_name": control.cipher().seal("n").unwrap().as_stored(),
               "db_user": control.cipher().seal("u").unwrap().as_stored(),
               "publication": "supabase_realtime", "slot_name": "supabase_realtime_replication_slot",
               "poll_interval_ms": 100, "poll_max_changes": 100, "poll_max_record_bytes": 1_048_576})
    );
    assert_eq!(control.find("dev").await.unwrap(), Some(tenant));
}

#[tokio::test]
async fn nothing_secret_is_stored_in_the_clear() {
    let database = database().await;
    let control = connect(&database).await;
    let mut wanted = wanted(json!({"jwt_secret": "clear-secret"}));
    wanted["extensions"][0]["settings"]["db_password"] = json!("clear-password");
    control
        .upsert_named("dev", &wanted, Defaults::default())
        .await
        .unwrap();
    database
        .until("select not exists (select from _realtime.tenants t, _realtime.extensions e where (t::text || e::text) like '%clear-%')")
        .await;
}

#[tokio::test]
async fn a_change_leaves_what_it_does_not_name() {
    let database = reference().await;
    let control = connect(&database).await;
    let before = control.find("realtime-dev").await.unwrap().unwrap();
    let change = object(json!({"max_concurrent_users": 7, "private_only": "1"}));
    let after = updated(
        control
            .upsert_named("realtime-dev", &change, Defaults::default())
            .await,
    );
    assert!(after.updated_at > before.updated_at);
    let expected = Tenant {
        max_concurrent_users: 7,
        private_only: true,
        updated_at: after.updated_at.clone(),
        ..before
    };
    assert_eq!(after, expected);
}

#[tokio::test]
async fn extensions_that_are_named_replace_those_of_the_same_type() {
    let database = reference().await;
    let control = connect(&database).await;
    let mut changed = settings();
    changed["postgres_changes_pool"] = json!(9);
    let change = object(json!({"extensions": [{"type": "postgres", "settings": changed}]}));
    let tenant = updated(
        control
            .upsert_named("realtime-dev", &change, Defaults::default())
            .await,
    );
    let [extension] = tenant.extensions.as_slice() else {
        panic!("{:?}", tenant.extensions)
    };
    assert_eq!(extension.kind, "postgres_cdc_rls");
    assert_eq!(extension.inserted_at, "2026-11-21T04:08:33");
    let shown = serde_json::to_value(tenant.shown()).unwrap();
    let settings = &shown["extensions"][0]["settings"];
    assert_eq!(settings["subcriber_pool_size"], 9);
    assert_eq!(settings.get("postgres_changes_pool"), None);
    assert!(tenant.open_database(control.cipher()).unwrap().ssl_enforced);
}

#[tokio::test]
async fn the_external_id_of_a_body_names_who_is_made_or_changed() {
    let database = database().await;
    let control = connect(&database).await;
    let defaults = Defaults::default();
    created(
        control
            .upsert(&wanted(json!({"external_id": "b", "name": "first"})), defaults)
            .await,
    );
    let second = updated(
        control
            .upsert(&wanted(json!({"external_id": "b", "name": "second"})), defaults)
            .await,
    );
    assert_eq!(second.name.as_deref(), Some("second"));
    // Of a path, it is the name, too.
    let tenant = created(put(&control, "c", json!({"external_id": "other", "name": "other"})).await);
    assert_eq!(
        (tenant.name.as_deref(), tenant.external_id.as_str()),
        (Some("c"), "c")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_the_reference_servers_words() {
    let database = database().await;
    let control = connect(&database).await;
    let cases = [
        (
            json!({"max_concurrent_users": "x"}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        ),
        (
            json!({"max_concurrent_users": -1}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        ),
        (
            json!({"max_concurrent_users": 1.5}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        ),
        (
            json!({"max_concurrent_users": 2_147_483_648_i64}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        ),
        (
            json!({"max_concurrent_users": null}),
            r#"{"max_concurrent_users":["can't be blank"]}"#,
        ),
        (json!({"private_only": "x"}), r#"{"private_only":["is invalid"]}"#),
        (json!({"jwt_secret": 1}), r#"{"jwt_secret":["is invalid"]}"#),
        (json!({"jwt_secret": "a\0b"}), r#"{"jwt_secret":["is invalid"]}"#),
        (
            json!({"jwt_jwks": {"keys": ["\0"]}}),
            r#"{"jwt_jwks":["is invalid"]}"#,
        ),
        (json!({"jwt_jwks": []}), r#"{"jwt_jwks":["is invalid"]}"#),
        (
            json!({"broadcast_adapter": "pigeon"}),
            r#"{"broadcast_adapter":["is invalid"]}"#,
        ),
        (
            json!({"jwt_secret": " "}),
            r#"{"jwt_secret":["or jwt_jwks is needed to verify tokens"]}"#,
        ),
        (
            json!({"extensions": null}),
            r#"{"extensions":["can't be blank"]}"#,
        ),
        (json!({"extensions": []}), r#"{"extensions":["can't be blank"]}"#),
        (json!({"extensions": "x"}), r#"{"extensions":["is invalid"]}"#),
        (
            json!({"extensions": [{}]}),
            r#"{"extensions":[{"settings":["can't be blank"],"type":["can't be blank"]}]}"#,
        ),
        (
            json!({"extensions": ["x"]}),
            r#"{"extensions":[{"settings":["can't be blank"],"type":["can't be blank"]}]}"#,
        ),
        (
            json!({"extensions": [{"type": "postgres_cdc_rls", "settings": {}}]}),
            r#"{"extensions":[{"settings":["db_password can't be blank","db_user can't be blank","db_name can't be blank","db_port can't be blank","db_host can't be blank","region can't be blank"]}]}"#,
        ),
        (
            json!({"private_only": "x", "extensions": [{"type": "postgres", "settings":
                {"region": "r", "db_host": "h", "db_port": "1", "db_name": "n", "db_user": "u"}}]}),
            r#"{"extensions":[{"settings":["db_password can't be blank"]}],"private_only":["is invalid"]}"#,
        ),
        (
            json!({"extensions": [{"type": "postgres", "settings":
                {"region": "r", "db_host": " ", "db_port": "0", "db_name": 1, "db_user": "u", "db_password": ""}}]}),
            r#"{"extensions":[{"settings":["db_name is invalid","db_port is invalid","db_host can't be blank"]}]}"#,
        ),
        (
            json!({"extensions": [{"type": "postgres", "settings": settings()},
                                  {"type": "postgres_cdc_rls", "settings": settings()}, {"type": "mysql", "settings": {}}]}),
            r#"{"extensions":[{},{"type":["has already been taken"]},{"type":["is invalid"]}]}"#,
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(
            errors(put(&control, "dev", more.clone()).await),
            expected,
            "{more}"
        );
    }
    assert_eq!(control.list().await.unwrap(), []);
}

#[tokio::test]
async fn an_external_id_is_needed_first_of_all() {
    let database = database().await;
    let control = connect(&database).await;
    let blank = r#"{"external_id":["can't be blank"]}"#;
    for (more, expected) in [
        (json!({}), blank),
        (json!({"external_id": ""}), blank),
        (json!({"external_id": null, "private_only": "x"}), blank),
        (json!({"external_id": 1}), r#"{"external_id":["is invalid"]}"#),
        (json!({"external_id": "a\0"}), r#"{"external_id":["is invalid"]}"#),
        (
            json!({"external_id": "x".repeat(256)}),
            r#"{"external_id":["should be at most 255 byte(s)"]}"#,
        ),
    ] {
        let refused = control.upsert(&wanted(more.clone()), Defaults::default()).await;
        assert_eq!(errors(refused), expected, "{more}");
    }
}

#[tokio::test]
async fn a_tenant_keeps_its_external_id_and_one_of_its_keys() {
    let database = reference().await;
    let control = connect(&database).await;
    let change = |change: Value| {
        let control = control.clone();
        async move {
            control
                .upsert_named("realtime-dev", &object(change), Defaults::default())
                .await
        }
    };
    assert_eq!(
        errors(change(json!({"external_id": "other"})).await),
        r#"{"external_id":["cannot be changed"]}"#
    );
    assert_eq!(
        errors(change(json!({"jwt_secret": null, "jwt_jwks": null})).await),
        r#"{"jwt_secret":["or jwt_jwks is needed to verify tokens"]}"#
    );
    let without_secret = updated(change(json!({"external_id": "realtime-dev", "jwt_secret": null})).await);
    assert_eq!(without_secret.jwt_secret, None);
    assert_eq!(
        errors(change(json!({"jwt_jwks": null})).await),
        r#"{"jwt_secret":["or jwt_jwks is needed to verify tokens"]}"#
    );
}

#[tokio::test]
async fn deleting_takes_the_extensions_along_and_says_whether_there_was_a_tenant() {
    let database = reference().await;
    let control = connect(&database).await;
    assert!(control.delete("realtime-dev").await.unwrap());
    assert!(!control.delete("realtime-dev").await.unwrap());
    assert!(!control.delete("a\0b").await.unwrap());
    database
        .until("select not exists (select from _realtime.extensions)")
        .await;
}

#[tokio::test]
async fn several_who_make_one_tenant_at_once_make_one() {
    let database = database().await;
    let control = connect(&database).await;
    let made = futures_util::future::join_all((0..3).map(|_| put(&control, "dev", json!({})))).await;
    let is_created = |written: &Result<Written, WriteError>| matches!(written, Ok(Written::Created(_)));
    assert_eq!(made.iter().filter(|written| is_created(written)).count(), 1);
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    assert_eq!(control.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_written_is_told_to_other_processes_at_once() {
    let database = database().await;
    let (here, there) = (connect(&database).await, connect(&database).await);
    let mut changes = there.changes(Duration::from_secs(3600)).await.unwrap();
    let told = async |changes: &mut walcast_tenants::Changes| {
        let notice = timeout(Duration::from_secs(20), changes.next()).await.unwrap();
        notice.external_id
    };
    put(&here, "dev", json!({})).await.unwrap();
    assert_eq!(told(&mut changes).await, "dev");
    here.delete("dev").await.unwrap();
    assert_eq!(told(&mut changes).await, "dev");
}

#[tokio::test]
async fn an_older_control_database_keeps_what_it_has_columns_for() {
    let database = reference().await;
    database
        .execute("alter table _realtime.tenants drop column presence_enabled")
        .await;
    let control = connect(&database).await;
    let change = object(json!({"presence_enabled": true, "max_concurrent_users": 5}));
    let tenant = updated(
        control
            .upsert_named("realtime-dev", &change, Defaults::default())
            .await,
    );
    assert_eq!((tenant.max_concurrent_users, tenant.presence_enabled), (5, false));
}
