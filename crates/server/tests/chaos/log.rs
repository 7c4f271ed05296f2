//! What happened, and what should not have.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// More complaints than this tell nothing new.
const COMPLAINTS_SHOWN: usize = 40;

/// A record of the run; what the processes say is in the folder.
pub(crate) struct Log {
    pub(crate) folder: PathBuf,
    started: Instant,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    lines: String,
    complaints: usize,
}

impl Log {
    pub(crate) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("walcast-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            started: Instant::now(),
            written: Mutex::default(),
        }
    }

    /// Something to know when a complaint is read.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        self.write(&mut self.written.lock().unwrap(), what.as_ref());
    }

    /// Something that must not be.
    pub(crate) fn complain(&self, what: impl AsRef<str>) {
        let mut written = self.written.lock().unwrap();
        written.complaints += 1;
        if written.complaints <= COMPLAINTS_SHOWN {
            self.write(&mut written, &format!("WRONG: {}", what.as_ref()));
        }
    }

    fn write(&self, written: &mut Written, what: &str) {
        let at = self.started.elapsed().as_secs_f64();
        writeln!(written.lines, "{at:8.3}  {what}").unwrap();
    }

    /// Passes or fails the test.
    pub(crate) fn judge(&self, seed: u64) {
        let written = self.written.lock().unwrap();
        println!("{}", written.lines);
        assert!(
            written.complaints == 0,
            "{} things went wrong with WALCAST_CHAOS_SEED={seed}; the nodes' logs are in {}",
            written.complaints,
            self.folder.display()
        );
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
