//! What the reference server wrote is read.

use serde_json::{Value, json};
use walcast_tenants::Secret;

use crate::scene::{cipher, connect, reference};

#[tokio::test]
async fn a_tenant_of_the_reference_server_is_read_with_its_secrets_and_its_database() {
    let database = reference().await;
    let control = connect(&database).await;
    let tenant = control.find("realtime-dev").await.unwrap().unwrap();
    let secret = tenant.open_jwt_secret(control.cipher()).unwrap().unwrap();
    assert_eq!(secret.expose(), "the secret of realtime-dev");
    let keys: Value = serde_json::from_str(&tenant.jwt_jwks.as_ref().unwrap().expose()).unwrap();
    assert_eq!(keys["keys"][0]["kid"], "1");
    let reached = tenant.open_database(control.cipher()).unwrap();
    assert_eq!(
        reached.url().expose(),
        "postgres://supabase%5Fadmin:postgres@127.0.0.1:5499/nosuch?sslmode=prefer"
    );
    assert_eq!(reached.publication, "supabase_realtime");
    assert_eq!(reached.max_record_bytes, Some(1_048_576));
    assert_eq!(tenant.max_joins_per_second, 500);
    assert!(!tenant.is_suspended());
}

#[tokio::test]
async fn nobody_is_found_under_another_name() {
    let database = reference().await;
    let control = connect(&database).await;
    for name in ["nobody", "", "Realtime-Dev", "a\0b", "' or true --"] {
        assert_eq!(control.find(name).await.unwrap(), None, "{name}");
    }
}

#[tokio::test]
async fn tenants_are_listed_in_the_order_of_their_making() {
    let database = reference().await;
    database
        .execute(
            "insert into _realtime.tenants (id, external_id, jwt_secret, inserted_at, updated_at) values
               (gen_random_uuid(), 'newest', 'x', '2027-01-01', now()),
               (gen_random_uuid(), 'oldest', 'x', '2020-01-01', now()),
               (gen_random_uuid(), null, 'x', '2020-01-01', now())",
        )
        .await;
    let listed = connect(&database).await.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|tenant| tenant.external_id.as_str()).collect();
    assert_eq!(names, ["oldest", "realtime-dev", "newest"]);
}

#[tokio::test]
async fn what_is_shown_has_the_reference_servers_order_and_neither_keys_nor_the_password() {
    let database = reference().await;
    let tenant = connect(&database)
        .await
        .find("realtime-dev")
        .await
        .unwrap()
        .unwrap();
    let shown = serde_json::to_string(&tenant.shown()).unwrap();
    assert_eq!(
        shown,
        concat!(
            r#"{"id":"cba94c25-2f12-487b-a630-9d84f64a4e6b","name":"realtime-dev","extensions":["#,
            r#"{"type":"postgres_cdc_rls","inserted_at":"2026-11-21T04:08:33","updated_at":"2026-11-21T04:08:33","settings":{"#,
            r#""db_host":"7DdgtSK7rYs2fSvlK2dwYA==","db_name":"UInb8KzBUEPgg9VcQyFSXw==","db_port":"YlyojHpzq95/MAx5dd8T2A==","#,
            r#""db_user":"uxbEq/zz8DXVD53TOI1zmw==","poll_interval_ms":100,"poll_max_changes":100,"poll_max_record_bytes":1048576,"#,
            r#""publication":"supabase_realtime","region":"us-east-1","slot_name":"supabase_realtime_replication_slot","#,
            r#""ssl_enforced":false}}],"inserted_at":"2026-11-21T04:08:33","external_id":"realtime-dev","private_only":false,"#,
            r#""client_presence_window_ms":null,"max_channels_per_client":100,"max_client_presence_events_per_window":null,"#,
            r#""max_concurrent_users":200,"max_events_per_second":100,"max_joins_per_second":500,"presence_enabled":false}"#,
        )
    );
}

#[tokio::test]
async fn nothing_secret_is_seen_in_the_debug_output_of_a_record() {
    let database = reference().await;
    let control = connect(&database).await;
    let tenant = control.find("realtime-dev").await.unwrap().unwrap();
    let seen = format!("{control:?} {tenant:?} {:?}", tenant.open_database(&cipher()));
    let sealed = tenant.jwt_secret.as_ref().unwrap().as_stored();
    let opened = tenant.open_jwt_secret(&cipher()).unwrap();
    for hidden in [
        "c2VjcmV0",
        "7DdgtSK7rYs2fSvlK2dwYA==",
        sealed,
        opened.as_ref().map_or("", Secret::expose),
    ] {
        assert!(!seen.contains(hidden), "{hidden} is seen in {seen}");
    }
    assert!(seen.contains("realtime-dev"));
}

#[tokio::test]
async fn an_older_control_database_is_read_with_defaults_for_columns_it_does_not_have() {
    let database = reference().await;
    database
        .execute(
            "alter table _realtime.tenants drop column max_joins_per_second, drop column presence_enabled,
               drop column feature_flags, drop column max_payload_size_in_kb, drop column suspend",
        )
        .await;
    let tenant = connect(&database)
        .await
        .find("realtime-dev")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(tenant.max_joins_per_second, 500);
    assert!(!tenant.presence_enabled && !tenant.is_suspended());
    assert_eq!(json!(tenant.max_payload_size_in_kb), Value::Null);
}
