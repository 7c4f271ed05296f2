//! Broadcasts over HTTP.

use super::Instead::{Behind, Status};
use super::{Difference, deliberate};

const UNAUTHORIZED: &str = r#"{"message":"Unauthorized"}"#;

/// So many times the letter.
macro_rules! sixty_four {
    ("e") => {
        "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
    };
    ("t") => {
        "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt"
    };
}

const LONG_EVENT: &str = concat!(
    r#"[null,null,"{topic}","broadcast",{"event":""#,
    sixty_four!("e"),
    sixty_four!("e"),
    sixty_four!("e"),
    sixty_four!("e"),
    r#"","payload":{},"type":"broadcast"}]"#
);

/// 251 of them.
const LONG_TOPIC: &str = concat!(
    r#"[null,null,"realtime:"#,
    sixty_four!("t"),
    sixty_four!("t"),
    sixty_four!("t"),
    "ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt",
    r#"","broadcast",{"event":"e","payload":{},"type":"broadcast"}]"#
);

const FAILURE: &str = "Internal Server Error";

pub(super) const HTTP: &[Difference] = &[
    deliberate(
        &["http-auth"],
        "Whatever is wrong with a token, the request is unauthorized and not an error of the server.",
        &[
            Status(11, 401, UNAUTHORIZED),
            Status(13, 401, UNAUTHORIZED),
            Status(19, 401, UNAUTHORIZED),
            Status(22, 401, UNAUTHORIZED),
            Status(23, 401, UNAUTHORIZED),
            Status(30, 401, UNAUTHORIZED),
        ],
    ),
    deliberate(
        &["http-single-errors"],
        "A name that is not UTF-8 is invalid and not an error of the server.",
        &[Status(209, 422, r#"{"errors":{"event":["is invalid"]}}"#)],
    ),
    deliberate(
        &["http-tenant"],
        "One tenant answers to any host.",
        &[
            Status(3, 202, ""),
            Status(5, 202, ""),
            Status(7, 401, UNAUTHORIZED),
            Status(8, 401, UNAUTHORIZED),
        ],
    ),
    deliberate(
        &["http-misc"],
        "A browser's preflight is answered, also where no gateway does it.",
        &[Status(2, 204, "")],
    ),
    deliberate(
        &["http-ping"],
        "One tenant answers to any host.",
        &[Status(4, 200, r#"{"message":"Success"}"#)],
    ),
    deliberate(
        &["broadcast-event-256"],
        "What has no room in a binary frame goes out as text.",
        &[
            Behind(FAILURE, "client-2", LONG_EVENT),
            Behind(FAILURE, "client-1", LONG_EVENT),
            Status(430, 202, ""),
        ],
    ),
    deliberate(
        &["broadcast-topic-260"],
        "What has no room in a binary frame goes out as text.",
        &[
            Behind(FAILURE, "client-2", LONG_TOPIC),
            Behind(FAILURE, "client-1", LONG_TOPIC),
            Status(1215, 202, ""),
        ],
    ),
];
