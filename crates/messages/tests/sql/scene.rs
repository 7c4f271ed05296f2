//! A migrated database and sessions that hear Postgres' warnings.

use sqlx::{Connection, PgConnection};
use std::future::poll_fn;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use walcast_testkit::{Database, Postgres};

/// A database with our migrations on top of what the platform provides, and no partition yet.
pub(crate) async fn migrated() -> Database {
    let database = Postgres::shared().await.database().await;
    migrate(&database.url()).await;
    database
}

/// A migrated database whose table has a partition for any day.
pub(crate) async fn with_partition() -> Database {
    let database = migrated().await;
    database.execute(ANY_DAY).await;
    database
}

pub(crate) const ANY_DAY: &str = "create table realtime.messages_any_day partition of realtime.messages for values from (minvalue) to (maxvalue);";

/// As the server does it.
pub(crate) async fn migrate(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name("walcast.migrations");
    sqlx::query("create schema if not exists walcast")
        .execute(&mut connection)
        .await
        .unwrap();
    migrator.run_direct(None, &mut connection, false).await.unwrap();
}

/// A session, and what Postgres says besides its answers.
pub(crate) struct Session {
    pub(crate) client: Client,
    notices: mpsc::UnboundedReceiver<String>,
}

impl Session {
    /// Of the superuser.
    pub(crate) async fn of(database: &Database) -> Self {
        Self::at(&database.url()).await
    }

    pub(crate) async fn at(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let (said, notices) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = said.send(format!("{}: {}", notice.severity(), notice.message()));
                }
            }
        });
        Self { client, notices }
    }

    /// Runs statements; returns the warnings they gave, or the error.
    pub(crate) async fn run(&mut self, statements: &str) -> Result<Vec<String>, String> {
        let ended = self.client.batch_execute(statements).await;
        let mut notices = Vec::new();
        // They come before the answer.
        while let Ok(notice) = self.notices.try_recv() {
            notices.push(notice);
        }
        ended
            .map(|()| notices)
            .map_err(|error| error.as_db_error().unwrap().message().to_owned())
    }

    /// The only value of the only row, as text.
    pub(crate) async fn value(&self, query: &str) -> Option<String> {
        let row = self
            .client
            .query_one(&format!("select ({query})::text"), &[])
            .await;
        row.unwrap_or_else(|error| panic!("{error:?} in: {query}")).get(0)
    }
}
