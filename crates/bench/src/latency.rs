//! Latencies of one run.

/// Latencies in microseconds, as measured.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn record(&mut self, us: u64) {
        self.0.push(us);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The `per_mille`-th value in milliseconds (500 = median); 0 without values.
    pub(crate) fn quantiles_ms<const N: usize>(&mut self, per_mille: [usize; N]) -> [f64; N] {
        self.0.sort_unstable();
        per_mille.map(|per_mille| {
            let last = self.0.len().saturating_sub(1);
            let us = self.0.get(last * per_mille / 1_000).copied().unwrap_or_default();
            us as f64 / 1_000.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantiles_ms([500]), [0.0]);
        (1..=100).rev().for_each(|ms| latencies.record(ms * 1_000));
        assert_eq!(
            latencies.quantiles_ms([0, 500, 990, 1_000]),
            [1.0, 50.0, 99.0, 100.0]
        );
    }
}
