//! What is not there yet.

use super::Instead::Status;
use super::{Difference, not_yet};

pub(super) const NOT_YET: &[Difference] = &[not_yet(
    &["http-metrics"],
    "The figures of a region, when there are several.",
    &[Status(9, 404, "Not Found")],
)];
