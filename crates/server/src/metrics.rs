//! The figures `/metrics` shows, as handles that are looked up once.
//!
//! What other parts count themselves (the replication stream in its `Stats`) is copied in when somebody asks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;
use walcast_changes::Changes;
use walcast_cluster::Bus;

use crate::figures::{self, BUCKETS_S};
use crate::http::Readiness;
use crate::sockets::Queued;
use crate::tenant::Tenant;

/// Why figures cannot be collected.
#[derive(Debug, thiserror::Error)]
#[error(
    "another part of this process has installed a metrics recorder of its own; embed only one of the two"
)]
pub struct RecorderTaken;

/// The process-wide recorder; the first call installs it.
///
/// # Errors
/// Somebody else installed one.
pub fn recorder() -> Result<&'static PrometheusHandle, RecorderTaken> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, BUCKETS_S);
        let handle = builder.ok()?.install_recorder().ok()?;
        figures::describe();
        gauge!("walcast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("process_start_time_seconds").set(started.as_secs_f64());
        Some(handle)
    });
    installed.as_ref().ok_or(RecorderTaken)
}

/// Handles for what sockets and channels count.
#[derive(Clone)]
pub struct Metrics {
    /// Open sockets.
    pub sockets: Gauge,
    /// Those of them that are streams of events.
    pub event_streams: Gauge,
    /// Joined channels.
    pub channels: Gauge,
    /// Joins answered `ok`.
    pub joins_ok: Counter,
    /// Frames read, control frames excepted.
    pub frames_received: Counter,
    /// Bytes read from sockets.
    pub bytes_received: Counter,
    /// Frames put on the wire, control frames excepted.
    pub frames_sent: Counter,
    /// Bytes written to sockets.
    pub bytes_sent: Counter,
    /// Sockets closed because their reader was too slow.
    pub slow_readers: Counter,
    /// From a join to its answer.
    pub join_seconds: Histogram,
    /// From a commit to a client's connection.
    pub change_delivery_seconds: Histogram,
    /// Broadcasts relayed.
    pub broadcasts_received: Counter,
    /// Frames of broadcasts handed to members.
    pub broadcasts_sent: Counter,
    /// Channels that track something.
    pub presences: Gauge,
    /// Frames of presence diffs handed to members.
    pub presence_diffs_sent: Counter,
}

impl Metrics {
    /// Looks the handles up; after [`recorder`], or they count nothing. Figures of one tenant among several carry its
    /// name as the label `tenant`.
    pub fn new(tenant: Option<&str>) -> Self {
        let labels = tenant_labels(tenant);
        let mut ok = labels.clone();
        ok.push(Label::from_static_parts("code", "ok"));
        Self {
            sockets: gauge!("walcast_sockets", labels.iter()),
            event_streams: gauge!("walcast_event_streams", labels.iter()),
            channels: gauge!("walcast_channels", labels.iter()),
            joins_ok: counter!("walcast_joins_total", ok.iter()),
            frames_received: counter!("walcast_frames_received_total", labels.iter()),
            bytes_received: counter!("walcast_socket_received_bytes_total", labels.iter()),
            frames_sent: counter!("walcast_frames_sent_total", labels.iter()),
            bytes_sent: counter!("walcast_socket_sent_bytes_total", labels.iter()),
            slow_readers: counter!("walcast_slow_reader_closes_total", labels.iter()),
            // Of all tenants together: each would be a series for every bucket.
            join_seconds: histogram!("walcast_join_seconds"),
            change_delivery_seconds: histogram!("walcast_change_delivery_seconds"),
            broadcasts_received: counter!("walcast_broadcasts_received_total", labels.iter()),
            broadcasts_sent: counter!("walcast_broadcasts_sent_total", labels.iter()),
            presences: gauge!("walcast_presences", labels.iter()),
            presence_diffs_sent: counter!("walcast_presence_diffs_sent_total", labels.iter()),
        }
    }
}

/// Tenants with figures of their own, at most. Those of all later ones are one.
const LABELLED_TENANTS: usize = 1_000;

/// The labels of figures of a tenant; none if it is the only one.
fn tenant_labels(tenant: Option<&str>) -> Vec<Label> {
    static LABELLED: Mutex<BTreeSet<Box<str>>> = Mutex::new(BTreeSet::new());
    let Some(tenant) = tenant else { return Vec::new() };
    let mut labelled = LABELLED.lock().unwrap_or_else(PoisonError::into_inner);
    if labelled.contains(tenant) || labelled.len() < LABELLED_TENANTS {
        labelled.insert(tenant.into());
        vec![Label::new("tenant", tenant.to_owned())]
    } else {
        vec![Label::from_static_parts("tenant", "(others)")]
    }
}

/// What the streams of changes of a tenant have counted, one after another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamTotals {
    changes_decoded: u64,
    changes_skipped: u64,
    bytes_read: u64,
    reconnects: u64,
}

impl StreamTotals {
    /// With those of one more.
    #[must_use]
    pub fn with(self, stats: &walcast_replication::Stats) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            changes_decoded: self.changes_decoded + count(&stats.changes_decoded),
            changes_skipped: self.changes_skipped + count(&stats.changes_skipped),
            bytes_read: self.bytes_read + count(&stats.bytes_read),
            reconnects: self.reconnects + count(&stats.reconnects),
        }
    }
}

/// Takes over what the process has open.
pub fn observe_process(connections: usize) {
    // Far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    {
        gauge!("walcast_connections").set(connections as f64);
        gauge!("walcast_tasks").set(Handle::current().metrics().num_alive_tasks() as f64);
    }
}

/// Takes over what `/readyz` says.
pub fn observe_readiness(readiness: Readiness) {
    for state in Readiness::ALL {
        let is_now = f64::from(u8::from(state == readiness));
        gauge!("walcast_readiness", "state" => state.as_str()).set(is_now);
    }
}

/// Takes over what waits to be written.
pub fn observe_queues(queued: Queued) {
    // Far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    {
        gauge!("walcast_socket_queue_frames").set(queued.frames as f64);
        gauge!("walcast_socket_queue_bytes").set(queued.bytes as f64);
        gauge!("walcast_socket_queue_longest_bytes").set(queued.longest_bytes as f64);
    }
}

/// Counts an HTTP request that was answered; `route` is the path it was registered under.
pub fn request_answered(route: &str, status: u16, took: Duration) {
    counter!("walcast_http_requests_total", "route" => route.to_owned(), "status" => status.to_string())
        .increment(1);
    histogram!("walcast_http_request_seconds", "route" => route.to_owned()).record(took.as_secs_f64());
}

/// Counts a refused join under its code.
pub fn join_refused(code: &'static str) {
    counter!("walcast_joins_total", "code" => code).increment(1);
}

/// Counts a refused connect under its code.
pub fn connect_refused(code: &'static str) {
    counter!("walcast_connects_refused_total", "code" => code).increment(1);
}

/// Counts a connection, or a request through a proxy, for which there was no place; `cause` is one of a fixed set.
pub fn connection_turned_away(cause: &'static str) {
    counter!("walcast_connections_turned_away_total", "cause" => cause).increment(1);
}

/// Counts a frame that was dropped (`protocol.md 8.7`).
pub fn bad_frame(code: &'static str) {
    counter!("walcast_bad_frames_total", "code" => code).increment(1);
}

/// Counts what came as presences of other nodes and is none. Told once: it does not go away by itself.
pub fn presences_malformed(presences: usize) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            remedy = "give nodes of another version another WALCAST_REDIS_PREFIX",
            "presences of another node cannot be read and are left out"
        );
    });
    counter!("walcast_presences_malformed_total").increment(presences as u64);
}

/// Counts a push on a joined channel that nothing handles; `event` is one of a fixed set.
pub fn ignored_push(event: &'static str) {
    counter!("walcast_ignored_pushes_total", "event" => event).increment(1);
}

/// Counts a channel that the server closed, by the code of the reason.
pub fn channel_closed(code: &'static str) {
    counter!("walcast_channels_closed_total", "code" => code).increment(1);
}

/// Counts a broadcast that was not relayed; `cause` is one of a fixed set.
pub fn broadcast_refused(cause: &str) {
    counter!("walcast_broadcasts_refused_total", "cause" => cause.to_owned()).increment(1);
}

/// Counts a presence call that was refused, by the code of the reason.
pub fn presence_refused(code: &'static str) {
    counter!("walcast_presence_refused_total", "code" => code).increment(1);
}

/// Counts a request to the HTTP API that came to nothing, by the code of the reason.
pub fn api_refused(code: &'static str) {
    counter!("walcast_api_refused_total", "code" => code).increment(1);
}

/// Counts a socket that ended, by its close code; 0 when the network ended it.
pub fn socket_closed(code: u16) {
    counter!("walcast_sockets_closed_total", "code" => code.to_string()).increment(1);
}

/// Bytes and messages of private broadcasts that are kept, of each tenant.
pub fn observe_broadcast_window(kept: impl Iterator<Item = (usize, usize)>) {
    let (bytes, messages) = kept.fold((0, 0), |sum, kept| (sum.0 + kept.0, sum.1 + kept.1));
    // Far below what a double loses.
    #[allow(clippy::cast_precision_loss)]
    let (bytes, messages) = (bytes as f64, messages as f64);
    gauge!("walcast_broadcast_window_bytes").set(bytes);
    gauge!("walcast_broadcast_window_messages").set(messages);
}

/// Copies the figures of a tenant's replication stream into the recorder.
pub fn observe_replication(tenant: &Tenant) {
    let labels = tenant_labels(tenant.name.external_id());
    let totals = tenant.stream_totals();
    counter!("walcast_changes_decoded_total", labels.iter()).absolute(totals.changes_decoded);
    counter!("walcast_changes_skipped_total", labels.iter()).absolute(totals.changes_skipped);
    counter!("walcast_replication_received_bytes_total", labels.iter()).absolute(totals.bytes_read);
    counter!("walcast_replication_reconnects_total", labels.iter()).absolute(totals.reconnects);
    let changes = tenant.changes();
    let stats = changes
        .as_ref()
        .map_or_else(Arc::default, Changes::replication_stats);
    // A gauge is a double by the exporter's definition; exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    {
        let queued = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        gauge!("walcast_wal_lag_bytes", labels.iter()).set(stats.lag_bytes() as f64);
        gauge!("walcast_replication_queue_changes", labels.iter()).set(queued(&stats.queue_changes));
        gauge!("walcast_replication_queue_bytes", labels.iter()).set(queued(&stats.queue_bytes));
    }
    if let Some(figures) = changes.and_then(|changes| changes.sharing_figures()) {
        observe_sharing(&figures, &labels);
    }
}

/// Copies the figures of the connection to other nodes into the recorder.
pub fn observe_nodes(bus: &dyn Bus) {
    let stats = bus.stats();
    counter!("walcast_nodes_published_total").absolute(stats.published);
    counter!("walcast_nodes_received_total").absolute(stats.received);
    counter!("walcast_nodes_lost_total").absolute(stats.lost);
    counter!("walcast_nodes_malformed_total").absolute(stats.malformed);
    gauge!("walcast_nodes_connected").set(f64::from(u8::from(bus.is_connected())));
    gauge!("walcast_nodes_publish_seconds").set(stats.lag.as_secs_f64());
    // A gauge is a double by the exporter's definition; exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    gauge!("walcast_nodes_topics").set(stats.topics as f64);
}

/// Refreshes the figures of the slot that nodes share.
fn observe_sharing(figures: &walcast_changes::SharingFigures, labels: &[Label]) {
    gauge!("walcast_slot_holder", labels.iter()).set(f64::from(u8::from(figures.is_holder())));
    gauge!("walcast_slot_apart", labels.iter()).set(f64::from(u8::from(figures.is_apart())));
    if let Some(lag) = figures.lag() {
        gauge!("walcast_slot_lag_seconds", labels.iter()).set(lag.as_secs_f64());
    }
    let (parcels, bytes) = figures.appended();
    counter!("walcast_slot_parcels_total", labels.iter()).absolute(parcels);
    counter!("walcast_slot_parcel_bytes_total", labels.iter()).absolute(bytes);
}
