//! What a request for a stream is told that comes to nothing: a status, and a code and a sentence as JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::authorize::AuthorizeError;
use crate::join::Refused;
use crate::metrics;
use crate::rate;
use crate::sse::request::QueryError;
use crate::tenants::NoTenant;

/// The body of a refusal.
#[derive(Serialize, ToSchema)]
pub(super) struct StreamRefused {
    /// Why, for programs; docs/errors.md explains each.
    #[schema(example = "InvalidQuery")]
    code: &'static str,
    /// Why, for people.
    message: String,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// As for sockets (`protocol.md 1.4`).
    #[error("{}", no_tenant(*.0))]
    NoTenant(NoTenant),
    /// As for sockets (`protocol.md 1.4`).
    #[error("Realtime was disabled for this tenant")]
    Suspended,
    /// The query means nothing.
    #[error("{0}")]
    Query(#[from] QueryError),
    /// No token, or none that counts.
    #[error("{0}")]
    Unauthorized(#[from] AuthorizeError),
    /// As for sockets (`protocol.md 1.4`).
    #[error("Too many connected users")]
    TooManyUsers,
    /// As for sockets (`protocol.md 1.4`).
    #[error("Too many joins per second")]
    TooManyJoins,
    /// A join of it was refused (`protocol.md 3.3`).
    #[error("{}", .0.sentence())]
    Join(Refused),
    /// The server shuts down.
    #[error("Realtime is restarting, please standby")]
    Restarting,
}

fn no_tenant(error: NoTenant) -> &'static str {
    match error {
        NoTenant::Unknown => "Tenant not found",
        NoTenant::Unavailable => "Error connecting to Realtime",
    }
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NoTenant(error) => error.code(),
            Self::Suspended => "RealtimeDisabledForTenant",
            Self::Query(_) => "InvalidQuery",
            Self::Unauthorized(error) => error.code(),
            Self::TooManyUsers => "ConnectionRateLimitReached",
            Self::TooManyJoins => "JoinsRateLimitReached",
            Self::Join(refused) => refused.code,
            Self::Restarting => "RealtimeRestarting",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoTenant(NoTenant::Unknown) => StatusCode::NOT_FOUND,
            Self::NoTenant(NoTenant::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Suspended => StatusCode::FORBIDDEN,
            Self::Query(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::TooManyUsers | Self::TooManyJoins => StatusCode::TOO_MANY_REQUESTS,
            Self::Join(refused) => join_status(refused.code),
            Self::Restarting => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether whoever asks is made to wait for the answer, as at the connect of a socket.
    pub(super) fn is_delayed(&self) -> bool {
        matches!(
            self,
            Self::NoTenant(_)
                | Self::Suspended
                | Self::Unauthorized(_)
                | Self::TooManyUsers
                | Self::TooManyJoins
        )
    }

    /// The response; also logs and counts it.
    pub(super) fn respond(&self) -> Response {
        let code = self.code();
        metrics::api_refused(code);
        tracing::info!(code, cause = %self, "stream of events refused");
        let body = StreamRefused {
            code,
            message: self.to_string(),
        };
        let mut response = (self.status(), Json(body)).into_response();
        rate::retry_after(&mut response);
        response
    }
}

impl Refused {
    /// The reason without the code that clients of a socket find before it.
    fn sentence(&self) -> &str {
        self.reason
            .strip_prefix(self.code)
            .and_then(|rest| rest.strip_prefix(": "))
            .unwrap_or(&self.reason)
    }
}

/// What the code of a refused join is in HTTP: who may not, who asks too much, what makes no sense. The rest is not the
/// client's fault and may be over soon.
fn join_status(code: &str) -> StatusCode {
    match code {
        "InvalidJWTToken" | "MalformedJWT" | "JwtSignatureError" | "JwtSignerError" => {
            StatusCode::UNAUTHORIZED
        }
        "Unauthorized" | "PrivateOnly" | "RealtimeDisabledForTenant" => StatusCode::FORBIDDEN,
        "ConnectionRateLimitReached"
        | "ClientJoinRateLimitReached"
        | "ChannelRateLimitReached"
        | "IncreaseConnectionPool" => StatusCode::TOO_MANY_REQUESTS,
        "RealtimeDisabledForConfiguration" | "UnknownErrorOnChannel" | "TopicNameRequired" => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
