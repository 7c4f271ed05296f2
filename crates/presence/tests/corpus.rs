//! The corpus of the fuzz target `presence_report`: presences as nodes report them, and bad ones made by hand.

#![allow(clippy::unwrap_used, reason = "a broken fact may stop a test")]

use std::path::Path;
use walcast_presence::fuzzing;

#[test]
fn presences_are_understood_and_bad_ones_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/presence_report");
    let (mut good, mut bad) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let bytes = std::fs::read(&path).unwrap();
        let is_bad = name.starts_with("bad-");
        assert_eq!(fuzzing::presence_report(&bytes), !is_bad, "{name}");
        *(if is_bad { &mut bad } else { &mut good }) += 1;
        // Cut anywhere, or with a bit turned, it is whatever it is, but no panic.
        for at in 0..bytes.len() {
            fuzzing::presence_report(&bytes[..at]);
            let mut turned = bytes.clone();
            turned[at] ^= 1 << (at % 8);
            fuzzing::presence_report(&turned);
        }
    }
    assert!(good >= 6 && bad >= 9, "{good} good and {bad} bad presences");
}
