//! The rows of a batch that only Postgres can decide, as one question to it, and its answer put back in the order of
//! the batch.

use crate::claims::IdentityRef;
use crate::engine::Context;
use crate::row::new_value;
use crate::table::{Item, Pending};
use crate::verify::Verification;
use crate::view::View;
use crate::visibility::{Answer, Question, VisibilityError};
use metrics::{counter, histogram};
use std::collections::HashMap;
use std::time::Instant;
use tracing::Instrument;
use walcast_replication::Change;

/// A question about changes of a batch.
pub(crate) struct Asking {
    question: Question,
    /// Position in the batch of each row of the question, ascending.
    positions: Vec<usize>,
    /// What was decided here, to be compared with the answer.
    verification: Option<Verification>,
}

impl Asking {
    /// `asked` are positions in the batch by who asks, ascending. `None` when there is nothing to ask: nobody does, or
    /// no row can be found.
    pub(crate) fn new(
        view: &View,
        batch: &[Pending],
        asked: HashMap<IdentityRef, Vec<usize>>,
        verification: Option<Verification>,
    ) -> Option<Self> {
        let probe = view.probe.clone()?;
        let mut concerned: Vec<usize> = asked.values().flatten().copied().collect();
        concerned.sort_unstable();
        concerned.dedup();
        let mut positions = Vec::with_capacity(concerned.len());
        let mut rows = Vec::with_capacity(concerned.len());
        let mut xids: Vec<u32> = Vec::new();
        for at in concerned {
            let item = batch.get(at).map(|pending| &pending.item);
            // A key column that was dropped or renamed meanwhile: the row cannot be found, so nobody sees it. Nor is a
            // version to be had of which it is known that it is not the row's any more.
            if let Some(Item { change, .. }) = item.filter(|item| !item.is_superseded)
                && let Some(key) = key(view, change)
            {
                positions.push(at);
                rows.push(key);
                xids.push(change.transaction.xid);
            }
        }
        xids.sort_unstable();
        xids.dedup();
        let asked: HashMap<IdentityRef, Vec<usize>> = asked
            .into_iter()
            .map(|(identity, at)| {
                let numbers = at.iter().filter_map(|at| positions.binary_search(at).ok());
                (identity, numbers.collect::<Vec<_>>())
            })
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        (!asked.is_empty()).then(|| Self {
            question: Question {
                probe,
                key_columns: view.key_at.len(),
                rows,
                asked,
                xids,
            },
            positions,
            verification,
        })
    }

    /// Asks, and again while it is too early or Postgres is away.
    pub(crate) async fn run(self, context: &Context) -> Result<Answer, VisibilityError> {
        let started = Instant::now();
        let (rows, identities) = (self.question.rows.len(), self.question.asked.len());
        let span = tracing::info_span!("visibility", rows, identities);
        let answer = context.asker.ask(&self.question).instrument(span).await;
        counter!("walcast_visibility_calls_total").increment(1);
        counter!("walcast_visibility_identities_total").increment(self.question.asked.len() as u64);
        histogram!("walcast_visibility_call_seconds").record(started.elapsed().as_secs_f64());
        let mut answer = answer?;
        for rows in answer.seen.values_mut() {
            // Ascending as well, so what was sorted stays so.
            rows.retain_mut(|row| {
                let position = self.positions.get(*row);
                position.is_some_and(|at| {
                    *row = *at;
                    true
                })
            });
        }
        if let Some(verification) = self.verification {
            verification.compare(context, &answer).await;
        }
        Ok(answer)
    }
}

/// The key texts of a change's row. `None`: a key column was dropped or renamed meanwhile.
pub(crate) fn key(view: &View, change: &Change) -> Option<Vec<String>> {
    let text = |at: &Option<usize>| new_value(change, (*at)?).flatten().map(str::to_owned);
    view.key_at.iter().map(text).collect()
}
