//! The node that holds the lease: it streams from Postgres and appends what it reads.

use super::{BEAT, Sharing, SharingFigures};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use walcast_cluster::{ClusterError, Lease};
use walcast_replication::parcel::Packer;
use walcast_replication::{Config, Guard, Interest, Slot, Stream, StreamOptions};

/// A parcel is closed when it has grown to this, in the middle of a transaction too. Small enough to bound what a
/// follower holds, large enough that appending costs little for each change.
const PARCEL_BYTES: usize = 256 * 1024;
/// Pauses between attempts to append.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long a stream may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Wants every table of the publications: who reads them is known to the other nodes, each for itself, and may change
/// at any moment.
struct Everything;

impl Interest for Everything {
    fn wants(&self, _relation_oid: u32) -> bool {
        true
    }
}

/// Tries to become the holder, and is it whenever it can.
pub(crate) struct Holder {
    pub(crate) config: Config,
    pub(crate) options: StreamOptions,
    pub(crate) sharing: Sharing,
    pub(crate) figures: Arc<SharingFigures>,
}

impl Holder {
    /// Runs until `cancel`; then its slot is gone, if it is temporary, and the lease free.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        // On its first connection a stream takes the lock from another session: the lease says that it may.
        self.options.guard = Some(Guard {
            name: format!("walcast {}", self.sharing.name),
        });
        loop {
            let lease = tokio::select! {
                () = cancel.cancelled() => return,
                lease = self.sharing.cluster.leases().wait(&self.sharing.stream, self.sharing.lease) => lease,
            };
            tracing::info!(
                token = lease.token(),
                "this node reads the database's log for all nodes"
            );
            self.figures.is_holder.store(true, Ordering::Relaxed);
            self.hold(&lease, &cancel).await;
            self.figures.is_holder.store(false, Ordering::Relaxed);
            tracing::info!(
                token = lease.token(),
                "this node does not read the database's log for all any more"
            );
            lease.release().await;
            if cancel.is_cancelled() {
                return;
            }
        }
    }

    /// Holds the slot until the lease is lost or all is to end.
    async fn hold(&self, lease: &Lease, cancel: &CancellationToken) {
        let mut options = self.options.clone();
        if let Slot::Permanent { resumes, .. } = &mut options.slot {
            // A cluster that was down as a whole has nobody who waits for what was committed meanwhile.
            *resumes = self.figures.lag().is_some();
        }
        let stop = CancellationToken::new();
        let mut stream =
            walcast_replication::spawn(self.config.clone(), options, Arc::new(Everything), stop.clone());
        tokio::select! {
            () = cancel.cancelled() => {}
            () = lease.lost() => {}
            () = self.pass_on(lease, &mut stream) => {}
        }
        stop.cancel();
        let ended = async { while stream.take().await.is_some() {} };
        if timeout(FAREWELL, ended).await.is_err() {
            tracing::warn!("the replication connection does not end in good order");
        }
    }

    /// Appends what the stream brings, in order. Returns when another holder has begun to write.
    async fn pass_on(&self, lease: &Lease, stream: &mut Stream) {
        let mut packer = Packer::new(lease.token());
        let stats = stream.stats();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = stream.take() => match event {
                    Some(event) => packer.add(&event),
                    None => return,
                },
                _ = beat.tick() => {}
            }
            while packer.waiting_bytes() < PARCEL_BYTES
                && let Some(event) = stream.take_ready()
            {
                packer.add(&event);
            }
            let parcel = packer.seal(&stats);
            if !self.append(lease, &parcel).await {
                return;
            }
            // From here on it is kept by the cluster's stream, and the slot may forget it.
            stream.settle();
            beat.reset();
        }
    }

    /// Appends until it is known to be appended. If it comes twice for that, followers skip the second by its number.
    async fn append(&self, lease: &Lease, parcel: &[u8]) -> bool {
        let streams = self.sharing.cluster.streams();
        let (mut pause, longest_pause) = PAUSES;
        while lease.is_held() {
            match streams
                .append(&self.sharing.stream, parcel, self.sharing.bound, lease.token())
                .await
            {
                Ok(_) => {
                    self.figures.parcels.fetch_add(1, Ordering::Relaxed);
                    self.figures
                        .parcel_bytes
                        .fetch_add(parcel.len() as u64, Ordering::Relaxed);
                    return true;
                }
                Err(error @ (ClusterError::Fenced { .. } | ClusterError::TooLong { .. })) => {
                    tracing::warn!(%error, "changes are not handed to other nodes any more by this one");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(%error, "changes cannot be handed to other nodes now; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest_pause);
                }
            }
        }
        false
    }
}
