//! The table `realtime.messages`: whose private channels are whose, and what was said in them.
//!
//! Applications write policies on that table; who may read and write a private channel is whatever Postgres says of
//! rows in it ([`Authorizer`], `database.md 3`). A channel keeps the answers as [`Rights`]. What is stored there can be
//! read again by channels that join, and added to ([`Archive`], `database.md 5`).
//!
//! They also broadcast from the database by inserting rows into it, which arrive as changes of its partitions
//! ([`is_messages_partition`], [`MessageRow`], `database.md 4.3`). The table and the functions that write it are made by
//! the migrations; its partitions, a UTC day each, are made and dropped by [`Upkeep`] (`database.md 6`).
//!
//! It is not the place of tokens or sockets (see `walcast`): claims come verified, and answers go to whoever asked.
//! A check that fails gives no right.

mod archive;
mod authorizer;
mod body;
mod check;
mod lane;
mod message_row;
mod partitions;
mod persist;
mod relation;
mod replay;
mod rights;
mod rights_error;
mod upkeep;
mod upkeep_error;

pub use archive::{Archive, ArchiveOptions};
pub use authorizer::{Authorizer, Options};
pub use body::Body;
pub use message_row::{MessageRow, RowBody, UnrelayedRow};
pub use partitions::{Kept, PartitionOptions, keep_partitions};
pub use persist::{Keep, NewMessage, PersistError};
pub use relation::is_messages_partition;
pub use replay::{ReplayError, ReplayRange, StoredMessage};
pub use rights::{Access, Asked, Extensions, Lacks, ReadRights, Rights, WriteRights};
pub use rights_error::RightsError;
pub use upkeep::{Upkeep, UpkeepOptions};
pub use upkeep_error::{PartitionFailure, UpkeepError};
