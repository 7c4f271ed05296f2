//! Where presences are kept between the nodes.

use crate::error::ClusterError;
use crate::node::NodeId;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// How a node stands with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was there, and is.
    Known,
    /// It was not, and is now.
    New,
    /// It was declared dead, and is being cleaned up after.
    Dead,
}

/// What a node learns when it says that it lives.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    /// Changes when everything that was kept is lost.
    pub(crate) epoch: String,
    pub(crate) standing: Standing,
    /// Who lives.
    pub(crate) alive: Vec<NodeId>,
    /// Who died, and is this node's to clean up after.
    pub(crate) claimed: Vec<NodeId>,
}

/// Changes of one node's presences in one place.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    pub(crate) place: std::sync::Arc<str>,
    pub(crate) owner: NodeId,
    /// Id to value.
    pub(crate) puts: Vec<(String, Bytes)>,
    /// Ids.
    pub(crate) removes: Vec<String>,
    /// Whether the node has nothing in this place afterwards.
    pub(crate) is_last: bool,
}

/// A presence as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) owner: NodeId,
    pub(crate) id: String,
    pub(crate) value: Bytes,
}

/// Presences by place, and who of their owners lives.
pub(crate) trait Shelf: Send + Sync {
    /// Says that a node lives for another `expiry`. Of those that have not said so for longer each is claimed by one
    /// caller; if that one has not cleaned up within `claim`, by another.
    fn beat(
        &self,
        owner: NodeId,
        expiry: Duration,
        claim: Duration,
    ) -> BoxFuture<'_, Result<Beat, ClusterError>>;

    /// The epoch, which a reader compares with that of its last beat: what is read in another may lack what others have
    /// not put again yet.
    fn epoch(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>>;

    /// Keeps changes.
    fn write<'a>(&'a self, changes: &'a Changes) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// A piece of what is kept of a place, from cursor 0 on until the next is 0. What is there all the time is in some
    /// piece, perhaps in several.
    fn read<'a>(
        &'a self,
        place: &'a str,
        cursor: u64,
    ) -> BoxFuture<'a, Result<(Vec<Stored>, u64), ClusterError>>;

    /// Removes all that a node has, and the memory of it.
    fn sweep(&self, owner: NodeId) -> BoxFuture<'_, Result<(), ClusterError>>;
}
