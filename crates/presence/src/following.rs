//! Hearing of the presences of other nodes, as long as somebody here wants to know.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use walcast_broadcast::Room;
use walcast_cluster::Watch;

use crate::presences::{Presences, Topic};

/// Who of this node wants to know of other nodes.
///
/// Locked before the topic's state, never after it: a watch that begins or ends waits for reports that are being
/// entered, and those wait for the state.
#[derive(Default)]
pub(crate) struct Watching {
    followers: usize,
    watch: Option<Arc<Watch>>,
}

impl Topic {
    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it is held, the presences of other nodes in a topic count like those of this one.
#[must_use = "what is not held is not followed"]
pub struct Following {
    presences: Arc<Presences>,
    /// None: there are no other nodes.
    topic: Option<Arc<Topic>>,
}

impl Presences {
    /// Has a topic hear of other nodes, until the returned value is dropped. For whoever hears of presences or tracks
    /// one: the topic is watched from the first on until the last goes.
    pub fn follow(self: &Arc<Self>, room: Room<'_>) -> Following {
        let topic = self.neighbours().map(|neighbours| {
            let sub_topic: Arc<str> = room.topic.into();
            loop {
                let topic = self.topic(&sub_topic, room.is_private);
                let mut watching = topic.watching();
                let mut state = topic.lock();
                if state.is_gone {
                    continue;
                }
                state.is_followed = true;
                drop(state);
                watching.followers += 1;
                watching
                    .watch
                    .get_or_insert_with(|| Arc::new(neighbours.watch(self, &topic)));
                drop(watching);
                return topic;
            }
        });
        Following {
            presences: Arc::clone(self),
            topic,
        }
    }
}

impl Following {
    /// Returns when all that are present on other nodes are part of the state, or cannot be learned in time; then they
    /// come later, in a diff.
    pub async fn caught_up(&self, limit: Duration) {
        let (Some(topic), Some(neighbours)) = (&self.topic, self.presences.neighbours()) else {
            return;
        };
        let watch = topic.watching().watch.clone();
        let Some(watch) = watch.filter(|_| neighbours.is_connected()) else {
            return;
        };
        if tokio::time::timeout(limit, watch.ready()).await.is_ok() {
            self.presences.tell_first_sight(topic);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let Some(topic) = &self.topic else { return };
        let mut watching = topic.watching();
        watching.followers -= 1;
        if watching.followers > 0 {
            return;
        }
        // Nothing is reported after this.
        drop(watching.watch.take());
        self.presences.forget_others(topic);
    }
}
