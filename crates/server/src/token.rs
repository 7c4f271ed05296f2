//! JSON Web Tokens: verified as `protocol.md 4.1` says, refused with the texts of 1.4, 3.4, 4.2 and 4.3.
//!
//! The compact form is taken apart here and not by a library, because each way to be wrong has a text of its own on the
//! wire; the cryptography is aws-lc's. What becomes of a token's bearer is decided elsewhere: [`crate::connect`],
//! [`crate::join`], [`crate::channel::Lease`], [`crate::authorize`].

mod claims;
mod error;
mod grants;
mod key;
mod key_set;
#[cfg(test)]
mod signing;
mod verifier;

use std::time::{SystemTime, UNIX_EPOCH};

pub use claims::{ClaimRules, Claims};
pub use error::TokenError;
pub use grants::{CLAIM, Grant, Grants, NotOpened, PresenceGrant, TopicGrant, claim};
pub use key_set::{KeySet, KeySetError};
pub(crate) use verifier::unverified;
pub use verifier::{Keys, Verifier};

/// Opaque API keys start with this; they are never credentials here (`protocol.md 4.1`).
pub const OPAQUE_KEY_PREFIX: &str = "sb_";

/// Seconds since the epoch.
pub fn now_s() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
