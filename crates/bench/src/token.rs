//! Keys for the load's users.

use anyhow::{Context, ensure};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const LIFETIME_S: u64 = 24 * 3_600;

/// A key for `role`, with a subject if given.
pub(crate) fn mint(secret: &str, role: &str, subject: Option<&str>) -> anyhow::Result<String> {
    let mut claims = json!({ "role": role });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    sign(secret, claims)
}

/// A key with these claims, an object, to which issuer and lifetime are added.
pub(crate) fn sign(secret: &str, mut claims: Value) -> anyhow::Result<String> {
    ensure!(
        !secret.is_empty(),
        "give the project's JWT secret as --secret or API_JWT_SECRET"
    );
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    claims["iss"] = "walcast-bench".into();
    claims["exp"] = (now_s + LIFETIME_S).into();
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("the key could not be signed")
}

/// The subject of the user with this number.
pub(crate) fn subject(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
