//! Who is subscribed to which table, shared by joins, the stream's reader and the tables' tasks.

use crate::binding::Pattern;
use crate::engine::Context;
use crate::index::{Index, Listener, TypedCondition};
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
    /// The lanes of channels that listen here and elsewhere, with how many of them do.
    pub(crate) lanes: Mutex<Vec<(Arc<Lane>, usize)>>,
}

impl Table {
    /// A slot in each lane that leads through this table.
    pub(crate) fn open_slots(&self) -> Vec<Ticket> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|(lane, _)| lane.open()).collect()
    }
}

/// What a table means to one binding: conditions with their values in the table's types.
pub(crate) struct Attachment {
    pub(crate) oid: u32,
    pub(crate) at: usize,
    pub(crate) conditions: Vec<TypedCondition>,
}

/// Which schemas and tables a channel names; channels with equal ones share a lane.
type Names = BTreeSet<(String, String)>;

#[derive(Default)]
pub(crate) struct Registry {
    tables: DashMap<u32, Arc<Table>>,
    /// Relations seen in the stream that no binding names. Cleared when a binding comes.
    ignored: DashMap<u32, (String, String)>,
    subscribers: DashMap<u64, Held>,
    lanes: Mutex<HashMap<Names, Weak<Lane>>>,
    /// How many subscribers there are; counting a `DashMap` would lock all of it for each change.
    population: AtomicUsize,
    next_subscriber: AtomicU64,
    /// Changes dispatched so far; a subscriber sees those after its own registration.
    dispatched: AtomicU64,
}

/// A subscriber with everything that must be undone when it leaves.
struct Held {
    subscriber: Arc<Subscriber>,
    listeners: Vec<(u32, Arc<Listener>)>,
    lane: Option<Arc<Lane>>,
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

    /// Nobody wants this relation until another binding comes.
    pub(crate) fn ignore(&self, relation: &Relation) {
        self.ignored
            .insert(relation.oid, (relation.schema.clone(), relation.name.clone()));
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
        let alone = names.len() == 1
            && subscriber
                .bindings
                .iter()
                .all(|(_, b)| b.schema != Pattern::Any && b.table != Pattern::Any);
        let lane = (!alone).then(|| self.lane(names));
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
        self.ignored
            .retain(|_, (schema, name)| !subscriber.names(schema, name));
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
            let Some((id, binding)) = subscriber.bindings.get(attachment.at) else {
                continue;
            };
            let known = |(oid, listener): &(u32, Arc<Listener>)| {
                *oid == attachment.oid && listener.at == attachment.at
            };
            if held.listeners.iter().any(known) {
                continue;
            }
            let first_here = !held.listeners.iter().any(|(oid, _)| *oid == attachment.oid);
            let listener = Arc::new(Listener {
                subscriber: Arc::clone(subscriber),
                at: attachment.at,
                id: *id,
                event: binding.event,
                conditions: attachment.conditions,
                select: binding.select.as_ref().map(|names| {
                    let sorted: BTreeSet<String> = names.iter().cloned().collect();
                    sorted.into_iter().collect()
                }),
                lane: held.lane.clone(),
            });
            held.listeners.push((attachment.oid, Arc::clone(&listener)));
            // The entry stays locked while we insert, so that a table cannot be taken for empty in between.
            let table = self
                .tables
                .entry(attachment.oid)
                .or_insert_with(|| table::spawn(context));
            table
                .listeners
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(listener);
            if let Some(lane) = held.lane.as_ref().filter(|_| first_here) {
                let mut lanes = table.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                match lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, lane)) {
                    Some((_, members)) => *members += 1,
                    None => lanes.push((Arc::clone(lane), 1)),
                }
            }
        }
    }

    /// Tells the tables of a subscriber that it is about to listen as `role`.
    pub(crate) fn expect_role(&self, subscriber: &Subscriber, role: &str) {
        let Some(held) = self.subscribers.get(&subscriber.id) else {
            return;
        };
        for (oid, _) in &held.listeners {
            if let Some(table) = self.table(*oid) {
                table
                    .listeners
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .expect_role(role);
            }
        }
    }

    /// Undoes everything a subscriber did here.
    pub(crate) fn remove(&self, subscriber: &Subscriber) {
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
            if let (Some(lane), Some(table)) = (&held.lane, self.table(oid)) {
                let mut lanes = table.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, members)) = lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, lane)) {
                    *members -= 1;
                }
                lanes.retain(|(_, members)| *members > 0);
            }
            self.tables.remove_if(&oid, |_, table| {
                table
                    .listeners
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_empty()
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
    /// A subscribed table, or one that has not been looked at since the last binding came: it may be new, renamed
    /// or re-created under a name somebody waits for.
    fn wants(&self, relation_oid: u32) -> bool {
        self.tables.contains_key(&relation_oid)
            || (self.population.load(Ordering::Acquire) > 0 && !self.ignored.contains_key(&relation_oid))
    }

    /// Under another name it may be one that somebody waits for, e.g. a new version of a table that takes its place.
    fn announced(&self, relation: &Relation) {
        self.ignored.remove_if(&relation.oid, |_, (schema, name)| {
            *schema != relation.schema || *name != relation.name
        });
    }
}
