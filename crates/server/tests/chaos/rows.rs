//! What a client is told of rows, over all its joins.

use serde::Deserialize;
use tokio::time::Instant;
use walcast_client::{Change, System};

use crate::town::HEARD;
use crate::writer::Sent;

/// The cause of a notice that is not followed by a word that all is well, for it is about the past alone.
const ABOUT_THE_PAST: &str = "`since`";

#[derive(Deserialize)]
struct Data<'a> {
    table: &'a str,
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    n: u64,
    owner: Option<String>,
}

/// The rows of one user, each number of a table once and in order; or a word that some may be missing.
pub(crate) struct Rows {
    owner: &'static str,
    /// Of the last that was told; what the next join says in `since`.
    position: Option<(u64, String)>,
    /// The last number of each table.
    last: [Option<u64>; HEARD.len()],
    /// What was sent before may be missing: whoever had the word has read the tables.
    excused_until: Option<Instant>,
    /// A word was had that some may be missing, and none since that all is well.
    is_interrupted: bool,
    pub(crate) told: u64,
    pub(crate) missed: u64,
    pub(crate) words: u64,
}

impl Rows {
    pub(crate) fn of(owner: &'static str) -> Self {
        Self {
            owner,
            position: None,
            last: Default::default(),
            excused_until: None,
            is_interrupted: false,
            told: 0,
            missed: 0,
            words: 0,
        }
    }

    /// What a binding says in `since`.
    pub(crate) fn since(&self) -> Option<&str> {
        self.position.as_ref().map(|(_, position)| position.as_str())
    }

    /// The last number of each table.
    pub(crate) fn last(&self) -> Vec<u64> {
        self.last.iter().map(|last| last.unwrap_or(0)).collect()
    }

    /// A new join begins.
    pub(crate) fn begin(&mut self) {
        self.resume();
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_interrupted) {
            self.excused_until = Some(Instant::now());
        }
    }

    /// Fails with what should not be.
    pub(crate) fn hear(&mut self, change: &Change, sent: &Sent) -> Result<(), String> {
        let text = change.data.get();
        let data: Data<'_> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let position = change.position.as_deref().ok_or("a change without a position")?;
        let place = place(position).ok_or_else(|| format!("no position: {position}"))?;
        if let Some((last, before)) = &self.position
            && place <= *last
        {
            return Err(format!("a change at {position} after one at {before}: {text}"));
        }
        self.position = Some((place, position.to_owned()));
        if data.record.owner.is_some_and(|owner| owner != self.owner) {
            return Err(format!("the row of another: {text}"));
        }
        self.told += 1;
        let (table, number) = (data.table, data.record.n);
        let at = HEARD.iter().position(|name| *name == table);
        let at = at.ok_or("a table that was not asked for")?;
        let Some(last) = self.last[at].replace(number) else {
            return Ok(());
        };
        if number <= last {
            return Err(format!("{number} of {table} after {last}, at {position}"));
        }
        self.missed += number - last - 1;
        let is_excused = self.is_interrupted || {
            let newest_sent = sent.at(table, number - 1);
            number == last + 1 || self.excused_until.is_some_and(|until| newest_sent <= until)
        };
        is_excused.then_some(()).ok_or_else(|| {
            let (first, newest) = (last + 1, number - 1);
            format!("{first} to {newest} of {table} are missing without a word, before {position}")
        })
    }

    /// Takes a `system` message into account.
    pub(crate) fn learn(&mut self, system: &System) {
        if system.extension != "postgres_changes" {
            return;
        }
        if system.status == "ok" {
            self.resume();
            return;
        }
        self.words += 1;
        self.excused_until = Some(Instant::now());
        self.is_interrupted |= !system.message.contains(ABOUT_THE_PAST);
    }
}

/// `16/B374D848:3` as a number that grows: half of it is enough for these logs.
fn place(position: &str) -> Option<u64> {
    let (commit, index) = position.split_once(':')?;
    let (high, low) = commit.split_once('/')?;
    let commit = u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?;
    Some(commit << 16 | index.parse::<u64>().ok()?)
}
