//! The tenant of a self-hosted stack is made from the environment (`database.md 8.5`).

use serde_json::{Map, json};
use walcast_tenants::{Defaults, Secret, Seed, TenantDatabase};

use crate::scene::{connect, database};

fn seed() -> Seed {
    Seed {
        name: "realtime-dev".to_owned(),
        jwt_secret: Some(Secret::new("secret")),
        jwt_jwks: Some(Secret::new("[]")),
        database: TenantDatabase {
            host: "db".to_owned(),
            port: 5432,
            name: "postgres".to_owned(),
            user: "supabase_admin".to_owned(),
            password: Secret::new("postgres"),
            ssl_enforced: false,
            pool_size: None,
            publication: "supabase_realtime".to_owned(),
            max_record_bytes: Some(1_048_576),
            region: Some("us-east-1".to_owned()),
        },
        defaults: Defaults::default(),
    }
}

#[tokio::test]
async fn it_is_made_once_and_has_what_the_environment_says() {
    let database = database().await;
    let control = connect(&database).await;
    assert!(control.seed(&seed()).await.unwrap());
    let tenant = control.find("realtime-dev").await.unwrap().unwrap();
    assert_eq!(tenant.open_database(control.cipher()).unwrap(), seed().database);
    assert_eq!(
        tenant.open_jwt_secret(control.cipher()).unwrap(),
        seed().jwt_secret
    );
    assert_eq!(tenant.jwt_jwks.as_ref().unwrap().expose(), r#"{"keys":[]}"#);
    assert!(!control.seed(&seed()).await.unwrap());
    assert_eq!(control.find("realtime-dev").await.unwrap(), Some(tenant));
}

#[tokio::test]
async fn another_environment_changes_keys_and_database_and_leaves_the_limits() {
    let database = database().await;
    let control = connect(&database).await;
    control.seed(&seed()).await.unwrap();
    let change = Map::from_iter([("max_events_per_second".to_owned(), json!(5000))]);
    control
        .upsert_named("realtime-dev", &change, Defaults::default())
        .await
        .unwrap();
    let mut another = seed();
    another.jwt_secret = Some(Secret::new("rotated"));
    assert!(control.seed(&another).await.unwrap());
    another.database.host = "elsewhere".to_owned();
    assert!(control.seed(&another).await.unwrap());
    another.jwt_jwks = None;
    assert!(control.seed(&another).await.unwrap());
    let tenant = control.find("realtime-dev").await.unwrap().unwrap();
    assert_eq!(tenant.open_database(control.cipher()).unwrap().host, "elsewhere");
    assert_eq!(
        tenant.open_jwt_secret(control.cipher()).unwrap(),
        another.jwt_secret
    );
    assert!(tenant.jwt_jwks.is_none());
    assert_eq!(tenant.max_events_per_second, 5000);
}
