//! Why a token is refused, in the words that each place of refusal owes the client.

use std::fmt::Write as _;

/// A client is shown at most this much of the `kid` it sent.
const LONGEST_KID_CHARS: usize = 200;

/// Why a token was refused. The texts are those of `protocol.md 1.4`, `3.4`, `4.2` and `4.3`.
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
    /// Nothing to verify the header's algorithm with.
    #[error("Failed to generate JWT signer, check your JWT secret or JWKS configuration")]
    NoSigner,
    /// The key set has no key of this id that fits the header's algorithm.
    #[error(
        "Failed to generate JWT signer for key ID (kid) \"{kid}\", check your JWT secret or JWKS configuration"
    )]
    NoKey {
        /// The header's `kid`, cut if it is long.
        kid: String,
    },
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
    /// No key for this `kid`.
    pub(super) fn no_key(kid: &str) -> Self {
        let mut shown: String = kid.chars().take(LONGEST_KID_CHARS).collect();
        if shown.len() < kid.len() {
            let _ = write!(shown, "…");
        }
        Self::NoKey { kid: shown }
    }

    pub(super) fn claim(claim: &str, expected: impl Into<String>) -> Self {
        Self::Claim {
            claim: claim.to_owned(),
            expected: expected.into(),
        }
    }

    /// The `reason` of a refused join (`protocol.md 3.4`).
    pub fn join_reason(&self) -> String {
        match self {
            Self::Malformed => format!("MalformedJWT: {self}"),
            Self::NotJson | Self::ClaimsNotObject => format!("UnknownErrorOnChannel: {self}"),
            Self::NoSigner | Self::NoKey { .. } => format!("JwtSignerError: {self}"),
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
            Self::NoSigner | Self::NoKey { .. } => "JwtSignerError",
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
            Self::NoSigner => {
                "sign with HS256, HS384 or HS512 and the secret in API_JWT_SECRET, or name by `kid` a key in API_JWT_JWKS"
            }
            Self::NoKey { .. } => "add the key to API_JWT_JWKS, or sign with one that is in it",
            Self::Signature => {
                "sign with the secret in API_JWT_SECRET or a key in API_JWT_JWKS; check that key and server belong together"
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
            | Self::NoKey { .. }
            | Self::Expired { .. }
            | Self::ExpirationInvalid
            | Self::MissingClaims
            | Self::Claim { .. } => Some(self.to_string()),
        }
    }
}
