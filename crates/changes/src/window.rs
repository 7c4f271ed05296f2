//! The recent changes of tables somebody listens to or did a moment ago, so that a channel that comes back gets what
//! it missed.
//!
//! A table is covered from its first listener on, and for the window's age after its last one left: a client that
//! lost its connection finds its table still covered. The window tells exactly from where on it knows everything.

use crate::position::{Position, Since};
use metrics::gauge;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use walcast_replication::{Change, Lsn};

/// What keeping a change costs besides its rows.
const OVERHEAD_BYTES: usize = 256;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Changes older than this are forgotten; zero keeps none.
    pub age: Duration,
    /// Memory for changes, all tables together.
    pub bytes: usize,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(120),
            bytes: 32 * 1024 * 1024,
        }
    }
}

/// A moment of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) position: Position,
    /// Commit time in microseconds since 1970-01-01 UTC.
    pub(crate) commit_timestamp_us: i64,
}

impl Moment {
    pub(crate) fn of(change: &Change) -> Self {
        Self {
            position: Position::of(change),
            commit_timestamp_us: change.transaction.commit_timestamp_us,
        }
    }

    /// Whether `since` asks for it. What it does not ask for lies before all that it does.
    pub(crate) fn is_wanted(self, since: Since) -> bool {
        match since {
            Since::Timestamp(at_ms) => self.commit_timestamp_us.div_euclid(1_000) >= at_ms,
            Since::Position(position) => self.position > position,
        }
    }
}

/// What a listener of a channel that came back wants to hear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) since: Since,
    /// What was committed after this is wanted in any case, in microseconds since 1970-01-01 UTC: a database that was
    /// made anew begins its log anew.
    pub(crate) or_after_us: i64,
}

impl Wanted {
    /// Whether it wants the changes of a moment. A slot that is resumed may bring what a client has heard elsewhere.
    pub(crate) fn has(self, moment: Moment) -> bool {
        moment.is_wanted(self.since) || moment.commit_timestamp_us > self.or_after_us
    }
}

/// A change that is kept.
#[derive(Clone)]
pub(crate) struct Kept {
    /// Number in the order of dispatch.
    pub(crate) number: u64,
    pub(crate) change: Change,
    /// What it costs.
    pub(crate) bytes: usize,
    at: Instant,
}

struct Coverage {
    /// All later changes are known.
    from: Moment,
    /// Since when nobody listens any more.
    left: Option<Instant>,
}

#[derive(Default)]
struct State {
    kept: VecDeque<Kept>,
    bytes: usize,
    tables: HashMap<u32, Coverage>,
}

/// See the module.
pub(crate) struct Window {
    limits: WindowLimits,
    state: Mutex<State>,
}

impl Window {
    pub(crate) fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeps_nothing(&self) -> bool {
        self.limits.age.is_zero() || self.limits.bytes == 0
    }

    /// Somebody listens to a table: all its changes after `now` will be offered.
    pub(crate) fn cover(&self, oid: u32, now: Moment) {
        if self.keeps_nothing() {
            return;
        }
        let mut state = self.lock();
        let coverage = state.tables.entry(oid).or_insert(Coverage {
            from: now,
            left: None,
        });
        coverage.left = None;
    }

    /// Nobody listens to a table any more.
    pub(crate) fn leave(&self, oid: u32) {
        if let Some(coverage) = self.lock().tables.get_mut(&oid) {
            coverage.left = Some(Instant::now());
        }
    }

    /// Whether changes of a table are to be offered.
    pub(crate) fn covers(&self, oid: u32) -> bool {
        !self.keeps_nothing() && self.lock().tables.contains_key(&oid)
    }

    /// Takes a change, in commit order, with the number that `number` gives it. A number is given and the change kept in one
    /// step, so that who sees the one finds the other.
    pub(crate) fn keep(&self, change: &Change, number: impl FnOnce() -> u64) -> u64 {
        if self.keeps_nothing() {
            return number();
        }
        let mut state = self.lock();
        let number = number();
        if state.tables.contains_key(&change.relation.oid) {
            let bytes = OVERHEAD_BYTES + change.action.wire_bytes();
            state.kept.push_back(Kept {
                number,
                change: change.compacted(),
                bytes,
                at: Instant::now(),
            });
            state.bytes += bytes;
        }
        self.shrink(&mut state);
        number
    }

    fn shrink(&self, state: &mut State) {
        while let Some(first) = state.kept.front() {
            if state.bytes <= self.limits.bytes && first.at.elapsed() <= self.limits.age {
                break;
            }
            let Some(first) = state.kept.pop_front() else {
                break;
            };
            state.bytes -= first.bytes;
            if let Some(coverage) = state.tables.get_mut(&first.change.relation.oid) {
                coverage.from = Moment::of(&first.change);
            }
        }
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        self.shrink(&mut state);
        let age = self.limits.age;
        state
            .tables
            .retain(|_, coverage| coverage.left.is_none_or(|left| left.elapsed() <= age));
        let State { kept, tables, bytes } = &mut *state;
        kept.retain(|kept| {
            let is_covered = tables.contains_key(&kept.change.relation.oid);
            if !is_covered {
                *bytes -= kept.bytes;
            }
            is_covered
        });
        gauge!("walcast_changes_window_bytes").set(*bytes as f64);
        gauge!("walcast_changes_window_changes").set(kept.len() as f64);
    }

    /// Changes may be missing before `now`: what was kept is of no use any more.
    pub(crate) fn interrupt(&self, now: Moment) {
        let mut state = self.lock();
        state.kept.clear();
        state.bytes = 0;
        for coverage in state.tables.values_mut() {
            coverage.from = now;
        }
    }

    /// Whether everything of a table that `since` asks for is known, or comes.
    pub(crate) fn reaches(&self, oid: u32, since: Since) -> bool {
        self.lock()
            .tables
            .get(&oid)
            .is_some_and(|coverage| !coverage.from.is_wanted(since))
    }

    /// The changes of some tables from a moment on, in commit order.
    pub(crate) fn kept(&self, is_wanted: impl Fn(&Change) -> bool) -> Vec<Kept> {
        let state = self.lock();
        let wanted = state.kept.iter().filter(|kept| is_wanted(&kept.change));
        wanted.cloned().collect()
    }
}

/// Where a stream stands of which nothing was read yet.
pub(crate) fn beginning(start: Lsn, commit_timestamp_us: i64) -> Moment {
    Moment {
        position: Position::after(start),
        commit_timestamp_us,
    }
}
