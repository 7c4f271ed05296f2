//! The API of tenants, and what follows from it.

use super::Instead::{Before, Behind, Says, Status};
use super::{Difference, deliberate, either_way};

const UNREACHABLE: &str = r#""status":"error","response":{"reason":"UnableToConnectToProject: Realtime was unable to connect to the project database"}"#;

const DISCONNECTED: &str = "Server requested disconnect";
const DISCONNECTED_1: &str = r#"[null,null,"{topic}1","system",{"message":"Server requested disconnect","status":"ok","extension":"system"}]"#;
const DISCONNECTED_2: &str = r#"[null,null,"{topic}2","system",{"message":"Server requested disconnect","status":"ok","extension":"system"}]"#;

pub(super) const TENANTS: &[Difference] = &[
    deliberate(
        &["http-tenants-bad"],
        "A tenant that cannot be is an error of its fields and not of the server.",
        &[
            Status(
                14,
                422,
                r#"{"errors":{"extensions":["can't be blank"],"jwt_secret":["or jwt_jwks is needed to verify tokens"]}}"#,
            ),
            Status(
                20,
                422,
                r#"{"errors":{"extensions":["can't be blank"],"max_concurrent_users":["is invalid"]}}"#,
            ),
            Status(
                32,
                422,
                r#"{"errors":{"extensions":[{"settings":["can't be blank"],"type":["can't be blank"]}]}}"#,
            ),
            Status(40, 422, r#"{"errors":{"tenant":["is invalid"]}}"#),
            Status(43, 422, r#"{"errors":{"extensions":["is invalid"]}}"#),
        ],
    ),
    deliberate(
        &["http-tenants-bad"],
        "A tenant is deleted without asking its database.",
        &[Status(69, 204, "")],
    ),
    deliberate(
        &["http-tenants-create"],
        "A tenant is deleted without asking its database.",
        &[Status(2027, 204, ""), Status(2052, 204, "")],
    ),
    deliberate(
        &["limits-zz-database-down"],
        "A tenant is deleted without asking its database.",
        &[Status(24868, 204, "")],
    ),
    deliberate(
        &["http-tenants-create"],
        "A database that nobody has asked for yet is not missed.",
        &[Status(
            16,
            200,
            r#"{"data":{"node":"realtime@127.0.0.1","region":null,"replication_connected":false,"healthy":true,"db_connected":false,"connected_cluster":0}}"#,
        )],
    ),
    either_way(
        &["limits-create"],
        "Changes are streamed as long as a tenant's database is in use, from a moment after its first use.",
        &[Says(
            r#""replication_connected":false,"healthy":true,"db_connected":true"#,
            r#""replication_connected":true,"healthy":true,"db_connected":true"#,
        )],
    ),
    deliberate(
        &["limits-private-only"],
        "Channels are told in the order of their topics.",
        &[Before(
            "client-2",
            r#""extension":"system"},"topic":"realtime:g2-limits-private-only"}"#,
            r#""extension":"system"},"topic":"realtime:g2-limits-private-onlytwo"}"#,
        )],
    ),
    deliberate(
        &["limits-zz-database-down"],
        "A public channel without changes needs no database.",
        &[
            Says(UNREACHABLE, r#""status":"ok","response":{"postgres_changes":[]}"#),
            Behind(
                r#"["3","3","#,
                "client-2",
                r#"["2","2","{topic}2","phx_close",{}]"#,
            ),
            Behind(
                r#"["4","4","#,
                "client-2",
                r#"["3","3","{topic}2","phx_close",{}]"#,
            ),
            Behind(DISCONNECTED, "client-2", DISCONNECTED_2),
            Behind(DISCONNECTED, "client-2", DISCONNECTED_1),
            Says(
                r#""db_connected":false,"connected_cluster":1"#,
                r#""db_connected":false,"connected_cluster":2"#,
            ),
        ],
    ),
];
