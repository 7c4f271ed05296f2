//! What a token says, and which of it counts (`protocol.md 4.1`).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::TokenError;
use super::grants::{CLAIM, Grant, Grants, NotOpened};

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The database role; none when the claim is `null`. A value that is no string is its JSON text.
    pub role: Option<Arc<str>>,
    /// Seconds since the epoch, rounded to the nearest (`protocol.md 4.1`).
    pub expires_at_s: i64,
    /// The claims exactly as signed, a JSON object.
    pub json: Arc<str>,
    /// What it may do where, if it is bound to topics.
    pub grants: Option<Arc<Grants>>,
}

/// Claims a token must match if it has them (`JWT_CLAIM_VALIDATORS`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimRules(pub Map<String, Value>);

impl Claims {
    /// Whether the token says itself what its bearer may do, and no policy is asked.
    pub fn is_bound(&self) -> bool {
        self.grants.is_some()
    }

    /// What the token lets its bearer do with a topic (without `realtime:`): all, for it to say, unless it is bound to
    /// topics.
    ///
    /// # Errors
    /// It is bound to topics, and this is none of them.
    pub fn grant(&self, topic: &str) -> Result<Grant, NotOpened> {
        match &self.grants {
            None => Ok(Grant::ALL),
            Some(grants) => grants.of(topic).ok_or_else(|| NotOpened { topic: topic.into() }),
        }
    }

    /// Judges claims that are signed.
    ///
    /// # Errors
    /// The first rule they break.
    pub(super) fn judge(json: String, rules: &ClaimRules, now_s: i64) -> Result<Self, TokenError> {
        let claims = object(&json)?;
        check_expiry(claims.get("exp"), now_s)?;
        if let Some(issued_at) = claims.get("iat")
            && !issued_at.is_number()
        {
            return Err(TokenError::claim("iat", "a number"));
        }
        for (claim, wanted) in &rules.0 {
            if claims.get(claim).is_some_and(|value| value != wanted) {
                return Err(TokenError::claim(claim, wanted.to_string()));
            }
        }

        let (Some(role), Some(expiry)) = (claims.get("role"), claims.get("exp")) else {
            return Err(TokenError::MissingClaims);
        };
        let grants = claims
            .get(CLAIM)
            .map(|claim| Grants::read(claim).map(Arc::new))
            .transpose()
            .map_err(|error| {
                let form =
                    r#"an object {"topics":[{"topic":…,"read":true,…},…]}, as POST /api/tokens writes it"#;
                TokenError::claim(CLAIM, format!("{form} ({error})"))
            })?;
        let role = match role {
            Value::Null => None,
            Value::String(role) => Some(Arc::from(role.as_str())),
            other => Some(Arc::from(other.to_string())),
        };
        Ok(Self {
            role,
            expires_at_s: rounded(expiry),
            json: json.into(),
            grants,
        })
    }
}

/// Judges the claims of an administrative token: `exp` honoured if present, no `role` needed (`protocol.md 10`).
pub(super) fn judge_admin(json: &str, now_s: i64) -> Result<(), TokenError> {
    check_expiry(object(json)?.get("exp"), now_s)
}

fn object(json: &str) -> Result<Map<String, Value>, TokenError> {
    match serde_json::from_str(json) {
        Ok(Value::Object(claims)) => Ok(claims),
        Ok(_) => Err(TokenError::ClaimsNotObject),
        Err(_) => Err(TokenError::NotJson),
    }
}

fn check_expiry(expiry: Option<&Value>, now_s: i64) -> Result<(), TokenError> {
    let Some(expiry) = expiry else { return Ok(()) };
    if let Some(at_s) = expiry.as_i64() {
        return if at_s > now_s {
            Ok(())
        } else {
            Err(TokenError::Expired {
                seconds_ago: now_s.saturating_sub(at_s),
            })
        };
    }
    match expiry.as_f64() {
        // A second is far below what a double loses at this size.
        #[allow(clippy::cast_precision_loss)]
        Some(at_s) if at_s > now_s as f64 => Ok(()),
        Some(_) => Err(TokenError::claim("exp", "in the future")),
        None => Err(TokenError::claim("exp", "a number")),
    }
}

fn rounded(number: &Value) -> i64 {
    // `as` saturates here, which is what a token that never expires needs.
    #[allow(clippy::cast_possible_truncation)]
    let from_float = |value: f64| value.round() as i64;
    number
        .as_i64()
        .or_else(|| number.as_f64().map(from_float))
        .unwrap_or(0)
}
