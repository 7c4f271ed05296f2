//! Filters on columns that have another type than when they were checked: they are checked anew, as at a subscription,
//! and go on by the new type where they fit it.

use crate::binding::Binding;
use crate::clause::Clause;
use crate::condition::TypedCondition;
use crate::engine::Context;
use crate::error::SubscribeError;
use crate::index::{ActionKind, Listener, ListenerKey};
use crate::registry::Table;
use crate::validate;
use crate::view::View;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

/// Listeners whose filter does not fit the table as it is now, with the reason.
pub(crate) type Unfit = HashMap<ListenerKey, String>;

/// A filter in the types of the table, or why there is none.
type Checked = Result<Vec<Clause<TypedCondition>>, String>;

/// Gives the table's listeners filters in the types that the view has. Equal filters are checked once; those that
/// cannot be made to fit stay as they are. Once the database cannot be asked, it is not asked for each of the others.
pub(crate) async fn retype(context: &Context, view: &View, table: &Table) -> Unfit {
    let mut checked: HashMap<(String, String), Checked> = HashMap::new();
    let mut unasked: Option<String> = None;
    let mut unfit = Unfit::new();
    for listener in outdated(view, table) {
        let Some((_, binding)) = listener.subscriber.bindings.get(listener.at) else {
            continue;
        };
        let role = listener.subscriber.identity().0.claims.role.clone();
        let outcome = match (checked.entry((role, format!("{:?}", binding.clauses))), &unasked) {
            (Entry::Occupied(known), _) => known.into_mut(),
            (Entry::Vacant(new), Some(reason)) => new.insert(Err(reason.clone())),
            (Entry::Vacant(new), None) => {
                let outcome = typed(context, view, binding, &new.key().0).await;
                new.insert(outcome.map_err(|error| match error {
                    SubscribeError::Rejected { exception, .. } => exception,
                    error => unasked.insert(error.to_string()).clone(),
                }))
            }
        };
        match outcome {
            Ok(clauses) => context
                .registry
                .refilter(table, view.facts.oid, &listener, clauses.clone()),
            Err(reason) => {
                unfit.insert((listener.subscriber.id, listener.at), reason.clone());
            }
        }
    }
    unfit
}

/// The filter of a binding in the view's types.
async fn typed(
    context: &Context,
    view: &View,
    binding: &Binding,
    role: &str,
) -> Result<Vec<Clause<TypedCondition>>, SubscribeError> {
    let selectable = context.selectable(binding, view.facts.oid, role).await?;
    validate::clauses(&context.pool, binding, &view.facts, &selectable).await
}

/// Those who filter by a column that has another type now.
fn outdated(view: &View, table: &Table) -> Vec<Arc<Listener>> {
    let mut found: HashMap<ListenerKey, Arc<Listener>> = HashMap::new();
    let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
    for kind in [ActionKind::Insert, ActionKind::Update, ActionKind::Delete] {
        listeners.find_all(kind, |listener| {
            let mut conditions = listener.clauses.iter().flat_map(Clause::conditions);
            if conditions.any(|typed| view.has_another_type(typed)) {
                found.insert((listener.subscriber.id, listener.at), Arc::clone(listener));
            }
        });
    }
    found.into_values().collect()
}
