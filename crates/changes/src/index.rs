//! The listeners of one table, found by what a change is: its action and the values filters compare.
//!
//! A filter with an equality (`eq`, `in`) is indexed by column and value, so ten thousand subscriptions with
//! `user_id=eq.…` cost one look-up a change; its other conditions are evaluated where the equality holds. All other
//! listeners are found by the claims their policies ask for ([`ByClaim`]), and then by their filter, one by one.

use crate::binding::EventFilter;
use crate::by_claim::ByClaim;
use crate::claims::IdentityRef;
use crate::clause::Clause;
use crate::condition::{Answer, Truth, TypedCondition};
use crate::lane::Lane;
use crate::policy::{Routes, Row};
use crate::row_read::RowRead;
use crate::scalar::{Family, Reading, Scalar};
use crate::subscription::Subscriber;
use crate::window::Wanted;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use walcast_replication::json::Digits;

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

    pub(crate) fn heard_by(self, event: EventFilter) -> bool {
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
    /// The filter: all must hold.
    pub(crate) clauses: Vec<Clause<TypedCondition>>,
    /// Selected columns, sorted and without repetition; `None` = all.
    pub(crate) select: Option<Arc<[String]>>,
    /// Which numbers are strings.
    pub(crate) digits: Digits,
    /// Is told, too, that a row it was shown has left what it is shown (decision 19).
    pub(crate) leave: bool,
    /// Of a channel that came back: what of it it wants.
    pub(crate) wanted: Option<Wanted>,
    /// Keeps commit order with the channel's other tables.
    pub(crate) lane: Arc<Lane>,
}

impl Listener {
    /// A subscriber's binding, by position, on one table; `digits` unless it asks for others. `None` when it has no
    /// such binding.
    pub(crate) fn new(
        subscriber: &Arc<Subscriber>,
        at: usize,
        clauses: Vec<Clause<TypedCondition>>,
        digits: Digits,
        lane: Arc<Lane>,
    ) -> Option<Self> {
        let (id, binding) = subscriber.bindings.get(at)?;
        let asked = binding.options;
        Some(Self {
            subscriber: Arc::clone(subscriber),
            at,
            id: *id,
            event: binding.event,
            clauses,
            select: binding.select.as_ref().map(|names| {
                let sorted: BTreeSet<String> = names.iter().cloned().collect();
                sorted.into_iter().collect()
            }),
            digits: Digits {
                int8: asked.int8_as_string.unwrap_or(digits.int8),
                numeric: asked.numeric_as_string.unwrap_or(digits.numeric),
            },
            // It is told as a DELETE.
            leave: asked.leave && ActionKind::Delete.heard_by(binding.event),
            wanted: binding.since.map(|since| Wanted {
                since,
                or_after_us: subscriber.joined_at_us,
            }),
            lane,
        })
    }

    /// The same with its filter in other types.
    pub(crate) fn refiltered(&self, clauses: Vec<Clause<TypedCondition>>) -> Self {
        Self {
            clauses,
            subscriber: Arc::clone(&self.subscriber),
            at: self.at,
            id: self.id,
            event: self.event,
            select: self.select.clone(),
            digits: self.digits,
            leave: self.leave,
            wanted: self.wanted,
            lane: Arc::clone(&self.lane),
        }
    }

    /// Whether changes of this kind are looked at for it. Of an UPDATE it may not hear but only want to know whether
    /// it took the row away.
    fn concerns_itself_with(&self, action: ActionKind) -> bool {
        action.heard_by(self.event) || (self.leave && action == ActionKind::Update)
    }

    /// The condition this listener is found by, with the values it has to meet one of.
    fn indexed_by(&self) -> Option<(&TypedCondition, &[Scalar<'static>])> {
        self.clauses
            .iter()
            .filter_map(Clause::condition)
            .filter_map(|typed| Some((typed, typed.only_values()?)))
            .filter(|(_, values)| !values.is_empty())
            .min_by_key(|(_, values)| values.len())
    }
}

/// A subscriber's number and the position of the binding in its request.
pub(crate) type ListenerKey = (u64, usize);
pub(crate) type Listeners = HashMap<ListenerKey, Arc<Listener>>;

/// All listeners of one table.
#[derive(Default)]
pub(crate) struct Index {
    all: Search,
    /// Those that want to know when a row leaves, to be found by what it was.
    leaving: Search,
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
        if listener.leave {
            self.leaving.insert(Arc::clone(&listener));
        }
        self.all.insert(listener);
    }

    pub(crate) fn remove(&mut self, listener: &Listener) {
        self.all.remove(listener);
        if listener.leave {
            self.leaving.remove(listener);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Lets the listeners of a subscriber be found by the identity it is about to have, too.
    pub(crate) fn expect_identity(&mut self, key: ListenerKey, next: &IdentityRef) {
        self.expect_role(&next.0.claims.role);
        self.all.expect_identity(key, next);
        self.leaving.expect_identity(key, next);
    }

    /// Lets a listener be found by the identity its subscriber has, and by no other.
    pub(crate) fn settle_identity(&mut self, key: ListenerKey) {
        self.all.settle_identity(key);
        self.leaving.settle_identity(key);
    }

    /// Roles whose listeners are found by routes.
    pub(crate) fn routed_roles(&self) -> impl Iterator<Item = &str> {
        // All follow the same roles.
        self.all.unfiltered.routed_roles()
    }

    /// Whether listeners of `role` are found by these routes.
    pub(crate) fn follows(&self, role: &str, routes: Option<&Arc<Routes>>) -> bool {
        self.all.unfiltered.follows(role, routes)
    }

    /// From now on listeners of `role` are found by `routes`, or each of them always.
    pub(crate) fn follow(&mut self, role: &str, routes: Option<&Arc<Routes>>) {
        self.all.follow(role, routes);
        self.leaving.follow(role, routes);
    }

    /// Calls `found` for each listener that `action` concerns and whose filter holds, or that only Postgres can tell
    /// (`Truth::Ask`). Those whose policies certainly hide the row may be left out.
    /// `value` gives a column's text, `None` for NULL, and says with its outer option whether the change carries the
    /// column at all: a condition on a missing column never matches. `row` is what policies judge, if they do.
    pub(crate) fn find<'names, 'row: 'names>(
        &'names self,
        action: ActionKind,
        row: Option<&dyn Row>,
        value: impl Fn(&str) -> Option<Option<&'row str>>,
        found: impl FnMut(&Arc<Listener>, Truth),
    ) {
        let is_wanted = |listener: &Listener| listener.concerns_itself_with(action);
        self.all.find(is_wanted, row, value, found);
    }

    /// Whether anybody wants to know when a row leaves.
    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// As [`Index::find`], by a row as it was before an UPDATE, each listener that wants to know when it leaves.
    pub(crate) fn find_leaving<'names, 'row: 'names>(
        &'names self,
        row: &dyn Row,
        value: impl Fn(&str) -> Option<Option<&'row str>>,
        found: impl FnMut(&Arc<Listener>, Truth),
    ) {
        self.leaving.find(|_| true, Some(row), value, found);
    }

    /// Every listener that `action` concerns, whatever its filter: who hears of a row that cannot be shown to a role
    /// at all (`protocol.md 7.5`).
    pub(crate) fn find_all(&self, action: ActionKind, mut found: impl FnMut(&Arc<Listener>)) {
        for listener in self.all.everybody() {
            if listener.concerns_itself_with(action) {
                found(listener);
            }
        }
    }
}

/// Listeners to be found by what a row is.
#[derive(Default)]
struct Search {
    unfiltered: ByClaim,
    scanned: ByClaim,
    /// Those that are found by a value, in `by_value` under each of theirs.
    indexed: Listeners,
    by_value: HashMap<(String, Family), HashMap<Scalar<'static>, Listeners>>,
}

impl Search {
    fn insert(&mut self, listener: Arc<Listener>) {
        let key = (listener.subscriber.id, listener.at);
        if listener.clauses.is_empty() {
            self.unfiltered.insert(key, listener);
            return;
        }
        let Some((condition, values)) = listener.indexed_by() else {
            self.scanned.insert(key, listener);
            return;
        };
        let by_value = self.by_value.entry(column_of(condition)).or_default();
        for value in values {
            by_value
                .entry(value.clone())
                .or_default()
                .insert(key, Arc::clone(&listener));
        }
        self.indexed.insert(key, listener);
    }

    fn remove(&mut self, listener: &Listener) {
        let key = (listener.subscriber.id, listener.at);
        if listener.clauses.is_empty() {
            self.unfiltered.remove(key);
            return;
        }
        let Some((condition, values)) = listener.indexed_by() else {
            self.scanned.remove(key);
            return;
        };
        self.indexed.remove(&key);
        let column = column_of(condition);
        let Some(by_value) = self.by_value.get_mut(&column) else {
            return;
        };
        for value in values {
            if let Some(listeners) = by_value.get_mut(value) {
                listeners.remove(&key);
                if listeners.is_empty() {
                    by_value.remove(value);
                }
            }
        }
        if by_value.is_empty() {
            self.by_value.remove(&column);
        }
    }

    fn is_empty(&self) -> bool {
        self.unfiltered.is_empty() && self.indexed.is_empty() && self.scanned.is_empty()
    }

    fn expect_identity(&mut self, key: ListenerKey, next: &IdentityRef) {
        self.unfiltered.expect_identity(key, next);
        self.scanned.expect_identity(key, next);
    }

    fn settle_identity(&mut self, key: ListenerKey) {
        self.unfiltered.settle_identity(key);
        self.scanned.settle_identity(key);
    }

    fn follow(&mut self, role: &str, routes: Option<&Arc<Routes>>) {
        self.unfiltered.follow(role, routes);
        self.scanned.follow(role, routes);
    }

    fn everybody(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.unfiltered
            .everybody()
            .chain(self.scanned.everybody())
            .chain(self.indexed.values())
    }

    fn find<'names, 'row: 'names>(
        &'names self,
        is_wanted: impl Fn(&Listener) -> bool,
        row: Option<&dyn Row>,
        value: impl Fn(&str) -> Option<Option<&'row str>>,
        mut found: impl FnMut(&Arc<Listener>, Truth),
    ) {
        self.unfiltered.concerned(row, |listener| {
            if is_wanted(listener) {
                found(listener, Truth::Holds);
            }
        });
        let mut read = RowRead::new(value);
        let mut filtered = |listener: &'names Arc<Listener>, read: &mut RowRead<'names, 'row, _>| {
            if is_wanted(listener) {
                match read.evaluate(&listener.clauses, |_, _| Answer::Ask) {
                    Truth::Fails => {}
                    truth => found(listener, truth),
                }
            }
        };
        for ((name, family), by_value) in &self.by_value {
            match read.read(name, *family) {
                // Neither NULL nor a missing column equals anything.
                None | Some((_, Reading::Null)) => {}
                Some((_, Reading::Value(value))) => {
                    let listeners = by_value.get(value).into_iter().flat_map(HashMap::values);
                    listeners.for_each(|listener| filtered(listener, &mut read));
                }
                // It is not known which value this is: whoever is found by the column may be concerned.
                Some((_, Reading::Unclear)) => self
                    .indexed
                    .values()
                    .filter(|listener| {
                        let by = listener.indexed_by().map(|(condition, _)| condition);
                        by.is_some_and(|by| by.condition.column == *name && by.family == *family)
                    })
                    .for_each(|listener| filtered(listener, &mut read)),
            }
        }
        self.scanned
            .concerned(row, |listener| filtered(listener, &mut read));
    }
}

fn column_of(condition: &TypedCondition) -> (String, Family) {
    (condition.condition.column.clone(), condition.family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Claims, Identities};
    use crate::condition::Operand;
    use crate::filter::{self, Condition, Grammar, Operator};
    use crate::subscription::Request;
    use walcast_protocol::{Frame, Outlet, Ref, Version};

    struct Deaf;

    impl Outlet for Deaf {
        fn deliver(&self, _: Frame) {}
    }

    fn listener(id: u64, filter: &str) -> Arc<Listener> {
        let claims = Claims {
            role: "anon".to_owned(),
            json: "{}".into(),
        };
        let identity = Identities::default().intern(&claims);
        let request = Request {
            version: Version::V2,
            topic: Arc::from("realtime:room"),
            join_ref: Ref::from_text("1"),
            legacy: false,
            entries: Vec::new(),
            claims: Arc::new(claims),
            outlet: Arc::new(Deaf),
        };
        let number = |text: &str| Scalar::Number(text.parse().unwrap());
        let typed = |condition: &Condition| {
            let operand = if condition.operator == Operator::In {
                let inner = condition.value.trim_matches(['{', '}']);
                let mut values: Vec<_> = inner
                    .split(',')
                    .filter(|text| !text.is_empty())
                    .map(number)
                    .collect();
                values.sort_unstable();
                Operand::List {
                    values,
                    has_null: false,
                }
            } else {
                Operand::Value(number(&condition.value))
            };
            TypedCondition {
                condition: condition.clone(),
                cast_type: "pg_catalog.int8".to_owned(),
                family: Family::Whole,
                operand,
            }
        };
        let clauses = filter::parse(filter, Grammar::Groups).unwrap();
        let clauses = clauses
            .iter()
            .map(|clause| clause.with(clause.conditions().into_iter().map(typed)));
        Arc::new(Listener {
            subscriber: Arc::new(Subscriber::new(id, &request, Vec::new(), identity)),
            at: 0,
            id: 1,
            event: EventFilter::All,
            clauses: clauses.collect(),
            select: None,
            digits: Digits::default(),
            leave: false,
            wanted: None,
            lane: Arc::new(Lane::default()),
        })
    }

    /// Who is found by a row of a column `a` and a column `b`, ascending.
    fn found(index: &Index, a: Option<&str>, b: Option<&str>) -> Vec<u64> {
        let mut found = Vec::new();
        let value = |column: &str| match column {
            "a" => Some(a),
            "b" => Some(b),
            _ => None,
        };
        index.find(ActionKind::Insert, None, value, |listener, truth| {
            assert_eq!(truth, Truth::Holds);
            found.push(listener.subscriber.id);
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn ten_thousand_equalities_are_one_look_up() {
        let mut index = Index::default();
        let listeners: Vec<_> = (0..10_000)
            .map(|id| listener(id, &format!("a=eq.{id}")))
            .collect();
        for listener in &listeners {
            index.insert(Arc::clone(listener));
        }
        assert_eq!(found(&index, Some("77"), None), [77]);
        assert!(found(&index, None, None).is_empty());
        // Nobody is looked at but who is found by the value.
        assert!(index.all.scanned.is_empty());
        assert_eq!(index.all.by_value.len(), 1);
        assert!(
            index
                .all
                .by_value
                .values()
                .flat_map(HashMap::values)
                .all(|found| found.len() == 1)
        );
        for listener in &listeners {
            index.remove(listener);
        }
        assert!(index.is_empty() && index.all.by_value.is_empty());
    }

    #[test]
    fn a_list_is_found_by_each_of_its_values_and_once() {
        let mut index = Index::default();
        let listeners = [
            listener(1, "a=in.(5,6,7)"),
            listener(2, "b=gt.3,a=eq.6"),
            listener(3, "a=in.()"),
            listener(4, "a=not.in.(5)"),
            listener(5, "a=in.(5,6),b=eq.9"),
            listener(6, "missing=eq.1"),
            listener(7, "or=(a.eq.5,b.eq.4)"),
            listener(8, "or=(a.eq.5,b.eq.4),a=in.(6,9)"),
            listener(9, "or=(missing.eq.1,b.eq.4)"),
            listener(10, "not.or=(missing.eq.1,b.eq.5)"),
        ];
        for listener in &listeners {
            index.insert(Arc::clone(listener));
        }
        assert_eq!(index.all.scanned.everybody().count(), 5);
        assert_eq!(found(&index, Some("5"), Some("9")), [1, 5, 7]);
        assert_eq!(found(&index, Some("6"), Some("4")), [1, 2, 4, 7, 8, 9]);
        assert_eq!(found(&index, Some("8"), None), [4]);
        let mut all = 0;
        index.find_all(ActionKind::Delete, |_| all += 1);
        assert_eq!(all, listeners.len());
        for listener in &listeners {
            index.remove(listener);
        }
        assert!(index.is_empty() && index.all.by_value.is_empty());
    }

    #[test]
    fn a_text_of_another_type_is_everybodys_question_once() {
        let mut index = Index::default();
        index.insert(listener(1, "a=in.(5,6,7)"));
        index.insert(listener(2, "a=eq.6,b=eq.1"));
        let mut found = Vec::new();
        let value = |column: &str| Some(Some(if column == "a" { "six" } else { "2" }));
        index.find(ActionKind::Insert, None, value, |listener, truth| {
            found.push((listener.subscriber.id, truth));
        });
        assert_eq!(found, [(1, Truth::Ask)]);
    }
}
