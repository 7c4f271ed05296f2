//! Why a request to the API of tenants is not done, and how it is told (`protocol.md 10`).

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use walcast_tenants::{ControlError, Invalid, WriteError};

use super::JSON;
use crate::metrics;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// There is none of this name.
    #[error("there is no such tenant")]
    NotFound,
    /// A body that speaks of no tenant.
    #[error("the body has no `tenant`; send {{\"tenant\":{{…}}}}")]
    NoTenant,
    /// What is wrong with which field.
    #[error("the tenant cannot be as it is wanted: {0}")]
    Invalid(Invalid),
    /// The body cannot be read.
    #[error("{0}")]
    Body(#[from] super::super::refusal::Refusal),
    /// The records cannot be read or written.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// It was made, and its database is not ready for it.
    #[error(
        "the tenant is stored, but its database cannot be prepared: {0}; PUT what is right, and it will be when a client needs it"
    )]
    Unprepared(String),
    /// There are no records.
    #[error("the server has one tenant, that of its settings; set WALCAST_TENANTS=database to keep several")]
    OneTenant,
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Invalid(invalid) => Self::Invalid(invalid),
            WriteError::Control(error) => Self::Control(error),
        }
    }
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "TenantNotFound",
            Self::NoTenant | Self::Body(_) => "MalformedBody",
            Self::Invalid(_) => "InvalidTenant",
            Self::Control(_) => "UnableToConnectToTenants",
            Self::Unprepared(_) => "UnableToConnectToProject",
            Self::OneTenant => "OneTenant",
        }
    }

    /// The response to a request with these headers; also logs and counts it.
    pub(super) fn respond(self, request: &HeaderMap) -> Response {
        let code = self.code();
        let told = |status: StatusCode, body: serde_json::Value| {
            (status, [(header::CONTENT_TYPE, JSON)], Json(body)).into_response()
        };
        match &self {
            // It logs itself.
            Self::Body(refusal) => return refusal.respond(request),
            Self::Control(_) | Self::Unprepared(_) => {
                tracing::error!(code, cause = %self, "request about tenants refused");
            }
            _ => tracing::info!(code, cause = %self, "request about tenants refused"),
        }
        metrics::api_refused(code);
        match self {
            Self::NotFound => told(StatusCode::NOT_FOUND, json!({"message": "not found"})),
            Self::NoTenant => told(StatusCode::BAD_REQUEST, json!("Bad Request")),
            Self::Invalid(errors) => {
                #[derive(Serialize)]
                struct Errors {
                    errors: Invalid,
                }
                let body = Json(Errors { errors });
                (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    [(header::CONTENT_TYPE, JSON)],
                    body,
                )
                    .into_response()
            }
            Self::Control(_) => told(
                StatusCode::SERVICE_UNAVAILABLE,
                json!({"message": "Tenants cannot be looked up for the moment"}),
            ),
            // The reference's words, whose clients know them.
            Self::Unprepared(_) => told(StatusCode::UNAUTHORIZED, json!({"message": "Unauthorized"})),
            Self::OneTenant => told(
                StatusCode::NOT_IMPLEMENTED,
                json!({"message": "This server has one tenant, that of its settings; set WALCAST_TENANTS=database to keep several"}),
            ),
            Self::Body(refusal) => refusal.respond(request),
        }
    }
}

/// For requests without a body, whose `Accept` plays no part.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.respond(&HeaderMap::new())
    }
}
