//! Connections for reading and writing stored messages: few, and with one time limit for all of an operation.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, Postgres};
use sqlx::query::Query;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// How many connections, how much patience.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveOptions {
    /// Connections at most.
    pub connections: u32,
    /// Milliseconds an operation may take, waiting for a connection included (`database.md 5`).
    pub timeout_ms: u64,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            connections: 2,
            timeout_ms: 5_000,
        }
    }
}

/// The messages that are stored in `realtime.messages`. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Archive {
    pool: PgPool,
    time_limit: Duration,
}

/// Why an operation on stored messages came to nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Failure {
    #[error("it was not done within {0} ms")]
    TooSlow(u128),
    #[error("{sqlstate} {message}")]
    Refused {
        sqlstate: Arc<str>,
        message: Arc<str>,
        relation: Option<Arc<str>>,
    },
    #[error("the database cannot be asked: {0}")]
    Unavailable(Arc<str>),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::Refused {
                sqlstate: error.code().unwrap_or_default().into(),
                message: error.message().into(),
                relation: error.table().map(Arc::from),
            },
            other => Self::Unavailable(other.to_string().into()),
        }
    }
}

impl Archive {
    /// Connects when first used. Must be called within a tokio runtime.
    ///
    /// The role in `connect` must be the owner of `realtime.messages`, a superuser, or one with BYPASSRLS that may
    /// read and write there: policies play no part in what is stored (`database.md 5`).
    #[must_use]
    pub fn new(connect: &PgConnectOptions, options: ArchiveOptions) -> Self {
        let connect = connect.clone().application_name("walcast_archive").options([
            ("statement_timeout", options.timeout_ms.max(1).to_string()),
            ("default_transaction_read_only", "off".to_owned()),
            // For a role whom policies bind, an error instead of missing messages.
            ("row_security", "off".to_owned()),
        ]);
        let time_limit = Duration::from_millis(options.timeout_ms);
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(1))
            .acquire_timeout(time_limit)
            .connect_lazy_with(connect);
        Self { pool, time_limit }
    }

    pub(crate) fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// All rows of a query, within the time limit.
    pub(crate) async fn fetch(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, Failure> {
        let deadline = Instant::now() + self.time_limit;
        let too_slow = || Failure::TooSlow(self.time_limit.as_millis());
        let mut connection = timeout_at(deadline, self.pool.acquire())
            .await
            .map_err(|_| too_slow())??;
        match timeout_at(deadline, query.fetch_all(&mut *connection)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => {
                // Whatever it still waits for is not to be waited for by the next.
                drop(connection.detach());
                Err(too_slow())
            }
        }
    }
}
