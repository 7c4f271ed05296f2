//! Filters of a table that only Postgres can decide: each distinct condition is asked once for all changes of a
//! batch, and one that cannot be evaluated costs only the channels that asked for it (`design.md 3`, promise 5).

use crate::condition::{Truth, TypedCondition};
use crate::filter_sql;
use crate::notice;
use crate::row::filter_value;
use crate::table::Pending;
use crate::view::View;
use crate::visibility::{Asker, VisibilityError};
use metrics::counter;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a condition that ran into the time limit is left alone, and how often the channels of one that fails are
/// told so.
const SUSPENDED_FOR: Duration = Duration::from_secs(30);

/// A condition as text, with its type.
type Key = (String, String);

/// A part of a change: the change's position in the batch, the part's in the change.
type Place = (usize, usize);

/// What became of conditions that failed.
#[derive(Default)]
pub(crate) struct OpenFilters {
    failed: HashMap<Key, Failed>,
}

struct Failed {
    since: Instant,
    /// It takes too long: asking again with every change would hold up the other channels of the table.
    is_suspended: bool,
}

/// A condition with the values it is to be evaluated for, and where each is from.
struct Asked {
    condition: TypedCondition,
    places: Vec<Place>,
    values: Vec<String>,
}

impl OpenFilters {
    /// Removes the parts whose filter does not hold. Of those that stay nothing is open any more.
    pub(crate) async fn decide(&mut self, asker: &Asker, view: &View, pending: &mut [Pending]) {
        self.failed
            .retain(|_, failed| failed.since.elapsed() < SUSPENDED_FOR);
        let mut failing: BTreeSet<Place> = BTreeSet::new();
        for (key, asked) in questions(view, pending) {
            if self.failed.get(&key).is_some_and(|failed| failed.is_suspended) {
                failing.extend(asked.places);
                continue;
            }
            match evaluate(asker, &asked).await {
                Ok(holds) => failing.extend(
                    asked
                        .places
                        .iter()
                        .zip(holds)
                        .filter(|(_, holds)| !holds)
                        .map(|(place, _)| *place),
                ),
                Err((holds, error)) => {
                    self.report(key, &asked, &holds, &error, pending);
                    let is_hidden = |n: &usize| holds.get(*n) != Some(&Some(true));
                    failing.extend(
                        asked
                            .places
                            .iter()
                            .enumerate()
                            .filter(|(n, _)| is_hidden(n))
                            .map(|(_, place)| *place),
                    );
                }
            }
        }
        for (at, change) in pending.iter_mut().enumerate() {
            let mut part_at = 0;
            change.parts.retain_mut(|part| {
                part_at += 1;
                // The visibility of rows is another question.
                part.truth = Truth::Holds;
                !failing.contains(&(at, part_at - 1))
            });
        }
    }

    fn report(
        &mut self,
        key: Key,
        asked: &Asked,
        holds: &[Option<bool>],
        error: &VisibilityError,
        pending: &[Pending],
    ) {
        counter!("walcast_filter_failures_total").increment(1);
        let is_suspended = error.is_timeout();
        let is_news = !self.failed.contains_key(&key);
        if is_news || is_suspended {
            let failed = Failed {
                since: Instant::now(),
                is_suspended,
            };
            self.failed.insert(key, failed);
        }
        if !is_news {
            return;
        }
        let condition = asked.condition.condition.as_written();
        tracing::warn!(%error, %condition, is_suspended, "a filter could not be evaluated");
        let cause = if is_suspended {
            format!(
                "the filter {condition} took too long and is not tried for {} s",
                SUSPENDED_FOR.as_secs()
            )
        } else {
            format!("the filter {condition} could not be evaluated ({error})")
        };
        let mut told = HashSet::new();
        for (n, (at, part_at)) in asked.places.iter().enumerate() {
            if holds.get(n).is_some_and(Option::is_some) {
                continue;
            }
            let part = pending.get(*at).and_then(|change| change.parts.get(*part_at));
            if let Some(part) = part
                && told.insert(part.subscriber.id)
            {
                part.subscriber.deliver(notice::missed(&part.subscriber, &cause));
            }
        }
    }
}

/// The open conditions of all parts, each once.
fn questions(view: &View, pending: &[Pending]) -> HashMap<Key, Asked> {
    let mut questions: HashMap<Key, Asked> = HashMap::new();
    for (at, change) in pending.iter().enumerate() {
        for (part_at, part) in change.parts.iter().enumerate() {
            if part.truth != Truth::Ask {
                continue;
            }
            for condition in &part.listener.conditions {
                let value = filter_value(view, &change.item.change, &condition.condition.column).flatten();
                if condition.evaluate(value) == Truth::Ask {
                    let key = (condition.condition.to_string(), condition.cast_type.clone());
                    let asked = questions.entry(key).or_insert_with(|| Asked {
                        condition: condition.clone(),
                        places: Vec::new(),
                        values: Vec::new(),
                    });
                    asked.places.push((at, part_at));
                    asked.values.push(value.unwrap_or_default().to_owned());
                }
            }
        }
    }
    questions
}

/// Whether the condition holds for each value; or, where some raise, for each that does not, and the first error.
async fn evaluate(asker: &Asker, asked: &Asked) -> Result<Vec<bool>, (Vec<Option<bool>>, VisibilityError)> {
    let ask = |values: Vec<String>| async move {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        asker
            .patiently(|| async {
                filter_sql::hold(asker.pool(), &asked.condition, &values)
                    .await
                    .map(Some)
            })
            .await
    };
    let error = match ask(asked.values.clone()).await {
        Ok(holds) => return Ok(holds),
        Err(error) if !is_of_the_value(&error) || asked.values.len() == 1 => {
            return Err((Vec::new(), error));
        }
        Err(error) => error,
    };
    let mut holds = Vec::with_capacity(asked.values.len());
    for value in &asked.values {
        match ask(vec![value.clone()]).await {
            Ok(answer) => holds.push(answer.first().copied()),
            Err(error) if is_of_the_value(&error) => holds.push(None),
            Err(error) => return Err((holds, error)),
        }
    }
    Err((holds, error))
}

/// Class 22, data exception: another value may do.
fn is_of_the_value(error: &VisibilityError) -> bool {
    error.sqlstate().is_some_and(|code| code.starts_with("22"))
}
