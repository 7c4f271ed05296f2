//! Presence.

use super::Instead::{Before, Behind, Says, Without};
use super::{Difference, deliberate};

/// Decision 22.
const OLD_META: &str =
    "A channel that joins anew may be told of its own old meta, and then that it is gone, or of neither.";
const RECORDED_LATE: &str = "What a client's end causes is recorded before the end.";

pub(super) const PRESENCE: &[Difference] = &[
    deliberate(
        &["presence-meta-keys"],
        "The references of a meta are the server's alone: with one of its own a payload vanishes from the states of \
         others when it is updated (decision 22).",
        &[
            Says(r#""a":1,"phx_ref":"mine""#, r#""a":1"#),
            Says(r#""metas":[1],"phx_ref_prev":"p""#, r#""metas":[1]"#),
        ],
    ),
    deliberate(
        &["limits-payload"],
        "A channel that is closed hears nothing more, not even that its presence is gone.",
        &[Without("client-1", r#""presence_diff",{"joins":{},"#)],
    ),
    deliberate(
        &["pg-first-subscriber"],
        "A join is answered when its subscription works, and what follows keeps its order.",
        &[Before("client-1", "Subscribed to PostgreSQL", "presence_state")],
    ),
    deliberate(
        &["presence-basic"],
        RECORDED_LATE,
        &[Without("client-2", r#""n":3}]}}}]"#)],
    ),
    deliberate(
        &["presence-disabled"],
        RECORDED_LATE,
        &[Without("client-2", r#""n":2}]}}}]"#)],
    ),
    deliberate(
        &["rejoin.v1"],
        OLD_META,
        &[
            Without("client-1", r#""presence_state""#),
            Behind(
                r#""ref":"1","event":"phx_reply""#,
                "client-1",
                r#"{"ref":null,"event":"presence_state","payload":{},"topic":"{topic}"}"#,
            ),
            Behind(
                r#""phx_close""#,
                "client-1",
                r#"{"ref":null,"event":"presence_diff","payload":{"joins":{},"leaves":{"k1":{"metas":[{"phx_ref":"GOn3xiSIhplKPNyB","a":1}]}}},"topic":"{topic}"}"#,
            ),
            Behind(
                r#""phx_close""#,
                "client-1",
                r#"{"ref":null,"event":"presence_state","payload":{"k1":{"metas":[{"phx_ref":"GOn3xiSIhplKPNyB","a":1}]}},"topic":"{topic}"}"#,
            ),
        ],
    ),
];
