//! What is not there yet.

use super::Instead::Status;
use super::{Difference, not_yet};

const TENANTS: &str = "Several tenants and the HTTP API of tenants.";

pub(super) const NOT_YET: &[Difference] = &[
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
