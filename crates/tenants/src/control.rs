//! The control database: where tenants are recorded.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, Postgres};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::changes::Changes;
use crate::cipher::Cipher;
use crate::schema::{self, SchemaError};
use crate::secret::Secret;
use crate::tenant::Tenant;

/// Longer statements are given up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is waited for this long.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The API's few requests, the reading of records, and one connection that listens.
const CONNECTIONS: u32 = 3;

/// A record and its extensions as one JSON text. By name, so that columns which are missing or unknown do no harm.
macro_rules! select_tenants {
    ($condition:literal) => {
        concat!(
            "select (to_jsonb(tenant) || jsonb_build_object('extensions', (
               select coalesce(jsonb_agg(to_jsonb(extension) order by extension.inserted_at, extension.type), '[]')
               from extensions extension where extension.tenant_external_id = tenant.external_id)))::text
             from tenants tenant where ",
            $condition
        )
    };
}

/// Why the control database gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The URL means nothing. It is not repeated: it may hold a password.
    #[error(
        "the control database has no valid URL; check DATABASE_URL, or DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME"
    )]
    Url,
    /// It cannot be reached, or a statement is refused.
    #[error(
        "the control database cannot be asked: {0}; check DB_HOST and its like, and DB_AFTER_CONNECT_QUERY"
    )]
    Unavailable(#[from] sqlx::Error),
    /// There are no tables to look into.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A record is not what a record is.
    #[error("a record of a tenant cannot be read: {0}; is `tenants` the reference server's table?")]
    Unreadable(#[from] serde_json::Error),
}

/// How the control database is reached.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// `postgres://…`
    pub url: Secret,
    /// `DB_AFTER_CONNECT_QUERY`: run on every new connection, after `search_path` was set to `_realtime`.
    pub after_connect: Option<String>,
    /// Opens and seals what is secret in the records.
    pub cipher: Cipher,
}

/// The records of tenants. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Control {
    pool: PgPool,
    cipher: Cipher,
}

impl Control {
    /// Looks at the URL. Nothing is connected before it is needed. To be called in a runtime.
    ///
    /// # Errors
    /// The URL means nothing.
    pub fn new(options: ControlOptions) -> Result<Self, ControlError> {
        let connect = PgConnectOptions::from_str(options.url.expose())
            .map_err(|_| ControlError::Url)?
            .application_name("walcast_control");
        let prologue = format!(
            "set search_path to _realtime; set statement_timeout to {}; {}",
            STATEMENT_TIMEOUT.as_millis(),
            options.after_connect.unwrap_or_default()
        );
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                let prologue = AssertSqlSafe(prologue.clone());
                Box::pin(async move { connection.execute(sqlx::raw_sql(prologue)).await.map(|_| ()) })
            })
            .connect_lazy_with(connect);
        Ok(Self {
            pool,
            cipher: options.cipher,
        })
    }

    /// Makes the tables where they are missing.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn prepare(&self) -> Result<(), ControlError> {
        let mut connection = self.pool.acquire().await?;
        schema::prepare(&mut connection).await?;
        Ok(())
    }

    /// Opens what is secret in the records.
    #[must_use]
    pub fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The tenant of this external id.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn find(&self, external_id: &str) -> Result<Option<Tenant>, ControlError> {
        // Postgres has no text with it.
        if external_id.contains('\0') {
            return Ok(None);
        }
        find_in(&self.pool, external_id).await
    }

    /// All tenants, in the order of their making.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn list(&self) -> Result<Vec<Tenant>, ControlError> {
        const ALL: &str =
            select_tenants!("tenant.external_id is not null order by tenant.inserted_at, tenant.external_id");
        let records: Vec<String> = sqlx::query_scalar(ALL).fetch_all(&self.pool).await?;
        let tenants = records.iter().map(|record| serde_json::from_str(record));
        Ok(tenants.collect::<Result<_, _>>()?)
    }

    /// Tells from now on what happens to tenants. What a Walcast writes is told at once; what others write, within
    /// `poll_every`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn changes(&self, poll_every: Duration) -> Result<Changes, ControlError> {
        Changes::begin(self.clone(), poll_every).await
    }
}

pub(crate) async fn find_in<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    external_id: &str,
) -> Result<Option<Tenant>, ControlError> {
    let record: Option<String> = sqlx::query_scalar(select_tenants!("tenant.external_id = $1"))
        .bind(external_id)
        .fetch_optional(executor)
        .await?;
    Ok(record.map(|record| serde_json::from_str(&record)).transpose()?)
}
