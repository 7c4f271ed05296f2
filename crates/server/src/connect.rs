//! The upgrade request: the checks of `protocol.md 1.4` in their order, then the upgrade itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version as HttpVersion, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use walcast_protocol::Version;

use crate::accept::{Peer, Seat};
use crate::channel::Credentials;
use crate::connection::Connection;
use crate::http::plain_error;
use crate::metrics;
use crate::openapi::Failed;
use crate::policy_headers::policy_headers;
use crate::rate;
use crate::serve::Server;
use crate::socket::{self, Handshake};
use crate::tenant::{Standing, Tenant};
use crate::tenants::{NoTenant, OfHost};
use crate::token::TokenError;
use crate::wire::Wire;

/// Why a connect was refused.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Version,
    NoTenant(NoTenant),
    Suspended,
    NoKey,
    Token(TokenError),
    TooManyUsers,
    TooManyJoins,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Version | Self::Suspended => StatusCode::FORBIDDEN,
            Self::NoTenant(NoTenant::Unknown) => StatusCode::NOT_FOUND,
            Self::NoTenant(NoTenant::Unavailable) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Token(TokenError::Claim { .. } | TokenError::ClaimsNotObject | TokenError::NotJson) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::NoKey | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::TooManyUsers | Self::TooManyJoins => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The `error` of the body.
    fn message(&self) -> String {
        match self {
            Self::Version => String::new(),
            Self::NoTenant(NoTenant::Unknown) => "Tenant not found".to_owned(),
            Self::NoTenant(NoTenant::Unavailable) => "Error connecting to Realtime".to_owned(),
            Self::Suspended => "Realtime was disabled for this tenant".to_owned(),
            Self::NoKey => "API key is missing".to_owned(),
            Self::Token(TokenError::Expired { .. }) => "Token has expired".to_owned(),
            Self::Token(TokenError::Claim { .. } | TokenError::ClaimsNotObject) => {
                "Error connecting to Realtime".to_owned()
            }
            Self::Token(error) => error.to_string(),
            Self::TooManyUsers => "Too many connected users".to_owned(),
            Self::TooManyJoins => "Too many joins per second".to_owned(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Version => "UnsupportedVersion",
            Self::NoTenant(error) => error.code(),
            Self::Suspended => "RealtimeDisabledForTenant",
            Self::NoKey => "MissingAPIKey",
            Self::Token(TokenError::Claim { .. } | TokenError::ClaimsNotObject | TokenError::NotJson) => {
                "ErrorConnectingToWebsocket"
            }
            Self::Token(error) => error.code(),
            Self::TooManyUsers => "ConnectionRateLimitReached",
            Self::TooManyJoins => "JoinsRateLimitReached",
        }
    }

    fn cause(&self) -> String {
        match self {
            Self::Version => "vsn is neither 1.0.x nor 2.0.x".to_owned(),
            Self::Token(error) => error.to_string(),
            Self::NoTenant(error) => error.to_string(),
            Self::Suspended | Self::NoKey | Self::TooManyUsers | Self::TooManyJoins => self.message(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Version => "send vsn=2.0.0",
            Self::NoTenant(_) => {
                "ask by the name of a tenant that is recorded, and see to the control database"
            }
            Self::Suspended => "set suspend to false with PUT /api/tenants/…",
            Self::NoKey => "send the anon key as `apikey` in the query or as header `x-api-key`",
            Self::Token(error) => error.remedy(),
            Self::TooManyUsers => "raise TENANT_MAX_CONCURRENT_USERS",
            Self::TooManyJoins => "raise TENANT_MAX_JOINS_PER_SECOND",
        }
    }
}

/// Opens a WebSocket, on which the realtime protocol is spoken.
#[utoipa::path(
    get,
    path = "/socket/websocket",
    tag = "sockets",
    params(ConnectParams),
    security(("query" = []), ("x-api-key" = [])),
    responses(
        (status = 101, description = "The connection is a WebSocket from now on"),
        (status = 400, description = "The request is no upgrade to a WebSocket; says why", body = String, content_type = "text/plain"),
        (status = 401, description = "There is no token, or none that counts", body = Failed),
        (status = 403, description = "`vsn` is neither 1.0.x nor 2.0.x; no body. Or the tenant is suspended"),
        (status = 404, description = "No tenant is called as the Host begins", body = Failed),
        (status = 429, description = "TENANT_MAX_CONCURRENT_USERS or TENANT_MAX_JOINS_PER_SECOND is reached", body = Failed),
        (status = 500, description = "A claim of the token is not what it should be; or, as HTML, its parts are not JSON", body = Failed),
    ),
)]
pub async fn connect(
    State(server): State<Arc<Server>>,
    tenant: Result<OfHost, NoTenant>,
    mut request: Request,
) -> Response {
    if request.method() != Method::GET {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let (tenant, version, credentials) = match admit(tenant, &request) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            metrics::connect_refused(refusal.code());
            tracing::warn!(
                code = refusal.code(),
                cause = refusal.cause(),
                remedy = refusal.remedy(),
                peer = peer.map(tracing::field::display),
                "connect refused"
            );
            return refuse(&server, &refusal, request.headers()).await;
        }
    };
    let accept = match upgrade_key(&request) {
        Ok(key) => derive_accept_key(key.as_bytes()),
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };

    let handshake = Handshake {
        version,
        credentials,
        // `protocol.md 1.3`, `4.6`
        headers: policy_headers(request.headers(), |name| name.starts_with("x-")),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let seat = request.extensions().get::<Seat>().cloned();
    let socket = run(Arc::clone(&tenant), upgrade, handshake);
    tenant.sockets.tasks().spawn(async move {
        socket.await;
        drop(seat);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_str(&accept).unwrap_or(HeaderValue::from_static("")),
        ),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// From the end of HTTP on, a socket's whole life.
async fn run(tenant: Arc<Tenant>, upgrade: OnUpgrade, request: Handshake) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "the client left during the upgrade");
            return;
        }
    };
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let wire = Wire::new(parts.io.into_inner(), &parts.read_buf);
            // It may keep the whole buffer of the HTTP connection alive, for as long as the socket lives.
            drop(parts.read_buf);
            socket::run(tenant, Connection::WebSocket(wire), request).await;
        }
        Err(_) => tracing::error!("an upgraded connection is not the TCP connection that was accepted"),
    }
}

/// What the query of a connect may say.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct ConnectParams {
    /// The serializer: `1.0.x` or `2.0.x`.
    #[param(default = "1.0.0", example = "2.0.0")]
    vsn: Option<String>,
    /// The token, where there is no `x-api-key`.
    apikey: Option<String>,
}

/// Checks 1 to 7.
fn admit(
    tenant: Result<OfHost, NoTenant>,
    request: &Request,
) -> Result<(Arc<Tenant>, Version, Credentials), Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .last()
            .map(|(_, value)| value)
    };
    let version = parameter("vsn");
    let version = Version::parse(version.as_deref().unwrap_or("1.0.0")).map_err(|_| Refusal::Version)?;

    let OfHost(tenant) = tenant.map_err(Refusal::NoTenant)?;
    if tenant.standing() == Standing::Suspended {
        return Err(Refusal::Suspended);
    }
    let key = match request.headers().get("x-api-key") {
        Some(value) => value
            .to_str()
            .map_err(|_| Refusal::Token(TokenError::Malformed))?
            .into(),
        None => parameter("apikey").ok_or(Refusal::NoKey)?,
    };
    let claims = tenant.settings().verifier.verify(&key).map_err(Refusal::Token)?;
    if tenant.sockets.is_full(tenant.settings().limits.concurrent_users) {
        return Err(Refusal::TooManyUsers);
    }
    if tenant.rates.joins.is_exceeded() {
        return Err(Refusal::TooManyJoins);
    }
    Ok((
        tenant,
        version,
        Credentials {
            token: Arc::from(&*key),
            claims: Arc::new(claims),
        },
    ))
}

async fn refuse(server: &Server, refusal: &Refusal, headers: &HeaderMap) -> Response {
    match refusal {
        Refusal::Version => refusal.status().into_response(),
        // The reference fails here before it can delay anything.
        Refusal::Token(TokenError::NotJson) => plain_error(refusal.status(), headers),
        Refusal::NoTenant(_)
        | Refusal::Suspended
        | Refusal::NoKey
        | Refusal::Token(_)
        | Refusal::TooManyUsers
        | Refusal::TooManyJoins => {
            tokio::time::sleep(server.config.connect_error_backoff).await;
            let kind = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
            let body = Json(json!({"error": refusal.message()}));
            let mut response = (refusal.status(), kind, body).into_response();
            rate::retry_after(&mut response);
            response
        }
    }
}

/// The client's key, if the request is a WebSocket upgrade (RFC 6455 4.2.1); otherwise why it is not.
fn upgrade_key(request: &Request) -> Result<&str, String> {
    if request.version() != HttpVersion::HTTP_11 {
        return Err(format!("HTTP version must be 1.1, got {:?}", request.version()));
    }
    let values = |name: header::HeaderName| -> Vec<&str> {
        request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect()
    };
    let holds = |values: &[&str], wanted: &str| {
        values
            .iter()
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let connection = values(header::CONNECTION);
    if !holds(&connection, "upgrade") {
        return Err(format!(
            "'connection' header must contain 'upgrade', got {connection:?}"
        ));
    }
    let upgrade = values(header::UPGRADE);
    if !holds(&upgrade, "websocket") {
        return Err(format!(
            "'upgrade' header must contain 'websocket', got {upgrade:?}"
        ));
    }
    let version = values(header::SEC_WEBSOCKET_VERSION);
    if version != ["13"] {
        return Err(format!(
            "'sec-websocket-version' header must equal '13', got {version:?}"
        ));
    }
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok());
    key.ok_or_else(|| "'sec-websocket-key' header is absent".to_owned())
}
