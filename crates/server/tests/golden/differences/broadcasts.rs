//! Broadcasts over sockets.

use super::Instead::{Behind, Says, Without};
use super::{Difference, deliberate};

pub(super) const BROADCASTS: &[Difference] = &[
    deliberate(
        &[
            "broadcast-odd-string-to-2",
            "broadcast-odd-number-to-2",
            "broadcast-odd-list-to-2",
            "broadcast-odd-null-to-2",
        ],
        "A payload that is no object is refused when a member of serializer 2.0.0 is there; the channel does not crash (decision 14).",
        &[
            Says(
                r#""ref":"1","event":"phx_error","payload":{"reason":"channel_crash"}"#,
                r#""ref":"2","event":"phx_reply","payload":{"status":"error","response":"payload_not_an_object"}"#,
            ),
            Says(
                r#"{"status":"error","response":{"reason":"unmatched topic"}}"#,
                r#"{"status":"ok","response":{}}"#,
            ),
            Behind(
                r#""ref":"3""#,
                "client-2",
                r#"[null,null,"{topic}","broadcast",{"type":"broadcast","event":"after","payload":{}}]"#,
            ),
        ],
    ),
    deliberate(
        &["bad-frames-binary"],
        "A binary push that calls its payload JSON is refused when it is none (decision 14).",
        &[
            Without("client-1", "enot json"),
            Without("client-1", "realtime:g2-bad-frames-binarye\""),
            Says(
                r#"["1","20","realtime:g2-bad-frames-binary","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","20","realtime:g2-bad-frames-binary","phx_reply",{"status":"error","response":"payload_not_json"}]"#,
            ),
            Says(
                r#"["1","18","realtime:g2-bad-frames-binary","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","18","realtime:g2-bad-frames-binary","phx_reply",{"status":"error","response":"payload_not_json"}]"#,
            ),
        ],
    ),
    deliberate(
        &["kind0-push"],
        "The framework's binary push is not relayed: no client reads the kind 2 it would become (decision 14).",
        &[
            Without("client-1", r"\x02\x16\trealtime:"),
            Without("client-2", r"\x02\x16\trealtime:"),
            Without("client-3", "unable to parse response"),
            Says(
                r#"["1","20","realtime:g2-kind0-push","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","20","realtime:g2-kind0-push","phx_reply",{"status":"error","response":"binary_push_not_supported"}]"#,
            ),
        ],
    ),
];
