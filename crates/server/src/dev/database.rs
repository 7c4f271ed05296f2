//! The private Postgres of `walcast dev`.

use super::DevError;
use super::keys::Keys;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::path::Path;
use std::str::FromStr;
use walcast_postgres::{Cluster, Options, PLATFORM_SQL, reachable_folder};

const DEMO_SQL: &str = include_str!("demo.sql");

/// A running Postgres with the platform's roles and the demo data.
pub(super) struct Database {
    cluster: Cluster,
    keys: Keys,
    url: String,
    pool: PgPool,
}

impl Database {
    /// Starts the Postgres of `data`, or of the folder we are in; of this major version, or the one there is.
    pub(super) async fn start(data: Option<&Path>, version: Option<u16>) -> Result<Self, DevError> {
        let folder = match data {
            Some(data) => data.join("postgres"),
            None => reachable_folder(Path::new("."))?,
        };
        let mut cluster = Cluster::start(Options {
            version,
            ..Options::kept_in(&folder)
        })
        .await?;
        match Self::prepare(&cluster, &folder).await {
            Ok((keys, url, pool)) => Ok(Self {
                cluster,
                keys,
                url,
                pool,
            }),
            Err(error) => {
                cluster.stop().await?;
                Err(error)
            }
        }
    }

    /// Gives the superuser its password for TCP, and makes what is missing.
    async fn prepare(cluster: &Cluster, folder: &Path) -> Result<(Keys, String, PgPool), DevError> {
        let keys = Keys::load(folder)?;
        let password = &keys.postgres_password;
        let socket = PgConnectOptions::new_without_pgpass()
            .socket(cluster.socket_dir())
            .port(cluster.port())
            .username(cluster.superuser())
            .database("postgres");
        let setup = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(socket)
            .await?;
        sqlx::raw_sql(PLATFORM_SQL).execute(&setup).await?;
        sqlx::raw_sql(DEMO_SQL).execute(&setup).await?;
        let set_password = format!("alter role {} password '{password}'", cluster.superuser());
        // Nothing to quote: both are of our own making, or the folder owner's.
        sqlx::raw_sql(sqlx::AssertSqlSafe(set_password))
            .execute(&setup)
            .await?;
        setup.close().await;
        let url = format!(
            "postgres://{}:{password}@127.0.0.1:{}/postgres",
            cluster.superuser(),
            cluster.port()
        );
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(PgConnectOptions::from_str(&url)?);
        Ok((keys, url, pool))
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn ended(&self) -> impl Future<Output = ()> + '_ {
        self.cluster.ended()
    }

    pub(super) fn log_tail(&self) -> String {
        self.cluster.log_tail()
    }

    pub(super) async fn stop(&mut self) -> Result<(), DevError> {
        self.pool.close().await;
        Ok(self.cluster.stop().await?)
    }
}
