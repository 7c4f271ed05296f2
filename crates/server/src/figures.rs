//! Every figure of `/metrics`: its name, what it is and what it says. `docs/metrics.md` has a row for each, and tests
//! compare both with what the code counts.
//!
//! Names are those of Prometheus' conventions: base units, `_total` for what only grows.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// How a figure behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by their size.
    Histogram,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What it says, as its HELP text.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Figure {
    Figure {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Figure {
    Figure {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Figure {
    Figure {
        name,
        kind: Kind::Histogram,
        labels,
        help,
    }
}

/// All there are.
pub const FIGURES: &[Figure] = &[
    gauge(
        "process_start_time_seconds",
        &[],
        "Start of the process, in seconds since the Unix epoch",
    ),
    counter(
        "process_cpu_seconds_total",
        &[],
        "CPU time of the process, user and system",
    ),
    gauge("process_resident_memory_bytes", &[], "Memory of the process"),
    gauge("process_open_fds", &[], "Open files, connections included"),
    gauge("process_max_fds", &[], "Open files there may be"),
    gauge("process_threads", &[], "Threads of the process"),
    gauge(
        "walcast_build_info",
        &["version"],
        "1; the label tells which Walcast this is",
    ),
    gauge(
        "walcast_readiness",
        &["state"],
        "1 for what `/readyz` says now, 0 for the others: starting, ready, degraded, draining",
    ),
    gauge("walcast_tasks", &[], "Tasks of the asynchronous runtime"),
    gauge(
        "walcast_connections",
        &[],
        "Open connections, those of sockets included",
    ),
    counter(
        "walcast_connections_turned_away_total",
        &["cause"],
        "Connections, and requests through trusted proxies, for which there was no place",
    ),
    counter(
        "walcast_http_requests_total",
        &["route", "status"],
        "HTTP requests answered, sockets and streams when they open; route `other` is none of ours",
    ),
    histogram(
        "walcast_http_request_seconds",
        &["route"],
        "From the head of a request to the head of its answer",
    ),
    counter(
        "walcast_api_refused_total",
        &["code"],
        "Requests to the HTTP API that came to nothing",
    ),
    gauge("walcast_sockets", &[], "Open sockets, streams of events included"),
    gauge("walcast_event_streams", &[], "Open streams of server-sent events"),
    gauge("walcast_channels", &[], "Joined channels"),
    counter("walcast_connects_refused_total", &["code"], "Sockets refused"),
    counter(
        "walcast_joins_total",
        &["code"],
        "Joins answered; `ok` for those that succeeded",
    ),
    histogram(
        "walcast_join_seconds",
        &[],
        "From a join to its answer, rights and subscription included",
    ),
    counter(
        "walcast_sockets_closed_total",
        &["code"],
        "Sockets ended, by close code; 0 for a broken connection",
    ),
    counter(
        "walcast_channels_closed_total",
        &["code"],
        "Channels closed by the server",
    ),
    counter(
        "walcast_slow_reader_closes_total",
        &[],
        "Sockets closed because their reader was too slow",
    ),
    gauge(
        "walcast_socket_queue_frames",
        &[],
        "Messages that wait to be written, of all sockets",
    ),
    gauge(
        "walcast_socket_queue_bytes",
        &[],
        "Bytes that wait to be written, of all sockets; messages to many count for each",
    ),
    gauge(
        "walcast_socket_queue_longest_bytes",
        &[],
        "Bytes that wait for the socket with the most",
    ),
    counter("walcast_frames_received_total", &[], "Messages read from sockets"),
    counter("walcast_frames_sent_total", &[], "Messages written to sockets"),
    counter(
        "walcast_socket_received_bytes_total",
        &[],
        "Bytes read from sockets",
    ),
    counter("walcast_socket_sent_bytes_total", &[], "Bytes written to sockets"),
    counter(
        "walcast_bad_frames_total",
        &["code"],
        "Messages dropped as malformed",
    ),
    counter(
        "walcast_ignored_pushes_total",
        &["event"],
        "Pushes on joined channels that nothing handles",
    ),
    counter(
        "walcast_limits_exceeded_total",
        &["code"],
        "Times a configured limit began to bite",
    ),
    histogram(
        "walcast_change_delivery_seconds",
        &[],
        "From a commit, by Postgres' clock, until one of the channels that hear the change has it written to its connection",
    ),
    counter(
        "walcast_changes_decoded_total",
        &[],
        "Row changes decoded from the log",
    ),
    counter(
        "walcast_changes_skipped_total",
        &[],
        "Row changes of tables nobody subscribes to",
    ),
    counter(
        "walcast_changes_delivered_total",
        &[],
        "Messages of changes handed to channels",
    ),
    counter(
        "walcast_changes_undecided_total",
        &[],
        "Changes that were delivered to nobody who needed a check, because it failed",
    ),
    counter(
        "walcast_changes_over_limit_total",
        &[],
        "Matches of changes not delivered because of TENANT_MAX_EVENTS_PER_SECOND",
    ),
    gauge(
        "walcast_changes_in_flight_bytes",
        &[],
        "Changes that are being decided",
    ),
    gauge(
        "walcast_changes_window_bytes",
        &[],
        "Changes kept for clients that come back",
    ),
    gauge("walcast_changes_window_changes", &[], "How many they are"),
    counter(
        "walcast_changes_replayed_total",
        &[],
        "Missed changes told to channels that came back",
    ),
    counter(
        "walcast_recoveries_total",
        &[],
        "Channels that came back and were told all they missed",
    ),
    counter(
        "walcast_recoveries_incomplete_total",
        &[],
        "Channels that came back too late for that",
    ),
    counter(
        "walcast_filter_failures_total",
        &[],
        "Filters that failed on a row, which was not delivered to them",
    ),
    counter("walcast_policy_evaluations_total", &[], "Rows decided in process"),
    counter(
        "walcast_policy_verifications_total",
        &[],
        "Decisions compared with Postgres (`WALCAST_RLS=verify`)",
    ),
    counter(
        "walcast_policy_differences_total",
        &["cause"],
        "Decisions on which Postgres and Walcast differ (`WALCAST_RLS=verify`)",
    ),
    counter(
        "walcast_visibility_calls_total",
        &[],
        "Questions to Postgres about rows, each for many rows and identities",
    ),
    histogram(
        "walcast_visibility_call_seconds",
        &[],
        "How long Postgres took to answer one",
    ),
    counter(
        "walcast_visibility_identities_total",
        &[],
        "Identities those questions were about",
    ),
    counter(
        "walcast_visibility_failures_total",
        &[],
        "Identities for whom a check failed, so that they did not see a row",
    ),
    gauge(
        "walcast_wal_lag_bytes",
        &[],
        "Log that was written and has not been taken",
    ),
    gauge(
        "walcast_replication_queue_changes",
        &[],
        "Decoded changes that wait to be matched",
    ),
    gauge(
        "walcast_replication_queue_bytes",
        &[],
        "Bytes of decoded changes that wait to be matched",
    ),
    counter(
        "walcast_replication_received_bytes_total",
        &[],
        "Bytes read from the replication stream",
    ),
    counter(
        "walcast_replication_reconnects_total",
        &[],
        "Times the replication stream was lost",
    ),
    counter(
        "walcast_stream_losses_total",
        &[],
        "Times channels were told that changes may have been missed",
    ),
    gauge(
        "walcast_slot_holder",
        &[],
        "1 on the node that reads the database's log for all nodes",
    ),
    gauge(
        "walcast_slot_apart",
        &[],
        "1 on a node that reads the log with a slot of its own, because it hears of no other",
    ),
    gauge(
        "walcast_slot_lag_seconds",
        &[],
        "How long ago the node that reads the log packed what this node took last; about 1 at most while nothing happens",
    ),
    counter(
        "walcast_slot_parcels_total",
        &[],
        "Parcels of changes this node appended for all nodes",
    ),
    counter("walcast_slot_parcel_bytes_total", &[], "Bytes of those parcels"),
    gauge(
        "walcast_nodes_connected",
        &[],
        "Whether this node is in touch with the others",
    ),
    gauge(
        "walcast_nodes_topics",
        &[],
        "Topics that are heard from other nodes",
    ),
    counter(
        "walcast_nodes_published_total",
        &[],
        "Publications for other nodes that Redis took",
    ),
    counter(
        "walcast_nodes_received_total",
        &[],
        "Publications of other nodes that were heard",
    ),
    counter(
        "walcast_nodes_lost_total",
        &[],
        "Publications for other nodes of which it is not known whether they arrived",
    ),
    counter(
        "walcast_nodes_malformed_total",
        &[],
        "Messages of Redis that are no publication of a node",
    ),
    gauge(
        "walcast_nodes_publish_seconds",
        &[],
        "How long the last publications were on their way to Redis",
    ),
    counter("walcast_broadcasts_received_total", &[], "Broadcasts relayed"),
    counter(
        "walcast_broadcasts_sent_total",
        &[],
        "Messages of broadcasts handed to members of rooms",
    ),
    counter(
        "walcast_broadcasts_refused_total",
        &["cause"],
        "Broadcasts not relayed",
    ),
    counter(
        "walcast_broadcasts_unpublished_total",
        &["cause"],
        "Broadcasts that members on other nodes do not get",
    ),
    counter(
        "walcast_broadcasts_unread_total",
        &[],
        "Broadcasts of other nodes that could not be given to members here",
    ),
    counter(
        "walcast_database_broadcasts_total",
        &["code"],
        "Rows of `realtime.messages`, relayed (`ok`) or not",
    ),
    counter(
        "walcast_broadcasts_told_again_total",
        &[],
        "Private broadcasts that channels missed and were told when they came back",
    ),
    gauge(
        "walcast_broadcast_window_bytes",
        &[],
        "Memory of private broadcasts kept for channels that come back",
    ),
    gauge(
        "walcast_broadcast_window_messages",
        &[],
        "Private broadcasts kept for channels that come back",
    ),
    gauge(
        "walcast_presences",
        &[],
        "Channels of this node that track a presence",
    ),
    counter(
        "walcast_presences_malformed_total",
        &[],
        "Presences of other nodes that could not be read and are left out",
    ),
    counter(
        "walcast_presence_diffs_sent_total",
        &[],
        "Messages of presence diffs handed to members",
    ),
    counter(
        "walcast_presence_refused_total",
        &["code"],
        "Presence calls answered with an error",
    ),
    counter(
        "walcast_rights_calls_total",
        &[],
        "Questions to Postgres about rights to private channels, each for many channels",
    ),
    counter(
        "walcast_rights_checks_total",
        &["code"],
        "Rights to private channels that were asked for; `ok` for those that could be told",
    ),
    counter(
        "walcast_messages_partitions_created_total",
        &[],
        "Partitions of realtime.messages that were made",
    ),
    counter(
        "walcast_messages_partitions_dropped_total",
        &[],
        "Partitions of realtime.messages that were dropped as too old",
    ),
    counter(
        "walcast_messages_upkeep_failures_total",
        &[],
        "Partitions of realtime.messages that could not be made or dropped, and runs that could do nothing",
    ),
];

/// Upper bounds of a histogram's buckets, in seconds: from a change that meets nobody to a join that times out.
pub const BUCKETS_S: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
];

/// Gives each its HELP text.
pub(crate) fn describe() {
    for figure in FIGURES {
        match figure.kind {
            Kind::Counter => describe_counter!(figure.name, figure.help),
            Kind::Gauge => describe_gauge!(figure.name, figure.help),
            Kind::Histogram => describe_histogram!(figure.name, figure.help),
        }
    }
}
