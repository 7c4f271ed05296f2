//! Server-sent events: a stream of what a socket with the same joins would be told, for places where WebSockets do not
//! pass, and for `curl` (decision 28).
//!
//! A stream is a socket with a fixed set of joins behind another [`Connection`]: the joins, rights, bounds and clocks
//! are the socket's, only what is written differs. The response begins when all joins have succeeded, so that a
//! refusal is a status.

mod event;
mod opening;
mod refusal;
pub mod request;
mod stream;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_protocol::Version;

use crate::accept::{Hangup, Seat};
use crate::authorize::{AuthorizeError, request_token};
use crate::channel::Credentials;
use crate::connection::Connection;
use crate::openapi;
use crate::policy_headers::policy_headers;
use crate::serve::Server;
use crate::socket::{self, Handshake, Start};
use crate::tenant::{Standing, Tenant};
use crate::tenants::{NoTenant, OfHost};
pub(crate) use opening::{Opening, start_of};
use refusal::{Refusal, StreamRefused};
use request::{StreamParams, StreamRequest};
pub use stream::EventStream;

/// Of nginx, which would keep events until it has enough of them.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Where a browser says what it heard last.
const LAST_EVENT_ID: &str = "last-event-id";

/// The routes: at a gateway's address, and what its rules for sockets and for the API make of that.
pub fn routes() -> OpenApiRouter<Arc<Server>> {
    let mut router = openapi::for_pages(routes!(open));
    for path in ["/realtime/v1/sse", "/socket/sse"] {
        router = router.routes(openapi::open_to_pages(openapi::at(path, routes!(open))));
    }
    router
}

/// Opens a stream of events: what a socket with the same joins would be told.
///
/// The answer begins when all joins have succeeded; a refusal is a status.
#[utoipa::path(
    get,
    path = "/api/sse",
    operation_id = "stream",
    tag = "sockets",
    params(StreamParams),
    security(("bearer" = []), ("apikey" = []), ("query" = [])),
    responses(
        (status = 200, description = "The stream; it lasts", body = String, content_type = "text/event-stream"),
        (status = 401, description = "There is no token, or none that counts", body = StreamRefused),
        (status = 403, description = "The policies, or the token, do not let its bearer in", body = StreamRefused),
        (status = 422, description = "The query means nothing, or what it asks for cannot be subscribed to", body = StreamRefused),
        (status = 429, description = "A limit is reached", body = StreamRefused),
        (status = 503, description = "The database cannot be asked now, or the server shuts down", body = StreamRefused),
    ),
)]
async fn open(
    State(server): State<Arc<Server>>,
    tenant: Result<OfHost, NoTenant>,
    request: Request,
) -> Response {
    let (request, _) = request.into_parts();
    match begin(tenant, &request).await {
        Ok(response) => response,
        Err(refusal) => {
            if refusal.is_delayed() {
                tokio::time::sleep(server.config.connect_error_backoff).await;
            }
            refusal.respond()
        }
    }
}

async fn begin(tenant: Result<OfHost, NoTenant>, request: &Parts) -> Result<Response, Refusal> {
    let headers = &request.headers;
    let mut wanted = StreamRequest::parse(request.uri.query().unwrap_or_default())?;
    if let Some(id) = headers.get(LAST_EVENT_ID) {
        wanted.resume_after(id.to_str().unwrap_or("not text"))?;
    }
    let OfHost(tenant) = tenant.map_err(Refusal::NoTenant)?;
    if tenant.standing() == Standing::Suspended {
        return Err(Refusal::Suspended);
    }
    let credentials = credentials(&tenant, headers, &wanted)?;
    if tenant.sockets.is_full(tenant.settings().limits.concurrent_users) {
        return Err(Refusal::TooManyUsers);
    }
    if tenant.rates.joins.is_exceeded() {
        return Err(Refusal::TooManyJoins);
    }

    let hangup = request.extensions.get::<Hangup>().cloned().unwrap_or_default();
    let (stream, body) = EventStream::new(tenant.config.socket.stream_heartbeat, hangup.0);
    let (first, later) = wanted.joins(tenant.config.join.timeout);
    let (answer, answered) = oneshot::channel();
    let handshake = Handshake {
        // The one in which bytes can be broadcast.
        version: Version::V2,
        credentials,
        headers: policy_headers(headers, |name| name.starts_with("x-")),
    };
    let start = Start {
        first,
        opening: Opening::new(later, answer),
        is_resumed: wanted.is_resumed(),
    };
    let connection = Connection::Events(Box::new(stream));
    let socket = socket::run_stream(Arc::clone(&tenant), connection, handshake, start);
    let seat = request.extensions.get::<Seat>().cloned();
    tenant.sockets.tasks().spawn(async move {
        socket.await;
        drop(seat);
    });
    match answered.await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => return Err(Refusal::Join(refused)),
        Err(_) => return Err(Refusal::Restarting),
    }
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// The token: `token` in the query, else as for the API, else `apikey` in the query. A page cannot give an `EventSource`
/// headers, and a gateway may add some of its own.
fn credentials(
    tenant: &Tenant,
    headers: &HeaderMap,
    wanted: &StreamRequest,
) -> Result<Credentials, AuthorizeError> {
    let settings = tenant.settings();
    let token = match (&wanted.token, request_token(headers)) {
        (Some(token), _) => token,
        (None, Err(AuthorizeError::Missing)) => wanted.api_key.as_deref().ok_or(AuthorizeError::Missing)?,
        (None, token) => token?,
    };
    Ok(Credentials {
        token: token.into(),
        claims: Arc::new(settings.verifier.verify(token)?),
    })
}
