//! The values of a change, as filters and policies see them.

use crate::policy::Row;
use crate::view::View;
use walcast_replication::{Action, Change, OldTuple, Tuple, Value};

/// A column of the new row. `None`: the change does not carry it. `Some(None)`: NULL.
pub(crate) fn new_value(change: &Change, at: usize) -> Option<Option<&str>> {
    match &change.action {
        Action::Insert { new } => carried(new, None, at),
        Action::Update {
            old: Some(OldTuple::Full(old)),
            new,
        } => carried(new, Some(old), at),
        Action::Update { new, .. } => carried(new, None, at),
        Action::Delete { .. } => None,
    }
}

/// The new row, as policies see it.
pub(crate) struct NewRow<'a> {
    pub(crate) view: &'a View,
    pub(crate) change: &'a Change,
}

impl Row for NewRow<'_> {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        new_value(self.change, self.view.position(column)?)
    }
}

/// A deleted row, as far as it is known: its identity.
pub(crate) struct DeletedRow<'a> {
    pub(crate) view: &'a View,
    pub(crate) change: &'a Change,
}

impl Row for DeletedRow<'_> {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        match &self.change.action {
            Action::Delete { .. } => filter_value(self.view, self.change, column),
            Action::Insert { .. } | Action::Update { .. } => None,
        }
    }
}

/// A column's value; one that an UPDATE left alone out of line is taken from the old row where that is whole.
pub(crate) fn carried<'a>(tuple: &'a Tuple, old: Option<&'a Tuple>, at: usize) -> Option<Option<&'a str>> {
    match tuple.get(at)? {
        Value::Text(text) => Some(Some(text)),
        Value::Null => Some(None),
        Value::UnchangedToast => carried(old?, None, at),
    }
}

/// What filters see of a column: the new row, or of a deleted row what its identity tells (`database.md 2.6`).
pub(crate) fn filter_value<'a>(view: &View, change: &'a Change, column: &str) -> Option<Option<&'a str>> {
    let at = view.position(column)?;
    if let Action::Delete { old } = &change.action {
        let is_known = matches!(old, OldTuple::Full(_)) || change.relation.columns.get(at)?.is_key;
        return is_known.then(|| carried(old.tuple(), None, at))?;
    }
    new_value(change, at)
}

/// The size the limit of `database.md 2.9` is compared with: names, types and values of both tuples.
pub(crate) fn change_bytes(change: &Change) -> usize {
    let headings: usize = change
        .relation
        .columns
        .iter()
        .map(|column| column.name.len() + 40)
        .sum();
    headings + change.action.wire_bytes()
}
