//! What is not there yet.

use super::Instead::{Status, Without};
use super::{Difference, not_yet};

const PRESENCE: &str = "Presence.";
const TENANTS: &str = "Several tenants and the HTTP API of tenants.";

pub(super) const NOT_YET: &[Difference] = &[
    // The rest of these is compared.
    not_yet(
        &[
            "join-presence-enabled",
            "join-blocks-socket",
            "join-refs",
            "join-refs.v1",
            "leave-wrong-ref",
            "leave-wrong-ref.v1",
            "rejoin-same-ref",
            "rejoin-fails",
            "unknown-event",
            "unknown-event.v1",
            "bad-frames-binary",
            "pg-first-subscriber",
            "token-lose-presence",
            "token-lose-claim",
            "limits-replication-not-ready",
            "replication-ready-true",
            "replication-ready-true.v1",
            "replication-ready-number",
            "replication-ready-false",
            "replication-ready-null",
        ],
        PRESENCE,
        &[Without("client-1", "\"presence_state\"")],
    ),
    not_yet(
        &[
            "join-lenient-ack-number",
            "join-lenient-broadcast-null",
            "join-lenient-config-null",
            "join-lenient-pg-object",
            "join-lenient-presence-list",
            "join-lenient-private-number",
            "join-lenient-token-number",
            "join-lenient-unknown-keys",
        ],
        PRESENCE,
        &[
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "[\"1\",\"3\","),
        ],
    ),
    not_yet(
        &["join-lenient-mixed", "join-lenient-presence-key-number"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "[\"1\",\"3\","),
        ],
    ),
    not_yet(
        &["rejoin"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "[\"1\",\"2\","),
        ],
    ),
    not_yet(
        &["rejoin.v1"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "{\"ref\":\"2\","),
        ],
    ),
    not_yet(
        &["stale-join-ref"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "[\"2\",\"7\","),
        ],
    ),
    not_yet(
        &["private-service"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "[\"1\",\"3\","),
        ],
    ),
    not_yet(
        &["private-raising-write"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "[\"1\",\"3\","),
        ],
    ),
    not_yet(
        &["private-read-write.v1"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "\"presence_diff\""),
            Without("client-1", "{\"ref\":\"3\","),
            Without("client-2", "\"presence_state\""),
            Without("client-2", "\"presence_diff\""),
            Without("client-2", "{\"ref\":\"2\","),
        ],
    ),
    not_yet(
        &["private-broadcast-policy"],
        PRESENCE,
        &[
            Without("client-1", "[\"1\",\"2\","),
            Without("client-2", "\"presence_state\""),
            Without("client-2", "\"presence_diff\""),
            Without("client-2", "[\"1\",\"2\","),
            Without("client-2", "[\"1\",\"3\","),
        ],
    ),
    not_yet(
        &["token-gain-presence"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_diff\""),
            Without("client-2", "\"presence_state\""),
            Without("client-2", "\"presence_diff\""),
            Without("client-2", "[\"1\",\"2\","),
        ],
    ),
    not_yet(
        &["kind0-push"],
        PRESENCE,
        &[
            Without("client-1", "\"presence_state\""),
            Without("client-1", "[\"1\",\"22\","),
        ],
    ),
    not_yet(
        &[
            "private-presence-disabled",
            "presence-abort",
            "presence-basic",
            "presence-basic.v1",
            "presence-disabled",
            "presence-disconnect",
            "presence-disconnect.v1",
            "presence-event-odd",
            "presence-leave",
            "presence-meta-keys",
            "presence-nonobject",
            "presence-oversized",
            "presence-same-key",
            "presence-two-keys",
            "presence-two-keys.v1",
            "limits-presence-enabled",
            "limits-presence-window",
            "limits-payload",
        ],
        PRESENCE,
        &[],
    ),
    not_yet(
        &[
            "http-tenants-auth",
            "http-tenants-bad",
            "http-tenants-create",
            "limits-create",
            "limits-private-only",
            "limits-reload-shutdown",
            "limits-suspend",
            "limits-zz-database-down",
        ],
        TENANTS,
        &[],
    ),
    not_yet(
        &["http-metrics"],
        "The figures of a region, when there are several.",
        &[Status(9, 404, "Not Found")],
    ),
];
