//! Why there is no explanation: a code, a sentence and what to do.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use walcast_changes::ExplainError;

use super::super::refusal::Refusal as RequestRefusal;
use super::{MAX_REQUEST_BYTES, SERVICE_ROLE};
use crate::authorize::AuthorizeError;
use crate::explain::who::Unfit;
use crate::metrics;

/// Why a question is not answered. No sentence repeats anything that was sent, but names.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// No token, or none that counts.
    #[error("{0}")]
    Unauthorized(#[from] AuthorizeError),
    /// Somebody else's token.
    #[error("explanations are given to the role {SERVICE_ROLE} alone")]
    NotService,
    /// The body did not come, or not whole.
    #[error(transparent)]
    Request(#[from] RequestRefusal),
    /// The body is above the limit.
    #[error("the body is above {MAX_REQUEST_BYTES} bytes")]
    TooLarge,
    /// The body is not as it should be.
    #[error("{0}")]
    Unfit(String),
    /// What it says of whom it is about is of no use.
    #[error(transparent)]
    Who(#[from] Unfit),
    /// The database has not been reached yet.
    #[error("the database is not prepared yet")]
    NotPrepared,
    /// It took too long.
    #[error("there was no answer in time")]
    TooSlow,
    /// The engine has no answer.
    #[error("{0}")]
    Unexplained(#[from] ExplainError),
}

/// Why there is no explanation.
#[derive(Serialize, ToSchema)]
pub(super) struct Refused {
    /// Names the reason in programs.
    code: &'static str,
    /// A sentence.
    message: String,
    /// What to do.
    remedy: &'static str,
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(error) => error.code(),
            Self::NotService => "Unauthorized",
            Self::Request(_) | Self::TooLarge => "BodyTooLarge",
            Self::Unfit(_) | Self::Who(_) => "InvalidQuestion",
            Self::NotPrepared | Self::Unexplained(ExplainError::Database(_)) => "DatabaseNotReady",
            Self::TooSlow => "ExplanationTooSlow",
            Self::Unexplained(ExplainError::Busy) => "TooManyExplanations",
            Self::Unexplained(ExplainError::Undecided(_)) => "RowUndecided",
            Self::Unexplained(ExplainError::Key(_)) => "InvalidKey",
            Self::Unexplained(ExplainError::Binding(_) | ExplainError::Wildcard) => "InvalidSubscription",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotService => StatusCode::FORBIDDEN,
            Self::Request(_) | Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unfit(_)
            | Self::Who(_)
            | Self::Unexplained(ExplainError::Key(_) | ExplainError::Binding(_) | ExplainError::Wildcard) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::NotPrepared | Self::Unexplained(ExplainError::Database(_) | ExplainError::Undecided(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::Unexplained(ExplainError::Busy) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) | Self::NotService => {
                "send `Authorization: Bearer <jwt>` with the service key, from a place your users cannot read"
            }
            Self::Request(_) | Self::TooLarge => "send less",
            Self::Unfit(_) | Self::Who(_) => {
                r#"send {"token": "…" or "claims": {…}, "postgres_changes": {"schema": "public", "table": "todos"}, "key": {"id": 5}}, or "topic" and "private": true in place of postgres_changes and key"#
            }
            Self::NotPrepared | Self::Unexplained(ExplainError::Database(_)) => {
                "ask again when GET /readyz says ready; the server's log has the cause"
            }
            Self::TooSlow | Self::Unexplained(ExplainError::Undecided(_)) => {
                "ask again; if it stays so, look for what holds up the database"
            }
            Self::Unexplained(ExplainError::Busy) => "ask again in a moment",
            Self::Unexplained(ExplainError::Key(_)) => {
                "give the whole primary key as an object: column names and values"
            }
            Self::Unexplained(ExplainError::Binding(_) | ExplainError::Wildcard) => {
                "give one entry as a join's `postgres_changes` has it, for one table"
            }
        }
    }

    /// The response to a request with these headers; also logs and counts it.
    pub(super) fn respond(&self, request: &HeaderMap) -> Response {
        // What is wrong with the request itself is said as of every other.
        if let Self::Request(refusal) = self {
            return refusal.respond(request);
        }
        let (code, status) = (self.code(), self.status());
        metrics::api_refused(code);
        tracing::info!(code, cause = %self, "an explanation was refused");
        let kind = [(header::CONTENT_TYPE, super::super::JSON)];
        let told = Refused {
            code,
            message: self.to_string(),
            remedy: self.remedy(),
        };
        (status, kind, Json(told)).into_response()
    }
}
