//! The realtime wire protocol: what travels, and nothing of when.
//!
//! Frames of both serializers (a JSON object for 1.0.0, a JSON array for 2.0.0, binary user broadcasts), the join
//! payload with its lenient coercions, replies and `system` messages, and the table of error codes.
//!
//! Pure code: no I/O, no clock, no async, nothing of other crates of ours. Payloads that are only passed on are
//! never parsed; frames that many sockets receive are built once and shared ([`Frame`]). Nothing here panics on
//! input, and nothing allocates more than in proportion to it.

mod binary;
mod binding_entry;
mod decode;
mod encode;
mod error_code;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod join;
mod message;
mod quote;
mod server_message;
mod version;

pub use binary::{
    Encoding, FieldTooLong, UserBroadcast, UserBroadcastPush, decode_user_broadcast, encode_user_broadcast,
    encode_user_broadcast_push,
};
pub use binding_entry::{BindingEntry, join_response};
pub use decode::{FrameError, decode_binary, decode_text};
pub use encode::{
    Status, System, change_event, close, crash, fan_out, heartbeat_reply, postgres_changes, push, reply,
    system, unmatched_topic,
};
pub use error_code::{ErrorCode, join_reason};
pub use frame::{Frame, Outlet};
pub use join::{
    Broadcast, JoinConfig, JoinError, JoinPayload, PostgresChangesOptions, Presence, TokenChoice,
};
pub use message::{Message, Name, Payload, Ref};
pub use quote::quoted;
pub use server_message::{ServerMessage, decode_server_text, encode_client_text};
pub use version::{UnsupportedVersion, Version};
