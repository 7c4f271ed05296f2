//! What presence counts towards the limits and the metrics.

use std::sync::Arc;

use walcast_presence::Meter;

use crate::limits::Rates;
use crate::metrics::{self, Metrics};

/// Counts for one server.
pub(crate) struct PresenceFigures {
    pub(crate) rates: Arc<Rates>,
    pub(crate) metrics: Metrics,
}

impl Meter for PresenceFigures {
    fn told(&self, members: usize) {
        self.rates.presence.count(members);
        self.metrics.presence_diffs_sent.increment(members as u64);
    }

    fn came(&self) {
        self.metrics.presences.increment(1.0);
    }

    fn went(&self) {
        self.metrics.presences.decrement(1.0);
    }

    fn malformed(&self, presences: usize) {
        metrics::presences_malformed(presences);
    }
}
