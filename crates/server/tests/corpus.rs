//! The corpora of the fuzz targets for tokens, keys and the queries of streams, replayed.
#![allow(clippy::unwrap_used, reason = "a broken fact may stop a test")]

use std::path::Path;
use walcast::fuzzing;

type Target = fn(&[u8]);

#[test]
fn what_the_fuzzer_knows_is_understood_or_refused() {
    let targets: [(&str, Target); 3] = [
        ("token", fuzzing::token),
        ("key_set", fuzzing::key_set),
        ("stream_query", fuzzing::stream_query),
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
        assert!(seeds >= 12, "{name}: only {seeds} seeds");
    }
}
