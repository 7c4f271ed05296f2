//! Listeners of one table, found by the claims their role's policies compare with the row: under
//! `owner = auth.uid()` a change concerns whoever's identity says what its `owner` says, however many listen.
//!
//! What is found is never too little: of every listener it leaves out, the policies of the role it has now certainly
//! hide the row. A listener that is about to change its identity is found by both until it has.

use crate::claims::IdentityRef;
use crate::index::{Listener, ListenerKey, Listeners};
use crate::policy::{Key, Reach, Routes, Row, Sought};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Listeners, by the claims that matter to their role.
#[derive(Default)]
pub(crate) struct ByClaim {
    members: HashMap<ListenerKey, Member>,
    /// Listeners of roles without routes: each is concerned by every row.
    loose: Listeners,
    roles: HashMap<String, RoleIndex>,
    /// Members that are found by two identities at present.
    switching: usize,
}

struct Member {
    listener: Arc<Listener>,
    identity: IdentityRef,
    /// The identity it is about to have.
    next: Option<IdentityRef>,
}

/// The listeners of one role.
struct RoleIndex {
    routes: Arc<Routes>,
    /// Those whose claims let them see any row.
    anywhere: Listeners,
    /// By the number of the route.
    by_key: Vec<HashMap<Key, Listeners>>,
}

impl RoleIndex {
    fn new(routes: Arc<Routes>) -> Self {
        Self {
            by_key: (0..routes.count()).map(|_| HashMap::new()).collect(),
            anywhere: Listeners::new(),
            routes,
        }
    }

    fn insert(&mut self, key: ListenerKey, listener: &Arc<Listener>, identity: &IdentityRef) {
        match self.routes.reach(identity.0.view()) {
            Reach::Any => {
                self.anywhere.insert(key, Arc::clone(listener));
            }
            Reach::Keys(keys) => {
                for (number, value) in keys {
                    if let Some(values) = self.by_key.get_mut(number) {
                        values.entry(value).or_default().insert(key, Arc::clone(listener));
                    }
                }
            }
        }
    }

    fn remove(&mut self, key: ListenerKey, identity: &IdentityRef) {
        match self.routes.reach(identity.0.view()) {
            Reach::Any => {
                self.anywhere.remove(&key);
            }
            Reach::Keys(keys) => {
                for (number, value) in keys {
                    let Some(values) = self.by_key.get_mut(number) else {
                        continue;
                    };
                    if let Some(listeners) = values.get_mut(&value) {
                        listeners.remove(&key);
                        if listeners.is_empty() {
                            values.remove(&value);
                        }
                    }
                }
            }
        }
    }

    /// The groups a row concerns.
    fn concerned<'a>(&'a self, row: &dyn Row, groups: &mut Vec<&'a Listeners>) {
        groups.push(&self.anywhere);
        for (values, sought) in self.by_key.iter().zip(self.routes.sought(row)) {
            match sought {
                Sought::Nobody => {}
                Sought::Key(key) => groups.extend(values.get(&key)),
                Sought::Anybody => groups.extend(values.values()),
            }
        }
    }
}

impl ByClaim {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn insert(&mut self, key: ListenerKey, listener: Arc<Listener>) {
        self.remove(key);
        let identity = listener.subscriber.identity();
        self.place(key, &listener, &identity);
        let member = Member {
            listener,
            identity,
            next: None,
        };
        self.members.insert(key, member);
    }

    pub(crate) fn remove(&mut self, key: ListenerKey) {
        let Some(member) = self.members.remove(&key) else {
            return;
        };
        self.displace(key, &member.identity);
        if let Some(next) = member.next {
            self.displace(key, &next);
            self.switching -= 1;
        }
    }

    /// Lets a listener be found by the identity it is about to have, too.
    pub(crate) fn expect_identity(&mut self, key: ListenerKey, next: &IdentityRef) {
        self.settle_identity(key);
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if member.identity == *next {
            return;
        }
        member.next = Some(next.clone());
        let listener = Arc::clone(&member.listener);
        self.switching += 1;
        self.place(key, &listener, next);
    }

    /// Lets a listener be found by the identity it has, and by no other.
    pub(crate) fn settle_identity(&mut self, key: ListenerKey) {
        let Some(member) = self.members.get(&key) else {
            return;
        };
        if member.next.is_none() && member.listener.subscriber.identity() == member.identity {
            return;
        }
        let listener = Arc::clone(&member.listener);
        self.insert(key, listener);
    }

    /// Whether listeners of `role` are found by these routes.
    pub(crate) fn follows(&self, role: &str, routes: Option<&Arc<Routes>>) -> bool {
        match (self.roles.get(role), routes) {
            (None, None) => true,
            (Some(index), Some(routes)) => Arc::ptr_eq(&index.routes, routes) || index.routes == *routes,
            _ => false,
        }
    }

    /// Roles whose listeners are found by routes.
    pub(crate) fn routed_roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// From now on listeners of `role` are found by `routes`, or each of them always.
    pub(crate) fn follow(&mut self, role: &str, routes: Option<&Arc<Routes>>) {
        if self.follows(role, routes) {
            return;
        }
        // A listener that is switching moves as a whole: what one identity leaves, the other may need.
        let mut moved = Vec::new();
        for (key, member) in &self.members {
            let identities = || std::iter::once(&member.identity).chain(&member.next);
            if identities().any(|identity| identity.0.claims.role == role) {
                moved.extend(identities().map(|id| (*key, Arc::clone(&member.listener), id.clone())));
            }
        }
        for (key, _, identity) in &moved {
            self.displace(*key, identity);
        }
        match routes {
            Some(routes) => {
                self.roles
                    .insert(role.to_owned(), RoleIndex::new(Arc::clone(routes)));
            }
            None => {
                self.roles.remove(role);
            }
        }
        for (key, listener, identity) in &moved {
            self.place(*key, listener, identity);
        }
    }

    pub(crate) fn everybody(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.members.values().map(|member| &member.listener)
    }

    /// Calls `found` once for each listener that may see `row`; without a row, for each.
    pub(crate) fn concerned<'a>(&'a self, row: Option<&dyn Row>, mut found: impl FnMut(&'a Arc<Listener>)) {
        let Some(row) = row else {
            self.everybody().for_each(found);
            return;
        };
        let mut groups = Vec::new();
        for index in self.roles.values() {
            index.concerned(row, &mut groups);
        }
        groups.retain(|group| !group.is_empty());
        let mut seen = HashSet::new();
        let is_repeatable = groups.len() > 1 || self.switching > 0;
        for (key, listener) in groups.into_iter().flatten() {
            if !is_repeatable || seen.insert(*key) {
                found(listener);
            }
        }
        for (key, listener) in &self.loose {
            if self.switching == 0 || !seen.contains(key) {
                found(listener);
            }
        }
    }

    fn place(&mut self, key: ListenerKey, listener: &Arc<Listener>, identity: &IdentityRef) {
        match self.roles.get_mut(&identity.0.claims.role) {
            Some(index) => index.insert(key, listener, identity),
            None => {
                self.loose.insert(key, Arc::clone(listener));
            }
        }
    }

    fn displace(&mut self, key: ListenerKey, identity: &IdentityRef) {
        match self.roles.get_mut(&identity.0.claims.role) {
            Some(index) => index.remove(key, identity),
            None => {
                self.loose.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::EventFilter;
    use crate::claims::{Claims, Identities};
    use crate::lane::Lane;
    use crate::policy::{Access, Verdict, compile};
    use crate::subscription::{Request, Subscriber};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use walcast_protocol::{Frame, Outlet, Ref, Version};

    const USERS: [&str; 3] = [
        "11111111-1111-4111-8111-111111111111",
        "22222222-2222-4222-8222-222222222222",
        "33333333-3333-4333-8333-333333333333",
    ];

    const POLICIES: [&str; 14] = [
        "(owner = auth.uid())",
        "((owner = auth.uid()) OR (assignee = auth.uid()))",
        "(auth.uid() = ANY (ARRAY[owner, assignee]))",
        "((owner)::text = (auth.jwt() ->> 'sub'::text))",
        "(org = ((auth.jwt() ->> 'org'::text))::integer)",
        "((org = ((auth.jwt() ->> 'org'::text))::integer) AND ((owner = auth.uid()) OR (assignee = auth.uid())))",
        "((owner = auth.uid()) OR ((auth.jwt() ->> 'admin'::text) = 'yes'::text))",
        "((auth.uid() IS NOT NULL) AND (org = 1))",
        "((owner = auth.uid()) AND (org > 1))",
        "((owner = auth.uid()) IS TRUE)",
        "((owner = auth.uid()) IS NOT TRUE)",
        "(NOT (owner = auth.uid()))",
        "true",
        "false",
    ];

    struct Nowhere;

    impl Outlet for Nowhere {
        fn deliver(&self, _frame: Frame) {}
    }

    #[derive(Debug)]
    struct TestRow(HashMap<&'static str, Option<String>>);

    impl Row for TestRow {
        fn value(&self, column: &str) -> Option<Option<&str>> {
            self.0.get(column).map(Option::as_deref)
        }
    }

    /// What the policy `using` means, as the catalog would tell.
    fn access(using: &str) -> Access {
        let claims = "current_setting('request.jwt.claims', true)::jsonb";
        let function = |body: String, returns: &str| json!({ "acceptable": true, "resolved": true, "body": body, "returns": returns });
        let column = |type_name: &str| json!({ "type_name": type_name, "deterministic": true });
        let facts = json!({
            "enabled": true, "exempt": false, "may_use_schema": true, "shadowed": false,
            "policies": [{ "name": "p", "permissive": true, "roles": ["public"], "using": using }],
            "columns": { "owner": column("uuid"), "assignee": column("uuid"), "org": column("int4") },
            "functions": {
                "auth.uid": function(format!("select ({claims} ->> 'sub')::uuid"), "uuid"),
                "auth.jwt": function(format!("select {claims}"), "jsonb"),
            },
        });
        let access = compile(&serde_json::from_value(facts).unwrap());
        assert!(matches!(access, Access::Compiled(_)), "{using}: {access:?}");
        access
    }

    fn listener(id: u64, identity: IdentityRef) -> Arc<Listener> {
        let request = Request {
            version: Version::V2,
            topic: Arc::from("realtime:room"),
            join_ref: Ref::from_text("1"),
            legacy: false,
            entries: Vec::new(),
            claims: Arc::new(identity.0.claims.clone()),
            outlet: Arc::new(Nowhere),
        };
        Arc::new(Listener {
            subscriber: Arc::new(Subscriber::new(id, &request, Vec::new(), identity)),
            at: 0,
            id: 0,
            event: EventFilter::All,
            clauses: Vec::new(),
            select: None,
            digits: Default::default(),
            leave: false,
            wanted: None,
            lane: Arc::new(Lane::default()),
        })
    }

    fn claims() -> impl Strategy<Value = Claims> {
        let sub = prop_oneof![
            8 => (0..3_usize).prop_map(|user| json!(USERS[user])),
            1 => Just(json!("no uuid")),
            1 => Just(Value::Null)
        ];
        let org = prop_oneof![
            6 => (1..3).prop_map(|org| json!(org)),
            1 => Just(json!("x")),
            // How it is printed is not certain.
            1 => Just(json!(1.5)),
        ];
        (0..3_usize, sub, org, any::<bool>(), 0..2).prop_map(|(role, sub, org, admin, exp)| Claims {
            role: ["a", "b", "unknown"][role].to_owned(),
            json: json!({ "sub": sub, "org": org, "admin": if admin { "yes" } else { "no" }, "exp": exp })
                .to_string()
                .into(),
        })
    }

    fn row() -> impl Strategy<Value = TestRow> {
        let user = || {
            prop_oneof![
                6 => (0..3_usize).prop_map(|user| Some(Some(USERS[user].to_owned()))),
                1 => Just(Some(None)),
                // Out of line and unchanged.
                1 => Just(None),
            ]
        };
        let org =
            prop_oneof![4 => (0..4).prop_map(|org: i32| Some(Some(org.to_string()))), 1 => Just(Some(None))];
        (user(), user(), org).prop_map(|(owner, assignee, org)| {
            let columns = [("owner", owner), ("assignee", assignee), ("org", org)];
            TestRow(
                columns
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect(),
            )
        })
    }

    #[derive(Debug)]
    enum Event {
        Insert(u64, Claims),
        Remove(u64),
        Expect(u64, Claims),
        Settle(u64, bool),
        Follow(&'static str, Option<usize>),
    }

    fn event() -> impl Strategy<Value = Event> {
        let id = || 0..12_u64;
        prop_oneof![
            6 => (id(), claims()).prop_map(|(id, claims)| Event::Insert(id, claims)),
            1 => id().prop_map(Event::Remove),
            3 => (id(), claims()).prop_map(|(id, claims)| Event::Expect(id, claims)),
            3 => (id(), any::<bool>()).prop_map(|(id, switched)| Event::Settle(id, switched)),
            3 => (any::<bool>(), prop::option::weighted(0.9, 0..POLICIES.len()))
                .prop_map(|(a, policy)| Event::Follow(if a { "a" } else { "b" }, policy)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn whoever_may_see_a_row_is_found_once(
            events in prop::collection::vec(event(), 1..60),
            rows in prop::collection::vec(row(), 6),
        ) {
            let identities = Identities::default();
            let policies: Vec<Access> = POLICIES.iter().map(|using| access(using)).collect();
            let mut index = ByClaim::default();
            let mut listeners: HashMap<u64, Arc<Listener>> = HashMap::new();
            let mut expected: HashMap<u64, IdentityRef> = HashMap::new();
            let mut followed: HashMap<&str, Option<usize>> = HashMap::new();
            for event in events {
                match event {
                    Event::Insert(id, claims) => {
                        let listener = listener(id, identities.intern(&claims));
                        index.insert((id, 0), Arc::clone(&listener));
                        listeners.insert(id, listener);
                        expected.remove(&id);
                    }
                    Event::Remove(id) => {
                        index.remove((id, 0));
                        listeners.remove(&id);
                    }
                    Event::Expect(id, claims) => {
                        let identity = identities.intern(&claims);
                        index.expect_identity((id, 0), &identity);
                        expected.insert(id, identity);
                    }
                    Event::Settle(id, switched) => {
                        if let (Some(listener), Some(next)) = (listeners.get(&id), expected.remove(&id)) {
                            if switched {
                                listener.subscriber.set_identity(next);
                            }
                            index.settle_identity((id, 0));
                        }
                    }
                    Event::Follow(role, policy) => {
                        index.follow(role, policy.and_then(|number| policies[number].routes()).as_ref());
                        followed.insert(role, policy);
                    }
                }
                for row in &rows {
                    let mut found = HashSet::new();
                    index.concerned(Some(row), |listener| {
                        assert!(found.insert(listener.subscriber.id), "twice");
                    });
                    prop_assert!(found.iter().all(|id| listeners.contains_key(id)));
                    for (id, listener) in &listeners {
                        let identity = listener.subscriber.identity();
                        let policy = followed.get(identity.0.claims.role.as_str()).copied().flatten();
                        let verdict = match policy.map(|number| &policies[number]) {
                            Some(Access::Compiled(program)) => program.evaluate(row, identity.0.view()),
                            _ => Verdict::Visible,
                        };
                        prop_assert!(
                            matches!(verdict, Verdict::Hidden | Verdict::Raises) || found.contains(id),
                            "{:?} of {} left out",
                            verdict,
                            identity.0.claims.json
                        );
                    }
                }
                prop_assert_eq!(index.everybody().count(), listeners.len());
            }
            for id in listeners.keys() {
                index.remove((*id, 0));
            }
            prop_assert!(index.is_empty() && index.loose.is_empty() && index.switching == 0);
            for role in index.roles.values() {
                prop_assert!(role.anywhere.is_empty() && role.by_key.iter().all(HashMap::is_empty));
            }
        }
    }

    #[test]
    fn a_row_finds_those_whose_claims_it_names_and_nobody_else() {
        let identities = Identities::default();
        let claims = |number: usize, admin: &str| {
            Claims {
            role: "a".into(),
            json: json!({
                "sub": format!("{number:08}-1111-4111-8111-111111111111"), "org": number / 100 + 1, "admin": admin
            })
            .to_string()
            .into(),
        }
        };
        let row = TestRow(HashMap::from([
            ("owner", Some("00000007-1111-4111-8111-111111111111".to_owned())),
            (
                "assignee",
                Some("00000008-1111-4111-8111-111111111111".to_owned()),
            ),
            ("org", Some("3".to_owned())),
        ]));
        let found_by = [1, 2, 2, 1, 100, 100, 3, 0, 1, 1, 2_000, 2_000, 2_000, 0];
        for (using, expected) in POLICIES.into_iter().zip(found_by) {
            let mut index = ByClaim::default();
            index.follow("a", access(using).routes().as_ref());
            for number in 0..2_000 {
                let admin = if number == 1_000 || number == 1_500 {
                    "yes"
                } else {
                    "no"
                };
                let listener = listener(number as u64, identities.intern(&claims(number, admin)));
                index.insert((listener.subscriber.id, 0), listener);
            }
            let stranger = Claims {
                role: "b".into(),
                ..claims(7, "no")
            };
            index.insert((9_999, 0), listener(9_999, identities.intern(&stranger)));
            let mut found = 0;
            index.concerned(Some(&row), |listener| {
                found += usize::from(listener.subscriber.id != 9_999);
            });
            assert_eq!(found, expected, "{using}");
        }
    }
}
