//! Databases for these tests: empty, without the publication that the platform provides.

use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_testkit::Postgres;

/// An empty database of the cluster that all tests share.
pub(crate) async fn database() -> Database {
    Database::of(Postgres::shared().await).await
}

/// A database and a session of the superuser in it.
pub(crate) struct Database {
    database: walcast_testkit::Database,
    client: Client,
}

impl Database {
    /// An empty database of a test's own cluster.
    pub(crate) async fn of(postgres: &Postgres) -> Self {
        let database = postgres.database().await;
        let client = database.client().await;
        client
            .batch_execute("drop publication supabase_realtime")
            .await
            .unwrap();
        Self { database, client }
    }

    pub(crate) fn name(&self) -> &str {
        self.database.name()
    }

    pub(crate) fn url(&self) -> String {
        self.database.url()
    }

    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        self.database.url_as(role, password)
    }

    /// Another session of the superuser.
    pub(crate) async fn session(&self) -> Client {
        self.database.client().await
    }

    /// Runs statements.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
    }

    /// Runs statements, the last of which gives a number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.text(sql).await.parse().unwrap()
    }

    /// Runs statements, the last of which gives a text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        let answers = self.client.simple_query(sql).await.unwrap();
        let last = answers.iter().rev().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        last.unwrap_or_else(|| panic!("{sql} gave no row"))
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, condition: &str) {
        self.database.until(&format!("select {condition}")).await;
    }
}
