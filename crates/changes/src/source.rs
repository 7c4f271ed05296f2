//! Where the dispatcher's events come from: this process' own stream, or the one that the nodes of a cluster share.

use crate::once::Once;
use crate::sharing::Follower;
use walcast_replication::{Event, Stream};

pub(crate) enum Source {
    Own { stream: Stream, once: Once },
    Shared(Box<Follower>),
}

impl Source {
    pub(crate) fn own(stream: Stream) -> Self {
        Self::Own {
            stream,
            once: Once::default(),
        }
    }

    /// Whether other nodes had what came before the stream that began last.
    pub(crate) fn has_joined(&self) -> bool {
        match self {
            Self::Own { .. } => false,
            Self::Shared(follower) => follower.has_joined(),
        }
    }

    /// The next event; `None` at the end. A call that is given up loses none.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Own { stream, once } => loop {
                let event = stream.next().await?;
                if once.passes(&event) {
                    return Some(event);
                }
            },
            Self::Shared(follower) => follower.next().await,
        }
    }
}
