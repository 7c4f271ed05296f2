//! Whether a key is valid here.

use std::sync::Arc;

use super::report::Entry;
use crate::token::{OPAQUE_KEY_PREFIX, Verifier, now_s};

/// Less than this is worth a word.
const SOON_S: i64 = 86_400;

pub(super) struct Judged {
    /// The database role it gives its bearer, to be looked for.
    pub(super) role: Option<String>,
    pub(super) entries: Vec<Entry>,
}

pub(super) fn judge(verifier: &Verifier, key: &str) -> Judged {
    let claims = match verifier.verify(key.trim()) {
        Ok(claims) => claims,
        Err(error) => {
            let message = if key.trim().starts_with(OPAQUE_KEY_PREFIX) {
                "the key is an opaque one, which means nothing here: the gateway has to exchange it for a JWT"
                    .to_owned()
            } else {
                format!(
                    "the key is refused ({}): {error}; {}",
                    error.code(),
                    error.remedy()
                )
            };
            return Judged {
                role: None,
                entries: vec![Entry::problem("key_refused", message)],
            };
        }
    };
    let role = claims.role.as_deref().map(str::to_owned);
    let left_s = claims.expires_at_s.saturating_sub(now_s());
    let entry = match &claims.role {
        None => Entry::problem(
            "key_without_role",
            "the key is valid, but its claim `role` is null: put a database role there",
        ),
        Some(role) if left_s < SOON_S => Entry::warning(
            "key_expires_soon",
            format!(
                "the key of role \"{role}\" is valid for {left_s} s only; give the application a fresh one in time"
            ),
        ),
        Some(role) => valid(role, left_s),
    };
    Judged {
        role,
        entries: vec![entry],
    }
}

fn valid(role: &Arc<str>, left_s: i64) -> Entry {
    Entry::ok(format!(
        "the key is valid for {} days, for role \"{role}\"",
        left_s / 86_400
    ))
}
