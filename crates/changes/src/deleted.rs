//! Deleted rows under row security, where a server is told to check them (decision 19).
//!
//! Postgres cannot be asked about a row that is gone, so only policies that are decided in process count, and only on
//! what the change tells of the row.

use crate::catalog::TableFacts;
use crate::claims::IdentityRef;
use crate::diagnosis::identifier;
use crate::policy::{Access, Verdict};
use crate::row::DeletedRow;
use crate::table::Pending;
use crate::view::View;
use std::collections::HashMap;

/// Removes the parts whose identity could not see the deleted row, or of which that cannot be told.
pub(crate) fn retain_visible(view: &View, change: &mut Pending) {
    let row = DeletedRow {
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

/// Why deleted rows are hidden from a role whatever they held, or may be, with the remedy.
pub(crate) fn hides(access: &Access, facts: &TableFacts) -> Option<String> {
    let table = format!("{}.{}", identifier(&facts.schema), identifier(&facts.name));
    match access {
        Access::NoRls => None,
        Access::Hidden => Some(format!("no policy of {table} lets it select: create one")),
        Access::Ask { reason } => Some(format!(
            "whether it could see a row that is gone cannot be decided, since {reason}: simplify it"
        )),
        Access::Compiled(_) if facts.is_identity_full => None,
        Access::Compiled(_) => Some(format!(
            "of a row that is gone only the replica identity is known, and the policies of {table} may need more: alter table {table} replica identity full"
        )),
    }
}
