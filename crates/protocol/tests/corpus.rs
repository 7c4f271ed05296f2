//! Replays the seeds of the fuzz targets, so that they are tried in every test run.

use std::path::Path;
use walcast_protocol::fuzzing;

type Target = fn(&[u8]);

#[test]
fn no_seed_of_the_fuzz_corpora_breaks_its_target() {
    let targets: [(&str, Target); 3] = [
        ("frame_text", fuzzing::frame_text),
        ("frame_binary", fuzzing::frame_binary),
        ("join_payload", fuzzing::join_payload),
    ];
    for (name, target) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(name);
        let mut seeds = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Shown only if the target stops the test.
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{} is empty", folder.display());
    }
}
