//! Deleted rows under row security, where a server is told to check them (decision 19).
//!
//! Postgres cannot be asked about a row that is gone, so only policies that are decided in process count, and only on
//! what the change tells of the row.

use crate::claims::IdentityRef;
use crate::policy::{Access, Verdict};
use crate::row::OldRow;
use crate::table::Pending;
use crate::view::View;
use std::collections::HashMap;

/// Removes the parts whose identity could not see the deleted row, or of which that cannot be told.
pub(crate) fn retain_visible(view: &View, change: &mut Pending) {
    let row = OldRow {
        view,
        change: &change.item.change,
    };
    let mut decided: HashMap<IdentityRef, bool> = HashMap::new();
    change.parts.retain(|part| {
        *decided.entry(part.identity.clone()).or_insert_with(|| {
            match view.role(&part.identity.0.claims.role).map(|role| &role.access) {
                Some(Access::NoRls) => true,
                Some(Access::Compiled(program)) => {
                    program.evaluate(&row, part.identity.0.view()) == Verdict::Visible
                }
                Some(Access::Ask { .. } | Access::Hidden) | None => false,
            }
        })
    });
}
