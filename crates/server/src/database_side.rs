//! A tenant's database: how it is connected to, prepared and worked on.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use walcast_changes::{Changes, Meter};
use walcast_messages::{Archive, ArchiveOptions, Authorizer, Upkeep, UpkeepOptions};
use walcast_replication::{StreamOptions, TablePublication};

use crate::config::DatabaseConfig;
use crate::database_broadcast::DatabaseBroadcast;
use crate::shutdown::within;
use crate::tenant::Tenant;
use crate::{migrate, nodes};

/// Name under which Postgres shows the connections.
const APPLICATION_NAME: &str = "walcast";

/// What the reference calls the publication of `realtime.messages` (`database.md 1.8`).
pub(crate) const MESSAGES_PUBLICATION: &str = "supabase_realtime_messages_publication";

/// A query waits this long for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts to prepare the database: doubles from the first to the last.
const PREPARE_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Longest wait for the partitions of messages at start. Only private channels and messages need them.
const FIRST_UPKEEP: Duration = Duration::from_secs(5);

/// Why a database URL is of no use.
#[derive(Debug, thiserror::Error)]
pub enum UnusableUrl {
    /// The URL names something the query driver does not know.
    #[error("the database URL cannot be used: {0}; check DATABASE_URL or the DB_* settings")]
    ForQueries(#[source] sqlx::Error),
    /// The URL names something the replication driver does not know.
    #[error("the database URL cannot be used for replication: {0}; check DATABASE_URL or the DB_* settings")]
    ForReplication(String),
}

/// What works once the database is prepared.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) pool: PgPool,
    pub(crate) changes: Changes,
    pub(crate) authorizer: Authorizer,
    pub(crate) archive: Archive,
    pub(crate) upkeep: Upkeep,
}

/// The ways to a tenant's database. Nothing is connected before it is needed.
pub struct DatabaseSide {
    config: DatabaseConfig,
    replication: walcast_replication::Config,
    pool: PgPool,
}

impl DatabaseSide {
    /// Looks at the URL.
    ///
    /// # Errors
    /// One of the drivers cannot use it.
    pub fn new(config: &DatabaseConfig) -> Result<Self, UnusableUrl> {
        let url = config.url.expose();
        let replication = walcast_replication::Config::from_url(url)
            .map_err(|error| UnusableUrl::ForReplication(error.to_string()))?;
        let options = PgConnectOptions::from_str(url)
            .map_err(UnusableUrl::ForQueries)?
            .application_name(APPLICATION_NAME)
            .log_statements(log::LevelFilter::Trace);
        let pool = PgPoolOptions::new()
            .min_connections(0)
            .max_connections(config.pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self {
            config: config.clone(),
            replication,
            pool,
        })
    }

    /// Ends the queries.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Prepares the database, however long that takes, and then starts what works on it, until the token is cancelled.
    pub(crate) async fn prepare(&self, tenant: &Arc<Tenant>, stop: CancellationToken) -> Prepared {
        let (mut pause, longest_pause) = PREPARE_RETRY;
        let mut said = String::new();
        while let Err(error) = migrate::migrate_at(self.config.url.expose()).await {
            let message = error.to_string();
            // Once a cause, not once an attempt.
            if message != said {
                tracing::error!(
                    code = "UnableToConnectToProject",
                    cause = message,
                    "no changes yet; trying again"
                );
                said = message;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
        }
        let connections = self.config.pool_size;
        tracing::info!(
            connections,
            "the database is prepared; at most this many connections and one for replication"
        );
        let connect = self.pool.connect_options();
        let authorizer = Authorizer::new(connect.as_ref(), walcast_messages::Options::default());
        // Private channels are judged by rows of today: there must be a place for them before the first one is joined.
        let upkeep = Upkeep::start(connect.as_ref().clone(), UpkeepOptions::default(), stop.clone());
        let _late = within(FIRST_UPKEEP, upkeep.first_run()).await;
        let archive = Archive::new(connect.as_ref(), ArchiveOptions::default());
        let (expiring, stopped) = (archive.clone(), stop.clone());
        tokio::spawn(async move { expiring.keep_deleting_expired(stopped).await });
        let changes = Changes::start(
            self.replication.clone(),
            self.pool.clone(),
            self.options(tenant),
            stop,
        );
        Prepared {
            pool: self.pool.clone(),
            changes,
            authorizer,
            archive,
            upkeep,
        }
    }

    fn options(&self, tenant: &Arc<Tenant>) -> walcast_changes::Options {
        let settings = &tenant.settings().changes;
        walcast_changes::Options {
            publication: settings.publication.clone(),
            create_publication: settings.create_publication,
            max_record_bytes: settings.max_record_bytes,
            delete_visibility: settings.delete_visibility,
            digits: settings.digits,
            filter_or: settings.filter_or,
            visibility: settings.visibility,
            visibility_timeout_ms: settings.visibility_timeout_ms,
            window: settings.window,
            // The rest of the pool is for subscribing.
            visibility_connections: (self.config.pool_size / 2).max(1),
            tap: Some(Arc::new(DatabaseBroadcast::new(Arc::clone(tenant)))),
            meter: Some(Arc::clone(&tenant.rates) as Arc<dyn Meter>),
            stream: StreamOptions {
                table_publications: vec![TablePublication {
                    name: MESSAGES_PUBLICATION.to_owned(),
                    schema: "realtime".to_owned(),
                    table: "messages".to_owned(),
                }],
                slot: settings.slot.clone(),
                ..StreamOptions::default()
            },
            cluster: nodes::sharing(&tenant.cluster, &tenant.config.cluster),
            ..walcast_changes::Options::default()
        }
    }
}
