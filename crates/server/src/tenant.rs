//! A tenant: one project, with its settings, its sockets and rooms, and what works on its database.
//!
//! A socket holds its tenant for as long as it lives, so that nothing has to be looked up for a message. When the
//! database is worked on is `life`'s; who the tenants are, [`crate::tenants`]'.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walcast_broadcast::{Message, Room, Rooms, Stamp};
use walcast_changes::{Changes, Status};
use walcast_cluster::Cluster;
use walcast_messages::{Archive, Authorizer};
use walcast_presence::{Neighbours, Presences};

use crate::config::Config;
use crate::crossing::{self, CastError, Crossings};
use crate::database_broadcast::RecentRows;
use crate::life::{self, Life};
use crate::limits::Rates;
use crate::metrics::{Metrics, StreamTotals};
use crate::nodes::TenantName;
use crate::outbox::Order;
use crate::persist::Withheld;
use crate::presence_figures::PresenceFigures;
use crate::settings::Settings;
use crate::shutdown::within;
use crate::sockets::Sockets;

/// Name between nodes of the count of sockets with a joined channel.
const USERS: &str = "users";

/// Databases that may begin to be prepared at once.
const TURNS: usize = 8;

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It is.
    Open,
    /// Its record says that nobody may connect.
    Suspended,
    /// It has no record any more.
    Gone,
}

/// One project's state and life.
pub struct Tenant {
    /// What it is called between nodes and in its database.
    pub name: TenantName,
    /// The settings of the process.
    pub config: Arc<Config>,
    settings: ArcSwap<Settings>,
    standing: AtomicU8,
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
    pub withheld: Arc<Withheld>,
    /// What happens a second.
    pub rates: Arc<Rates>,
    /// Counters.
    pub metrics: Metrics,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) life: Life,
    /// Of the streams there were.
    past_streams: Mutex<StreamTotals>,
}

/// What tenants have in common.
#[derive(Clone)]
pub struct Ground {
    /// The settings of the process.
    pub config: Arc<Config>,
    /// The other nodes, if there are any.
    pub cluster: Arc<Cluster>,
    turns: Arc<Semaphore>,
}

impl Ground {
    /// For the tenants of a process.
    #[must_use]
    pub fn new(config: Arc<Config>, cluster: Arc<Cluster>) -> Self {
        Self {
            config,
            cluster,
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }
}

impl Tenant {
    /// A tenant without a socket, whose database is not looked at before [`Tenant::live`]. To be called in a runtime.
    #[must_use]
    pub fn new(ground: &Ground, name: TenantName, settings: Settings) -> Self {
        let Ground {
            config,
            cluster,
            turns,
        } = ground.clone();
        let metrics = Metrics::new(name.external_id());
        let rates = Arc::new(Rates::new(&settings.limits));
        let has_nodes = config.cluster.redis.is_some();
        let keep = crossing::keep(config.broadcast_window).filter(|_| has_nodes);
        let rooms = Arc::new(match keep {
            Some(_) => Rooms::shared(crossing::label(cluster.node())),
            None => Rooms::with_window(config.broadcast_window, rand::random()),
        });
        let neighbours = has_nodes.then(|| Neighbours::new(Arc::clone(&cluster), name.of_presences()));
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
        let withheld = Arc::<Withheld>::default();
        let crossings = has_nodes.then(|| {
            Arc::new(Crossings::new(
                &cluster,
                name.clone(),
                Arc::clone(&rooms),
                Arc::clone(&rates),
                metrics.clone(),
                Arc::clone(&withheld),
                keep,
            ))
        });
        Self {
            name,
            config,
            standing: AtomicU8::new(Standing::Open as u8),
            settings: ArcSwap::from_pointee(settings),
            sockets: Arc::default(),
            cluster,
            rooms,
            crossings,
            presences,
            recent_rows: RecentRows::default(),
            withheld,
            rates,
            metrics,
            turns,
            life: Life::default(),
            past_streams: Mutex::default(),
        }
    }

    /// What it is called in logs.
    pub fn label(&self) -> &str {
        self.name.external_id().unwrap_or(&self.config.tenant_name)
    }

    /// Whether it is served.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::SeqCst) {
            standing if standing == Standing::Open as u8 => Standing::Open,
            standing if standing == Standing::Suspended as u8 => Standing::Suspended,
            _ => Standing::Gone,
        }
    }

    pub(crate) fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::SeqCst);
    }

    /// Goes by other settings from now on; other limits begin to count anew. What works on the database keeps the
    /// settings it has.
    pub(crate) fn set_settings(&self, settings: Settings) {
        self.rates.set_limits(&settings.limits, &self.rooms);
        self.settings.store(Arc::new(settings));
    }

    /// Tells every socket so and closes it with 1012 (`protocol.md 1.6`).
    pub fn disconnect(&self) {
        self.sockets.order(Order::Disconnect);
    }

    /// Ends the connections to the database, the replication slot with them. Sockets stay; what has need of the database
    /// starts it again.
    pub async fn stop_database(&self) {
        self.life.halt().await;
    }

    /// Disconnects every socket and ends the connections to the database (`protocol.md 10`).
    pub async fn reload(&self) {
        self.disconnect();
        self.stop_database().await;
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

    /// Serves until the token is cancelled, or until nobody has had need of the database for `idle`.
    pub async fn live(self: &Arc<Self>, idle: Option<Duration>, stop: &CancellationToken) {
        let following = async {
            match &self.crossings {
                Some(crossings) => crossings.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = following => {}
            () = Box::pin(life::live(self, idle, stop)) => {}
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
        let users = self.name.scoped(USERS);
        counts.set(&users, self.sockets.users() as u64);
        self.sockets.set_users_elsewhere(counts.elsewhere(&users));
        self.rates.share(counts, &self.name, &self.rooms);
    }

    /// Tells the other nodes of no count any more.
    pub fn withdraw_counts(&self) {
        self.cluster.counts().set(&self.name.scoped(USERS), 0);
        self.rates.withdraw(self.cluster.counts(), &self.name);
    }

    /// Sockets with a joined channel on all nodes, of a tenant of this name that need not be here.
    pub fn users_of(cluster: &Cluster, name: &TenantName) -> u64 {
        cluster.counts().total(&name.scoped(USERS))
    }

    /// The change stream, once the database is prepared.
    pub fn changes(&self) -> Option<Changes> {
        self.life
            .prepared
            .borrow()
            .as_ref()
            .map(|prepared| prepared.changes.clone())
    }

    /// Whether the database answers a query connection within a time; not while it is being prepared.
    pub async fn database_answers(&self, limit: Duration) -> bool {
        let pool = self
            .life
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
        self.life.prepared().await.changes
    }

    /// Has the database worked on, and waits until the change stream runs.
    pub async fn streaming(&self) {
        let mut prepared = self.life.prepared.subscribe();
        loop {
            prepared.mark_unchanged();
            let mut status = self.prepared_changes().await.status();
            if status
                .wait_for(|status| *status == Status::Streaming)
                .await
                .is_ok()
            {
                return;
            }
            // It has ended; there may be another.
            let _another = prepared.changed().await;
        }
    }

    /// Whether the database is wanted and could not be prepared yet.
    pub fn is_trying(&self) -> bool {
        self.life.is_trying()
    }

    /// The database will be needed.
    pub fn want_database(&self) {
        self.life.want();
    }

    /// Figures of all streams of changes there were.
    pub fn stream_totals(&self) -> StreamTotals {
        let past = *self.past_streams.lock().unwrap_or_else(PoisonError::into_inner);
        match self.changes() {
            Some(changes) => past.with(&changes.replication_stats()),
            None => past,
        }
    }

    /// Adds those of a stream that ends.
    pub(crate) fn keep_figures(&self, changes: &Changes) {
        let mut past = self.past_streams.lock().unwrap_or_else(PoisonError::into_inner);
        *past = past.with(&changes.replication_stats());
    }

    /// Who may do what with private channels; waits while the database is being prepared.
    pub async fn prepared_authorizer(&self) -> Authorizer {
        self.life.prepared().await.authorizer
    }

    /// The stored messages; waits while the database is being prepared.
    pub async fn prepared_archive(&self) -> Archive {
        self.life.prepared().await.archive
    }

    /// Has the missing partition made, instead of waiting until it is looked again.
    pub fn note_missing_partition(&self) {
        if let Some(prepared) = &*self.life.prepared.borrow() {
            prepared.upkeep.run_soon();
        }
    }
}
