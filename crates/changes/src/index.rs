//! The listeners of one table, found by what a change is: its action and the values filters compare.
//!
//! An equality filter is indexed by column and value, so ten thousand subscriptions with `user_id=eq.…` cost one
//! look-up a change. All others are found by the claims their policies ask for ([`ByClaim`]), and then by their filter,
//! one by one.

use crate::binding::EventFilter;
use crate::by_claim::ByClaim;
use crate::catalog::TextEquality;
use crate::claims::IdentityRef;
use crate::condition::{Truth, TypedCondition, normalise};
use crate::filter::Operator;
use crate::lane::Lane;
use crate::policy::{Routes, Row};
use crate::subscription::Subscriber;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ActionKind {
    Insert,
    Update,
    Delete,
}

impl ActionKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    fn heard_by(self, event: EventFilter) -> bool {
        match event {
            EventFilter::All => true,
            EventFilter::Insert => self == Self::Insert,
            EventFilter::Update => self == Self::Update,
            EventFilter::Delete => self == Self::Delete,
        }
    }
}

/// One binding of one channel on one table.
pub(crate) struct Listener {
    pub(crate) subscriber: Arc<Subscriber>,
    /// Position of the binding in the channel's request.
    pub(crate) at: usize,
    /// The public id (`protocol.md 7.1`).
    pub(crate) id: u32,
    pub(crate) event: EventFilter,
    pub(crate) conditions: Vec<TypedCondition>,
    /// Selected columns, sorted and without repetition; `None` = all.
    pub(crate) select: Option<Arc<[String]>>,
    /// Keeps commit order with the channel's other tables.
    pub(crate) lane: Arc<Lane>,
}

impl Listener {
    /// The column and value this listener is found by, if one of its conditions is an equality.
    fn indexed_by(&self) -> Option<(&str, &str)> {
        self.conditions.iter().find_map(|typed| {
            let equality = typed.condition.operator == Operator::Eq && !typed.condition.negated;
            typed
                .key
                .as_deref()
                .filter(|_| equality)
                .map(|key| (typed.condition.column.as_str(), key))
        })
    }
}

/// A subscriber's number and the position of the binding in its request.
pub(crate) type ListenerKey = (u64, usize);
pub(crate) type Listeners = HashMap<ListenerKey, Arc<Listener>>;

/// All listeners of one table.
#[derive(Default)]
pub(crate) struct Index {
    unfiltered: ByClaim,
    by_value: HashMap<String, HashMap<String, Listeners>>,
    scanned: ByClaim,
    /// Roles that came since the table's task last asked.
    new_roles: HashSet<String>,
}

impl Index {
    /// Notes that listeners of this role are here or about to be.
    pub(crate) fn expect_role(&mut self, role: &str) {
        if !self.new_roles.contains(role) {
            self.new_roles.insert(role.to_owned());
        }
    }

    pub(crate) fn has_new_roles(&self) -> bool {
        !self.new_roles.is_empty()
    }

    pub(crate) fn take_new_roles(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.new_roles)
    }

    pub(crate) fn insert(&mut self, listener: Arc<Listener>) {
        self.expect_role(&listener.subscriber.identity().0.claims.role);
        let key = (listener.subscriber.id, listener.at);
        if listener.conditions.is_empty() {
            self.unfiltered.insert(key, listener);
            return;
        }
        match listener
            .indexed_by()
            .map(|(column, value)| (column.to_owned(), value.to_owned()))
        {
            Some((column, value)) => {
                self.by_value
                    .entry(column)
                    .or_default()
                    .entry(value)
                    .or_default()
                    .insert(key, listener);
            }
            None => {
                self.scanned.insert(key, listener);
            }
        }
    }

    pub(crate) fn remove(&mut self, listener: &Listener) {
        let key = (listener.subscriber.id, listener.at);
        if listener.conditions.is_empty() {
            self.unfiltered.remove(key);
            return;
        }
        let Some((column, value)) = listener.indexed_by() else {
            self.scanned.remove(key);
            return;
        };
        if let Some(values) = self.by_value.get_mut(column) {
            if let Some(listeners) = values.get_mut(value) {
                listeners.remove(&key);
                if listeners.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_value.remove(column);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unfiltered.is_empty() && self.by_value.is_empty() && self.scanned.is_empty()
    }

    /// Lets the listeners of a subscriber be found by the identity it is about to have, too.
    pub(crate) fn expect_identity(&mut self, key: ListenerKey, next: &IdentityRef) {
        self.expect_role(&next.0.claims.role);
        self.unfiltered.expect_identity(key, next);
        self.scanned.expect_identity(key, next);
    }

    /// Lets a listener be found by the identity its subscriber has, and by no other.
    pub(crate) fn settle_identity(&mut self, key: ListenerKey) {
        self.unfiltered.settle_identity(key);
        self.scanned.settle_identity(key);
    }

    /// Roles whose listeners are found by routes.
    pub(crate) fn routed_roles(&self) -> impl Iterator<Item = &str> {
        // Both follow the same roles.
        self.unfiltered.routed_roles()
    }

    /// Whether listeners of `role` are found by these routes.
    pub(crate) fn follows(&self, role: &str, routes: Option<&Arc<Routes>>) -> bool {
        self.unfiltered.follows(role, routes)
    }

    /// From now on listeners of `role` are found by `routes`, or each of them always.
    pub(crate) fn follow(&mut self, role: &str, routes: Option<&Arc<Routes>>) {
        self.unfiltered.follow(role, routes);
        self.scanned.follow(role, routes);
    }

    /// Calls `found` for each listener of `action` whose filter holds, or that only Postgres can tell (`Truth::Ask`).
    /// Those whose policies certainly hide the row may be left out.
    /// `value` gives a column's text, `None` for NULL, and says with its outer option whether the change carries the
    /// column at all: a condition on a missing column never matches. `row` is what policies judge, if they do.
    pub(crate) fn find<'row>(
        &self,
        action: ActionKind,
        row: Option<&dyn Row>,
        value: impl Fn(&str) -> Option<Option<&'row str>>,
        mut found: impl FnMut(&Arc<Listener>, Truth),
    ) {
        self.unfiltered.concerned(row, |listener| {
            if action.heard_by(listener.event) {
                found(listener, Truth::Holds);
            }
        });
        let mut filtered = |listener: &Arc<Listener>| {
            if !action.heard_by(listener.event) {
                return;
            }
            let mut truth = Truth::Holds;
            for condition in &listener.conditions {
                match value(&condition.condition.column).map_or(Truth::Fails, |text| condition.evaluate(text))
                {
                    Truth::Fails => return,
                    Truth::Ask => truth = Truth::Ask,
                    Truth::Holds => {}
                }
            }
            found(listener, truth);
        };
        for (column, values) in &self.by_value {
            let Some(Some(text)) = value(column) else { continue };
            // A column compares in one way only, so any listener's condition tells which.
            let equality = values
                .values()
                .flat_map(HashMap::values)
                .next()
                .and_then(|listener| {
                    listener
                        .conditions
                        .iter()
                        .find(|condition| condition.condition.column == *column)
                });
            let Some(normal) = normalise(
                text,
                equality.map_or(TextEquality::Bytes, |condition| condition.equality),
            ) else {
                continue;
            };
            if let Some(listeners) = values.get(normal.as_ref()) {
                listeners.values().for_each(&mut filtered);
            }
        }
        self.scanned.concerned(row, &mut filtered);
    }

    /// Every listener of `action`, whatever its filter: who hears of a row that cannot be shown to a role at all
    /// (`protocol.md 7.5`).
    pub(crate) fn find_all(&self, action: ActionKind, mut found: impl FnMut(&Arc<Listener>)) {
        let filtered = self
            .by_value
            .values()
            .flat_map(HashMap::values)
            .flat_map(HashMap::values);
        for listener in self
            .unfiltered
            .everybody()
            .chain(self.scanned.everybody())
            .chain(filtered)
        {
            if action.heard_by(listener.event) {
                found(listener);
            }
        }
    }
}
