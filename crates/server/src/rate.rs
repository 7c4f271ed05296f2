//! How much happens a second, on average over the last minute (`protocol.md 9`).
//!
//! Counted in buckets of five seconds, twelve at most, and judged when a bucket ends: bursts far above a limit pass
//! until then, as in the reference.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::Response;

/// Length of a bucket. Whoever owns the rates calls [`Rate::tick`] this often.
pub const BUCKET: Duration = Duration::from_secs(5);
const BUCKETS: usize = 12;
/// After this many empty buckets a new count begins.
const IDLE_BUCKETS: usize = 60;

/// Tells who asked too much when it is worth while to ask again: not before it is judged anew.
pub(crate) fn retry_after(response: &mut Response) {
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, BUCKET.as_secs().into());
    }
}

/// Above what can be counted.
const NO_LIMIT: u64 = u64::MAX;

fn stored(limit: Option<usize>) -> u64 {
    limit.map_or(NO_LIMIT, |limit| limit as u64)
}

/// Something that is counted, and perhaps limited.
pub struct Rate {
    /// Average a second at which it counts as exceeded; [`NO_LIMIT`] is none.
    limit: AtomicU64,
    current: AtomicU64,
    past: Mutex<Past>,
    exceeded: AtomicBool,
    /// Average of this node, in thousandths.
    own: AtomicU64,
    /// The sum of the averages of other nodes, in thousandths.
    elsewhere: AtomicU64,
}

#[derive(Default)]
struct Past {
    buckets: VecDeque<u64>,
    idle: usize,
}

/// What a tick changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    None,
    /// The limit is exceeded now.
    Exceeded,
    /// It no longer is.
    Recovered,
}

impl Rate {
    /// A rate with a limit in events a second.
    #[must_use]
    pub fn new(limit: Option<usize>) -> Self {
        Self {
            limit: AtomicU64::new(stored(limit)),
            current: AtomicU64::default(),
            past: Mutex::default(),
            exceeded: AtomicBool::default(),
            own: AtomicU64::default(),
            elsewhere: AtomicU64::default(),
        }
    }

    /// Takes another limit. If it is one, the count begins anew (`database.md 8.4`).
    pub fn set_limit(&self, limit: Option<usize>) {
        if self.limit.swap(stored(limit), Ordering::Relaxed) == stored(limit) {
            return;
        }
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        *past = Past::default();
        self.current.store(0, Ordering::Relaxed);
        self.own.store(0, Ordering::Relaxed);
        self.exceeded.store(false, Ordering::Relaxed);
    }

    /// Counts some events.
    pub fn count(&self, events: usize) {
        self.current.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Whether the limit was reached when it was judged last.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Events a second on all nodes, on average, at the last tick.
    #[must_use]
    pub fn average(&self) -> f64 {
        // Far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let thousandths = self.thousandths() as f64;
        thousandths / 1000.0
    }

    /// As [`Self::average`], without the fraction.
    #[must_use]
    pub fn average_floor(&self) -> u64 {
        self.thousandths() / 1000
    }

    /// Whether a limit stands, and this many events more would pass it.
    #[must_use]
    pub fn would_exceed(&self, more: usize) -> bool {
        let Some(limit) = self.limit() else { return false };
        self.thousandths()
            .saturating_add((more as u64).saturating_mul(1000))
            > limit.saturating_mul(1000)
    }

    /// The average of this node at the last tick, in thousandths of an event a second.
    #[must_use]
    pub fn own_thousandths(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    fn thousandths(&self) -> u64 {
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        self.own_thousandths().saturating_add(elsewhere)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != NO_LIMIT)
    }

    /// Ends a bucket.
    pub fn tick(&self) -> Turn {
        let bucket = self.current.swap(0, Ordering::Relaxed);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.idle = if bucket == 0 { past.idle + 1 } else { 0 };
        if past.idle > IDLE_BUCKETS {
            past.buckets.clear();
        } else {
            past.buckets.push_back(bucket);
        }
        if past.buckets.len() > BUCKETS {
            past.buckets.pop_front();
        }
        let seconds = (past.buckets.len() as u64 * BUCKET.as_secs()).max(1);
        let thousandths = past.buckets.iter().sum::<u64>().saturating_mul(1000) / seconds;
        self.own.store(thousandths, Ordering::Relaxed);
        drop(past);
        self.judge()
    }

    /// Judges again with what other nodes count, in thousandths of an event a second.
    pub fn judge_with(&self, elsewhere_thousandths: u64) -> Turn {
        self.elsewhere.store(elsewhere_thousandths, Ordering::Relaxed);
        self.judge()
    }

    fn judge(&self) -> Turn {
        let exceeded = self
            .limit()
            .is_some_and(|limit| self.thousandths() >= limit.saturating_mul(1000));
        match (self.exceeded.swap(exceeded, Ordering::Relaxed), exceeded) {
            (false, true) => Turn::Exceeded,
            (true, false) => Turn::Recovered,
            _ => Turn::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_judged_on_the_average_when_a_bucket_ends() {
        let rate = Rate::new(Some(10));
        rate.count(1000);
        assert!(!rate.is_exceeded());
        assert_eq!(rate.tick(), Turn::Exceeded);
        assert!((rate.average() - 200.0).abs() < 1e-9);
        assert_eq!(rate.tick(), Turn::None);
        assert!((rate.average() - 100.0).abs() < 1e-9);
        // 1000 events in twelve buckets are 16.7 a second; in the thirteenth they are forgotten.
        for _ in 0..10 {
            assert_eq!(rate.tick(), Turn::None);
        }
        assert!(rate.is_exceeded());
        assert_eq!(rate.tick(), Turn::Recovered);
    }

    #[test]
    fn the_limit_itself_is_too_much_and_one_less_is_not() {
        for (events, expected) in [(50, Turn::Exceeded), (49, Turn::None)] {
            let rate = Rate::new(Some(10));
            rate.count(events);
            assert_eq!(rate.tick(), expected);
        }
    }

    #[test]
    fn what_other_nodes_count_is_judged_with_it() {
        let rate = Rate::new(Some(10));
        rate.count(40);
        assert_eq!(rate.tick(), Turn::None);
        assert_eq!(rate.judge_with(1_999), Turn::None);
        assert_eq!(rate.judge_with(2_000), Turn::Exceeded);
        assert_eq!((rate.average_floor(), rate.own_thousandths()), (10, 8_000));
        assert!(rate.would_exceed(1) && !rate.would_exceed(0));
        assert_eq!(rate.judge_with(0), Turn::Recovered);
    }

    #[test]
    fn without_a_limit_nothing_is_exceeded() {
        let rate = Rate::new(None);
        rate.count(1_000_000);
        assert_eq!(rate.tick(), Turn::None);
        assert!(!rate.would_exceed(1_000_000));
    }

    #[test]
    fn a_batch_is_judged_with_what_it_adds() {
        let rate = Rate::new(Some(10));
        rate.count(25);
        rate.tick();
        assert!(!rate.would_exceed(5));
        assert!(rate.would_exceed(6));
    }

    #[test]
    fn with_another_limit_the_count_begins_anew() {
        let rate = Rate::new(Some(10));
        rate.count(1000);
        assert_eq!(rate.tick(), Turn::Exceeded);
        rate.set_limit(Some(10));
        assert!(rate.is_exceeded(), "the limit is the same");
        rate.set_limit(Some(20));
        assert!(!rate.is_exceeded());
        assert_eq!((rate.average_floor(), rate.limit()), (0, Some(20)));
        rate.count(99);
        assert_eq!(rate.tick(), Turn::None);
        rate.set_limit(None);
        rate.count(1_000_000);
        assert_eq!((rate.tick(), rate.limit()), (Turn::None, None));
    }

    #[test]
    fn after_five_idle_minutes_the_count_begins_anew() {
        let rate = Rate::new(Some(10));
        for _ in 0..=IDLE_BUCKETS {
            rate.tick();
        }
        rate.count(50);
        assert_eq!(rate.tick(), Turn::Exceeded);
    }
}
