//! The server as a whole: what belongs to the process, and its life from start to an end without a trace.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use walcast_changes::Status;
use walcast_cluster::{Cluster, ConnectError};
use walcast_tenants::{Control, ControlError};

use crate::admission::Admission;
use crate::config::Config;
use crate::database_side::DatabaseSide;
pub use crate::database_side::UnusableUrl;
use crate::directory::Directory;
use crate::http::{self, Readiness};
use crate::metrics::{self, RecorderTaken};
use crate::nodes::TenantName;
use crate::rate;
use crate::shutdown::within;
use crate::tenant::{Ground, Tenant};
use crate::tenants::Tenants;
use crate::{accept, nodes, open_files};

/// Pause between two times the metrics recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Pause between two looks at what other nodes count. With what it takes them to tell, limits hold for all nodes
/// together within a second.
const SHARING: Duration = Duration::from_millis(250);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No driver can use it.
    #[error(transparent)]
    DatabaseUrl(#[from] UnusableUrl),
    /// The other nodes cannot be reached the way the settings say.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// The records of tenants cannot be reached the way the settings say.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No figures.
    #[error(transparent)]
    Recorder(#[from] RecorderTaken),
}

/// What belongs to the process.
pub struct Server {
    /// The settings.
    pub config: Arc<Config>,
    /// The open connections.
    pub admission: Arc<Admission>,
    /// The other nodes, if there are any.
    pub cluster: Arc<Cluster>,
    /// Whom it serves.
    pub tenants: Tenants,
    /// Where tenants are recorded, if there are several.
    pub control: Option<Control>,
    /// Renders the counters.
    pub recorder: &'static PrometheusHandle,
}

impl Server {
    /// Where the server is in its life.
    pub fn readiness(&self) -> Readiness {
        let tenant = match &self.tenants {
            Tenants::Several(directory) => return self.readiness_of(directory),
            Tenants::One(tenant) => tenant,
        };
        if tenant.sockets.is_draining() {
            return Readiness::Draining;
        }
        let status = tenant.changes().map(|changes| *changes.status().borrow());
        match status {
            None | Some(Status::Starting) => Readiness::Starting,
            Some(Status::Streaming) if !self.cluster.bus().is_connected() => Readiness::Degraded,
            Some(Status::Streaming) => Readiness::Ready,
            Some(Status::Lost | Status::Stopped) => Readiness::Degraded,
        }
    }

    /// With several tenants, no single one's database decides.
    fn readiness_of(&self, directory: &Directory) -> Readiness {
        if directory.is_draining() {
            Readiness::Draining
        } else if !directory.is_ready() {
            Readiness::Starting
        } else if self.cluster.bus().is_connected() {
            Readiness::Ready
        } else {
            Readiness::Degraded
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
    // What no attempt could cure is said before the first one.
    DatabaseSide::new(&config.tenant.database, &TenantName::ONE)?;
    let control = config
        .control
        .as_ref()
        .map(|config| Ok::<_, ControlError>((config.clone(), Control::new(config.options.clone())?)))
        .transpose()?;
    for warning in config.tenant.verifier.warnings() {
        tracing::warn!(warning, "a key of API_JWT_JWKS is left out");
    }
    let recorder = metrics::recorder()?;
    let cluster = Arc::new(nodes::join(&config.cluster).await?);
    let config = Arc::new(config);
    let ground = Ground::new(Arc::clone(&config), Arc::clone(&cluster));
    let tenants = match control.clone() {
        Some((config, control)) => Tenants::Several(Arc::new(Directory::new(ground, config, control))),
        None => Tenants::One(Arc::new(Tenant::new(
            &ground,
            TenantName::ONE,
            config.tenant.clone(),
        ))),
    };
    let server = Arc::new(Server {
        admission: Arc::new(Admission::new(&config.admission, open_files::limit())),
        config,
        cluster,
        tenants,
        control: control.map(|(_, control)| control),
        recorder,
    });
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "walcast listens");
    }

    let stop = CancellationToken::new();
    // Whoever drops this future ends what it began.
    let _stopped = stop.clone().drop_guard();
    let living = {
        let (server, stop) = (Arc::clone(&server), stop.clone());
        tokio::spawn(async move { server.tenants.live(&stop).await })
    };
    let mut accept = std::pin::pin!(accept::serve(
        listener,
        http::router(Arc::clone(&server)).merge(extras.pages),
        Arc::clone(&server.admission),
        server.config.admission.header_timeout,
        shutdown
    ));
    if let (Some(ready), Tenants::One(tenant)) = (extras.ready, &server.tenants) {
        let tenant = Arc::clone(tenant);
        tokio::spawn(async move {
            tenant.streaming().await;
            let _ = ready.send(());
        });
    }
    // Histograms keep every sample until somebody scrapes, or this folds them.
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut bucket = tokio::time::interval_at(tokio::time::Instant::now() + rate::BUCKET, rate::BUCKET);
    let is_sharing = server.config.cluster.redis.is_some();
    let mut sharing = tokio::time::interval(SHARING);
    loop {
        tokio::select! {
            () = accept.as_mut() => break,
            _ = upkeep.tick() => {
                recorder.run_upkeep();
                let living = server.tenants.living();
                metrics::observe_broadcast_window(living.iter().map(|tenant| tenant.rooms.sweep()));
            }
            _ = bucket.tick() => server.tenants.living().iter().for_each(|tenant| tenant.rates.tick(&tenant.rooms)),
            _ = sharing.tick(), if is_sharing => server.tenants.living().iter().for_each(|tenant| tenant.share_counts()),
        }
    }

    let limit = server.config.drain.timeout;
    server.tenants.drain(&server.config).await;
    // At once, rather than when the others find this node dead.
    if within(limit, server.cluster.presences().leave()).await.is_none() {
        tracing::info!("the presences of this node stay until the others find it gone");
    }
    stop.cancel();
    if let Err(error) = living.await {
        tracing::error!(%error, "a tenant did not end as it should");
    }
    tracing::info!("walcast has stopped");
    Ok(())
}
