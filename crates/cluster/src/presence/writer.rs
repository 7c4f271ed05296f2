//! Writes what changed among this node's presences, and tells the others.

use crate::presence::news::News;
use crate::presence::{AT_ONCE, Inner, RETRY, topic_of};
use futures_util::future::join_all;
use std::collections::HashSet;
use std::sync::Arc;

/// Writes whatever there is to write, until it is aborted.
pub(crate) async fn write(inner: Arc<Inner>) {
    loop {
        inner.dirty.notified().await;
        while let Some(is_done) = write_some(&inner).await {
            if !is_done {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Writes what is to be written of some places. None: nothing is.
async fn write_some(inner: &Inner) -> Option<bool> {
    let _writing = inner.writing.lock().await;
    let mut outgoing = Vec::new();
    let mut places = HashSet::new();
    {
        let mut mine = inner.mine();
        while outgoing.len() < AT_ONCE
            && let Some(next) = mine.take()
        {
            // A place's pieces go one after the other.
            let is_new = places.insert(Arc::clone(&next.kept.place));
            outgoing.push(next);
            if !is_new {
                break;
            }
        }
    }
    if outgoing.is_empty() {
        return None;
    }
    // The last may be of a place that another is of.
    let last = if places.len() < outgoing.len() {
        outgoing.pop()
    } else {
        None
    };
    let mut written = join_all(outgoing.iter().map(|outgoing| inner.shelf.write(&outgoing.kept))).await;
    if let Some(last) = last {
        written.push(inner.shelf.write(&last.kept).await);
        outgoing.push(last);
    }
    let mut is_done = true;
    for (outgoing, written) in outgoing.into_iter().zip(written) {
        let is_told = match written {
            Ok(()) => {
                let news = News::Changes {
                    owner: outgoing.kept.owner,
                    changes: outgoing.told.clone(),
                };
                inner.tell(&topic_of(&outgoing.kept.place), &news)
            }
            Err(error) => {
                tracing::debug!(%error, "presences cannot be written now");
                false
            }
        };
        if !is_told {
            inner.mine().put_back(&outgoing);
            is_done = false;
        }
    }
    Some(is_done)
}
