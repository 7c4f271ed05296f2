//! Subscriptions that name a column which is not what it was when they were made: without a word they would be silent
//! from then on (`design.md 3`, promise 7).

use crate::index::{ActionKind, Index, Listener};
use crate::notice;
use crate::retype::Unfit;
use crate::view::View;
use std::collections::HashSet;

/// A channel's binding, and what it was told.
type Told = (u64, usize, String);

/// Who has been told of which column.
#[derive(Default)]
pub(crate) struct LostColumns {
    told: HashSet<Told>,
}

impl LostColumns {
    /// Tells those whose columns are missing in a new view of their table, or have a type that their filter does not
    /// fit, once for as long as it lasts.
    pub(crate) fn tell(&mut self, view: &View, listeners: &Index, unfit: &Unfit) {
        let mut found: HashSet<Told> = HashSet::new();
        for kind in [ActionKind::Insert, ActionKind::Update, ActionKind::Delete] {
            listeners.find_all(kind, |listener| {
                for text in losses(view, listener, unfit) {
                    let told = (listener.subscriber.id, listener.at, text);
                    if !found.contains(&told) && !self.told.contains(&told) {
                        listener
                            .subscriber
                            .deliver(notice::refused(&listener.subscriber, &told.2));
                    }
                    found.insert(told);
                }
            });
        }
        self.told = found;
    }
}

fn losses(view: &View, listener: &Listener, unfit: &Unfit) -> Vec<String> {
    let table = format!("{}.{}", view.relation.schema, view.relation.name);
    let is_gone = |column: &str| view.position(column).is_none();
    let mut losses = Vec::new();
    let typed = listener.clauses.iter().flat_map(|clause| {
        let is_alone = clause.condition().is_some();
        clause
            .conditions()
            .into_iter()
            .map(move |typed| (typed, is_alone))
    });
    for (typed, is_alone) in typed {
        let column = &typed.condition.column;
        if is_gone(column) {
            let outcome = if is_alone {
                "no change passes the filter on it"
            } else {
                "that part of the filter never holds"
            };
            losses.push(format!(
                "table {table} has no column {column} any more, or does not publish it, so {outcome}"
            ));
        } else if view.has_another_type(typed) {
            let reason = unfit.get(&(listener.subscriber.id, listener.at));
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            losses.push(format!(
                "column {column} of table {table} has another type than when the filter on it was checked, which does not fit that type{reason}: subscribe again"
            ));
        }
    }
    for column in listener.select.iter().flat_map(|columns| columns.iter()) {
        if is_gone(column) {
            losses.push(format!(
                "table {table} has no column {column} any more, or does not publish it, so what is selected comes without it"
            ));
        }
    }
    losses
}
