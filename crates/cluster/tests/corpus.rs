//! The corpus of the fuzz target `envelope`: publications as nodes make them, and bad ones made by hand.

use walcast_cluster::fuzzing;
use walcast_testkit::replay_corpus;

#[test]
fn publications_are_understood_and_bad_ones_refused() {
    let verdicts = replay_corpus("envelope", fuzzing::envelope);
    assert!(verdicts.good >= 5 && verdicts.bad >= 3, "{verdicts:?}");
}
