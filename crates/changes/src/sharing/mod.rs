//! One slot for a cluster (decision 27): who holds the lease streams from Postgres and appends everything that is
//! published to a bounded stream; every node, the holder too, reads that and serves its own subscribers.
//!
//! ```text
//! Postgres -> slot of the holder -> parcels -> the cluster's stream -> follower of each node -> dispatcher
//! ```
//!
//! A node that hears nothing of a holder any more goes on with a slot of its own until it does. Wherever changes may be
//! missing between two of these ways, it says so with [`walcast_replication::Event::Lost`].

mod follower;
mod holder;

pub(crate) use follower::{Follower, Following};
pub(crate) use holder::Holder;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use walcast_cluster::{Bound, Cluster};

/// What the lease and the stream are called unless something else is said.
const STREAM: &str = "changes";

/// How often the holder says that it lives when there is nothing else to say.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// How the nodes of a cluster share one slot.
#[derive(Clone)]
pub struct Sharing {
    /// This node's place.
    pub cluster: Arc<Cluster>,
    /// What these nodes, and no others on the same database, have in common, e.g. the prefix of their keys. One of them
    /// at a time holds a lock of this name in the database.
    pub name: String,
    /// What the lease and the stream are called in the cluster, which may serve several databases.
    pub stream: Arc<str>,
    /// How long after a holder was last heard of the next one may begin.
    pub lease: Duration,
    /// How much is kept for nodes that are slow.
    pub bound: Bound,
    /// A node that knows the others to be out of reach for this long goes on alone.
    pub patience_when_away: Duration,
    /// And one that hears nothing for this long although they can be reached. Longer than a new holder takes to begin.
    pub patience_in_silence: Duration,
}

impl Sharing {
    /// With the times and bounds that suit most.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, name: impl Into<String>) -> Self {
        Self {
            cluster,
            name: name.into(),
            stream: STREAM.into(),
            lease: Duration::from_secs(5),
            bound: Bound {
                entries: 65_536,
                bytes: 64 * 1024 * 1024,
            },
            patience_when_away: Duration::from_secs(3),
            patience_in_silence: Duration::from_secs(12),
        }
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sharing")
            .field("cluster", &self.cluster)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// This node's part in the sharing.
#[derive(Debug, Default)]
pub struct SharingFigures {
    is_holder: AtomicBool,
    is_apart: AtomicBool,
    /// When the parcel was packed that this node took last, in microseconds since 1970-01-01 UTC; 0 for none.
    packed_at_us: AtomicU64,
    /// Parcels of changes appended by this node.
    parcels: AtomicU64,
    parcel_bytes: AtomicU64,
}

impl SharingFigures {
    /// Whether this node reads the log for all.
    #[must_use]
    pub fn is_holder(&self) -> bool {
        self.is_holder.load(Ordering::Relaxed)
    }

    /// Whether this node goes on with a slot of its own, because it does not hear of a holder.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.is_apart.load(Ordering::Relaxed)
    }

    /// How long ago the holder packed what this node took last, by the clocks of the two. About a second at most while
    /// nothing happens. `None` before the first.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        let packed_at = Duration::from_micros(self.packed_at_us.load(Ordering::Relaxed));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (!packed_at.is_zero()).then(|| now.saturating_sub(packed_at))
    }

    /// Parcels this node appended for all, and their bytes.
    #[must_use]
    pub fn appended(&self) -> (u64, u64) {
        (
            self.parcels.load(Ordering::Relaxed),
            self.parcel_bytes.load(Ordering::Relaxed),
        )
    }
}
