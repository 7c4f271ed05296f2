//! Rooms and who is in them: one message in, one shared frame out to every member.
//!
//! A room is a sub-topic, public or private; the two never mix (`protocol.md 4.4`). Wherever a broadcast comes from
//! (a socket, HTTP, a row of `realtime.messages`) it enters at [`Rooms::cast`], is encoded once for each wire form
//! some member needs, and the frames are shared.
//!
//! Between nodes it travels packed ([`Message::pack`]), once, whatever the number of those who hear it.
//!
//! Nothing here waits, asks a database or knows a socket: members are reached through
//! [`walcast_protocol::Outlet`], whose queue is their own business. Who may send or hear is decided by the caller.

mod cost;
mod message;
mod parcel;
#[cfg(test)]
mod recovery_tests;
mod replay;
mod rooms;
mod shared;
#[cfg(test)]
mod shared_tests;
mod window;

pub use cost::{PayloadCost, payload_cost};
pub use message::{Body, Message, Unframeable, encode_replayed, payload_with_meta};
pub use parcel::Unreadable;
pub use replay::Replay;
pub use rooms::{Member, MemberId, Membership, Recovered, Room, Rooms, Speaker};
pub use shared::{Catchup, Heard, KeptCast, RecentCasts, Stamp, pack_cast, unpack_cast};
pub use window::{Since, Unrecovered, WindowLimits};
