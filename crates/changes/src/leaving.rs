//! Rows that leave what a binding is shown: an UPDATE after which the filter holds no more, or the row is hidden
//! (decision 19).
//!
//! Whether the row was shown is decided on what the change tells of it as it was. Postgres knows rows as they are only,
//! so what it alone can decide counts as not shown: nobody is told of a row that may have been hidden from him.

use crate::claims::IdentityRef;
use crate::condition::Truth;
use crate::index::{Index, Listener, ListenerKey};
use crate::policy::{Access, Verdict};
use crate::row::{OldRow, old_value};
use crate::table::{Part, Pending};
use crate::view::View;
use crate::visibility::Visibility;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use walcast_replication::{Action, Change};

/// Those that want to know and whose filter held for the row as it was, or may have.
pub(crate) fn find(
    view: &View,
    listeners: &Index,
    change: &Change,
    part: impl Fn(&Arc<Listener>, Truth) -> Option<Part>,
) -> Vec<Part> {
    let mut leaving = Vec::new();
    if !listeners.has_leaving() || !matches!(change.action, Action::Update { .. }) {
        return leaving;
    }
    let value = |column: &str| old_value(change, view.position(column)?);
    listeners.find_leaving(&OldRow { view, change }, value, |listener, truth| {
        leaving.extend(part(listener, truth).map(|part| Part { of_old: true, ..part }));
    });
    leaving
}

/// Keeps those who were certainly shown the row.
pub(crate) fn retain_shown(view: &View, mode: Visibility, change: &mut Pending) {
    let row = OldRow {
        view,
        change: &change.item.change,
    };
    let mut decided: HashMap<IdentityRef, bool> = HashMap::new();
    change.leaving.retain(|part| {
        *decided.entry(part.identity.clone()).or_insert_with(|| {
            let role = view.role(&part.identity.0.claims.role);
            match role.filter(|role| role.sees_key).map(|role| &role.access) {
                Some(Access::NoRls) => true,
                Some(Access::Compiled(program)) if mode == Visibility::Compiled => {
                    program.evaluate(&row, part.identity.0.view()) == Verdict::Visible
                }
                _ => false,
            }
        })
    });
}

/// Takes out those of whom it is not known whether they are shown the row still: whose part is `unclear`.
pub(crate) fn withdraw(leaving: &mut Vec<Part>, parts: &[Part], unclear: impl Fn(&Part) -> bool) {
    retain_gone(leaving, parts.iter().filter(|part| unclear(part)));
}

/// Takes out those who are shown the row still.
pub(crate) fn retain_gone<'a>(leaving: &mut Vec<Part>, staying: impl IntoIterator<Item = &'a Part>) {
    if leaving.is_empty() {
        return;
    }
    let staying: HashSet<ListenerKey> = staying.into_iter().map(Part::key).collect();
    leaving.retain(|part| !staying.contains(&part.key()));
}
