//! The HTTP routes and what all of them share: header limit, request ids, the form of errors.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tower_http::compression::CompressionLayer;
use tracing::{Instrument, Span};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::metrics;
use crate::serve::Server;
use crate::turned_away::turn_away;
use crate::{api, connect, inspector, openapi, scrape, sse, still, traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const UNCACHED: HeaderValue = HeaderValue::from_static("max-age=0, private, must-revalidate");

/// Every route (`protocol.md 1.1`, `10`).
pub fn router(server: Arc<Server>) -> Router {
    Router::from(described())
        .merge(inspector::routes(server.config.inspector))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&server), limit_headers))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server.admission),
            turn_away,
        ))
        // Neither streams of events nor what is too short to gain by it.
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn(complete))
        .with_state(server)
}

/// The routes with their descriptions.
pub(crate) fn described() -> OpenApiRouter<Arc<Server>> {
    let mut router = OpenApiRouter::with_openapi(openapi::frame());
    for path in ["/socket/websocket", "/realtime/v1/websocket"] {
        let (schemas, paths, _) = openapi::at(path, routes!(connect::connect));
        // Other methods have an answer of their own there (`protocol.md 1.4`).
        router = router.routes((schemas, paths, any(connect::connect)));
    }
    router
        .routes(routes!(healthcheck))
        .routes(routes!(readiness))
        .routes(routes!(scrape::metrics))
        .routes(routes!(openapi::openapi))
        .routes(routes!(still::robots))
        .routes(routes!(still::favicon))
        .merge(api::routes())
        .merge(sse::routes())
}

/// Whether the process answers; says nothing of the database.
#[utoipa::path(
    get,
    path = "/healthcheck",
    tag = "operations",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain", example = "ok")),
)]
async fn healthcheck() -> &'static str {
    "ok"
}

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The change stream has not run yet.
    Starting,
    /// Everything works.
    Ready,
    /// The change stream or the other nodes were lost; sockets, and all that needs neither, work.
    Degraded,
    /// Shutting down.
    Draining,
}

impl Readiness {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Degraded, Self::Draining];

    /// As `/readyz` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
        }
    }
}

/// Whether new sockets are well placed here.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (
            status = 200,
            description = "`ready`; or `degraded`, when the change stream or the other nodes were lost: sockets, and all that needs neither, work",
            body = String,
            content_type = "text/plain",
        ),
        (
            status = 503,
            description = "`starting`: the change stream has not run yet; or `draining`: the server shuts down",
            body = String,
            content_type = "text/plain",
        ),
    ),
)]
async fn readiness(State(server): State<Arc<Server>>) -> impl IntoResponse {
    let readiness = server.readiness();
    let status = match readiness {
        Readiness::Ready | Readiness::Degraded => StatusCode::OK,
        Readiness::Starting | Readiness::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, readiness.as_str())
}

/// Refuses a request with a header value above the limit: 431 without a body (`protocol.md 1.5`).
async fn limit_headers(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let longest = server.config.max_header_length;
    match request.headers().iter().find(|(_, value)| value.len() > longest) {
        Some((name, value)) => {
            tracing::info!(
                header = %name,
                bytes = value.len(),
                longest,
                "request refused: header value too long; see MAX_HEADER_LENGTH"
            );
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response()
        }
        None => next.run(request).await,
    }
}

/// Gives every response but a socket's the headers of all: `x-request-id` (`protocol.md 10`), and what keeps caches
/// from keeping it, unless it has that of its own. Counts the request, and lets log lines and traces name it.
async fn complete(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let asked = Instant::now();
    let id = request_id(request.headers());
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let span = request_span(route, &id, &request);
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), asked.elapsed());
    metrics::request_answered(route, status, took);
    if !span.is_none() {
        span.record("status", status);
        let took_ms = took.as_secs_f64() * 1000.0;
        span.in_scope(|| tracing::debug!(status, took_ms, "request answered"));
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        headers.entry(header::CACHE_CONTROL).or_insert(UNCACHED);
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

/// Those who look after the server ask all the time: nothing of that is worth a line or a trace.
const QUIET: [&str; 3] = ["/healthcheck", "/readyz", "/metrics"];

/// What is logged within it has its fields. The path is the route's: what a request puts there may be anything, and a query
/// holds tokens.
fn request_span(route: &str, id: &HeaderValue, request: &Request) -> Span {
    if QUIET.contains(&route) {
        return Span::none();
    }
    let request_id = id.to_str().unwrap_or_default();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        route,
        request_id,
        status = tracing::field::Empty
    );
    traces::continue_trace(&span, request.headers());
    span
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let from_baggage = headers
        .get("baggage")
        .and_then(|value| value.to_str().ok())
        .and_then(|baggage| {
            let members = baggage
                .split(',')
                .map(|member| member.split(';').next().unwrap_or_default());
            let mut pairs = members.filter_map(|member| member.split_once('='));
            pairs
                .find(|(key, _)| key.trim() == "request-id")
                .map(|(_, value)| value.trim())
        });
    let printable = |id: &&str| id.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let given = from_baggage
        .filter(|id| (10..=200).contains(&id.len()))
        .filter(printable)
        .or_else(|| {
            let id = headers.get(REQUEST_ID)?.to_str().ok()?;
            Some(id)
                .filter(|id| (20..=200).contains(&id.len()))
                .filter(printable)
        });
    given
        .and_then(|id| HeaderValue::from_str(id).ok())
        .unwrap_or_else(|| {
            let id = uuid::Uuid::new_v4().simple().to_string();
            HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
        })
}

async fn not_found(headers: HeaderMap) -> Response {
    plain_error(StatusCode::NOT_FOUND, &headers)
}

/// An error without a message of its own: its name as HTML, or as a JSON string for those who accept JSON
/// (`protocol.md 10`).
pub fn plain_error(status: StatusCode, headers: &HeaderMap) -> Response {
    let name = match status {
        // By the name that clients of the reference know.
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        _ => status.canonical_reason().unwrap_or("Error"),
    };
    let accepts_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    let (kind, body) = if accepts_json {
        ("application/json; charset=utf-8", format!("\"{name}\""))
    } else {
        ("text/html; charset=utf-8", name.to_owned())
    };
    (status, [(header::CONTENT_TYPE, kind)], Body::from(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_request_keeps_the_id_it_came_with_if_it_is_one() {
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: [Case; 6] = [
            (
                &[("x-request-id", "abcdefghijklmnopqrstuvwxyz")],
                Some("abcdefghijklmnopqrstuvwxyz"),
            ),
            (&[("x-request-id", "short")], None),
            (
                &[("baggage", "a=b, request-id=0123456789;x=y")],
                Some("0123456789"),
            ),
            (&[("baggage", "request-id=012345678")], None),
            (
                &[
                    ("baggage", "request-id=0123456789"),
                    ("x-request-id", "abcdefghijklmnopqrstuvwxyz"),
                ],
                Some("0123456789"),
            ),
            (&[], None),
        ];
        for (pairs, kept) in cases {
            let id = request_id(&headers(pairs));
            match kept {
                Some(kept) => assert_eq!(id, kept),
                None => assert_eq!(id.len(), 32, "{pairs:?} -> {id:?}"),
            }
        }
    }

    #[test]
    fn an_error_without_a_message_is_html_or_a_json_string() {
        let kind = |headers: &HeaderMap| {
            plain_error(StatusCode::NOT_FOUND, headers).headers()[header::CONTENT_TYPE].clone()
        };
        assert_eq!(kind(&headers(&[])), "text/html; charset=utf-8");
        assert_eq!(
            kind(&headers(&[("accept", "application/json")])),
            "application/json; charset=utf-8"
        );
    }
}
