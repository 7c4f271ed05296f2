//! Who may administer: a bearer of a token that one of the server's own secrets signs (`protocol.md 10`). The API of
//! tenants goes by `API_JWT_SECRET`, `/metrics` by `METRICS_JWT_SECRET`.
//!
//! A handler asks for it by taking an [`Admin`], before anything else of the request.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::serve::Server;
use crate::setting::Secret;
use crate::token::{ClaimRules, Keys, TokenError, Verifier};

/// Whose tokens open something, and which of them do not.
#[derive(Debug, Clone)]
pub struct AdminAccess {
    verifier: Option<Verifier>,
    blocked: Vec<Secret>,
}

/// Why a request is not let in. To the client all are one: 403 without a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefusal {
    /// There is nothing to sign such a token with.
    #[error("there is no secret to sign such a token with; set it")]
    NoSecret,
    /// No header of the only form that counts.
    #[error("there is no token; send `Authorization: Bearer <jwt>`")]
    NoToken,
    /// Signed, and refused by name.
    #[error("the token is in the blocklist")]
    Blocked,
    /// Not signed with a secret that counts, or expired.
    #[error("{0}; sign it with the secret of this endpoint")]
    Token(#[from] TokenError),
}

impl AdminAccess {
    /// Access by tokens signed with any of `secrets`, except those of `blocklist`, which are separated by commas.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>, blocklist: Option<&str>) -> Self {
        let keys = Keys::of_secrets(secrets);
        Self {
            verifier: keys
                .can_verify()
                .then(|| Verifier::new(keys, ClaimRules::default())),
            blocked: blocklist
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|token| !token.is_empty())
                .map(Secret::new)
                .collect(),
        }
    }

    /// Whether a request with these headers is let in.
    ///
    /// # Errors
    /// The first rule of `protocol.md 10` that it breaks.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), AdminRefusal> {
        let verifier = self.verifier.as_ref().ok_or(AdminRefusal::NoSecret)?;
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(AdminRefusal::NoToken)?;
        if self.blocked.iter().any(|blocked| blocked.expose() == token) {
            return Err(AdminRefusal::Blocked);
        }
        Ok(verifier.verify_admin(token)?)
    }
}

impl IntoResponse for AdminRefusal {
    fn into_response(self) -> Response {
        StatusCode::FORBIDDEN.into_response()
    }
}

/// A request that may administer tenants. As the first argument of a handler it refuses all others.
#[derive(Debug, Clone, Copy)]
pub struct Admin;

impl FromRequestParts<Arc<Server>> for Admin {
    type Rejection = AdminRefusal;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Self::Rejection> {
        let admitted = server.config.admin.admit(&parts.headers);
        if let Err(refusal) = &admitted {
            tracing::warn!(
                cause = %refusal,
                path = parts.uri.path(),
                "administration refused; its tokens are signed with API_JWT_SECRET"
            );
        }
        admitted.map(|()| Self)
    }
}
