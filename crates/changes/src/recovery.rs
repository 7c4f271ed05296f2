//! A channel that comes back is told what it missed: changes that are kept, in commit order, before anything live.
//!
//! They are matched and judged as live ones are, by workers of its own, for the identity the channel has now. Where only
//! Postgres can judge a row, it judges the row as it is; so a version is told only while it is the last that is known.

use crate::engine::Context;
use crate::index::Listener;
use crate::lane::Lane;
use crate::notice;
use crate::position::Since;
use crate::registry::{Attachment, Table};
use crate::row::carried;
use crate::subscription::Subscriber;
use crate::table::{self, Item, Worker};
use crate::window::{Kept, Moment, Wanted};
use metrics::counter;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use walcast_replication::{Action, Change, OldTuple, Tuple};

/// Bounds of what is told at once; before the next the channel may read.
const LOT_CHANGES: usize = 256;
const LOT_BYTES: usize = 256 * 1024;
/// How often a channel without room is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A change to be told.
struct Missed {
    kept: Kept,
    /// Whether a later one of the same row is known.
    is_superseded: bool,
}

/// What one channel missed, to be told.
pub(crate) struct Recovery {
    context: Arc<Context>,
    subscriber: Arc<Subscriber>,
    attachments: Vec<(Attachment, Since)>,
}

impl Recovery {
    /// From now on what is delivered to the subscriber waits until it is told what it missed. `None` when it did not
    /// ask for that.
    pub(crate) fn new(
        context: &Arc<Context>,
        subscriber: &Arc<Subscriber>,
        attachments: &[Attachment],
    ) -> Option<Self> {
        let attachments: Vec<(Attachment, Since)> = attachments
            .iter()
            .filter_map(|attachment| {
                let (_, binding) = subscriber.bindings.get(attachment.at)?;
                Some((attachment.clone(), binding.since?))
            })
            .collect();
        (!attachments.is_empty()).then(|| {
            subscriber.hold();
            Self {
                context: Arc::clone(context),
                subscriber: Arc::clone(subscriber),
                attachments,
            }
        })
    }

    /// Tells, and lets live changes pass. The subscriber must be listening already.
    pub(crate) async fn run(self) {
        if let Err(cause) = self.tell().await {
            self.confess(&cause);
        }
        counter!("walcast_recoveries_total").increment(1);
        self.subscriber.release();
    }

    /// Not everything that was missed can be told.
    fn confess(&self, cause: &str) {
        self.subscriber
            .deliver_past_hold(notice::missed(&self.subscriber, cause));
        counter!("walcast_recoveries_incomplete_total").increment(1);
    }

    /// Fails with the cause, when the kept changes cannot be told.
    async fn tell(&self) -> Result<(), String> {
        let window = &self.context.window;
        let is_wanted = |change: &Change| {
            self.attachments.iter().any(|(attachment, since)| {
                attachment.oid == change.relation.oid && Moment::of(change).is_wanted(*since)
            })
        };
        let kept = window.kept(is_wanted);
        // Asked after the changes were taken: what is forgotten meanwhile must not go unnoticed.
        let reaches = self
            .attachments
            .iter()
            .all(|(attachment, since)| window.reaches(attachment.oid, *since));
        // Before what is kept: a client that loses its socket in between comes back with a place behind the gap.
        if !reaches {
            self.confess("the recent changes that are kept do not reach back to `since`");
        }
        let superseded = self.superseded(&kept).await?;
        let missed: Vec<Missed> = kept
            .into_iter()
            .zip(superseded)
            .filter(|(kept, _)| !self.subscriber.may_see(kept.number))
            .map(|(kept, is_superseded)| Missed { kept, is_superseded })
            .collect();
        counter!("walcast_changes_replayed_total").increment(missed.len() as u64);
        self.replay(missed).await
    }

    async fn replay(&self, missed: Vec<Missed>) -> Result<(), String> {
        let mut identity = self.subscriber.identity();
        let mut workers: HashMap<u32, (Arc<Table>, Worker)> = HashMap::new();
        let mut rest = missed.as_slice();
        while let Some((lot, after)) = next_lot(rest) {
            rest = after;
            let Some(Missed { kept: first, .. }) = lot.first() else {
                break;
            };
            // A channel that is gone has room no more.
            while timeout(LOOK_EVERY, self.subscriber.ready()).await.is_err() && !self.subscriber.is_closed()
            {
            }
            if self.subscriber.is_closed() {
                return Ok(());
            }
            let current = self.subscriber.identity();
            if current != identity {
                identity = current;
                workers.clear();
            }
            let (table, worker) = workers.entry(first.change.relation.oid).or_insert_with(|| {
                let past = Arc::new(self.subscriber.past(identity.clone()));
                let table = self.table(&past, first.change.relation.oid);
                let worker = Worker::of_past(&self.context, &table);
                (table, worker)
            });
            let items = lot.iter().map(|missed| Item {
                number: missed.kept.number,
                change: missed.kept.change.clone(),
                is_superseded: missed.is_superseded,
                tickets: table.open_slots(),
                _share: None,
            });
            worker.tell(items.collect()).await.map_err(|error| {
                tracing::error!(%error, "changes that a channel missed could not be told");
                "the database could not be asked who may see them".to_owned()
            })?;
        }
        Ok(())
    }

    /// A table nobody but this channel listens to.
    fn table(&self, past: &Arc<Subscriber>, oid: u32) -> Arc<Table> {
        let lane = Arc::new(Lane::default());
        let listeners = self
            .attachments
            .iter()
            .filter(|(attachment, _)| attachment.oid == oid)
            .filter_map(|(attachment, since)| {
                let mut listener = Listener::new(
                    past,
                    attachment.at,
                    attachment.clauses.clone(),
                    self.context.options.digits,
                    Arc::clone(&lane),
                )?;
                listener.wanted = Some(Wanted {
                    since: *since,
                    or_after_us: i64::MAX,
                });
                Some(listener)
            });
        table::apart(listeners, &lane)
    }

    /// For each change whether a later one is of the same row.
    async fn superseded(&self, kept: &[Kept]) -> Result<Vec<bool>, String> {
        let mut keys: HashMap<u32, Vec<String>> = HashMap::new();
        for kept in kept {
            let oid = kept.change.relation.oid;
            if let Entry::Vacant(vacant) = keys.entry(oid) {
                let names = self.context.key_names(oid).await.map_err(|error| {
                    tracing::error!(%error, "changes that a channel missed could not be told");
                    "the database could not be asked about their table".to_owned()
                })?;
                vacant.insert(names);
            }
        }
        let mut later: HashSet<(u32, Vec<String>)> = HashSet::new();
        let mut superseded: Vec<bool> = kept
            .iter()
            .rev()
            .map(|Kept { change, .. }| {
                let oid = change.relation.oid;
                let names = keys.get(&oid).map(Vec::as_slice).unwrap_or_default();
                let (old, new) = match &change.action {
                    Action::Insert { new } => (None, Some(new)),
                    Action::Update { old, new } => (old.as_ref().map(OldTuple::tuple), Some(new)),
                    Action::Delete { old } => (Some(old.tuple()), None),
                };
                let new = new.and_then(|new| row_key(change, new, names));
                let old = old.and_then(|old| row_key(change, old, names));
                let is_superseded = new
                    .as_ref()
                    .is_some_and(|key| later.contains(&(oid, key.clone())));
                later.extend(old.into_iter().chain(new).map(|key| (oid, key)));
                is_superseded
            })
            .collect();
        superseded.reverse();
        Ok(superseded)
    }
}

/// Changes of one version of one table, as many as fit; and those after them.
fn next_lot(missed: &[Missed]) -> Option<(&[Missed], &[Missed])> {
    let version = missed.first()?.kept.change.relation.version;
    let mut bytes = 0;
    let fits = |Missed { kept, .. }: &&Missed| {
        bytes += kept.bytes;
        kept.change.relation.version == version && bytes <= LOT_BYTES
    };
    let count = missed.iter().take(LOT_CHANGES).take_while(fits).count();
    missed.split_at_checked(count.max(1))
}

/// The texts of a row's key columns.
fn row_key(change: &Change, tuple: &Tuple, names: &[String]) -> Option<Vec<String>> {
    names
        .iter()
        .map(|name| {
            let at = change
                .relation
                .columns
                .iter()
                .position(|column| column.name == *name)?;
            carried(tuple, None, at)?.map(str::to_owned)
        })
        .collect()
}
