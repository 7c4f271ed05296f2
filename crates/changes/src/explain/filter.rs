//! Which parts of a filter hold for the row.

use crate::clause::Clause;
use crate::condition::{Answer, Truth, TypedCondition};
use crate::engine::Context;
use crate::filter_sql;
use crate::row::filter_value;
use crate::row_read::RowRead;
use crate::view::View;
use std::collections::HashMap;
use walcast_replication::Change;

/// What is to be said of a filter.
pub(super) struct Judged {
    /// Whether the row passes; `None` if it is not known well enough.
    pub(super) passed: Option<bool>,
    /// A sentence.
    pub(super) detail: String,
}

/// Judges the filter as delivery does: here, and by Postgres where only that can.
pub(super) async fn judge(
    context: &Context,
    view: &View,
    change: &Change,
    clauses: &[Clause<TypedCondition>],
) -> Judged {
    if clauses.is_empty() {
        return Judged {
            passed: Some(true),
            detail: "there is no filter".to_owned(),
        };
    }
    let mut answers: HashMap<String, Answer> = HashMap::new();
    let mut failure = None;
    for condition in clauses.iter().flat_map(Clause::conditions) {
        let text = filter_value(view, change, &condition.condition.column).flatten();
        let Some(text) = text.filter(|text| condition.evaluate(Some(text)) == Answer::Ask) else {
            continue;
        };
        match filter_sql::hold(context.asker.pool(), condition, &[text]).await {
            Ok(held) => {
                let answer = held.first().copied().map_or(Answer::Ask, Answer::from);
                answers.insert(condition.condition.to_string(), answer);
            }
            Err(error) => {
                let condition = condition.condition.as_written();
                failure = Some(format!("{condition} could not be evaluated: {error}"));
            }
        }
    }
    let mut row = RowRead::new(|column: &str| filter_value(view, change, column));
    let failing: Vec<&Clause<TypedCondition>> = clauses
        .iter()
        .filter(|clause| {
            let truth = row.evaluate(std::slice::from_ref(*clause), |condition, _| {
                let known = answers.get(&condition.condition.to_string());
                known.copied().unwrap_or(Answer::Ask)
            });
            truth != Truth::Holds
        })
        .collect();
    if failing.is_empty() {
        return Judged {
            passed: Some(true),
            detail: "the row passes the filter".to_owned(),
        };
    }
    let words: Vec<String> = failing
        .iter()
        .map(|clause| describe(view, change, clause))
        .collect();
    let detail = failure.unwrap_or_else(|| format!("the row does not pass: {}", words.join("; ")));
    Judged {
        passed: Some(false),
        detail,
    }
}

/// A part that does not hold, without the row's values: whoever may ask may not be one who may read them.
fn describe(view: &View, change: &Change, clause: &Clause<TypedCondition>) -> String {
    let Some(condition) = clause.condition() else {
        let conditions = clause.conditions();
        let written: Vec<String> = conditions
            .iter()
            .map(|condition| condition.condition.as_written())
            .collect();
        return format!("a group of {} does not hold", written.join(", "));
    };
    let written = condition.condition.as_written();
    match filter_value(view, change, &condition.condition.column) {
        None => format!(
            "{written}, for the change does not carry {}",
            condition.condition.column
        ),
        Some(None) => format!("{written}, where the row has NULL"),
        Some(Some(_)) => format!("{written}, where the row has another value"),
    }
}
