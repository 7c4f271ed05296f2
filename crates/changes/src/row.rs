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

/// A row as it was before an UPDATE or DELETE, as policies see it: as far as its identity tells.
pub(crate) struct OldRow<'a> {
    pub(crate) view: &'a View,
    pub(crate) change: &'a Change,
}

impl Row for OldRow<'_> {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        old_value(self.change, self.view.position(column)?)
    }
}

/// A column of the row as it was. `None`: the change does not tell. `Some(None)`: NULL.
pub(crate) fn old_value(change: &Change, at: usize) -> Option<Option<&str>> {
    let (tuple, is_whole) = match &change.action {
        Action::Insert { .. } => return None,
        Action::Update {
            old: Some(OldTuple::Full(tuple)),
            ..
        }
        | Action::Delete {
            old: OldTuple::Full(tuple),
        } => (tuple, true),
        Action::Update {
            old: Some(OldTuple::Key(tuple)),
            ..
        }
        | Action::Delete {
            old: OldTuple::Key(tuple),
        } => (tuple, false),
        // Postgres sends no old tuple when no column of the identity changed (`database.md 9.1`).
        Action::Update { old: None, new } => (new, false),
    };
    let is_known = is_whole || change.relation.columns.get(at)?.is_key;
    is_known.then(|| carried(tuple, None, at))?
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
    match &change.action {
        Action::Delete { .. } => old_value(change, at),
        Action::Insert { .. } | Action::Update { .. } => new_value(change, at),
    }
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
