//! A tenant's database: how it is connected to, prepared and worked on.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walcast_changes::{Changes, Meter};
use walcast_messages::{Archive, ArchiveOptions, Authorizer, Upkeep, UpkeepOptions};
use walcast_replication::{Slot, StreamOptions, TablePublication};

use crate::config::DatabaseConfig;
use crate::database_broadcast::DatabaseBroadcast;
use crate::migrate::DatabaseNotReady;
use crate::nodes::TenantName;
use crate::shutdown::within;
use crate::tenant::Tenant;
use crate::{migrate, nodes};

/// Name under which Postgres shows the connections.
const APPLICATION_NAME: &str = "walcast";

/// What the reference calls the publication of `realtime.messages` (`database.md 1.8`).
pub(crate) const MESSAGES_PUBLICATION: &str = "supabase_realtime_messages_publication";

/// What Postgres keeps of a name.
const LONGEST_NAME: usize = 63;

/// Room in it for what makes the name of a temporary slot unique.
const LONGEST_SLOT_PREFIX: usize = 40;

/// A query waits this long for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A database that takes longer to be prepared is tried again. Longer than a migration takes, and another process' turn.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);

/// How long one attempt keeps others from beginning. One that takes longer waits for its database, which costs nothing
/// here.
const TURN: Duration = Duration::from_secs(1);

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
pub(crate) struct DatabaseSide {
    config: DatabaseConfig,
    replication: walcast_replication::Config,
    pool: PgPool,
}

impl DatabaseSide {
    /// Looks at the URL.
    ///
    /// # Errors
    /// One of the drivers cannot use it.
    pub(crate) fn new(config: &DatabaseConfig, tenant: &TenantName) -> Result<Self, UnusableUrl> {
        let url = config.url.expose();
        let mut replication = walcast_replication::Config::from_url(url)
            .map_err(|error| UnusableUrl::ForReplication(error.to_string()))?;
        let application_name = tenant.in_postgres(APPLICATION_NAME, LONGEST_NAME);
        if tenant.external_id().is_some() {
            replication.application_name.clone_from(&application_name);
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(UnusableUrl::ForQueries)?
            .application_name(&application_name)
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

    /// Ends what works on the database, within a time for each part; what is left then goes with its connections.
    pub(crate) async fn end(&self, changes: &Changes, limit: Duration) {
        if within(limit, changes.stopped()).await.is_none() {
            tracing::warn!(
                "the replication stream did not end in time; its temporary slot goes with its connection"
            );
        }
        if within(limit, self.close()).await.is_none() {
            tracing::warn!("queries did not end in time and are dropped");
        }
    }

    /// Brings the database to the version this binary needs: one attempt, which begins when others have had their turn.
    ///
    /// # Errors
    /// As [`migrate::migrate_at`], and no answer in time.
    pub(crate) async fn prepare(&self, turns: &Semaphore) -> Result<(), DatabaseNotReady> {
        // Closed by nobody.
        let turn = turns.acquire().await;
        let mut attempt = std::pin::pin!(migrate::migrate_at(self.config.url.expose()));
        if let Some(done) = within(TURN, attempt.as_mut()).await {
            return done;
        }
        drop(turn);
        within(ATTEMPT_LIMIT, attempt)
            .await
            .unwrap_or(Err(DatabaseNotReady::Silent(ATTEMPT_LIMIT.as_secs())))
    }

    /// Starts what works on a prepared database, until the token is cancelled.
    pub(crate) async fn work(&self, tenant: &Arc<Tenant>, stop: CancellationToken) -> Prepared {
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
        let settings = tenant.settings_kept();
        let settings = &settings.changes;
        walcast_changes::Options {
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
                slot: match &settings.slot {
                    Slot::Temporary => Slot::Temporary,
                    Slot::Permanent { name, resumes } => Slot::Permanent {
                        name: tenant.name.in_postgres(name, LONGEST_NAME),
                        resumes: *resumes,
                    },
                },
                slot_prefix: tenant.name.in_postgres(APPLICATION_NAME, LONGEST_SLOT_PREFIX),
                ..StreamOptions::default()
            },
            cluster: nodes::sharing(&tenant.cluster, &tenant.config.cluster, &tenant.name),
            ..settings.to_options()
        }
    }
}
