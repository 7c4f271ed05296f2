//! What a stored message carries.

/// A user's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// JSON text.
    Json(Box<str>),
    /// Opaque bytes; may be empty.
    Binary(Box<[u8]>),
}
