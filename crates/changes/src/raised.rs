//! Checks of visibility that raised an error: their rows stay hidden, and the channels they were hidden from are told
//! (`design.md 3`, promises 4 and 5).

use crate::claims::IdentityRef;
use crate::condition::Truth;
use crate::notice;
use crate::subscription::Subscriber;
use crate::table::Pending;
use crate::view::View;
use crate::visibility::Answer;
use metrics::counter;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a channel is told.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Reasons logged of one question.
const LOGGED_REASONS: usize = 3;

/// When channels were told, by the subscriber's number.
#[derive(Default)]
pub(crate) struct Raised {
    told: HashMap<u64, Instant>,
}

impl Raised {
    /// Logs what raised, and tells the channels whose identity it raised for.
    pub(crate) fn report(&mut self, view: &View, pending: &[Pending], answer: &Answer) {
        if answer.failures.is_empty() {
            return;
        }
        let (schema, table) = (&view.relation.schema, &view.relation.name);
        for failure in answer.failures.iter().take(LOGGED_REASONS) {
            tracing::warn!(
                %schema, %table, role = %failure.identity.0.claims.role,
                reason = %failure.reason, "a row was hidden because checking its visibility raised an error"
            );
        }
        counter!("walcast_visibility_failures_total").increment(answer.failures.len() as u64);
        let concerned: HashSet<&IdentityRef> =
            answer.failures.iter().map(|failure| &failure.identity).collect();
        for (at, change) in pending.iter().enumerate() {
            for part in change.parts.iter().filter(|part| part.truth == Truth::Ask) {
                if concerned.contains(&part.identity) && !answer.sees(&part.identity, at) {
                    self.tell(view, &part.subscriber);
                }
            }
        }
    }

    /// As [`Raised::report`], of policies that raised when they were evaluated here for some channels.
    pub(crate) fn report_here(&mut self, view: &View, channels: &[Arc<Subscriber>]) {
        let (schema, table) = (&view.relation.schema, &view.relation.name);
        for channel in channels {
            if self.tell(view, channel) {
                tracing::warn!(
                    %schema, %table, role = %channel.identity().0.claims.role,
                    "rows are hidden because the policies raise an error for the claims or the row"
                );
            }
        }
        counter!("walcast_visibility_failures_total").increment(channels.len() as u64);
    }

    /// Tells a channel, unless it was told just now; whether it is.
    fn tell(&mut self, view: &View, subscriber: &Arc<Subscriber>) -> bool {
        let is_news = self
            .told
            .get(&subscriber.id)
            .is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if is_news {
            self.told.retain(|_, told| told.elapsed() < TOLD_EVERY);
            self.told.insert(subscriber.id, Instant::now());
            // The error may quote values of rows that are hidden.
            let cause = format!(
                "checking who may see rows of {}.{} raised an error, which the server's log tells",
                view.relation.schema, view.relation.name
            );
            subscriber.deliver(notice::missed(subscriber, &cause));
        }
        is_news
    }
}
