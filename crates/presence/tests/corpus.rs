//! The corpus of the fuzz target `presence_report`: presences as nodes report them, and bad ones made by hand.

use walcast_presence::fuzzing;
use walcast_testkit::replay_corpus;

#[test]
fn presences_are_understood_and_bad_ones_refused() {
    let verdicts = replay_corpus("presence_report", fuzzing::presence_report);
    assert!(verdicts.good >= 6 && verdicts.bad >= 9, "{verdicts:?}");
}
