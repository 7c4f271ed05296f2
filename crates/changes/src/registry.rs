//! Who is subscribed to which table, shared by joins, the stream's reader and the tables' tasks.

use crate::claims::IdentityRef;
use crate::clause::Clause;
use crate::condition::TypedCondition;
use crate::engine::Context;
use crate::index::{Index, Listener, ListenerKey};
use crate::lane::{Lane, Ticket};
use crate::subscription::Subscriber;
use crate::table::{self, Item};
use dashmap::DashMap;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use tokio::sync::mpsc;
use walcast_replication::{Interest, Relation};

/// A subscribed table: its queue of changes and its listeners. Lives while somebody listens.
pub(crate) struct Table {
    pub(crate) queue: mpsc::Sender<Item>,
    pub(crate) listeners: RwLock<Index>,
    /// The lanes of channels that listen here, with how many of them do.
    pub(crate) lanes: Mutex<Vec<(Arc<Lane>, usize)>>,
}

impl Table {
    /// A slot in each lane that leads through this table.
    pub(crate) fn open_slots(&self) -> Vec<Ticket> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|(lane, _)| lane.open()).collect()
    }
}

/// What a table means to one binding: its filter with their values in the table's types.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) oid: u32,
    pub(crate) at: usize,
    pub(crate) clauses: Vec<Clause<TypedCondition>>,
}

/// Which schemas and tables a channel names; channels with equal ones share a lane.
type Names = BTreeSet<(String, String)>;

#[derive(Default)]
pub(crate) struct Registry {
    tables: DashMap<u32, Arc<Table>>,
    /// Relations seen in the stream whose name is compared with every subscriber's bindings, or has been. Forgotten
    /// when a subscriber comes that names one and does not listen to it yet.
    matched: DashMap<u32, Match>,
    subscribers: DashMap<u64, Held>,
    lanes: Mutex<HashMap<Names, Weak<Lane>>>,
    /// How many subscribers there are; counting a `DashMap` would lock all of it for each change.
    population: AtomicUsize,
    next_subscriber: AtomicU64,
    /// Changes dispatched so far; a subscriber sees those after its own registration.
    dispatched: AtomicU64,
}

/// The comparison of a relation's name with bindings.
struct Match {
    schema: String,
    name: String,
    /// Until then changes of the relation have to be let through: somebody is perhaps being attached to it.
    is_complete: bool,
    /// Whether it is in the publication; announced anew, it may be by now.
    is_offered: bool,
}

impl Match {
    fn is_of(&self, relation: &Relation) -> bool {
        self.schema == relation.schema && self.name == relation.name
    }
}

/// A subscriber with everything that must be undone when it leaves.
struct Held {
    subscriber: Arc<Subscriber>,
    listeners: Vec<(u32, Arc<Listener>)>,
    lane: Arc<Lane>,
}

impl Registry {
    pub(crate) fn next_id(&self) -> u64 {
        self.next_subscriber.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn table(&self, oid: u32) -> Option<Arc<Table>> {
        self.tables.get(&oid).map(|table| Arc::clone(&table))
    }

    pub(crate) fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.subscribers
            .iter()
            .map(|held| Arc::clone(&held.subscriber))
            .collect()
    }

    pub(crate) fn tables_count(&self) -> usize {
        self.tables.len()
    }

    /// Whether everybody whose bindings name this relation listens to it.
    pub(crate) fn is_matched(&self, relation: &Relation) -> bool {
        self.matched
            .get(&relation.oid)
            .is_some_and(|known| known.is_complete && known.is_of(relation))
    }

    /// The relation's name is about to be compared with the bindings of all subscribers that are known now.
    pub(crate) fn begin_match(&self, relation: &Relation) {
        let begun = Match {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            is_complete: false,
            is_offered: true,
        };
        self.matched.insert(relation.oid, begun);
    }

    /// The comparison is done, unless somebody came meanwhile who has to be compared too.
    pub(crate) fn end_match(&self, oid: u32, is_offered: bool) {
        if let Some(mut begun) = self.matched.get_mut(&oid) {
            begun.is_complete = true;
            begun.is_offered = is_offered;
        }
    }

    /// Adds a subscriber with its attachments. From here on the reader lets its tables' changes through.
    pub(crate) fn add(
        &self,
        context: &Arc<Context>,
        subscriber: &Arc<Subscriber>,
        attachments: Vec<Attachment>,
    ) {
        let names: Names = subscriber
            .bindings
            .iter()
            .map(|(_, b)| (b.schema.to_string(), b.table.to_string()))
            .collect();
        let lane = self.lane(names);
        let attached: BTreeSet<(u32, usize)> = attachments
            .iter()
            .map(|attachment| (attachment.oid, attachment.at))
            .collect();
        self.population.fetch_add(1, Ordering::AcqRel);
        self.subscribers.insert(
            subscriber.id,
            Held {
                subscriber: Arc::clone(subscriber),
                listeners: Vec::new(),
                lane,
            },
        );
        self.attach(context, subscriber, attachments);
        // Read last: whatever is dispatched from now on finds the listeners and the lanes in place.
        subscriber.admit(self.dispatched.load(Ordering::SeqCst));
        self.matched.retain(|oid, known| {
            subscriber
                .naming(&known.schema, &known.name)
                .all(|at| attached.contains(&(*oid, at)))
        });
    }

    /// Lets a subscriber listen to further tables, e.g. one that was created after it joined.
    pub(crate) fn attach(
        &self,
        context: &Arc<Context>,
        subscriber: &Arc<Subscriber>,
        attachments: Vec<Attachment>,
    ) {
        let Some(mut held) = self.subscribers.get_mut(&subscriber.id) else {
            return;
        };
        for attachment in attachments {
            let known = |(oid, listener): &(u32, Arc<Listener>)| {
                *oid == attachment.oid && listener.at == attachment.at
            };
            if held.listeners.iter().any(known) {
                continue;
            }
            let first_here = !held.listeners.iter().any(|(oid, _)| *oid == attachment.oid);
            let (digits, lane) = (context.options.digits, Arc::clone(&held.lane));
            let Some(listener) = Listener::new(subscriber, attachment.at, attachment.clauses, digits, lane)
            else {
                continue;
            };
            let listener = Arc::new(listener);
            held.listeners.push((attachment.oid, Arc::clone(&listener)));
            // The entry stays locked while we insert, so that a table cannot be taken for empty in between.
            let table = self
                .tables
                .entry(attachment.oid)
                .or_insert_with(|| table::spawn(context));
            // From here on the reader lets the table's changes through.
            if first_here {
                context.window.cover(attachment.oid, context.now());
            }
            table
                .listeners
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(listener);
            if first_here {
                let mut lanes = table.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                let of_ours = lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &held.lane));
                match of_ours {
                    Some((_, members)) => *members += 1,
                    None => lanes.push((Arc::clone(&held.lane), 1)),
                }
            }
        }
    }

    /// Which bindings of a subscriber, by position, name this relation without listening to it.
    pub(crate) fn unattached(&self, subscriber: &Subscriber, relation: &Relation) -> Vec<usize> {
        let Some(held) = self.subscribers.get(&subscriber.id) else {
            return Vec::new();
        };
        let listens = |at: usize| {
            let here = |(oid, listener): &(u32, Arc<Listener>)| *oid == relation.oid && listener.at == at;
            held.listeners.iter().any(here)
        };
        subscriber
            .naming(&relation.schema, &relation.name)
            .filter(|at| !listens(*at))
            .collect()
    }

    /// Gives a listener of a table its filter in other types, unless it has left.
    pub(crate) fn refilter(
        &self,
        table: &Table,
        oid: u32,
        listener: &Arc<Listener>,
        clauses: Vec<Clause<TypedCondition>>,
    ) {
        // The entry stays locked, so that it neither leaves in between nor has another identity.
        let Some(mut held) = self.subscribers.get_mut(&listener.subscriber.id) else {
            return;
        };
        let mut listeners = held.listeners.iter_mut();
        let known = listeners.find(|(of, known)| *of == oid && Arc::ptr_eq(known, listener));
        let Some((_, known)) = known else { return };
        let refiltered = Arc::new(listener.refiltered(clauses));
        let mut index = table.listeners.write().unwrap_or_else(PoisonError::into_inner);
        index.remove(listener);
        index.insert(Arc::clone(&refiltered));
        *known = refiltered;
    }

    /// Gives a subscriber another identity. Before, while and after it does, its tables find it by the one it has.
    pub(crate) fn switch_identity(&self, subscriber: &Subscriber, identity: &IdentityRef) {
        // The entry stays locked, so that nothing is attached in between and two switches do not mix.
        let Some(held) = self.subscribers.get_mut(&subscriber.id) else {
            return;
        };
        let for_each_listener = |change: &dyn Fn(&mut Index, ListenerKey)| {
            for (oid, listener) in &held.listeners {
                if let Some(table) = self.table(*oid) {
                    let mut listeners = table.listeners.write().unwrap_or_else(PoisonError::into_inner);
                    change(&mut listeners, (subscriber.id, listener.at));
                }
            }
        };
        for_each_listener(&|index, key| index.expect_identity(key, identity));
        subscriber.set_identity(identity.clone());
        for_each_listener(&|index, key| index.settle_identity(key));
    }

    /// Undoes everything a subscriber did here.
    pub(crate) fn remove(&self, context: &Context, subscriber: &Subscriber) {
        let Some((_, held)) = self.subscribers.remove(&subscriber.id) else {
            return;
        };
        self.population.fetch_sub(1, Ordering::AcqRel);
        let mut tables: Vec<u32> = held.listeners.iter().map(|(oid, _)| *oid).collect();
        for (oid, listener) in &held.listeners {
            if let Some(table) = self.table(*oid) {
                table
                    .listeners
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(listener);
            }
        }
        tables.sort_unstable();
        tables.dedup();
        for oid in tables {
            if let Some(table) = self.table(oid) {
                let mut lanes = table.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, members)) = lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &held.lane))
                {
                    *members -= 1;
                }
                lanes.retain(|(_, members)| *members > 0);
            }
            let is_deserted = |table: &Arc<Table>| {
                table
                    .listeners
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_empty()
            };
            self.tables.remove_if(&oid, |_, table| {
                let is_deserted = is_deserted(table);
                if is_deserted {
                    context.window.leave(oid);
                }
                is_deserted
            });
        }
        self.lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, lane| lane.strong_count() > 0);
    }

    /// The next change's number. Called by the dispatcher, before it looks at a table's lanes.
    pub(crate) fn next_change(&self) -> u64 {
        self.dispatched.fetch_add(1, Ordering::SeqCst)
    }

    /// The lane of a set of patterns; channels with equal sets share one.
    fn lane(&self, names: Names) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = lanes.entry(names).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let lane = Arc::new(Lane::default());
            *entry = Arc::downgrade(&lane);
            lane
        })
    }
}

impl Interest for Registry {
    /// A subscribed table, or one whose name has not been compared with all bindings: it may be new, renamed or
    /// re-created under a name somebody waits for.
    fn wants(&self, relation_oid: u32) -> bool {
        self.tables.contains_key(&relation_oid)
            || (self.population.load(Ordering::Acquire) > 0
                && !self
                    .matched
                    .get(&relation_oid)
                    .is_some_and(|known| known.is_complete))
    }

    /// Under another name it may be one that somebody waits for, e.g. a new version of a table that takes its place.
    fn announced(&self, relation: &Relation) {
        self.matched.remove_if(&relation.oid, |_, known| {
            !known.is_of(relation) || !known.is_offered
        });
    }
}
