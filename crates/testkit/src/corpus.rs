//! Corpora of fuzz targets, replayed in the normal test run.

use std::path::Path;

/// How many inputs of a corpus are understood and how many are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdicts {
    /// Understood.
    pub good: usize,
    /// Refused; their files are called `bad-…`.
    pub bad: usize,
}

/// Gives a target, which says whether it understands an input, everything in its corpus; and every input cut anywhere
/// or with a bit turned, which is then whatever it is, but no panic.
///
/// # Panics
/// If an input is understood and called bad, or the other way round, or the corpus cannot be read.
#[must_use]
pub fn replay_corpus(target: &str, understands: impl Fn(&[u8]) -> bool) -> Verdicts {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut verdicts = Verdicts { good: 0, bad: 0 };
    let unreadable = |error: std::io::Error| -> ! { panic!("{}: {error}", folder.display()) };
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| unreadable(error)) {
        let path = entry.unwrap_or_else(|error| unreadable(error)).path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let is_bad = name.starts_with("bad-");
        assert_eq!(understands(&bytes), !is_bad, "{name}");
        *(if is_bad {
            &mut verdicts.bad
        } else {
            &mut verdicts.good
        }) += 1;
        for (at, _) in bytes.iter().enumerate() {
            understands(bytes.get(..at).unwrap_or_default());
            let mut turned = bytes.clone();
            turned
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (at % 8));
            understands(&turned);
        }
    }
    verdicts
}
