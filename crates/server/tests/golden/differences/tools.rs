//! What is about the recorded server and not about the protocol.

use super::Instead::{Header, Says, Status, Without};
use super::{Difference, deliberate};

const NOT_FOUND: &str = "Not Found";

const INSPECTOR: &str = include_str!("../../../../../web/inspector/index.html");

const ROBOTS: &str = "# Nothing here is for search engines.\nUser-agent: *\nDisallow: /\n";

pub(super) const TOOLS: &[Difference] = &[
    deliberate(
        &["http-openapi"],
        "The recorded server's pages for people are no part of the protocol; `/` is free for Walcast's own.",
        &[
            Status(5, 404, NOT_FOUND),
            Status(9, 200, INSPECTOR),
            Status(11, 404, NOT_FOUND),
            Status(12, 404, NOT_FOUND),
            Status(14, 200, ROBOTS),
            Header(14, "content-type", "text/plain"),
            Status(15, 302, ""),
        ],
    ),
    deliberate(
        &["http-metrics"],
        "Figures are of the type that Prometheus registered for its text format.",
        &[Header(
            7,
            "content-type",
            "text/plain; version=0.0.4; charset=utf-8",
        )],
    ),
    deliberate(
        &["limits-replication-not-ready"],
        "A slot name that is taken holds up nothing: Walcast's slots are temporary and named anew by each process.",
        &[
            Says(
                r#""message":"Replication connection was not established in time","status":"error""#,
                r#""message":"Replication connection established","status":"ok""#,
            ),
            Without("client-1", "phx_close"),
        ],
    ),
];
