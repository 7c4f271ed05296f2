//! A database of a test's own.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

use crate::keeper::Keeper;
use crate::until::until;

/// A database that is dropped with this value, whoever is still connected to it.
pub struct Database {
    name: String,
    port: u16,
    superuser: String,
    keeper: Keeper,
    /// For [`Database::execute`]; made when first needed.
    session: Mutex<Option<Client>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Database")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Database {
    pub(crate) fn new(name: String, port: u16, superuser: String, keeper: Keeper) -> Self {
        Self {
            name,
            port,
            superuser,
            keeper,
            session: Mutex::new(None),
        }
    }

    /// Its name, different from that of any other database of the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection URL of the superuser, over TCP.
    pub fn url(&self) -> String {
        format!(
            "postgres://{}@127.0.0.1:{}/{}",
            self.superuser, self.port, self.name
        )
    }

    /// A connection URL of another role, over TCP.
    pub fn url_as(&self, role: &str, password: &str) -> String {
        let role = utf8_percent_encode(role, NON_ALPHANUMERIC);
        let password = utf8_percent_encode(password, NON_ALPHANUMERIC);
        format!(
            "postgres://{role}:{password}@127.0.0.1:{}/{}",
            self.port, self.name
        )
    }

    /// A new session of the superuser.
    ///
    /// # Panics
    /// When there is no connection to be had, with the reason.
    pub async fn client(&self) -> Client {
        self.connect(&self.url()).await
    }

    /// A new session of another role.
    ///
    /// # Panics
    /// When there is no connection to be had, with the reason.
    pub async fn client_as(&self, role: &str, password: &str) -> Client {
        self.connect(&self.url_as(role, password)).await
    }

    async fn connect(&self, url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .unwrap_or_else(|error| panic!("no connection to {url}: {}", told(&error)));
        tokio::spawn(connection);
        client
    }

    /// Runs statements as the superuser, in one session that lasts as long as the database does (or until the server
    /// ends it). Several statements at once are one transaction.
    ///
    /// # Panics
    /// When Postgres refuses one, with what it says.
    pub async fn execute(&self, statements: &str) {
        let mut session = self.session.lock().await;
        let client = match session.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.client().await,
        };
        let done = client.batch_execute(statements).await;
        *session = Some(client);
        done.unwrap_or_else(|error| panic!("{} in: {statements}", told(&error)));
    }

    /// Waits until a query that returns one boolean says true. For what Postgres tells no event of.
    ///
    /// # Panics
    /// It has not said so within 20 seconds, or fails.
    pub async fn until(&self, query: &str) {
        let client = self.client().await;
        let is_true = || async {
            let row = client.query_one(query, &[]).await;
            let row = row.unwrap_or_else(|error| panic!("{} in: {query}", told(&error)));
            row.get::<_, Option<bool>>(0).unwrap_or(false).then_some(())
        };
        until(query, is_true).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.keeper.drop_database(std::mem::take(&mut self.name));
    }
}

/// What Postgres says, which the error's own text leaves out.
pub(crate) fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => refusal.to_string(),
        None => error.to_string(),
    }
}
