//! Who lives: this node says so at intervals, and learns of the others.

use crate::bus::Event;
use crate::node::NodeId;
use crate::presence::news::News;
use crate::presence::shelf::{Beat, Standing};
use crate::presence::{Inner, NODES};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};

/// A node that is missing among the living is taken for gone at the second look: at the first it may be just new.
const LOOKS: u32 = 2;

#[derive(Default)]
struct Vigil {
    epoch: Option<String>,
    is_registered: bool,
    /// Until when others may not have put their presences again.
    grace_until: Option<Instant>,
    missing: HashMap<NodeId, u32>,
}

/// Keeps vigil until it is aborted.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut events = inner.bus.events();
    let mut beat = tokio::time::interval(inner.vitality.beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut vigil = Vigil::default();
    let mut has_events = true;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = inner.hurry.notified() => {}
            event = events.recv(), if has_events => match event {
                Ok(Event::Resubscribed { .. }) | Err(RecvError::Lagged(_)) => inner.read_everything(),
                Ok(_) => continue,
                Err(RecvError::Closed) => {
                    has_events = false;
                    continue;
                }
            },
        }
        let owner = inner.mine().owner;
        let expiry = inner.vitality.expiry;
        match inner.shelf.beat(owner, expiry, expiry * 5).await {
            Ok(beat) => vigil.take(&inner, owner, beat).await,
            Err(error) => tracing::debug!(%error, "the other nodes cannot be told that this one lives"),
        }
    }
}

impl Vigil {
    async fn take(&mut self, inner: &Arc<Inner>, owner: NodeId, beat: Beat) {
        let was_lost = self.epoch.as_ref().is_some_and(|epoch| *epoch != beat.epoch);
        if self.epoch.is_none() {
            *inner.epoch() = Some(beat.epoch.clone());
        }
        self.epoch = Some(beat.epoch);
        if was_lost {
            tracing::warn!("Redis has lost its data; the presences of this node are put again");
            self.grace_until = Some(Instant::now() + inner.vitality.expiry);
            *inner.epoch() = None;
            inner.mine().start_over();
        } else if beat.standing == Standing::Dead || (beat.standing == Standing::New && self.is_registered) {
            tracing::warn!("the other nodes had taken this one for dead; its presences are put again");
            self.begin_anew(inner, owner).await;
            return;
        }
        self.is_registered = true;
        inner.mine().is_registered = true;
        inner.dirty.notify_one();
        for dead in beat.claimed {
            clean_up(inner, dead);
        }
        self.look(inner, &beat.alive.into_iter().collect());
    }

    /// Takes another name: what the others believe of the old one cannot be taken back.
    async fn begin_anew(&mut self, inner: &Arc<Inner>, old: NodeId) {
        {
            let mut mine = inner.mine();
            mine.owner = NodeId::random();
            mine.is_registered = false;
            mine.start_over();
        }
        self.is_registered = false;
        // Before anything is told under the new name, so that nobody is there twice.
        inner.tell(NODES, &News::Gone { owner: old });
        // What was on its way under the old name may have come after the others had cleaned up.
        let written = inner.writing.lock().await;
        if let Err(error) = inner.shelf.sweep(old).await {
            tracing::debug!(%error, "presences under an old name may stay");
        }
        drop(written);
        inner.read_everything();
        inner.hurry.notify_one();
    }

    /// Compares those whose presences are known with those who live: the word that one is gone may have been missed.
    fn look(&mut self, inner: &Inner, alive: &HashSet<NodeId>) {
        if let Some(until) = self.grace_until {
            self.missing.clear();
            if Instant::now() < until {
                return;
            }
            self.grace_until = None;
            inner.epoch().clone_from(&self.epoch);
            inner.read_everything();
            return;
        }
        let known: HashSet<NodeId> = inner
            .all_watched()
            .iter()
            .flat_map(|watched| watched.sight().view.owners())
            .collect();
        self.missing
            .retain(|node, _| known.contains(node) && !alive.contains(node));
        for node in known.difference(alive) {
            let looks = self.missing.entry(*node).or_insert(0);
            *looks += 1;
            if *looks >= LOOKS {
                inner.is_gone(*node);
            }
        }
    }
}

/// Tells all that a node is gone, and removes what it left. If that fails another node will.
fn clean_up(inner: &Arc<Inner>, dead: NodeId) {
    tracing::warn!(node = %dead, "a node is gone");
    inner.is_gone(dead);
    inner.tell(NODES, &News::Gone { owner: dead });
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        if let Err(error) = inner.shelf.sweep(dead).await {
            tracing::debug!(%error, node = %dead, "what a dead node left is removed later");
        }
    });
}
