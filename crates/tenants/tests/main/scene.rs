//! A control database, and what is opened with its key.

use walcast_tenants::{Cipher, Control, ControlError, ControlOptions, Secret};
use walcast_testkit::{Database, Postgres};

/// As the reference server leaves it.
pub(crate) const REFERENCE: &str = include_str!("reference.sql");

pub(crate) fn cipher() -> Cipher {
    Cipher::new("supabaserealtime", None, false).unwrap()
}

pub(crate) async fn database() -> Database {
    Postgres::shared().await.database().await
}

pub(crate) async fn reference() -> Database {
    let database = database().await;
    database.execute(REFERENCE).await;
    database
}

pub(crate) async fn connect_with(
    database: &Database,
    after_connect: Option<&str>,
) -> Result<Control, ControlError> {
    let control = Control::new(ControlOptions {
        url: Secret::new(database.url()),
        after_connect: after_connect.map(str::to_owned),
        cipher: cipher(),
    })?;
    control.prepare().await?;
    Ok(control)
}

pub(crate) async fn connect(database: &Database) -> Control {
    connect_with(database, Some("SET search_path TO _realtime"))
        .await
        .unwrap()
}
