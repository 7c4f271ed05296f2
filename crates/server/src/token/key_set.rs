//! The keys of `API_JWT_JWKS`, found by their id (`protocol.md 4.1`).

use serde_json::Value;

use super::key::{Flaw, Key, KeyType};

/// A JSON Web Key Set (RFC 7517 5).
#[derive(Default)]
pub struct KeySet {
    keys: Vec<NamedKey>,
    warnings: Vec<String>,
}

struct NamedKey {
    kid: String,
    key_type: KeyType,
    /// A key that can verify nothing keeps its place: who names it is told that there is no such key, and does not
    /// fall back to a secret.
    key: Result<Key, Flaw>,
}

/// Why a text is no key set. No message repeats any of the text: it may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON.
    #[error("it is not JSON (line {line}, column {column})")]
    Json {
        /// Where it ceases to be.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// Neither an array nor an object with one.
    #[error("it is neither an array nor an object with the array `keys`")]
    Shape,
    /// An element that is no key.
    #[error("its key number {number} is not an object")]
    Key {
        /// Counted from 1.
        number: usize,
    },
}

/// Why a key is not used at all.
#[derive(Debug, thiserror::Error)]
enum Unused {
    #[error("it has no `kid`, so no token can name it")]
    NoId,
    #[error("its `kty` is none of oct, RSA, EC and OKP")]
    KeyType,
    #[error("it has no `k`")]
    NoSecret,
    #[error("its `crv` is neither Ed25519 nor Ed448")]
    Curve,
    #[error("another one before it has the same `kid` and `kty`")]
    Repeated,
}

impl KeySet {
    /// Reads `{"keys":[…]}` or the bare array. Keys that cannot be used are no error but a warning: sets are made for
    /// more readers than one.
    ///
    /// # Errors
    /// The text is no key set.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let value: Value = serde_json::from_str(text).map_err(|error| KeySetError::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let keys = match value {
            Value::Array(keys) => keys,
            Value::Object(mut members) => match members.remove("keys") {
                Some(Value::Array(keys)) => keys,
                _ => return Err(KeySetError::Shape),
            },
            _ => return Err(KeySetError::Shape),
        };
        let mut set = Self::default();
        for (number, key) in (1..).zip(&keys) {
            set.add(number, key)?;
        }
        Ok(set)
    }

    fn add(&mut self, number: usize, jwk: &Value) -> Result<(), KeySetError> {
        let members = jwk.as_object().ok_or(KeySetError::Key { number })?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let kid = text("kid");
        let unused = match (kid, text("kty").and_then(KeyType::named)) {
            (None, _) => Unused::NoId,
            (_, None) => Unused::KeyType,
            (_, Some(KeyType::Oct)) if text("k").is_none() => Unused::NoSecret,
            (_, Some(KeyType::Okp)) if !matches!(text("crv"), Some("Ed25519" | "Ed448")) => Unused::Curve,
            (Some(kid), Some(key_type)) if self.find(key_type, kid).is_some() => Unused::Repeated,
            (Some(kid), Some(key_type)) => {
                let key = Key::read(key_type, members);
                if let Err(flaw) = &key {
                    self.warnings
                        .push(format!("key {number}, `{kid}`, verifies no token: {flaw}"));
                }
                self.keys.push(NamedKey {
                    kid: kid.to_owned(),
                    key_type,
                    key,
                });
                return Ok(());
            }
        };
        let kid = kid.map(|kid| format!(", `{kid}`,")).unwrap_or_default();
        self.warnings
            .push(format!("key {number}{kid} is not used: {unused}"));
        Ok(())
    }

    /// The first key of that type and id.
    pub(super) fn find(&self, key_type: KeyType, kid: &str) -> Option<&Result<Key, Flaw>> {
        self.keys
            .iter()
            .find(|key| key.key_type == key_type && key.kid == kid)
            .map(|key| &key.key)
    }

    /// One sentence for each key that verifies nothing, with its cause.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether any key can verify a token.
    pub fn is_usable(&self) -> bool {
        self.keys.iter().any(|key| key.key.is_ok())
    }
}

#[cfg(test)]
#[path = "key_set_tests.rs"]
mod tests;
