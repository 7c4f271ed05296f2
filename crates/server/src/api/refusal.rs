//! What a request is told that comes to nothing, in the reference's words (`protocol.md 5.6`, `5.7`).

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use walcast_cluster::PublishError;
use walcast_messages::{PersistError, RightsError};

use crate::authorize::AuthorizeError;
use crate::http::plain_error;
use crate::metrics;

/// Why a request comes to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// No token, or none that counts.
    #[error("{0}")]
    Unauthorized(#[from] AuthorizeError),
    /// More requests a second than are allowed.
    #[error("too many requests a second; raise TENANT_MAX_EVENTS_PER_SECOND")]
    TooManyRequests,
    /// More messages a second than are allowed.
    #[error("too many messages a second; raise TENANT_MAX_EVENTS_PER_SECOND")]
    TooManyEvents,
    /// With this batch there would be.
    #[error(
        "{0} messages more a second are too many; send fewer at once, or raise TENANT_MAX_EVENTS_PER_SECOND"
    )]
    BatchTooLarge(usize),
    /// The body is of a kind that cannot be broadcast.
    #[error("the body is neither application/json nor application/octet-stream")]
    MediaType,
    /// The body is not what its content-type says.
    #[error("{0}")]
    Malformed(String),
    /// The body is above the limit.
    #[error("the body is above {0} bytes")]
    TooLarge(usize),
    /// The body did not come.
    #[error("the body did not come within {0} s")]
    TooSlow(u64),
    /// What is wrong with which part of the body or the path.
    #[error("not valid: {0}")]
    Invalid(Value),
    /// A private topic whose policies say no, or cannot be asked.
    #[error("{0}")]
    Rights(#[from] RightsError),
    /// Members on this node have it, and those on others will not.
    #[error("not everybody was reached: {0}")]
    NotPublished(#[from] PublishError),
    /// It was to be stored, and could not be.
    #[error("{0}")]
    NotStored(#[from] PersistError),
}

impl Refusal {
    /// The code under which it is logged (`protocol.md 12`, where it has one).
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(error) => error.code(),
            Self::TooManyRequests => "RequestRateLimitReached",
            Self::TooManyEvents | Self::BatchTooLarge(_) => "MessagePerSecondRateLimitReached",
            Self::MediaType => "UnsupportedMediaType",
            Self::Malformed(_) => "MalformedBody",
            Self::TooLarge(_) => "BodyTooLarge",
            Self::TooSlow(_) => "BodyTooSlow",
            Self::Invalid(_) => "InvalidBroadcast",
            Self::Rights(error) => error.code().as_str(),
            Self::NotStored(_) => "UnableToPersistBroadcast",
            Self::NotPublished(_) => "ErrorOnRpcCall",
        }
    }

    /// The response to a request with these headers; also logs and counts it.
    pub(super) fn respond(&self, request: &HeaderMap) -> Response {
        let code = self.code();
        metrics::api_refused(code);
        tracing::info!(code, cause = %self, "HTTP request refused");
        let told =
            |status: StatusCode, message: &str| (status, Json(json!({"message": message}))).into_response();
        let mut response = match self {
            Self::Unauthorized(_) => told(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::TooManyRequests => told(StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Self::TooManyEvents => told(StatusCode::TOO_MANY_REQUESTS, "You have exceeded your rate limit"),
            Self::BatchTooLarge(_) => told(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many messages to broadcast, please reduce the batch size",
            ),
            Self::MediaType => {
                let error = "Unsupported Media Type. Use application/json or application/octet-stream";
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Json(json!({"error": error}))).into_response()
            }
            Self::Malformed(_) => return plain_error(StatusCode::BAD_REQUEST, request),
            Self::TooLarge(_) => return plain_error(StatusCode::PAYLOAD_TOO_LARGE, request),
            Self::TooSlow(_) => return plain_error(StatusCode::REQUEST_TIMEOUT, request),
            Self::Invalid(errors) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"errors": errors}))).into_response()
            }
            Self::NotStored(error @ PersistError::Refused(_)) => {
                told(StatusCode::UNPROCESSABLE_ENTITY, error.told())
            }
            Self::NotPublished(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "RPC error"),
            Self::NotStored(error) => told(StatusCode::SERVICE_UNAVAILABLE, error.told()),
            Self::Rights(error) => {
                let (status, message) = error.http_response();
                told(
                    StatusCode::from_u16(status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY),
                    message,
                )
            }
        };
        response.headers_mut().insert(header::CONTENT_TYPE, super::JSON);
        response
    }
}
