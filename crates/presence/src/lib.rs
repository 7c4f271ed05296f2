//! Who is here: the presences of a topic, and what its members are told of them (`protocol.md 6`).
//!
//! A channel that tracks something is present in its topic under a key, with one meta. Members are told who is there
//! once, by a state, and from then on what changes, by diffs. Changes within a short window travel as one diff, which
//! says what is different between its two ends: whoever holds the state of one end has, with the diff, that of the
//! other. A member that comes in the middle of a window gets the state of its beginning.
//!
//! What a topic holds (`roster`) knows no time and no members; `presences` adds both. Members are reached through
//! the rooms of `walcast-broadcast`. Nothing here knows a socket or asks a database: who may be present or told of it
//! is decided by the caller.
//!
//! Every presence has a node that owns it. What other nodes report of theirs (`neighbours`) enters a topic while
//! somebody here hears of presences or tracks one (`following`), and is told within the same windows as ours.

mod fields;
mod following;
pub mod fuzzing;
#[cfg(test)]
mod merging;
mod meta;
mod neighbours;
mod presences;
mod report;
mod roster;
#[cfg(test)]
mod scene;

pub use following::Following;
pub use neighbours::Neighbours;
pub use presences::{Meter, Options, Presence, Presences, TrackError, Tracked};
