//! The limit on changes delivered a second (`protocol.md 9`): above it changes are dropped, and whoever misses some is
//! told so once.

use std::collections::HashSet;
use std::sync::Arc;

use metrics::counter;

use crate::notice;
use crate::table::Pending;

/// Counts changes that subscriptions match, and says whether there are too many.
pub trait Meter: Send + Sync {
    /// Some subscriptions matched a change each.
    fn count(&self, matched: usize);

    /// Whether changes are to be dropped.
    fn is_exceeded(&self) -> bool;
}

/// One table's part in the limit.
#[derive(Default)]
pub(crate) struct Metered {
    /// Subscribers that were told of the present burst.
    told: HashSet<u64>,
}

impl Metered {
    /// Counts what matched, and empties it while the limit is exceeded.
    pub(crate) fn limit(&mut self, meter: &Arc<dyn Meter>, pending: &mut [Pending]) {
        let matched = pending.iter().map(Pending::matched).sum();
        meter.count(matched);
        if !meter.is_exceeded() {
            self.told.clear();
            return;
        }
        counter!("walcast_changes_over_limit_total").increment(matched as u64);
        for change in pending {
            let refused = change.refused.drain(..).map(|(part, _)| part);
            let leaving = change.leaving.drain(..);
            for part in change.parts.drain(..).chain(refused).chain(leaving) {
                if self.told.insert(part.subscriber.id) {
                    let cause = "there are more changes a second than are allowed";
                    part.subscriber.deliver(notice::missed(&part.subscriber, cause));
                }
            }
        }
    }
}
