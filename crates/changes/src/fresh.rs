//! Answers of the catalog kept for a moment and fetched once however many ask at the same time, so that a thousand
//! joins in a second cost Postgres a handful of queries.

use dashmap::DashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

struct Slot<V> {
    asked: Instant,
    answer: OnceCell<V>,
}

/// Values by key, each good for a fixed time. Errors are never kept.
pub(crate) struct Fresh<K, V> {
    keep: Duration,
    slots: DashMap<K, Arc<Slot<V>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Fresh<K, V> {
    pub(crate) fn new(keep: Duration) -> Self {
        Self {
            keep,
            slots: DashMap::new(),
        }
    }

    /// The value of `key`, from memory or from `load`, which is not polled unless it is needed. Callers that ask meanwhile wait for the one load.
    pub(crate) async fn get<E>(&self, key: K, load: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let now = Instant::now();
        let slot = {
            let mut entry = self.slots.entry(key).or_insert_with(|| {
                Arc::new(Slot {
                    asked: now,
                    answer: OnceCell::new(),
                })
            });
            if now.duration_since(entry.asked) > self.keep {
                *entry = Arc::new(Slot {
                    asked: now,
                    answer: OnceCell::new(),
                });
            }
            Arc::clone(&entry)
        };
        slot.answer.get_or_try_init(|| load).await.cloned()
    }

    /// The value of `key`, if there is one in memory.
    pub(crate) fn known(&self, key: &K) -> Option<V> {
        self.slots.get(key).and_then(|slot| slot.answer.get().cloned())
    }

    /// Forgets the value of `key` if it was asked for before a moment; whether it was.
    pub(crate) fn forget_before(&self, key: &K, moment: Instant) -> bool {
        self.slots.remove_if(key, |_, slot| slot.asked < moment).is_some()
    }

    /// Forgets what is too old to be used.
    pub(crate) fn sweep(&self) {
        self.slots.retain(|_, slot| slot.asked.elapsed() <= self.keep);
    }

    /// Forgets the values of some keys.
    pub(crate) fn remove(&self, is_concerned: impl Fn(&K) -> bool) {
        self.slots.retain(|key, _| !is_concerned(key));
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn many_askers_share_one_load_and_errors_are_not_kept() {
        let fresh: Arc<Fresh<&str, u32>> = Arc::new(Fresh::new(Duration::from_secs(60)));
        let loads = Arc::new(AtomicU32::new(0));
        let failed: Result<u32, &str> = fresh.get("key", async { Err("down") }).await;
        assert_eq!(failed, Err("down"));
        let askers: Vec<_> = (0..20)
            .map(|_| {
                let (fresh, loads) = (Arc::clone(&fresh), Arc::clone(&loads));
                tokio::spawn(async move {
                    fresh
                        .get("key", async {
                            tokio::task::yield_now().await;
                            Ok::<_, &str>(loads.fetch_add(1, Ordering::Relaxed) + 7)
                        })
                        .await
                })
            })
            .collect();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), Ok(7));
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_value_is_loaded_again_when_its_time_is_over() {
        let fresh: Fresh<u8, u8> = Fresh::new(Duration::ZERO);
        assert_eq!(fresh.get(1, async { Ok::<_, ()>(1) }).await, Ok(1));
        let started = Instant::now();
        while started.elapsed().is_zero() {
            std::hint::spin_loop();
        }
        assert_eq!(fresh.get(1, async { Ok::<_, ()>(2) }).await, Ok(2));
        fresh.sweep();
    }
}
