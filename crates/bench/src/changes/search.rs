//! Looks for the highest rate that is kept up with: doubles it until one is not, then halves the interval.

/// An interval no wider than this part of its lower end is narrow enough.
const PRECISION: u64 = 10;
/// Whatever the rates do, the search ends.
const MAX_PROBES: u32 = 40;

/// Rates a second that were tried.
pub(super) struct Search {
    first: u64,
    highest_kept: Option<u64>,
    lowest_missed: Option<u64>,
    probes: u32,
}

impl Search {
    pub(super) fn from(first: u64) -> Self {
        Self {
            first: first.max(1),
            highest_kept: None,
            lowest_missed: None,
            probes: 0,
        }
    }

    /// The rate to try next; `None` when the search is over.
    pub(super) fn next(&self) -> Option<u64> {
        if self.probes == MAX_PROBES {
            return None;
        }
        match (self.highest_kept, self.lowest_missed) {
            (None, None) => Some(self.first),
            (Some(kept), None) => kept.checked_mul(2),
            (None, Some(missed)) => Some(missed / 2).filter(|rate| *rate > 0),
            (Some(kept), Some(missed)) => {
                let gap = missed.saturating_sub(kept);
                (gap > 1 && gap > kept / PRECISION).then_some(kept + gap / 2)
            }
        }
    }

    /// Says whether a rate was kept up with.
    pub(super) fn tried(&mut self, rate: u64, is_kept: bool) {
        self.probes += 1;
        if is_kept {
            self.highest_kept = Some(rate.max(self.highest_kept.unwrap_or_default()));
        } else {
            self.lowest_missed = Some(rate.min(self.lowest_missed.unwrap_or(u64::MAX)));
        }
    }

    /// The highest rate that was kept up with.
    pub(super) fn found(&self) -> Option<u64> {
        self.highest_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: u64, limit: u64) -> (Option<u64>, u32) {
        let mut search = Search::from(first);
        while let Some(rate) = search.next() {
            search.tried(rate, rate <= limit);
        }
        (search.found(), search.probes)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for (first, limit) in [(20, 7_777), (10_000, 7_777), (20, 20), (64, 1), (1, 1_000_000)] {
            let (found, probes) = search(first, limit);
            let found = found.unwrap_or_default();
            assert!(
                found <= limit && found + found / PRECISION + 1 >= limit,
                "{found} of {limit}"
            );
            assert!(probes < MAX_PROBES);
        }
    }

    #[test]
    fn a_search_without_a_limit_or_below_it_ends() {
        assert_eq!(search(1, u64::MAX).1, MAX_PROBES);
        assert_eq!(search(8, 0), (None, 4));
    }
}
