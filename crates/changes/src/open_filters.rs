//! Filters of a table that only Postgres can decide: each distinct condition is asked once for all changes of a
//! batch, and one that cannot be evaluated costs only the channels that asked for it (`design.md 3`, promise 5).

use crate::clause::Clause;
use crate::condition::{Answer, Truth, TypedCondition};
use crate::filter_sql;
use crate::leaving;
use crate::notice;
use crate::row_read::RowRead;
use crate::table::{Part, Pending};
use crate::view::View;
use crate::visibility::{Asker, VisibilityError};
use metrics::counter;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use walcast_replication::Change;

/// How long a condition that ran into the time limit is left alone, and how often the channels of one that fails are
/// told so.
const SUSPENDED_FOR: Duration = Duration::from_secs(30);

/// A condition as text, with its type.
type Key = (String, String);

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

/// A condition with the values it is to be evaluated for, each once, and what it is for them; `Ask` where that
/// cannot be found out.
struct Asked {
    condition: TypedCondition,
    answers: HashMap<String, Answer>,
}

/// The open conditions of a batch.
type Questions = HashMap<Key, Asked>;

impl OpenFilters {
    /// Removes the parts whose filter does not hold. Of those that stay nothing is open any more.
    pub(crate) async fn decide(&mut self, asker: &Asker, view: &View, pending: &mut [Pending]) {
        self.failed
            .retain(|_, failed| failed.since.elapsed() < SUSPENDED_FOR);
        let mut questions = questions(view, pending);
        let mut failures = HashMap::new();
        for (key, asked) in &mut questions {
            if self.failed.get(key).is_some_and(|failed| failed.is_suspended) {
                continue;
            }
            if let Err(error) = evaluate(asker, asked).await {
                failures.insert(key.clone(), error);
            }
        }
        for (key, error) in failures {
            self.report(view, &key, &questions, &error, pending);
        }
        for change in pending {
            let Pending {
                item, parts, leaving, ..
            } = change;
            let truth = |part: &Part| match part.truth {
                Truth::Ask => settled(view, &item.change, part, &questions),
                known => known,
            };
            leaving::withdraw(leaving, parts, |part| truth(part) == Truth::Ask);
            for parts in [parts, leaving] {
                parts.retain_mut(|part| {
                    let holds = truth(part) == Truth::Holds;
                    // The visibility of rows is another question.
                    part.truth = Truth::Holds;
                    holds
                });
            }
        }
    }

    fn report(
        &mut self,
        view: &View,
        key: &Key,
        questions: &Questions,
        error: &VisibilityError,
        pending: &[Pending],
    ) {
        counter!("walcast_filter_failures_total").increment(1);
        let is_suspended = error.is_timeout();
        let is_news = !self.failed.contains_key(key);
        if is_news || is_suspended {
            let failed = Failed {
                since: Instant::now(),
                is_suspended,
            };
            self.failed.insert(key.clone(), failed);
        }
        let Some(asked) = questions.get(key).filter(|_| is_news) else {
            return;
        };
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
        for change in pending {
            for part in change.all_parts().filter(|part| part.truth == Truth::Ask) {
                let asks_it =
                    || open_conditions(view, &change.item.change, part).any(|(of, _)| key_of(of) == *key);
                if settled(view, &change.item.change, part, questions) == Truth::Ask
                    && asks_it()
                    && told.insert(part.subscriber.id)
                {
                    part.subscriber.deliver(notice::missed(&part.subscriber, &cause));
                }
            }
        }
    }
}

fn key_of(condition: &TypedCondition) -> Key {
    (condition.condition.to_string(), condition.cast_type.clone())
}

/// The conditions of a part that are not decided here, with the text they are asked about.
fn open_conditions<'a>(
    view: &'a View,
    change: &'a Change,
    part: &'a Part,
) -> impl Iterator<Item = (&'a TypedCondition, &'a str)> {
    let conditions = part.listener.clauses.iter().flat_map(Clause::conditions);
    conditions.filter_map(move |condition| {
        let text = part.filter_value(view, change, &condition.condition.column)??;
        (condition.evaluate(Some(text)) == Answer::Ask).then_some((condition, text))
    })
}

/// The open conditions of all parts, each once.
fn questions(view: &View, pending: &[Pending]) -> Questions {
    let mut questions = Questions::new();
    for change in pending {
        for part in change.all_parts().filter(|part| part.truth == Truth::Ask) {
            for (condition, text) in open_conditions(view, &change.item.change, part) {
                let asked = questions.entry(key_of(condition)).or_insert_with(|| Asked {
                    condition: condition.clone(),
                    answers: HashMap::new(),
                });
                if !asked.answers.contains_key(text) {
                    asked.answers.insert(text.to_owned(), Answer::Ask);
                }
            }
        }
    }
    questions
}

/// A part's filter with what Postgres said; `Ask` where a condition that it hangs on could not be evaluated.
fn settled(view: &View, change: &Change, part: &Part, questions: &Questions) -> Truth {
    let mut row = RowRead::new(|column: &str| part.filter_value(view, change, column));
    row.evaluate(&part.listener.clauses, |condition, text| {
        let asked = questions.get(&key_of(condition));
        asked
            .and_then(|asked| asked.answers.get(text))
            .copied()
            .unwrap_or(Answer::Ask)
    })
}

/// Finds out what the condition is for each value; where some raise, for each that does not, and the first error.
async fn evaluate(asker: &Asker, asked: &mut Asked) -> Result<(), VisibilityError> {
    let condition = &asked.condition;
    let ask = |values: Vec<String>| async move {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        asker
            .patiently(|| async { filter_sql::hold(asker.pool(), condition, &values).await.map(Some) })
            .await
    };
    let values: Vec<String> = asked.answers.keys().cloned().collect();
    let error = match ask(values.clone()).await {
        Ok(answers) => {
            let answers = answers.into_iter().map(Answer::from);
            asked.answers = values.into_iter().zip(answers).collect();
            return Ok(());
        }
        Err(error) if !is_of_the_value(&error) || values.len() == 1 => return Err(error),
        Err(error) => error,
    };
    for value in values {
        match ask(vec![value.clone()]).await {
            Ok(answer) => {
                let answer = answer.first().copied().map_or(Answer::Ask, Answer::from);
                asked.answers.insert(value, answer);
            }
            Err(error) if is_of_the_value(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(error)
}

/// Class 22, data exception, or 23, a domain's check: another value may do.
fn is_of_the_value(error: &VisibilityError) -> bool {
    let is_of_class = |code: String| code.starts_with("22") || code.starts_with("23");
    error.sqlstate().is_some_and(is_of_class)
}
