//! Which sockets are open, so that all of them can be told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio_util::task::TaskTracker;

use crate::outbox::{End, Order, Outbox, close_code};

const RESTART: End = End::new(close_code::RESTART, "the server restarts; connect again");

/// What waits to be written to sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// Messages, of all sockets.
    pub frames: usize,
    /// Their payload bytes.
    pub bytes: usize,
    /// Those of the socket with the most.
    pub longest_bytes: usize,
}

impl Queued {
    /// With what waits for others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            bytes: self.bytes + other.bytes,
            longest_bytes: self.longest_bytes.max(other.longest_bytes),
        }
    }
}

/// Every open socket of a tenant.
#[derive(Default)]
pub struct Sockets {
    open: DashMap<u64, Arc<Outbox>>,
    last_number: AtomicU64,
    /// Sockets that have joined a channel successfully, until they end (`protocol.md 9`).
    users: AtomicUsize,
    /// As many as other nodes have of them, as far as is known.
    users_elsewhere: AtomicU64,
    draining: AtomicBool,
    tasks: TaskTracker,
}

impl Sockets {
    /// Adds a socket for as long as the returned value lives.
    pub fn register(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Registration {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed);
        self.open.insert(number, Arc::clone(outbox));
        // After the insert, so that a drain which began in between is not missed.
        if self.is_draining() {
            outbox.end(RESTART);
        }
        Registration {
            sockets: Arc::clone(self),
            number,
            is_user: false,
        }
    }

    /// The tasks of sockets, for a drain to wait on.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Open sockets.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// What waits to be written, of all sockets.
    pub fn queued(&self) -> Queued {
        self.open.iter().fold(Queued::default(), |sum, outbox| {
            let (frames, bytes) = outbox.queued();
            sum.and(Queued {
                frames,
                bytes,
                longest_bytes: bytes,
            })
        })
    }

    /// Whether no socket is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Sockets with at least one successful join so far.
    pub fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Takes note of how many other nodes have.
    pub fn set_users_elsewhere(&self, users: u64) {
        self.users_elsewhere.store(users, Ordering::Relaxed);
    }

    /// How many of them there are on all nodes.
    pub fn users_everywhere(&self) -> u64 {
        let elsewhere = self.users_elsewhere.load(Ordering::Relaxed);
        (self.users() as u64).saturating_add(elsewhere)
    }

    /// Whether there are as many of them on all nodes as there may be.
    pub fn is_full(&self, limit: Option<usize>) -> bool {
        limit.is_some_and(|limit| self.users_everywhere() >= limit as u64)
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Tells every socket what the tenant wants.
    pub fn order(&self, order: Order) {
        for entry in &self.open {
            entry.value().order(order);
        }
    }

    /// From now on joins are refused and new sockets end at once.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.tasks.close();
    }

    /// Closes every socket with 1012, evenly spread over a time (`protocol.md 1.6`).
    pub async fn close_all(&self, spread: Duration) {
        const STEPS: u32 = 20;
        let numbers: Vec<u64> = self.open.iter().map(|entry| *entry.key()).collect();
        let batch = numbers.len().div_ceil(STEPS as usize).max(1);
        let mut batches = numbers.chunks(batch).peekable();
        while let Some(batch) = batches.next() {
            for number in batch {
                // Cloned out of the map, so that no lock of it is held while a socket is woken.
                let outbox = self.open.get(number).map(|entry| Arc::clone(entry.value()));
                if let Some(outbox) = outbox {
                    outbox.end(RESTART);
                }
            }
            if batches.peek().is_some() {
                tokio::time::sleep(spread / STEPS).await;
            }
        }
    }
}

/// One open socket's place in [`Sockets`].
pub struct Registration {
    sockets: Arc<Sockets>,
    number: u64,
    is_user: bool,
}

impl Registration {
    /// The socket's number, for log lines.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the socket counts as a connected client (`protocol.md 9`).
    pub fn is_user(&self) -> bool {
        self.is_user
    }

    /// Counts the socket as a connected client from its first successful join until it ends.
    pub fn count_user(&mut self) {
        if !std::mem::replace(&mut self.is_user, true) {
            self.sockets.users.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.sockets.open.remove(&self.number);
        if self.is_user {
            self.sockets.users.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
