//! Which topics this node listens to, and who of it.

use crate::bus::{Listener, Received, Subscription};
use crate::node::NodeId;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

type Listeners = Arc<[(u64, Arc<dyn Listener>)]>;

struct Topic {
    listeners: Listeners,
    /// In force with the others.
    is_confirmed: bool,
    /// Whom to tell once it is.
    waiting: Vec<oneshot::Sender<()>>,
    /// When the last listener left.
    idle_since: Option<Instant>,
    /// Whether it stands in the queue of idle topics.
    is_queued: bool,
}

#[derive(Default)]
struct Table {
    topics: HashMap<Arc<str>, Topic>,
    /// Without a subscription yet.
    wanted: Vec<Arc<str>>,
    /// Perhaps without a listener, by the time they lost the last.
    idle: VecDeque<(Instant, Arc<str>)>,
    last_id: u64,
}

/// The topics of a node. They stay for a while after their last listener, since a page that is reloaded comes back.
pub(crate) struct Interest {
    table: Mutex<Table>,
    changed: Notify,
    linger: Duration,
    /// Whether there is nobody to subscribe with, so that all is in force at once.
    is_local: bool,
}

impl fmt::Debug for Interest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Interest").finish_non_exhaustive()
    }
}

impl Interest {
    /// Topics that are in force when [`Interest::confirm`] says so.
    pub(crate) fn remote(linger: Duration) -> Self {
        Self {
            table: Mutex::default(),
            changed: Notify::new(),
            linger,
            is_local: false,
        }
    }

    /// Topics that are in force as long as they have listeners.
    pub(crate) fn local() -> Self {
        Self {
            table: Mutex::default(),
            changed: Notify::new(),
            linger: Duration::ZERO,
            is_local: true,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener.
    pub(crate) fn listen(self: &Arc<Self>, topic: &str, listener: Arc<dyn Listener>) -> Subscription {
        let mut table = self.table();
        table.last_id += 1;
        let id = table.last_id;
        let (name, is_new) = match table.topics.get_key_value(topic) {
            Some((name, _)) => (Arc::clone(name), false),
            None => (Arc::<str>::from(topic), true),
        };
        let entry = table.topics.entry(Arc::clone(&name)).or_insert_with(|| Topic {
            listeners: Arc::new([]),
            is_confirmed: self.is_local,
            waiting: Vec::new(),
            idle_since: None,
            is_queued: false,
        });
        entry.idle_since = None;
        entry.listeners = entry.listeners.iter().cloned().chain([(id, listener)]).collect();
        if is_new && !self.is_local {
            table.wanted.push(Arc::clone(&name));
            self.changed.notify_one();
        }
        drop(table);
        Subscription::new(Arc::clone(self), name, id)
    }

    pub(crate) fn leave(&self, topic: &Arc<str>, id: u64) {
        let mut table = self.table();
        let table = &mut *table;
        let Some(entry) = table.topics.get_mut(topic) else {
            return;
        };
        entry.listeners = entry
            .listeners
            .iter()
            .filter(|(other, _)| *other != id)
            .cloned()
            .collect();
        if !entry.listeners.is_empty() {
            return;
        }
        if self.is_local {
            table.topics.remove(topic);
            return;
        }
        let now = Instant::now();
        entry.idle_since = Some(now);
        if !entry.is_queued {
            entry.is_queued = true;
            table.idle.push_back((now, Arc::clone(topic)));
            self.changed.notify_one();
        }
    }

    /// Lets the listeners of a topic hear a message; says whether there are any.
    pub(crate) fn deliver(&self, topic: &str, origin: NodeId, payload: &Bytes, number: Option<u64>) -> bool {
        let Some(listeners) = self
            .table()
            .topics
            .get(topic)
            .map(|entry| Arc::clone(&entry.listeners))
        else {
            return false;
        };
        for (_, listener) in listeners.iter() {
            listener.hear(Received {
                topic,
                origin,
                payload,
                number,
            });
        }
        !listeners.is_empty()
    }

    /// Returns when a topic is in force, or nobody listens to it any more.
    pub(crate) async fn confirmed(&self, topic: &str) {
        let told = {
            let mut table = self.table();
            let Some(entry) = table.topics.get_mut(topic).filter(|entry| !entry.is_confirmed) else {
                return;
            };
            entry.waiting.retain(|waiting| !waiting.is_closed());
            let (tell, told) = oneshot::channel();
            entry.waiting.push(tell);
            told
        };
        // Without a teller the topic is gone, and with it what to wait for.
        _ = told.await;
    }

    /// Subscriptions to these topics are in force.
    pub(crate) fn confirm(&self, topics: &[Arc<str>]) {
        let mut table = self.table();
        for topic in topics {
            if let Some(entry) = table.topics.get_mut(topic) {
                entry.is_confirmed = true;
                for waiting in entry.waiting.drain(..) {
                    // Who stopped waiting need not be told.
                    _ = waiting.send(());
                }
            }
        }
    }

    /// No subscription is in force any more. Returns all topics, for a new beginning.
    pub(crate) fn start_over(&self) -> Vec<Arc<str>> {
        let mut table = self.table();
        table.wanted.clear();
        for entry in table.topics.values_mut() {
            entry.is_confirmed = false;
        }
        table.topics.keys().cloned().collect()
    }

    /// What to subscribe to.
    pub(crate) fn take_wanted(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.table().wanted)
    }

    /// What nobody has listened to for a while. It is forgotten with this call: unsubscribe.
    pub(crate) fn take_idle(&self) -> Vec<Arc<str>> {
        let mut table = self.table();
        let table = &mut *table;
        let now = Instant::now();
        let mut idle = Vec::new();
        while let Some((since, _)) = table.idle.front()
            && *since + self.linger <= now
        {
            let Some((_, topic)) = table.idle.pop_front() else {
                break;
            };
            let Some(entry) = table.topics.get_mut(&topic) else {
                continue;
            };
            entry.is_queued = false;
            match entry.idle_since {
                Some(since) if since + self.linger <= now => {
                    table.topics.remove(&topic);
                    idle.push(topic);
                }
                // Somebody came and left again meanwhile.
                Some(_) => {
                    entry.is_queued = true;
                    table.idle.push_back((now, topic));
                }
                None => {}
            }
        }
        idle
    }

    /// Returns when [`Interest::take_wanted`] or [`Interest::take_idle`] may have something.
    pub(crate) async fn changed(&self) {
        let next = self.table().idle.front().map(|(since, _)| *since + self.linger);
        match next {
            Some(due) => {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                }
            }
            None => self.changed.notified().await,
        }
    }

    /// Whether somebody listens to a topic, or did a while ago.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.table().topics.contains_key(topic)
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.table().topics.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);

    fn deaf() -> Arc<dyn Listener> {
        Arc::new(|_: Received<'_>| {})
    }

    fn names(topics: &[Arc<str>]) -> Vec<&str> {
        topics.iter().map(|topic| &**topic).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_wanted_with_its_first_listener_and_given_up_a_while_after_the_last() {
        let interest = Arc::new(Interest::remote(LINGER));
        let first = interest.listen("a", deaf());
        let second = interest.listen("a", deaf());
        assert_eq!(names(&interest.take_wanted()), ["a"]);
        drop(first);
        tokio::time::advance(LINGER * 2).await;
        assert!(interest.take_idle().is_empty());
        drop(second);
        assert!(interest.take_idle().is_empty());
        interest.changed().await;
        tokio::time::advance(LINGER).await;
        interest.changed().await;
        assert_eq!(names(&interest.take_idle()), ["a"]);
        assert_eq!(interest.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_meanwhile_keeps_the_topic_and_the_queue_does_not_grow() {
        let interest = Arc::new(Interest::remote(LINGER));
        for _ in 0..1000 {
            drop(interest.listen("a", deaf()));
        }
        assert_eq!(interest.table().idle.len(), 1);
        assert_eq!(names(&interest.take_wanted()), ["a"]);
        let kept = interest.listen("a", deaf());
        tokio::time::advance(LINGER).await;
        assert!(interest.take_idle().is_empty());
        drop(kept);
        tokio::time::advance(LINGER / 2).await;
        assert!(interest.take_idle().is_empty());
        tokio::time::advance(LINGER).await;
        assert_eq!(names(&interest.take_idle()), ["a"]);
    }

    #[tokio::test]
    async fn who_waits_for_a_topic_is_told_when_it_is_in_force() {
        let interest = Arc::new(Interest::remote(LINGER));
        let subscription = interest.listen("a", deaf());
        let mut ready = Box::pin(subscription.ready());
        assert!(futures_util::poll!(&mut ready).is_pending());
        interest.confirm(&interest.take_wanted());
        ready.await;
        // Until the connection is lost.
        assert_eq!(names(&interest.start_over()), ["a"]);
        assert!(futures_util::poll!(Box::pin(subscription.ready())).is_pending());
    }
}
