//! Who gets a change.
//!
//! This crate stands between the replication stream and the sockets. It keeps the subscriptions in memory, finds
//! those that match a change by index, decides once per identity whether the row may be seen, renders the row
//! once per shape, and hands finished frames to the channels in commit order (`protocol.md 7`, `database.md 2`).
//!
//! ```text
//! stream -> dispatcher -> one task a table: match -> visibility -> render -> order -> outlet of the channel
//! ```
//!
//! It is not the place of sockets, tokens or HTTP (see `walcast`), nor of decoding (see `walcast-replication`).
//! The nodes of a cluster share one slot ([`Sharing`]); each decides for its own channels.
//!
//! A check that fails means "not visible"; a table that is slow delays the channels bound to it, nobody else.

#[cfg(test)]
mod against_postgres;
mod asking;
pub mod binding;
mod by_claim;
mod catalog;
mod claims;
pub mod clause;
mod condition;
mod decimal;
mod deleted;
pub mod diagnosis;
mod dispatch;
mod elixir;
mod engine;
mod error;
mod explain;
pub mod filter;
mod filter_sql;
mod fresh;
#[doc(hidden)]
pub mod fuzzing;
mod generated;
mod hold;
mod index;
mod lane;
mod leaving;
mod like;
mod lost_columns;
mod meter;
mod moment;
mod notice;
mod once;
mod open_filters;
mod outgoing;
pub mod policy;
mod position;
mod raised;
mod recovery;
mod registry;
mod render;
mod retype;
mod rights;
mod row;
mod row_read;
mod scalar;
mod sharing;
mod source;
mod subscription;
mod table;
mod tap;
mod validate;
mod verify;
mod view;
mod visibility;
mod warnings;
mod window;

pub use claims::Claims;
pub use engine::{Changes, DeleteVisibility, Options, Status};
pub use error::SubscribeError;
pub use explain::{
    Check, CheckName, Decided, ExplainError, Explainer, Explanation, IdentityShown, Inquiry, PolicyKind,
    PolicyShown, TokenRefused,
};
pub use meter::Meter;
pub use notice::SUBSCRIBED;
pub use position::{Position, PositionError, Since};
pub use sharing::{Sharing, SharingFigures};
pub use subscription::{Request, Subscription};
pub use tap::Tap;
pub use visibility::{Visibility, VisibilityFigures};
pub use walcast_replication::json::Digits;
pub use window::WindowLimits;
