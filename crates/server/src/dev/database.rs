//! The private Postgres of `walcast dev`.

use super::{DevError, keys};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use walcast_postgres::{Cluster, Options, PLATFORM_SQL, reachable_folder};

const DEMO_SQL: &str = include_str!("demo.sql");

/// A running Postgres with the platform's roles and the demo data.
pub(super) struct Database {
    cluster: Cluster,
    folder: PathBuf,
    url: String,
    pool: PgPool,
}

impl Database {
    /// Starts the Postgres of `data`, or of the folder we are in.
    pub(super) async fn start(data: Option<&Path>) -> Result<Self, DevError> {
        let postgres = match data {
            Some(data) => data.join("postgres"),
            None => reachable_folder(Path::new("."))?,
        };
        let folder = postgres.parent().unwrap_or(&postgres).to_owned();
        std::fs::create_dir_all(&folder).map_err(|error| DevError::Folder {
            folder: folder.clone(),
            error,
        })?;
        let cluster = Cluster::start(Options::kept_in(postgres)).await?;
        match Self::prepare(&cluster).await {
            Ok((url, pool)) => Ok(Self {
                cluster,
                folder,
                url,
                pool,
            }),
            Err(error) => {
                let mut cluster = cluster;
                cluster.stop().await?;
                Err(error)
            }
        }
    }

    /// Gives the superuser a password for TCP, which is new at each start, and makes what is missing.
    async fn prepare(cluster: &Cluster) -> Result<(String, PgPool), DevError> {
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
        let password = keys::random();
        let set_password = format!("alter role {} password '{password}'", cluster.superuser());
        // Both are names and digits of our own.
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
        Ok((url, pool))
    }

    /// Where the data and keys are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
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
