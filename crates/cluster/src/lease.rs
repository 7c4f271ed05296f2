//! Leases: who of the nodes does what only one may do.

use crate::error::ClusterError;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The shortest lease. Below that a slow answer costs it.
pub const MIN_TTL: Duration = Duration::from_millis(300);

/// What an attempt to acquire a lease came to.
#[derive(Debug)]
pub enum Attempt {
    /// It is this node's.
    Acquired(Lease),
    /// It is another's.
    Taken {
        /// It is free after this long, if its holder does not renew it.
        expires_in: Duration,
    },
}

/// Where leases are kept. What a [`Lease`] does with them is the same everywhere.
pub(crate) trait LeaseBook: Send + Sync {
    /// The token of a lease that was free; or how long it is taken for.
    fn acquire<'a>(
        &'a self,
        name: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Result<u64, Duration>, ClusterError>>;

    /// Whether a lease is still held with a token; then it is for another `ttl`.
    fn renew<'a>(
        &'a self,
        name: &'a str,
        token: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, ClusterError>>;

    /// Frees a lease, if it is still held with a token.
    fn release<'a>(&'a self, name: &'a str, token: u64) -> BoxFuture<'a, Result<(), ClusterError>>;
}

/// Leases by name, each held by one node at a time.
#[derive(Clone)]
pub struct Leases {
    book: Arc<dyn LeaseBook>,
}

impl fmt::Debug for Leases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leases").finish_non_exhaustive()
    }
}

impl Leases {
    pub(crate) fn new(book: Arc<dyn LeaseBook>) -> Self {
        Self { book }
    }

    /// Tries to get a lease that lasts `ttl` (at least [`MIN_TTL`]) and is renewed from then on until it is dropped,
    /// released or lost.
    ///
    /// # Errors
    /// Redis is away or refuses. It may have been acquired all the same; then it is free again after `ttl`.
    pub async fn acquire(&self, name: &str, ttl: Duration) -> Result<Attempt, ClusterError> {
        let ttl = ttl.max(MIN_TTL);
        let asked = Instant::now();
        Ok(match self.book.acquire(name, ttl).await? {
            Ok(token) => Attempt::Acquired(Lease::hold(Arc::clone(&self.book), name, token, asked, ttl)),
            Err(expires_in) => Attempt::Taken { expires_in },
        })
    }

    /// Waits for a lease until it is this node's, whether it is held by others or Redis is away. It is asked for about
    /// three times per `ttl`.
    pub async fn wait(&self, name: &str, ttl: Duration) -> Lease {
        let ttl = ttl.max(MIN_TTL);
        loop {
            let pause = match self.acquire(name, ttl).await {
                Ok(Attempt::Acquired(lease)) => return lease,
                Ok(Attempt::Taken { expires_in }) => expires_in.min(ttl / 3),
                Err(error) => {
                    tracing::debug!(%error, name, "a lease cannot be asked for");
                    ttl / 3
                }
            };
            tokio::time::sleep(pause.max(Duration::from_millis(10))).await;
        }
    }
}

/// A lease that is held. It is renewed in the background and freed when this value is dropped.
///
/// The holder knows of a loss before anybody else can hold the lease: it counts from the moment it *asked*, for four
/// fifths of the time, by its own clock. What it writes should carry the token all the same: a process that was halted
/// may be in the middle of a write when it goes on.
pub struct Lease {
    name: Arc<str>,
    token: u64,
    /// Until when it is surely held. In the past once it is lost.
    until: watch::Receiver<Instant>,
    /// Ends the renewal, which then frees it.
    _release: oneshot::Sender<oneshot::Sender<()>>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("name", &self.name)
            .field("token", &self.token)
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

/// The part of the time for which a holder trusts in its lease.
fn trusted(ttl: Duration) -> Duration {
    ttl * 4 / 5
}

impl Lease {
    fn hold(book: Arc<dyn LeaseBook>, name: &str, token: u64, asked: Instant, ttl: Duration) -> Self {
        let name = Arc::<str>::from(name);
        let (tell, until) = watch::channel(asked + trusted(ttl));
        let (release, released) = oneshot::channel();
        tokio::spawn(renew(book, Arc::clone(&name), token, ttl, tell, released));
        Self {
            name,
            token,
            until,
            _release: release,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Greater than that of any earlier holder, for what must not be written by one of those.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it is held at this moment. Ask before every step that only the holder may take.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }

    /// Returns when it is lost: others may hold it soon, but not yet.
    pub async fn lost(&self) {
        let mut until = self.until.clone();
        loop {
            let deadline = *until.borrow_and_update();
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                changed = until.changed() => if changed.is_err() {
                    // The renewal has ended; the deadline stands.
                    tokio::time::sleep_until(deadline).await;
                },
            }
        }
    }

    /// Frees it, and waits until it is free for others or, when Redis is away, cannot be freed.
    pub async fn release(self) {
        let (tell, told) = oneshot::channel();
        if self._release.send(tell).is_ok() {
            // Without an answer there was nothing left to free.
            _ = told.await;
        }
    }
}

async fn renew(
    book: Arc<dyn LeaseBook>,
    name: Arc<str>,
    token: u64,
    ttl: Duration,
    until: watch::Sender<Instant>,
    mut released: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let mut pause = ttl / 4;
    loop {
        tokio::select! {
            // Told to, or dropped.
            told = &mut released => {
                until.send_replace(Instant::now());
                if let Err(error) = book.release(&name, token).await {
                    tracing::debug!(%error, name = &*name, "a lease is not freed, and will expire");
                }
                if let Ok(tell) = told {
                    _ = tell.send(());
                }
                return;
            }
            () = tokio::time::sleep(pause) => {}
        }
        let asked = Instant::now();
        match book.renew(&name, token, ttl).await {
            Ok(true) => {
                // An answer that comes after the deadline cannot undo a loss that was told.
                let is_lost = until.send_if_modified(|deadline| {
                    let is_late = Instant::now() >= *deadline;
                    if !is_late {
                        *deadline = asked + trusted(ttl);
                    }
                    !is_late
                });
                if !is_lost {
                    tracing::warn!(
                        name = &*name,
                        token,
                        "a lease was renewed too late, and is given up"
                    );
                    if let Err(error) = book.release(&name, token).await {
                        tracing::debug!(%error, name = &*name, "a lease is not freed, and will expire");
                    }
                    return;
                }
                pause = ttl / 4;
            }
            Ok(false) => {
                tracing::warn!(name = &*name, token, "a lease was lost");
                until.send_replace(Instant::now());
                return;
            }
            Err(error) => {
                tracing::debug!(%error, name = &*name, "a lease cannot be renewed now");
                if Instant::now() >= *until.borrow() {
                    tracing::warn!(%error, name = &*name, token, "a lease was lost: it could not be renewed in time");
                    return;
                }
                pause = ttl / 16;
            }
        }
    }
}
