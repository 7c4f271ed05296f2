//! How long to wait before the next attempt.

use rand::Rng;
use std::time::Duration;

const FIRST_MS: u64 = 50;
const LONGEST_MS: u64 = 2000;

/// Doubles with every failure, up to two seconds, and is spread so that not all nodes come at one instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next_ms: FIRST_MS }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next_ms = FIRST_MS;
    }

    /// After a failure.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next_ms;
        self.next_ms = (wait * 2).min(LONGEST_MS);
        Duration::from_millis(rand::rng().random_range(wait / 2..=wait))
    }
}
