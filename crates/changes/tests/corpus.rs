//! The corpora of the fuzz targets for filters, bindings and policies, replayed.
#![allow(clippy::unwrap_used, reason = "a broken fact may stop a test")]

use std::path::Path;
use walcast_changes::fuzzing;

/// The name of a fuzz target and what it does with an input.
type Target = (&'static str, fn(&[u8]));

#[test]
fn what_the_fuzzer_knows_is_read_or_refused() {
    let targets: [Target; 3] = [
        ("filter", fuzzing::filter),
        ("binding", fuzzing::binding),
        ("policy_expression", fuzzing::policy_expression),
    ];
    for (name, target) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(name);
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            // Cut anywhere, too.
            for length in 0..=seed.len() {
                target(&seed[..length]);
            }
            seeds += 1;
        }
        assert!(seeds >= 9, "{name}: only {seeds} seeds");
    }
}
