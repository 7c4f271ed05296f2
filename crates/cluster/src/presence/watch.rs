//! Following the presences of a place.

use crate::presence::view::Presence;
use crate::presence::{Inner, Watched};
use std::fmt;
use std::sync::Arc;

/// A topic whose presences are followed.
#[must_use = "what is not held is not followed"]
pub struct Watch {
    inner: Arc<Inner>,
    place: Arc<str>,
    watched: Arc<Watched>,
    id: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watch")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(inner: Arc<Inner>, place: Arc<str>, watched: Arc<Watched>, id: u64) -> Self {
        Self {
            inner,
            place,
            watched,
            id,
        }
    }

    /// Returns when all that are present on other nodes have been told to the watcher. While Redis is away that takes
    /// as long as it does; the caller may stop waiting at any time.
    pub async fn ready(&self) {
        // The sender lives in what is held here.
        _ = self
            .watched
            .is_read
            .subscribe()
            .wait_for(|is_read| *is_read)
            .await;
    }

    /// Who is present on other nodes, as far as is known.
    #[must_use]
    pub fn present(&self) -> Vec<Presence> {
        self.watched.sight().view.all()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut places = self.inner.places();
        let mut sight = self.watched.sight();
        sight.watchers.retain(|(id, _)| *id != self.id);
        if sight.watchers.is_empty() {
            places.remove(&self.place);
        }
    }
}
