//! The server as a whole: what every part shares, and its life from start to an end without a trace.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use walcast_broadcast::{Message, Room, Rooms};
use walcast_changes::{Changes, Meter, Status};
use walcast_cluster::{Cluster, ConnectError};
use walcast_messages::{Archive, ArchiveOptions, Authorizer, Upkeep, UpkeepOptions};
use walcast_presence::{Neighbours, Presences};
use walcast_replication::{StreamOptions, TablePublication};

use crate::config::Config;
use crate::crossing::{CastError, Crossings};
use crate::database_broadcast::{DatabaseBroadcast, RecentRows};
use crate::http::{self, Readiness};
use crate::limits::Rates;
use crate::metrics::{self, Metrics, RecorderTaken};
use crate::persist::Withheld;
use crate::presence_figures::PresenceFigures;
use crate::rate;
use crate::shutdown::{drain, within};
use crate::sockets::Sockets;
use crate::{accept, migrate, nodes};

/// Name under which Postgres shows the connections.
const APPLICATION_NAME: &str = "walcast";

/// What the reference calls the publication of `realtime.messages` (`database.md 1.8`).
const MESSAGES_PUBLICATION: &str = "supabase_realtime_messages_publication";

/// A query waits this long for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts to prepare the database: doubles from the first to the last.
const PREPARE_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Longest wait for the partitions of messages at start. Only private channels and messages need them.
const FIRST_UPKEEP: Duration = Duration::from_secs(5);

/// Pause between two times the metrics recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Pause between two looks at what other nodes count. With what it takes them to tell, limits hold for all nodes
/// together within a second.
const SHARING: Duration = Duration::from_millis(250);

/// Name between nodes of the count of sockets with a joined channel.
const USERS: &str = "users";

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The URL names something the query driver does not know.
    #[error("the database URL cannot be used: {0}; check DATABASE_URL or the DB_* settings")]
    DatabaseUrl(#[source] sqlx::Error),
    /// The URL names something the replication driver does not know.
    #[error("the database URL cannot be used for replication: {0}; check DATABASE_URL or the DB_* settings")]
    ReplicationUrl(String),
    /// The other nodes cannot be reached the way the settings say.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// No figures.
    #[error(transparent)]
    Recorder(#[from] RecorderTaken),
}

/// What all parts of a running server share.
pub struct Server {
    /// The settings.
    pub config: Config,
    /// The open sockets.
    pub sockets: Arc<Sockets>,
    /// The other nodes, if there are any.
    pub cluster: Arc<Cluster>,
    /// Who is in which room.
    pub rooms: Arc<Rooms>,
    /// Broadcasts of and for other nodes; none if there cannot be any.
    pub crossings: Option<Arc<Crossings>>,
    /// Who is present where.
    pub presences: Arc<Presences>,
    /// What the stream brought just now.
    pub recent_rows: RecentRows,
    /// Stored messages under way.
    pub withheld: Withheld,
    /// What happens a second.
    pub rates: Arc<Rates>,
    /// Counters.
    pub metrics: Metrics,
    /// Renders the counters.
    pub recorder: &'static PrometheusHandle,
    prepared: watch::Sender<Option<Prepared>>,
}

/// What works once the database is prepared.
#[derive(Clone)]
struct Prepared {
    pool: PgPool,
    changes: Changes,
    authorizer: Authorizer,
    archive: Archive,
    upkeep: Upkeep,
}

impl Server {
    /// Counts a broadcast that was relayed to some members.
    pub fn note_broadcast(&self, receivers: usize) {
        self.metrics.broadcasts_received.increment(1);
        self.metrics.broadcasts_sent.increment(receivers as u64);
        self.rates.events.count(1 + receivers);
    }

    /// Casts a message to everybody in a room, here and on the other nodes.
    ///
    /// # Errors
    /// Nobody gets it, or those on other nodes do not.
    pub fn cast(&self, room: Room<'_>, message: &Message<'_>) -> Result<(), CastError> {
        let receivers = self.rooms.cast(room, message, None)?;
        self.note_broadcast(receivers);
        match &self.crossings {
            Some(crossings) => Ok(crossings.publish(room, message)?),
            None => Ok(()),
        }
    }

    /// Lets limits count all nodes (`protocol.md 9`).
    fn share_counts(&self) {
        let counts = self.cluster.counts();
        counts.set(USERS, self.sockets.users() as u64);
        self.sockets.set_users_elsewhere(counts.elsewhere(USERS));
        self.rates.share(counts, &self.rooms);
    }

    /// The change stream, once the database is prepared.
    pub fn changes(&self) -> Option<Changes> {
        self.prepared
            .borrow()
            .as_ref()
            .map(|prepared| prepared.changes.clone())
    }

    /// Whether the database answers a query connection within a time; not while it is being prepared.
    pub async fn database_answers(&self, limit: Duration) -> bool {
        let pool = self
            .prepared
            .borrow()
            .as_ref()
            .map(|prepared| prepared.pool.clone());
        let Some(pool) = pool else { return false };
        // The pool asks a connection for a sign of life before it hands it out.
        within(limit, pool.acquire())
            .await
            .is_some_and(|acquired| acquired.is_ok())
    }

    /// The change stream; waits while the database is being prepared.
    pub async fn prepared_changes(&self) -> Changes {
        self.prepared().await.changes
    }

    /// Waits until the change stream runs; false if it has ended for good.
    pub async fn streaming(&self) -> bool {
        let mut status = self.prepared_changes().await.status();
        status
            .wait_for(|status| *status == Status::Streaming)
            .await
            .is_ok()
    }

    /// Who may do what with private channels; waits while the database is being prepared.
    pub async fn prepared_authorizer(&self) -> Authorizer {
        self.prepared().await.authorizer
    }

    /// The stored messages; waits while the database is being prepared.
    pub async fn prepared_archive(&self) -> Archive {
        self.prepared().await.archive
    }

    /// Has the missing partition made, instead of waiting until it is looked again.
    pub fn note_missing_partition(&self) {
        if let Some(prepared) = &*self.prepared.borrow() {
            prepared.upkeep.run_soon();
        }
    }

    async fn prepared(&self) -> Prepared {
        let mut prepared = self.prepared.subscribe();
        loop {
            if let Some(prepared) = prepared.borrow_and_update().clone() {
                return prepared;
            }
            if prepared.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Where the server is in its life.
    pub fn readiness(&self) -> Readiness {
        if self.sockets.is_draining() {
            return Readiness::Draining;
        }
        let status = self.changes().map(|changes| *changes.status().borrow());
        match status {
            None | Some(Status::Starting) => Readiness::Starting,
            Some(Status::Streaming) if !self.cluster.bus().is_connected() => Readiness::Degraded,
            Some(Status::Streaming) => Readiness::Ready,
            Some(Status::Lost | Status::Stopped) => Readiness::Degraded,
        }
    }
}

/// Serves until the token is cancelled; returns when sockets are closed and the replication slot is gone.
///
/// The listener is open before the database is reached: sockets and heartbeats need none, and joins say what is
/// missing.
///
/// # Errors
/// Settings that no attempt could cure. A database that is down is none: it is tried again.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    Box::pin(run_with(listener, config, Extras::default(), shutdown)).await
}

/// What may be added to a server.
#[derive(Default)]
pub struct Extras {
    /// More routes.
    pub pages: Router,
    /// Told once when changes are streamed for the first time.
    pub ready: Option<oneshot::Sender<()>>,
}

/// As [`run`], with additions.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    listener: TcpListener,
    config: Config,
    extras: Extras,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let url = config.database.url.clone();
    let replication = walcast_replication::Config::from_url(url.expose())
        .map_err(|error| ServeError::ReplicationUrl(error.to_string()))?;
    let pool = pool(&config)?;
    for warning in config.verifier.warnings() {
        tracing::warn!(warning, "a key of API_JWT_JWKS is left out");
    }
    let recorder = metrics::recorder()?;
    let rates = Arc::new(Rates::new(&config.limits));
    let metrics = Metrics::new();
    let cluster = Arc::new(nodes::join(&config.cluster).await?);
    let rooms = Arc::<Rooms>::default();
    let neighbours = config.cluster.redis.is_some();
    let neighbours = neighbours.then(|| Neighbours::new(Arc::clone(&cluster), nodes::TENANT));
    let presences = Presences::new(
        Arc::clone(&rooms),
        neighbours,
        config.presence,
        Arc::new(PresenceFigures {
            rates: Arc::clone(&rates),
            metrics: metrics.clone(),
        }),
        Handle::current(),
    );
    let crossings = config.cluster.redis.is_some().then(|| {
        Arc::new(Crossings::new(
            &cluster,
            Arc::clone(&rooms),
            Arc::clone(&rates),
            metrics.clone(),
        ))
    });
    let server = Arc::new(Server {
        config,
        rates,
        sockets: Arc::default(),
        cluster,
        rooms,
        crossings,
        presences,
        recent_rows: RecentRows::default(),
        withheld: Withheld::default(),
        metrics,
        recorder,
        prepared: watch::Sender::new(None),
    });
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "walcast listens");
    }

    let stop_changes = CancellationToken::new();
    let prepare = start_changes(
        Arc::clone(&server),
        replication,
        pool.clone(),
        stop_changes.clone(),
    );
    let mut prepare = std::pin::pin!(prepare);
    let mut accept = std::pin::pin!(accept::serve(
        listener,
        http::router(Arc::clone(&server)).merge(extras.pages),
        shutdown
    ));
    let following = server.crossings.clone();
    let mut following = std::pin::pin!(async {
        match following {
            Some(crossings) => crossings.follow().await,
            None => std::future::pending().await,
        }
    });
    if let Some(ready) = extras.ready {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if server.streaming().await {
                let _ = ready.send(());
            }
        });
    }
    let mut prepared = false;
    // Histograms keep every sample until somebody scrapes, or this folds them.
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut bucket = tokio::time::interval_at(tokio::time::Instant::now() + rate::BUCKET, rate::BUCKET);
    let is_sharing = server.config.cluster.redis.is_some();
    let mut sharing = tokio::time::interval(SHARING);
    loop {
        tokio::select! {
            () = accept.as_mut() => break,
            () = prepare.as_mut(), if !prepared => prepared = true,
            () = following.as_mut() => {}
            _ = upkeep.tick() => recorder.run_upkeep(),
            _ = bucket.tick() => server.rates.tick(&server.rooms),
            _ = sharing.tick(), if is_sharing => server.share_counts(),
        }
    }

    let limit = server.config.drain.timeout;
    drain(&server.sockets, &server.config.drain).await;
    // At once, rather than when the others find this node dead.
    if within(limit, server.cluster.presences().leave()).await.is_none() {
        tracing::info!("the presences of this node stay until the others find it gone");
    }
    stop_changes.cancel();
    if let Some(changes) = server.changes()
        && within(limit, changes.stopped()).await.is_none()
    {
        tracing::warn!(
            "the replication stream did not end in time; its temporary slot goes with its connection"
        );
    }
    if within(limit, pool.close()).await.is_none() {
        tracing::warn!("queries did not end in time and are dropped");
    }
    tracing::info!("walcast has stopped");
    Ok(())
}

fn pool(config: &Config) -> Result<PgPool, ServeError> {
    let options = PgConnectOptions::from_str(config.database.url.expose())
        .map_err(ServeError::DatabaseUrl)?
        .application_name(APPLICATION_NAME)
        .log_statements(log::LevelFilter::Trace);
    Ok(PgPoolOptions::new()
        .min_connections(0)
        .max_connections(config.database.pool_size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Prepares the database, however long that takes, and then starts the change stream.
async fn start_changes(
    server: Arc<Server>,
    replication: walcast_replication::Config,
    pool: PgPool,
    stop: CancellationToken,
) {
    let (mut pause, longest_pause) = PREPARE_RETRY;
    let mut said = String::new();
    while let Err(error) = migrate::migrate_at(server.config.database.url.expose()).await {
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
    let settings = &server.config.changes;
    let options = walcast_changes::Options {
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
        visibility_connections: (server.config.database.pool_size / 2).max(1),
        tap: Some(Arc::new(DatabaseBroadcast::new(Arc::clone(&server)))),
        meter: Some(Arc::clone(&server.rates) as Arc<dyn Meter>),
        stream: StreamOptions {
            table_publications: vec![TablePublication {
                name: MESSAGES_PUBLICATION.to_owned(),
                schema: "realtime".to_owned(),
                table: "messages".to_owned(),
            }],
            slot: settings.slot.clone(),
            ..StreamOptions::default()
        },
        cluster: nodes::sharing(&server.cluster, &server.config.cluster),
        ..walcast_changes::Options::default()
    };
    let connections = server.config.database.pool_size;
    tracing::info!(
        connections,
        "the database is prepared; at most this many connections and one for replication"
    );
    let authorizer = Authorizer::new(
        pool.connect_options().as_ref(),
        walcast_messages::Options::default(),
    );
    // Private channels are judged by rows of today: there must be a place for them before the first one is joined.
    let connect = pool.connect_options();
    let upkeep = Upkeep::start(connect.as_ref().clone(), UpkeepOptions::default(), stop.clone());
    let _late = within(FIRST_UPKEEP, upkeep.first_run()).await;
    let archive = Archive::new(pool.connect_options().as_ref(), ArchiveOptions::default());
    let (expiring, stopped) = (archive.clone(), stop.clone());
    tokio::spawn(async move { expiring.keep_deleting_expired(stopped).await });
    let changes = Changes::start(replication, pool.clone(), options, stop);
    server.prepared.send_replace(Some(Prepared {
        pool,
        changes,
        authorizer,
        archive,
        upkeep,
    }));
}
