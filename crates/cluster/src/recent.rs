//! Publications that are kept for a while, so that who was away can ask for them.
//!
//! Those of one topic have one order on all nodes, told by their numbers, which have no holes. So a reader that names the
//! last it has heard is given the rest, or learns that some of it is gone.

use crate::node::NodeId;
use bytes::Bytes;
use std::time::Duration;

/// How much is kept of one topic. The newest publication always is, for the age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// What is older is forgotten.
    pub age: Duration,
    /// Publications, at most.
    pub entries: u64,
    /// Bytes of them, at most.
    pub bytes: u64,
}

impl Keep {
    /// For how long it is known that something was published. Nodes that learn of the same thing do so within a few
    /// seconds of each other.
    pub(crate) fn remembers(&self) -> Duration {
        self.age.max(Duration::from_secs(60))
    }
}

/// A publication that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place among those of its topic.
    pub number: u64,
    /// Who published it.
    pub origin: NodeId,
    /// When, in milliseconds since 1970-01-01 UTC, by the clock of whoever keeps it.
    pub at_ms: i64,
    /// What was published.
    pub payload: Bytes,
}

/// What is kept of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// Never 0; another one than before when publications of any topic may have been lost meanwhile.
    pub epoch: u64,
    /// The number of the last publication, or the one before the first.
    pub last: u64,
    /// Those that were asked for, oldest first.
    pub kept: Vec<Kept>,
}

impl Recent {
    /// Whether all that was published after a number is among them.
    #[must_use]
    pub fn reaches(&self, after: u64) -> bool {
        let expected = self.last.checked_sub(after);
        let numbers = self.kept.iter().map(|kept| kept.number);
        expected == Some(self.kept.len() as u64)
            && numbers
                .zip(after.saturating_add(1)..)
                .all(|(found, due)| found == due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reaches_back_to_a_number_if_nothing_behind_it_is_missing() {
        let recent = |last, numbers: &[u64]| Recent {
            epoch: 1,
            last,
            kept: numbers
                .iter()
                .map(|number| Kept {
                    number: *number,
                    origin: NodeId::from_bytes([0; 16]),
                    at_ms: 0,
                    payload: Bytes::new(),
                })
                .collect(),
        };
        for (last, numbers, after, reaches) in [
            (7, &[][..], 7, true),
            (7, &[6, 7], 5, true),
            (7, &[7], 5, false),
            (7, &[6], 5, false),
            (7, &[], 5, false),
            // Begun anew since.
            (7, &[], 8, false),
            (0, &[], 0, true),
        ] {
            assert_eq!(
                recent(last, numbers).reaches(after),
                reaches,
                "{last} {numbers:?} {after}"
            );
        }
    }
}
