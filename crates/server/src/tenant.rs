//! A tenant: one project, with its settings, its sockets and rooms, and what works on its database.
//!
//! A socket holds its tenant for as long as it lives, so that nothing has to be looked up for a message.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walcast_broadcast::{Message, Room, Rooms, Stamp};
use walcast_changes::{Changes, Status};
use walcast_cluster::Cluster;
use walcast_messages::{Archive, Authorizer};
use walcast_presence::{Neighbours, Presences};

use crate::config::Config;
use crate::crossing::{self, CastError, Crossings};
use crate::database_broadcast::RecentRows;
use crate::database_side::{DatabaseSide, Prepared};
use crate::limits::Rates;
use crate::metrics::Metrics;
use crate::nodes;
use crate::persist::Withheld;
use crate::presence_figures::PresenceFigures;
use crate::settings::Settings;
use crate::shutdown::within;
use crate::sockets::Sockets;

/// Name between nodes of the count of sockets with a joined channel.
const USERS: &str = "users";

/// One project's state and life.
pub struct Tenant {
    /// The settings of the process.
    pub config: Arc<Config>,
    settings: ArcSwap<Settings>,
    /// Its open sockets.
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
    prepared: watch::Sender<Option<Prepared>>,
}

/// What tenants have in common.
#[derive(Clone)]
pub struct Ground {
    /// The settings of the process.
    pub config: Arc<Config>,
    /// The other nodes, if there are any.
    pub cluster: Arc<Cluster>,
    /// Counters.
    pub metrics: Metrics,
}

impl Tenant {
    /// A tenant without a socket, whose database is not looked at before [`Tenant::live`]. To be called in a runtime.
    #[must_use]
    pub fn new(ground: Ground, settings: Settings) -> Self {
        let Ground {
            config,
            cluster,
            metrics,
        } = ground;
        let rates = Arc::new(Rates::new(&settings.limits));
        let has_nodes = config.cluster.redis.is_some();
        let keep = crossing::keep(config.broadcast_window).filter(|_| has_nodes);
        let rooms = Arc::new(match keep {
            Some(_) => Rooms::shared(crossing::label(cluster.node())),
            None => Rooms::with_window(config.broadcast_window, rand::random()),
        });
        let neighbours = has_nodes.then(|| Neighbours::new(Arc::clone(&cluster), nodes::TENANT));
        let presences = Presences::new(
            Arc::clone(&rooms),
            neighbours,
            settings.presence,
            Arc::new(PresenceFigures {
                rates: Arc::clone(&rates),
                metrics: metrics.clone(),
            }),
            Handle::current(),
        );
        let crossings = has_nodes.then(|| {
            Arc::new(Crossings::new(
                &cluster,
                Arc::clone(&rooms),
                Arc::clone(&rates),
                metrics.clone(),
                keep,
            ))
        });
        Self {
            config,
            settings: ArcSwap::from_pointee(settings),
            sockets: Arc::default(),
            cluster,
            rooms,
            crossings,
            presences,
            recent_rows: RecentRows::default(),
            withheld: Withheld::default(),
            rates,
            metrics,
            prepared: watch::Sender::new(None),
        }
    }

    /// The settings as they are now; for a look, not to be kept.
    #[must_use]
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// The settings as they are now, for as long as they are needed.
    #[must_use]
    pub fn settings_kept(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Prepares the database, however long that takes, and works on it until the token is cancelled.
    pub async fn live(self: Arc<Self>, database: DatabaseSide, stop: CancellationToken) {
        let following = async {
            match &self.crossings {
                Some(crossings) => crossings.follow().await,
                None => std::future::pending().await,
            }
        };
        let working = async {
            let prepared = database.prepare(&self, stop.clone()).await;
            self.prepared.send_replace(Some(prepared));
            stop.cancelled().await;
        };
        tokio::select! {
            () = following => {}
            () = working => {}
            () = stop.cancelled() => {}
        }
        let limit = self.config.drain.timeout;
        if let Some(changes) = self.changes()
            && within(limit, changes.stopped()).await.is_none()
        {
            tracing::warn!(
                "the replication stream did not end in time; its temporary slot goes with its connection"
            );
        }
        // With them their sessions go, and what they hold of this tenant.
        self.prepared.send_replace(None);
        if within(limit, database.close()).await.is_none() {
            tracing::warn!("queries did not end in time and are dropped");
        }
    }

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
        let publish = |stamp: Option<Stamp<'_>>| match &self.crossings {
            Some(crossings) => crossings.publish(room, message, stamp),
            None => Ok(()),
        };
        let (receivers, published) = self.rooms.cast_out(room, message, None, publish)?;
        self.note_broadcast(receivers);
        Ok(published?)
    }

    /// Lets limits count all nodes (`protocol.md 9`).
    pub fn share_counts(&self) {
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
}
