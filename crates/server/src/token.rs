//! JSON Web Tokens: verified as `protocol.md 4.1` says, refused with the texts of 1.4, 3.4, 4.2 and 4.3.
//!
//! Only HMAC for now: keys of a JWKS get their own file, and then answer for the asymmetric algorithms which are
//! refused here as "no signer".

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Opaque API keys start with this; they are never credentials here (`protocol.md 4.1`).
pub const OPAQUE_KEY_PREFIX: &str = "sb_";

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The database role; none when the claim is `null`. A value that is no string is its JSON text.
    pub role: Option<Arc<str>>,
    /// Seconds since the epoch, rounded to the nearest (`protocol.md 4.1`).
    pub expires_at_s: i64,
    /// The claims exactly as signed, a JSON object.
    pub json: Arc<str>,
}

/// Claims a token must match if it has them (`JWT_CLAIM_VALIDATORS`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimRules(pub Map<String, Value>);

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts.
    #[error("The token provided is not a valid JWT")]
    Malformed,
    /// Header or claims are base64 of something that is not JSON.
    #[error("the header or the claims of the token are not JSON")]
    NotJson,
    /// The claims are JSON, but no object.
    #[error("the claims of the token are not a JSON object")]
    ClaimsNotObject,
    /// No key for the header's algorithm.
    #[error("Failed to generate JWT signer, check your JWT secret or JWKS configuration")]
    NoSigner,
    /// The signature belongs to another key or another text.
    #[error("Failed to validate JWT signature")]
    Signature,
    /// A whole-number `exp` that is not in the future.
    #[error("Token has expired {seconds_ago} seconds ago")]
    Expired {
        /// Seconds since then, at least 0.
        seconds_ago: i64,
    },
    /// `exp` is after now, but rounds to now.
    #[error("Token expiration time is invalid")]
    ExpirationInvalid,
    /// `role` or `exp` is absent.
    #[error("Fields `role` and `exp` are required in JWT")]
    MissingClaims,
    /// A claim with a value it must not have.
    #[error("The claim `{claim}` of the token is not valid: it must be {expected}")]
    Claim {
        /// The claim's name.
        claim: String,
        /// What it must be.
        expected: String,
    },
}

impl TokenError {
    /// The `reason` of a refused join (`protocol.md 3.4`).
    pub fn join_reason(&self) -> String {
        match self {
            Self::Malformed => format!("MalformedJWT: {self}"),
            Self::NotJson | Self::ClaimsNotObject => format!("UnknownErrorOnChannel: {self}"),
            Self::NoSigner => format!("JwtSignerError: {self}"),
            Self::Signature => format!("JwtSignatureError: {self}"),
            Self::Expired { .. } | Self::ExpirationInvalid | Self::MissingClaims => {
                format!("InvalidJWTToken: {self}")
            }
            Self::Claim { .. } => "Unknown Error on Channel".to_owned(),
        }
    }

    /// The code under which the refusal is logged (`protocol.md 12`).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "MalformedJWT",
            Self::NoSigner => "JwtSignerError",
            Self::Signature => "JwtSignatureError",
            Self::Expired { .. } | Self::ExpirationInvalid | Self::MissingClaims => "InvalidJWTToken",
            Self::NotJson | Self::ClaimsNotObject | Self::Claim { .. } => "UnknownErrorOnChannel",
        }
    }

    /// What the operator or the application can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Malformed => "send a JWT; opaque keys must be exchanged for one by the gateway",
            Self::NotJson | Self::ClaimsNotObject => "send a token made by a JWT library",
            Self::NoSigner => "sign with HS256, HS384 or HS512 and the secret in API_JWT_SECRET",
            Self::Signature => {
                "sign with the secret in API_JWT_SECRET; check that key and server belong together"
            }
            Self::Expired { .. } | Self::ExpirationInvalid => "send a fresh token; check both clocks",
            Self::MissingClaims => "add the claims `role` and `exp`",
            Self::Claim { .. } => "correct the claim, or the rule in JWT_CLAIM_VALIDATORS",
        }
    }

    /// The message with which an `access_token` event or the token timer closes the channel; none: the channel
    /// crashes instead (`protocol.md 4.2`, `4.3`).
    pub fn close_message(&self) -> Option<String> {
        match self {
            Self::NotJson | Self::ClaimsNotObject => None,
            // The reference shows these two as the bare terms, and clients may look for them.
            Self::Signature => Some(":signature_error".to_owned()),
            Self::NoSigner => Some(":error_generating_signer".to_owned()),
            Self::Malformed
            | Self::Expired { .. }
            | Self::ExpirationInvalid
            | Self::MissingClaims
            | Self::Claim { .. } => Some(self.to_string()),
        }
    }
}

/// Checks tokens against one secret.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
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

#[derive(Deserialize)]
struct Header {
    alg: Value,
}

impl Verifier {
    /// A verifier for tokens signed with the raw bytes of `secret`.
    pub fn new(secret: &str, rules: ClaimRules) -> Self {
        Self {
            key: DecodingKey::from_secret(secret.as_bytes()),
            rules: Arc::new(rules),
        }
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
        let claims = self.signed(token)?;
        let parsed: Value = serde_json::from_str(&claims).map_err(|_| TokenError::NotJson)?;
        let Value::Object(parsed) = parsed else {
            return Err(TokenError::ClaimsNotObject);
        };

        check_expiry(parsed.get("exp"), now_s)?;
        if let Some(issued_at) = parsed.get("iat")
            && !issued_at.is_number()
        {
            return Err(wrong_claim("iat", "a number"));
        }
        for (claim, wanted) in &self.rules.0 {
            if parsed.get(claim).is_some_and(|value| value != wanted) {
                return Err(wrong_claim(claim, &wanted.to_string()));
            }
        }

        let (Some(role), Some(expiry)) = (parsed.get("role"), parsed.get("exp")) else {
            return Err(TokenError::MissingClaims);
        };
        let role = match role {
            Value::Null => None,
            Value::String(role) => Some(Arc::from(role.as_str())),
            other => Some(Arc::from(other.to_string())),
        };
        Ok(Claims {
            role,
            expires_at_s: rounded(expiry),
            json: claims.into(),
        })
    }

    /// Checks the signature alone and returns the text of the claims.
    fn signed(&self, token: &str) -> Result<String, TokenError> {
        let token = normalized(token)?;
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let header = decode_part(header)?;
        let claims_text = decode_part(claims)?;
        decode_part(signature)?;

        let header: Value = serde_json::from_slice(&header).map_err(|_| TokenError::NotJson)?;
        let header = Header::deserialize(&header).map_err(|_| TokenError::NoSigner)?;
        let algorithm = match header.alg.as_str() {
            Some("HS256") => Algorithm::HS256,
            Some("HS384") => Algorithm::HS384,
            Some("HS512") => Algorithm::HS512,
            _ => return Err(TokenError::NoSigner),
        };
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let signature = signature.trim_end_matches('=');
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm) {
            Ok(true) => String::from_utf8(claims_text).map_err(|_| TokenError::NotJson),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    /// Checks the token of an administrative endpoint: signed, `exp` honoured if present and a number if present,
    /// no `role` needed (`protocol.md 10`).
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn verify_admin(&self, token: &str) -> Result<(), TokenError> {
        let claims: Value = serde_json::from_str(&self.signed(token)?).map_err(|_| TokenError::NotJson)?;
        let Value::Object(claims) = claims else {
            return Err(TokenError::ClaimsNotObject);
        };
        check_expiry(claims.get("exp"), now_s())
    }
}

/// Seconds since the epoch.
pub fn now_s() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Percent-decoded and without white space (`protocol.md 4.1`).
fn normalized(token: &str) -> Result<String, TokenError> {
    let decoded = percent_decode_str(token)
        .decode_utf8()
        .map_err(|_| TokenError::Malformed)?;
    Ok(decoded.chars().filter(|c| !c.is_whitespace()).collect())
}

fn decode_part(part: &str) -> Result<Vec<u8>, TokenError> {
    let engine = if part.ends_with('=') {
        URL_SAFE
    } else {
        URL_SAFE_NO_PAD
    };
    engine.decode(part).map_err(|_| TokenError::Malformed)
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
        Some(_) => Err(wrong_claim("exp", "in the future")),
        None => Err(wrong_claim("exp", "a number")),
    }
}

fn wrong_claim(claim: &str, expected: &str) -> TokenError {
    TokenError::Claim {
        claim: claim.to_owned(),
        expected: expected.to_owned(),
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

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
