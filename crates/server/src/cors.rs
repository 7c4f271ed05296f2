//! Pages of other origins: any may ask, for tokens come with the request and not from the browser.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, options};

/// What a page may read of a response besides its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-rate-rolling, x-rate-limit, x-rate-limit-remaining",
);

const EVERY_ORIGIN: HeaderValue = HeaderValue::from_static("*");

/// An endpoint whose responses any page may read, and which tells a browser so before it sends anything; `methods` as
/// a header lists them.
pub(crate) fn open_to_pages<S: Clone + Send + Sync + 'static>(
    endpoint: MethodRouter<S>,
    methods: &str,
) -> MethodRouter<S> {
    let methods = HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static("GET"));
    let preflight = move |headers: HeaderMap| std::future::ready(preflight(&headers, methods));
    endpoint
        .route_layer(middleware::from_fn(allow_origin))
        .merge(options(preflight))
}

fn preflight(headers: &HeaderMap, methods: HeaderValue) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let allowed = response.headers_mut();
    allowed.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, EVERY_ORIGIN);
    allowed.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    allowed.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        allowed.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}

async fn allow_origin(request: Request, next: Next) -> Response {
    let has_origin = request.headers().contains_key(header::ORIGIN);
    let mut response = next.run(request).await;
    if has_origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, EVERY_ORIGIN);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}
