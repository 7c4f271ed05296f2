//! Events in a form that travels: what one node reads from the log, for the others.
//!
//! A parcel says who packed it and how far its packer has read the log, and carries events. Each stands for itself: it
//! announces the tables of its rows and repeats the transaction it begins in, so that a reader may begin with any. A
//! large transaction takes several. Where a message of the plugin says the same, it is used ([`crate::pgoutput`]).
//!
//! ```text
//! 1 byte   version, 1
//! 8 bytes  tenure: the token of the lease under which it was packed
//! 8 bytes  number within the tenure, from 1
//! 8 bytes  when it was packed, microseconds since 1970-01-01 UTC
//! 8 bytes  position up to which everything is in this parcel or an earlier one
//! 8 bytes  end of the server's log, as the packer knew it
//! 1 byte   whether the packer is streaming: 1 or 0
//! then for each event
//!   1 byte   kind
//!   4 bytes  length of what follows
//!   S  a stream began: 8 bytes position, 8 bytes number of the connection, 1 byte whether it was resumed
//!   L  it was lost: 8 bytes pause in milliseconds, 1 byte whether it is kept, the reason
//!   B C T   the plugin's message
//!   R  8 bytes version of the table, the plugin's message
//!   I  4 bytes number within the transaction, the plugin's message (also of UPDATE and DELETE)
//!   O  as I, with 4 + 4 bytes in between: of the old and the new row, how many bytes of values were left out
//! ```

mod pack;
mod unpack;

pub use pack::Packer;
pub use unpack::{Parcel, ParcelError, Unpacker, fuzz};

pub(crate) const VERSION: u8 = 1;

/// A row with more than this is packed without its long values, which a change of that size loses anyway
/// (`database.md 2.9`). Bytes.
pub const MAX_CHANGE_BYTES: usize = 8 * 1024 * 1024;
/// Values up to this stay in a row that is too large. Bytes.
pub(crate) const SHORT_VALUE_BYTES: usize = 64;

/// The longest reason that travels, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 1024;
