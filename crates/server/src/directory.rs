//! The tenants of a control database: found by name, kept while they are in use, and brought to what their records say
//! whenever these change.
//!
//! ```text
//! Host -> known? ----------------------------------------> tenant
//!           no -> record -> settings, a task of its own -> tenant
//! notices of changes -> record anew -> limits | disconnect | restart (`database.md 8.4`)
//! ```
//!
//! A tenant that is known is served without asking anything, so one that is in use does not notice when the control
//! database is away.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walcast_tenants::{Changes, Control, ControlError, Happening, Notice, Tenant as Record};

use crate::control::ControlConfig;
use crate::nodes::TenantName;
use crate::recorded::Recorded;
use crate::shutdown::within;
use crate::tenant::{Ground, Standing, Tenant};
use crate::tenants::NoTenant;

/// A look into the records takes no longer, all in all.
const LOOKUP_LIMIT: Duration = Duration::from_secs(6);

/// Looks into the records at once. A name that many ask for at once is looked up once.
const LOOKUPS: usize = 2;

/// Names that are known to be nobody's, at most, so that made-up ones fill no memory.
const ABSENT_AT_MOST: usize = 10_000;

/// A record that could not be read anew is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// The tenants that are recorded in a control database.
pub struct Directory {
    ground: Ground,
    config: ControlConfig,
    control: Control,
    known: DashMap<Arc<str>, Arc<Entry>>,
    /// Names without a record, with when that was found.
    absent: Mutex<HashMap<Box<str>, Instant>>,
    lookups: Semaphore,
    /// Counts what was told to have changed.
    told: AtomicU64,
    /// Whether changes are being told.
    is_ready: watch::Sender<bool>,
    is_draining: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Entry {
    tenant: Arc<Tenant>,
    /// By what it goes; locked while its record is read anew.
    recorded: tokio::sync::Mutex<Recorded>,
    stop: CancellationToken,
}

impl Directory {
    /// Knows nobody yet.
    pub fn new(ground: Ground, config: ControlConfig, control: Control) -> Self {
        Self {
            ground,
            config,
            control,
            known: DashMap::new(),
            absent: Mutex::default(),
            lookups: Semaphore::new(LOOKUPS),
            told: AtomicU64::new(0),
            is_ready: watch::Sender::new(false),
            is_draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Whether the records could be read, and changes of them are told.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// A tenant that is in use on this node.
    pub fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        // Under the lock of the map: see `forget`.
        self.known.get(id).map(|entry| Arc::clone(&entry.tenant))
    }

    /// Those that are in use on this node.
    pub fn living(&self) -> Vec<Arc<Tenant>> {
        self.known.iter().map(|entry| Arc::clone(&entry.tenant)).collect()
    }

    /// The tenant of this name.
    ///
    /// # Errors
    /// It has no record, or that cannot be said.
    pub async fn find(self: &Arc<Self>, id: &str) -> Result<Arc<Tenant>, NoTenant> {
        if let Some(tenant) = self.get(id) {
            return Ok(tenant);
        }
        if self.is_absent(id) {
            return Err(NoTenant::Unknown);
        }
        within(LOOKUP_LIMIT, Box::pin(self.look_up(id)))
            .await
            .unwrap_or(Err(NoTenant::Unavailable))
    }

    /// Whether a tenant has a record, whether it is in use or not.
    ///
    /// # Errors
    /// That cannot be said.
    pub(crate) async fn is_recorded(&self, id: &str) -> Result<bool, NoTenant> {
        match within(LOOKUP_LIMIT, Box::pin(self.control.find(id))).await {
            Some(found) => Ok(found.map_err(|error| unavailable(&error))?.is_some()),
            None => Err(NoTenant::Unavailable),
        }
    }

    async fn look_up(self: &Arc<Self>, id: &str) -> Result<Arc<Tenant>, NoTenant> {
        // What is read before changes are told might never be heard to have changed.
        let mut ready = self.is_ready.subscribe();
        drop(ready.wait_for(|is_ready| *is_ready).await);
        let _turn = self.lookups.acquire().await;
        loop {
            if let Some(tenant) = self.get(id) {
                return Ok(tenant);
            }
            if self.is_absent(id) {
                return Err(NoTenant::Unknown);
            }
            let told = self.told.load(Ordering::SeqCst);
            let record = self.control.find(id).await.map_err(|error| unavailable(&error))?;
            let Some(record) = record else {
                self.note_absent(id);
                if self.told.load(Ordering::SeqCst) == told {
                    return Err(NoTenant::Unknown);
                }
                // Perhaps it was made meanwhile.
                self.absent().remove(id);
                continue;
            };
            let entry = self.enter(&record);
            if self.told.load(Ordering::SeqCst) != told {
                // Perhaps it was told of this one, when it was not known yet.
                self.refresh(id, &entry)
                    .await
                    .map_err(|error| unavailable(&error))?;
            }
        }
    }

    /// Begins to serve a tenant.
    fn enter(self: &Arc<Self>, record: &Record) -> Arc<Entry> {
        let id: Arc<str> = record.external_id.as_str().into();
        match self.known.entry(Arc::clone(&id)) {
            Place::Occupied(place) => Arc::clone(place.get()),
            Place::Vacant(place) => {
                let defaults = &self.ground.config.tenant;
                let recorded = Recorded::read(record, self.control.cipher(), defaults);
                let settings = recorded.settings(&id, defaults);
                let tenant = Arc::new(Tenant::new(&self.ground, TenantName::of(&id), settings));
                tenant.set_standing(recorded.standing());
                if self.is_draining.load(Ordering::SeqCst) {
                    tenant.sockets.begin_drain();
                }
                let entry = Arc::new(Entry {
                    tenant,
                    recorded: tokio::sync::Mutex::new(recorded),
                    stop: self.stop.child_token(),
                });
                place.insert(Arc::clone(&entry));
                self.tasks.spawn(Arc::clone(self).keep(id, Arc::clone(&entry)));
                entry
            }
        }
    }

    /// A tenant's life on this node.
    async fn keep(self: Arc<Self>, id: Arc<str>, entry: Arc<Entry>) {
        loop {
            entry.tenant.live(Some(self.config.idle), &entry.stop).await;
            if entry.stop.is_cancelled() || self.forget(&id, &entry) {
                break;
            }
        }
        entry.tenant.withdraw_counts();
        tracing::debug!(tenant = &*id, "no longer in use");
    }

    /// Forgets a tenant that nobody has: not a socket, not a request. Whoever gets it from the map has it before the
    /// lock of its place is free again, so nobody can have one that is forgotten.
    fn forget(&self, id: &str, entry: &Arc<Entry>) -> bool {
        let is_unused =
            |known: &Arc<Entry>| Arc::ptr_eq(known, entry) && Arc::strong_count(&known.tenant) == 1;
        self.known.remove_if(id, |_, known| is_unused(known)).is_some()
    }

    /// A record was made, changed or deleted: goes by it now.
    pub async fn changed(&self, id: &str) {
        if let Err(error) = self.reread(id).await {
            unavailable(&error);
        }
    }

    async fn reread(&self, id: &str) -> Result<(), ControlError> {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.absent().remove(id);
        let entry = self.known.get(id).map(|entry| Arc::clone(entry.value()));
        match entry {
            Some(entry) => self.refresh(id, &entry).await,
            None => Ok(()),
        }
    }

    async fn refresh(&self, id: &str, entry: &Entry) -> Result<(), ControlError> {
        let mut recorded = entry.recorded.lock().await;
        let tenant = &entry.tenant;
        let Some(record) = self.control.find(id).await? else {
            self.known
                .remove_if(id, |_, known| Arc::ptr_eq(&known.tenant, tenant));
            tracing::info!(tenant = id, "the tenant was deleted");
            tenant.set_standing(Standing::Gone);
            tenant.disconnect();
            entry.stop.cancel();
            return Ok(());
        };
        let defaults = &self.ground.config.tenant;
        let now = Recorded::read(&record, self.control.cipher(), defaults);
        if now == *recorded {
            return Ok(());
        }
        let asked = now.asked_since(&recorded);
        tenant.set_settings(now.settings(id, defaults));
        tenant.set_standing(now.standing());
        *recorded = now;
        drop(recorded);
        tracing::info!(
            tenant = id,
            disconnects = asked.disconnect,
            restarts = asked.restart,
            "the tenant's record has changed"
        );
        if asked.disconnect {
            tenant.disconnect();
        }
        if asked.restart {
            // Beside this: a database that hangs takes its time.
            let tenant = Arc::clone(tenant);
            self.tasks.spawn(async move {
                tenant.stop_database().await;
                if !tenant.sockets.is_empty() {
                    tenant.want_database();
                }
            });
        }
        Ok(())
    }

    /// From now on joins are refused and new sockets end at once.
    pub(crate) fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        for tenant in self.living() {
            tenant.sockets.begin_drain();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Follows the records until the token is cancelled, then ends what was begun for tenants.
    pub(crate) async fn live(&self, stop: &CancellationToken) {
        let _stopped = stop.run_until_cancelled(Box::pin(self.follow())).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn follow(&self) {
        self.config.prepare(&self.control).await;
        let mut changes = self.listen().await;
        self.is_ready.send_replace(true);
        tracing::info!("tenants are those recorded in the database, chosen by Host");
        let mut stale: BTreeSet<String> = BTreeSet::new();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = changes.next() => self.heed(notice, &mut stale).await,
                _ = retry.tick(), if !stale.is_empty() => {
                    for id in std::mem::take(&mut stale) {
                        if self.reread(&id).await.is_err() {
                            stale.insert(id);
                        }
                    }
                }
            }
        }
    }

    async fn listen(&self) -> Changes {
        loop {
            match self.control.changes(self.config.poll_every).await {
                Ok(changes) => return changes,
                Err(error) => unavailable(&error),
            };
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn heed(&self, notice: Notice, stale: &mut BTreeSet<String>) {
        let id = notice.external_id;
        if notice.happening == Happening::Changed {
            if let Err(error) = self.reread(&id).await {
                unavailable(&error);
                stale.insert(id);
            }
            return;
        }
        let Some(tenant) = self.get(&id) else { return };
        tracing::info!(tenant = id, order = ?notice.happening, "told to");
        self.tasks.spawn(async move {
            match notice.happening {
                Happening::Reload => tenant.reload().await,
                Happening::Shutdown => tenant.stop_database().await,
                Happening::Changed => {}
            }
        });
    }

    fn is_absent(&self, id: &str) -> bool {
        let found = self.absent().get(id).copied();
        found.is_some_and(|found| found.elapsed() < self.config.poll_every)
    }

    fn note_absent(&self, id: &str) {
        let mut absent = self.absent();
        if absent.len() >= ABSENT_AT_MOST {
            absent.retain(|_, found| found.elapsed() < self.config.poll_every);
        }
        if absent.len() < ABSENT_AT_MOST {
            absent.insert(id.into(), Instant::now());
        }
    }

    fn absent(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(error: &ControlError) -> NoTenant {
    tracing::error!(
        code = NoTenant::Unavailable.code(),
        cause = %error,
        "records of tenants cannot be read"
    );
    NoTenant::Unavailable
}
