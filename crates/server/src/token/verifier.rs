//! Whether a token is genuine and valid: its form, its key, its signature, its claims.

use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::claims::{ClaimRules, Claims, judge_admin};
use super::error::TokenError;
use super::key::{Algorithm, Key, base64url};
use super::key_set::KeySet;
use super::now_s;

/// What tokens are verified with.
#[derive(Default)]
pub struct Keys {
    secrets: Vec<Key>,
    set: Option<KeySet>,
}

impl Keys {
    /// Secrets whose raw bytes sign tokens with HMAC. A token may be signed with any of them.
    pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            secrets: secrets
                .into_iter()
                .map(|secret| Key::Secret(secret.as_bytes().to_vec()))
                .collect(),
            set: None,
        }
    }

    /// Adds the keys that tokens name by `kid`.
    #[must_use]
    pub fn with_set(mut self, set: KeySet) -> Self {
        self.set = Some(set);
        self
    }

    /// Whether any token could be verified.
    pub fn can_verify(&self) -> bool {
        !self.secrets.is_empty() || self.set.as_ref().is_some_and(KeySet::is_usable)
    }

    /// Whether the signature is one of the key that `protocol.md 4.1` chooses.
    fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, TokenError> {
        let by_secret = matches!(algorithm, Algorithm::Hmac(_));
        if let (Some(kid), Some(set)) = (kid, &self.set) {
            let found = set.find(algorithm.key_type(), kid);
            if found.is_some() || !by_secret {
                let key = found.and_then(|key| key.as_ref().ok());
                let verified = key.and_then(|key| key.verify(algorithm, message, signature));
                return verified.ok_or_else(|| TokenError::no_key(kid));
            }
        }
        if !by_secret || self.secrets.is_empty() {
            return Err(TokenError::NoSigner);
        }
        let verifies = |secret: &Key| secret.verify(algorithm, message, signature) == Some(true);
        Ok(self.secrets.iter().any(verifies))
    }
}

/// Checks tokens. A clone shares the keys.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<Keys>,
    rules: Arc<ClaimRules>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verifier")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier with these keys and rules.
    pub fn new(keys: Keys, rules: ClaimRules) -> Self {
        Self {
            keys: Arc::new(keys),
            rules: Arc::new(rules),
        }
    }

    /// One with other keys, under the same rules.
    #[must_use]
    pub fn with_keys(&self, keys: Keys) -> Self {
        Self {
            keys: Arc::new(keys),
            rules: Arc::clone(&self.rules),
        }
    }

    /// What the operator should know about the keys, a sentence each.
    pub fn warnings(&self) -> &[String] {
        self.keys.set.as_ref().map_or(&[], KeySet::warnings)
    }

    /// Verifies a token at the present time.
    ///
    /// # Errors
    /// The first rule of `protocol.md 4.1` the token breaks.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_at(token, now_s())
    }

    /// Verifies a token at a time in seconds since the epoch.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn verify_at(&self, token: &str, now_s: i64) -> Result<Claims, TokenError> {
        Claims::judge(self.signed(token)?, &self.rules, now_s)
    }

    /// Checks the token of an administrative endpoint: signed, `exp` honoured if present and a number if present,
    /// no `role` needed (`protocol.md 10`).
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn verify_admin(&self, token: &str) -> Result<(), TokenError> {
        judge_admin(&self.signed(token)?, now_s())
    }

    /// Checks the signature alone and returns the text of the claims.
    fn signed(&self, token: &str) -> Result<String, TokenError> {
        let token = normalized(token)?;
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
        // A dot too many is no base64.
        let part = |text| base64url(text).map_err(|_| TokenError::Malformed);
        let (header, claims, signature) = (part(header)?, part(claims)?, part(signature)?);

        let header: Value = serde_json::from_slice(&header).map_err(|_| TokenError::NotJson)?;
        let field = |name: &str| header.get(name).and_then(Value::as_str);
        let algorithm = field("alg").and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(TokenError::NoSigner)?;
        if self
            .keys
            .verify(algorithm, field("kid"), message.as_bytes(), &signature)?
        {
            String::from_utf8(claims).map_err(|_| TokenError::NotJson)
        } else {
            Err(TokenError::Signature)
        }
    }
}

/// What a token says, whoever signed it: for people who ask what would be if it counted, and for nothing else.
pub(crate) fn unverified(token: &str) -> Option<serde_json::Map<String, Value>> {
    let token = normalized(token).ok()?;
    let claims = base64url(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Percent-decoded and without white space (`protocol.md 4.1`).
fn normalized(token: &str) -> Result<String, TokenError> {
    let decoded = percent_decode_str(token)
        .decode_utf8()
        .map_err(|_| TokenError::Malformed)?;
    Ok(decoded.chars().filter(|c| !c.is_whitespace()).collect())
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
