//! When a tenant's database is worked on: from the first need of it until nobody needs it any more, the server ends, or
//! somebody has it stopped.
//!
//! ```text
//!           wanted            prepared
//!   off ------------> trying ----------> working
//!    ^                  |                   |
//!    +------------------+-------------------+   halted, idle, ended
//! ```
//!
//! All of it is one task of the tenant's own, so a database that is down or hangs holds up its tenant alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::database_side::{DatabaseSide, Prepared};
use crate::migrate::DatabaseNotReady;
use crate::outbox::Order;
use crate::tenant::{Standing, Tenant};

/// Pause between attempts to prepare the database: doubles from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Whether the database is worked on, and who wants it to be.
pub(crate) struct Life {
    pub(crate) prepared: watch::Sender<Option<Prepared>>,
    /// When somebody needed the database last.
    wanted: watch::Sender<Option<Instant>>,
    /// How often it was to be stopped.
    halts: watch::Sender<u64>,
    /// How many of these are done.
    halted: watch::Sender<u64>,
    /// Whether it is wanted and not prepared yet.
    is_trying: watch::Sender<bool>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            prepared: watch::Sender::new(None),
            wanted: watch::Sender::default(),
            halts: watch::Sender::default(),
            halted: watch::Sender::default(),
            is_trying: watch::Sender::default(),
        }
    }
}

impl Life {
    /// Somebody needs the database, or will soon.
    pub(crate) fn want(&self) {
        self.wanted.send_replace(Some(Instant::now()));
    }

    fn last_wanted(&self) -> Option<Instant> {
        *self.wanted.borrow()
    }

    /// From now on there is nothing to stop.
    pub(crate) fn end(&self) {
        self.halted.send_replace(u64::MAX);
    }

    /// Whether it is wanted and could not be prepared yet.
    pub(crate) fn is_trying(&self) -> bool {
        *self.is_trying.borrow()
    }

    /// Stops the work on the database, and waits until it has stopped. Whoever wants it next starts it again.
    pub(crate) async fn halt(&self) {
        let mut number = 0;
        self.halts.send_modify(|halts| {
            *halts += 1;
            number = *halts;
        });
        // The sender lives as long as `self`.
        let _ = self.halted.subscribe().wait_for(|halted| *halted >= number).await;
    }

    /// What works on the database; has it started and waits for that.
    pub(crate) async fn prepared(&self) -> Prepared {
        let mut prepared = self.prepared.subscribe();
        self.want();
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

/// Why the database is not worked on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// By order.
    Halted,
    /// Nobody needed it for long.
    Idle,
    /// The tenant ends.
    Over,
}

/// Follows a tenant's needs until the token is cancelled, or until nobody has needed its database for `idle`.
pub(crate) async fn live(tenant: &Arc<Tenant>, idle: Option<Duration>, stop: &CancellationToken) {
    let mut wants = tenant.life.wanted.subscribe();
    let mut halts = tenant.life.halts.subscribe();
    tenant.life.halted.send_replace(*halts.borrow());
    let is_wanted = tenant
        .life
        .last_wanted()
        .is_some_and(|wanted| idle.is_none_or(|idle| wanted.elapsed() < idle));
    if is_wanted {
        wants.mark_changed();
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = halts.changed() => {}
            Ok(()) = wants.changed() => {
                if tenant.standing() == Standing::Open {
                    let ended = serve(tenant, idle, stop, &mut wants, &mut halts).await;
                    if ended == Ended::Over {
                        break;
                    }
                }
            }
            () = idled(tenant, idle) => return,
        }
        let halts = *halts.borrow_and_update();
        tenant.life.halted.send_replace(halts);
    }
    tenant.life.end();
}

/// One time of work on the database.
async fn serve(
    tenant: &Arc<Tenant>,
    idle: Option<Duration>,
    stop: &CancellationToken,
    wants: &mut watch::Receiver<Option<Instant>>,
    halts: &mut watch::Receiver<u64>,
) -> Ended {
    let life = &tenant.life;
    let database = tenant.settings().database.clone();
    if database.url.expose().is_empty() {
        // Said where the record was read.
        return Ended::Halted;
    }
    let side = match DatabaseSide::new(&database, &tenant.name) {
        Ok(side) => side,
        Err(error) => {
            tracing::error!(tenant = tenant.name.external_id(), cause = %error, "no changes");
            return Ended::Halted;
        }
    };
    let stop_work = stop.child_token();
    // Whoever drops this future ends what it began.
    let _stopped = stop_work.clone().drop_guard();
    life.is_trying.send_replace(true);
    let mut starting = std::pin::pin!(start(tenant, &side, &stop_work));
    let mut work = None;
    let ended = loop {
        tokio::select! {
            // A stop is stronger than all else.
            biased;
            () = stop.cancelled() => break Ended::Over,
            _ = halts.changed() => break Ended::Halted,
            prepared = starting.as_mut(), if work.is_none() => {
                life.is_trying.send_replace(false);
                work = Some(prepared.changes.clone());
                life.prepared.send_replace(Some(prepared));
            }
            () = idled(tenant, idle) => break Ended::Idle,
        }
    };
    // Whoever wants it from here on wants another.
    wants.mark_unchanged();
    life.is_trying.send_replace(false);
    life.prepared.send_replace(None);
    stop_work.cancel();
    if let Some(changes) = work {
        tenant.keep_figures(&changes);
        if ended == Ended::Halted {
            tenant.sockets.order(Order::Resubscribe);
        }
        side.end(&changes, tenant.config.drain.timeout).await;
    }
    tracing::info!(
        tenant = tenant.name.external_id(),
        ?ended,
        "the connections to the database are closed"
    );
    ended
}

/// Prepares the database, however long that takes, and starts what works on it.
async fn start(tenant: &Arc<Tenant>, side: &DatabaseSide, stop: &CancellationToken) -> Prepared {
    let (mut pause, longest_pause) = RETRY;
    let mut said = String::new();
    while let Err(error) = side.prepare(&tenant.turns).await {
        let message = error.to_string();
        // Once a cause, not once an attempt.
        if message != said {
            complain(tenant, &error);
            said = message;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest_pause);
    }
    side.work(tenant, stop.clone()).await
}

fn complain(tenant: &Tenant, error: &DatabaseNotReady) {
    tracing::error!(
        code = "UnableToConnectToProject",
        tenant = tenant.name.external_id(),
        cause = %error,
        "no changes yet; trying again"
    );
}

/// Returns when nobody has needed the database for that long: no socket was open, and nothing else wanted it.
async fn idled(tenant: &Tenant, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    let mut tick =
        tokio::time::interval((idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(30)));
    let mut since = Instant::now();
    loop {
        tick.tick().await;
        if !tenant.sockets.is_empty() {
            since = Instant::now();
        }
        since = tenant
            .life
            .last_wanted()
            .map_or(since, |wanted| wanted.max(since));
        if since.elapsed() >= idle {
            return;
        }
    }
}
