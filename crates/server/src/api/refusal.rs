//! What a request is told that comes to nothing, in the reference's words (`protocol.md 5.6`, `5.7`).

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use walcast_cluster::PublishError;
use walcast_messages::{PersistError, RightsError};
use walcast_protocol::ErrorCode;

use crate::authorize::AuthorizeError;
use crate::http::plain_error;
use crate::metrics;
use crate::rate;

/// Why a request comes to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The tenant's record says that nobody may.
    #[error("the tenant is suspended; set suspend to false with PUT /api/tenants/…")]
    Suspended,
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
    /// The token is bound to topics, and does not let its bearer send to this one.
    #[error("the token does not grant `write` on {0}; have one made that does")]
    NotGranted(String),
    /// A token of this role makes no tokens.
    #[error(
        "tokens are made for {minter} alone, and the token's role is {role}; see WALCAST_TOKEN_MINTER_ROLE"
    )]
    NotMinter {
        /// Of the token.
        role: String,
        /// Who may.
        minter: String,
    },
    /// What is wrong with which field of a request for a token. The values may be anything, a token or a secret among
    /// them, and are not logged.
    #[error("the token asked for cannot be made; the answer says why of: {}", field_names(.0))]
    UnfitToken(Value),
    /// The project has no secret to sign with.
    #[error("there is no secret to sign tokens with: set API_JWT_SECRET beside API_JWT_JWKS")]
    NoSecret,
    /// The library would not sign.
    #[error("the token could not be signed: {0}")]
    Unsigned(#[from] jsonwebtoken::errors::Error),
    /// It was to be stored, and could not be.
    #[error("{0}")]
    NotStored(#[from] PersistError),
}

fn field_names(errors: &Value) -> String {
    let fields = errors.as_object().into_iter().flat_map(|errors| errors.keys());
    fields.map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    /// The code under which it is logged (`protocol.md 12`, where it has one).
    fn code(&self) -> &'static str {
        match self {
            Self::Suspended => "RealtimeDisabledForTenant",
            Self::Unauthorized(error) => error.code(),
            Self::TooManyRequests => "RequestRateLimitReached",
            Self::TooManyEvents | Self::BatchTooLarge(_) => "MessagePerSecondRateLimitReached",
            Self::MediaType => "UnsupportedMediaType",
            Self::Malformed(_) => "MalformedBody",
            Self::TooLarge(_) => "BodyTooLarge",
            Self::TooSlow(_) => "BodyTooSlow",
            Self::Invalid(_) => "InvalidBroadcast",
            Self::Rights(error) => error.code().as_str(),
            Self::NotGranted(_) | Self::NotMinter { .. } => ErrorCode::Unauthorized.as_str(),
            Self::UnfitToken(_) => "InvalidTokenRequest",
            Self::NoSecret | Self::Unsigned(_) => "UnableToSignToken",
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
            Self::Suspended => told(StatusCode::FORBIDDEN, "Tenant is suspended"),
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
            Self::Invalid(errors) | Self::UnfitToken(errors) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"errors": errors}))).into_response()
            }
            Self::NotGranted(topic) => told(
                StatusCode::FORBIDDEN,
                &format!("This token does not allow sending to the topic: {topic}"),
            ),
            Self::NotMinter { minter, .. } => told(
                StatusCode::FORBIDDEN,
                &format!("Tokens are made for the role {minter} alone; ask with its key, from a server"),
            ),
            Self::NoSecret => told(
                StatusCode::NOT_IMPLEMENTED,
                "This project has no secret to sign tokens with; set API_JWT_SECRET beside API_JWT_JWKS",
            ),
            Self::Unsigned(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be signed"),
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
        rate::retry_after(&mut response);
        response
    }
}
