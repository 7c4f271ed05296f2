//! A message from a client, as far as routing needs it.

use crate::binary::UserBroadcastPush;
use crate::quote::quoted;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A reference: any JSON value, echoed with the type it was received with (`protocol.md 2.2`). Equal if the JSON text
/// is: `1` and `"1"` are two references. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Ref(Option<Arc<str>>);

impl Ref {
    /// JSON null.
    pub const NULL: Self = Self(None);

    /// A reference from JSON text.
    pub(crate) fn from_raw(raw: &RawValue) -> Self {
        match raw.get() {
            "null" => Self::NULL,
            text => Self(Some(text.into())),
        }
    }

    /// A string as a reference.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(Some(quoted(text).into()))
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.json())
    }
}

/// A topic or an event. Clients send strings; anything else is routed to the "unmatched topic" answer, which shows
/// it as it came (`protocol.md 8.7`).
#[derive(Clone, Debug)]
pub enum Name {
    /// A string.
    Text(String),
    /// JSON text of something else.
    Other(Box<RawValue>),
}

impl Name {
    pub(crate) fn from_raw(raw: &RawValue) -> Self {
        // A string with half a surrogate pair is JSON, but no text; it is echoed as it came.
        serde_json::from_str(raw.get()).map_or_else(|_| Self::Other(raw.to_owned()), Self::Text)
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// As JSON text.
    #[must_use]
    pub fn json(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Owned(quoted(text)),
            Self::Other(raw) => Cow::Borrowed(raw.get()),
        }
    }
}

/// What a message carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// JSON, not parsed.
    Json(Box<RawValue>),
    /// A binary user broadcast (kind 3).
    UserBroadcast(UserBroadcastPush),
    /// The data of a binary push (kind 0).
    Bytes(Bytes),
}

/// A message from a client.
#[derive(Clone, Debug)]
pub struct Message {
    /// Reference of the join it belongs to.
    pub join_ref: Ref,
    /// Its own reference.
    pub reference: Ref,
    /// Full topic.
    pub topic: Name,
    /// Event; `broadcast` for a binary user broadcast.
    pub event: Name,
    /// Payload.
    pub payload: Payload,
}
