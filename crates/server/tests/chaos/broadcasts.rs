//! What members say to each other.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use walcast_client::System;

/// A word that messages may be missing comes when the nodes are in touch again, which may be behind the first message
/// after those; but not so late.
const WORD_LIMIT: Duration = Duration::from_secs(10);

/// A member, and how many joins it had had when it spoke.
pub(crate) type Speaker = (usize, u32);

/// Which messages were answered `ok`.
#[derive(Default)]
pub(crate) struct Answered(Mutex<HashMap<Speaker, Vec<u64>>>);

impl Answered {
    pub(crate) fn add(&self, speaker: Speaker, number: u64) {
        self.0.lock().unwrap().entry(speaker).or_default().push(number);
    }

    fn has(&self, speaker: Speaker, number: u64) -> bool {
        let answered = self.0.lock().unwrap();
        answered
            .get(&speaker)
            .is_some_and(|numbers| numbers.contains(&number))
    }
}

/// A message that did not come.
struct Missing {
    since: Instant,
    speaker: Speaker,
    number: u64,
}

/// The messages of one join.
#[derive(Default)]
pub(crate) struct Broadcasts {
    last: HashMap<Speaker, (u64, Instant)>,
    missing: Vec<Missing>,
    word_at: Option<Instant>,
    pub(crate) heard: u64,
    pub(crate) missed: u64,
}

impl Broadcasts {
    /// Fails with what should not be.
    pub(crate) fn hear(&mut self, speaker: Speaker, number: u64) -> Result<(), String> {
        let now = Instant::now();
        self.heard += 1;
        let Some((last, last_at)) = self.last.insert(speaker, (number, now)) else {
            return Ok(());
        };
        if number <= last {
            return Err(format!("message {number} of {speaker:?} after {last}"));
        }
        if self.word_at.is_some_and(|word_at| word_at >= last_at) {
            self.missed += number - last - 1;
            return Ok(());
        }
        self.missing.extend((last + 1..number).map(|number| Missing {
            since: now,
            speaker,
            number,
        }));
        Ok(())
    }

    /// Takes a `system` message into account.
    pub(crate) fn learn(&mut self, system: &System) {
        if system.status == "error" && system.message.contains("may have been missed") {
            self.word_at = Some(Instant::now());
            self.missed += self.missing.len() as u64;
            self.missing.clear();
        }
    }

    /// Fails with messages that were answered `ok`, did not come, and of which nothing was said.
    pub(crate) fn judge(&mut self, answered: &Answered) -> Result<(), String> {
        let is_overdue = |missing: &mut Missing| missing.since.elapsed() > WORD_LIMIT;
        let silent: Vec<String> = self
            .missing
            .extract_if(.., is_overdue)
            .filter(|missing| answered.has(missing.speaker, missing.number))
            .map(|missing| format!("{} of {:?}", missing.number, missing.speaker))
            .collect();
        if silent.is_empty() {
            return Ok(());
        }
        Err(format!(
            "messages did not come, without a word: {}",
            silent.join(", ")
        ))
    }
}
