//! The figures `/metrics` shows, as handles that are looked up once.
//!
//! What other parts count themselves (the replication stream in its `Stats`) is copied in when somebody asks.

use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;
use walcast_cluster::Bus;

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
        let handle = PrometheusBuilder::new().install_recorder().ok()?;
        describe();
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
    /// Looks the handles up; after [`recorder`], or they count nothing.
    pub fn new() -> Self {
        Self {
            sockets: gauge!("walcast_sockets"),
            event_streams: gauge!("walcast_event_streams"),
            channels: gauge!("walcast_channels"),
            joins_ok: counter!("walcast_joins_total", "code" => "ok"),
            frames_received: counter!("walcast_frames_received_total"),
            bytes_received: counter!("walcast_socket_received_bytes_total"),
            frames_sent: counter!("walcast_frames_sent_total"),
            bytes_sent: counter!("walcast_socket_sent_bytes_total"),
            slow_readers: counter!("walcast_slow_reader_closes_total"),
            broadcasts_received: counter!("walcast_broadcasts_received_total"),
            broadcasts_sent: counter!("walcast_broadcasts_sent_total"),
            presences: gauge!("walcast_presences"),
            presence_diffs_sent: counter!("walcast_presence_diffs_sent_total"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
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

/// Copies the figures of the replication stream into the recorder.
pub fn observe_replication(stats: &walcast_replication::Stats) {
    counter!("walcast_changes_decoded_total").absolute(stats.changes_decoded.load(Ordering::Relaxed));
    counter!("walcast_changes_skipped_total").absolute(stats.changes_skipped.load(Ordering::Relaxed));
    counter!("walcast_replication_received_bytes_total").absolute(stats.bytes_read.load(Ordering::Relaxed));
    counter!("walcast_replication_reconnects_total").absolute(stats.reconnects.load(Ordering::Relaxed));
    // A gauge is a double by the exporter's definition; exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    {
        gauge!("walcast_wal_lag_bytes").set(stats.lag_bytes() as f64);
        gauge!("walcast_replication_queue_changes").set(stats.queue_changes.load(Ordering::Relaxed) as f64);
        gauge!("walcast_replication_queue_bytes").set(stats.queue_bytes.load(Ordering::Relaxed) as f64);
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
    gauge!("walcast_nodes_lag_seconds").set(stats.lag.as_secs_f64());
    // A gauge is a double by the exporter's definition; exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    gauge!("walcast_nodes_topics").set(stats.topics as f64);
}

/// Refreshes the figures of the slot that nodes share.
pub fn observe_sharing(figures: &walcast_changes::SharingFigures) {
    gauge!("walcast_slot_holder").set(f64::from(u8::from(figures.is_holder())));
    gauge!("walcast_slot_apart").set(f64::from(u8::from(figures.is_apart())));
    if let Some(lag) = figures.lag() {
        gauge!("walcast_node_lag_seconds").set(lag.as_secs_f64());
    }
    let (parcels, bytes) = figures.appended();
    counter!("walcast_slot_parcels_total").absolute(parcels);
    counter!("walcast_slot_parcel_bytes_total").absolute(bytes);
}

fn describe() {
    describe_gauge!(
        "walcast_slot_holder",
        "1 on the node that reads the database's log for all nodes"
    );
    describe_gauge!(
        "walcast_slot_apart",
        "1 on a node that reads the log with a slot of its own, because it hears of no other"
    );
    describe_gauge!(
        "walcast_node_lag_seconds",
        "How long ago the node that reads the log packed what this node took last; about 1 at most while nothing happens"
    );
    describe_counter!(
        "walcast_slot_parcels_total",
        "Parcels of changes this node appended for all nodes"
    );
    describe_counter!("walcast_slot_parcel_bytes_total", "Their bytes");
    describe_gauge!(
        "walcast_nodes_connected",
        "Whether this node is in touch with the others"
    );
    describe_counter!(
        "walcast_nodes_published_total",
        "Publications for other nodes that Redis took"
    );
    describe_counter!(
        "walcast_nodes_received_total",
        "Publications of other nodes that were heard"
    );
    describe_counter!(
        "walcast_nodes_lost_total",
        "Publications for other nodes of which it is not known whether they arrived"
    );
    describe_counter!(
        "walcast_nodes_malformed_total",
        "Messages of Redis that are no publication of a node"
    );
    describe_gauge!("walcast_nodes_topics", "Topics that are heard from other nodes");
    describe_gauge!(
        "walcast_nodes_lag_seconds",
        "How long the last publications were on their way to Redis"
    );
    describe_gauge!(
        "process_start_time_seconds",
        "Start of the process, in seconds since the Unix epoch"
    );
    describe_gauge!("walcast_sockets", "Open sockets, streams of events included");
    describe_gauge!("walcast_event_streams", "Open streams of server-sent events");
    describe_gauge!("walcast_channels", "Joined channels");
    describe_counter!(
        "walcast_joins_total",
        "Joins answered, by code; ok for those that succeeded"
    );
    describe_counter!("walcast_connects_refused_total", "Connects refused, by code");
    describe_gauge!(
        "walcast_connections",
        "Open connections, those of sockets included"
    );
    describe_gauge!("walcast_tasks", "Tasks of the asynchronous runtime");
    describe_counter!(
        "walcast_connections_turned_away_total",
        "Connections, and requests through trusted proxies, for which there was no place, by cause"
    );
    describe_counter!("walcast_frames_received_total", "WebSocket messages read");
    describe_counter!("walcast_socket_received_bytes_total", "Bytes read from sockets");
    describe_counter!("walcast_frames_sent_total", "WebSocket messages written");
    describe_counter!("walcast_socket_sent_bytes_total", "Bytes written to sockets");
    describe_counter!(
        "walcast_bad_frames_total",
        "Messages dropped as malformed, by code"
    );
    describe_counter!(
        "walcast_ignored_pushes_total",
        "Pushes on joined channels that nothing handles, by event"
    );
    describe_counter!(
        "walcast_slow_reader_closes_total",
        "Sockets closed because their reader was too slow"
    );
    describe_counter!(
        "walcast_sockets_closed_total",
        "Sockets ended, by close code; 0 for a broken connection"
    );
    describe_counter!(
        "walcast_channels_closed_total",
        "Channels closed by the server, by the code of the reason"
    );
    describe_counter!("walcast_broadcasts_received_total", "Broadcasts relayed");
    describe_counter!(
        "walcast_broadcasts_sent_total",
        "Frames of broadcasts handed to members of rooms"
    );
    describe_counter!(
        "walcast_broadcasts_refused_total",
        "Broadcasts not relayed, by cause"
    );
    describe_counter!(
        "walcast_broadcasts_unpublished_total",
        "Broadcasts that members on other nodes do not get, by cause"
    );
    describe_counter!(
        "walcast_broadcasts_unread_total",
        "Broadcasts of other nodes that could not be given to members here"
    );
    describe_gauge!("walcast_presences", "Channels of this node that track a presence");
    describe_counter!(
        "walcast_presences_malformed_total",
        "Presences of other nodes that could not be read and are left out"
    );
    describe_counter!(
        "walcast_presence_diffs_sent_total",
        "Frames of presence diffs handed to members"
    );
    describe_counter!(
        "walcast_presence_refused_total",
        "Presence calls answered with an error, by code"
    );
    describe_counter!(
        "walcast_limits_exceeded_total",
        "Times a configured limit began to bite, by code"
    );
    describe_counter!(
        "walcast_changes_decoded_total",
        "Row changes decoded from the WAL"
    );
    describe_counter!(
        "walcast_changes_skipped_total",
        "Row changes of tables nobody subscribes to"
    );
    describe_counter!(
        "walcast_replication_received_bytes_total",
        "Bytes read from the replication stream"
    );
    describe_counter!(
        "walcast_replication_reconnects_total",
        "Times the replication stream was lost"
    );
    describe_gauge!("walcast_wal_lag_bytes", "WAL written but not yet decoded");
    describe_counter!(
        "walcast_messages_partitions_created_total",
        "Partitions of realtime.messages that were made"
    );
    describe_counter!(
        "walcast_messages_partitions_dropped_total",
        "Partitions of realtime.messages that were dropped as too old"
    );
    describe_counter!(
        "walcast_messages_upkeep_failures_total",
        "Partitions of realtime.messages that could not be made or dropped, and runs that could do nothing"
    );
    describe_gauge!(
        "walcast_replication_queue_changes",
        "Decoded changes that wait to be matched"
    );
    describe_gauge!(
        "walcast_replication_queue_bytes",
        "Bytes of decoded changes that wait to be matched"
    );
}
