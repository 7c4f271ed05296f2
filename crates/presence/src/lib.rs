//! Who is here: the presences of a topic, and what its members are told of them (`protocol.md 6`).
//!
//! A channel that tracks something is present in its topic under a key, with one meta. Members are told who is there
//! once, by a state, and from then on what changes, by diffs. Changes within a short window travel as one diff, which
//! says what is different between its two ends: whoever holds the state of one end has, with the diff, that of the
//! other. A member that comes in the middle of a window gets the state of its beginning.
//!
//! What a topic holds ([`roster`]) knows no time and no members; [`presences`] adds both. Members are reached through
//! the rooms of `walcast-broadcast`. Nothing here knows a socket or asks a database: who may be present or told of it
//! is decided by the caller.
//!
//! Every presence has a node that owns it. The only one so far is this one; those of others will enter at
//! [`roster`]'s `put` and `take`, like ours.

mod fields;
#[cfg(test)]
mod merging;
mod meta;
mod presences;
mod roster;

pub use presences::{Meter, Options, Presence, Presences, TrackError, Tracked};
