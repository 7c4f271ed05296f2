//! Pages of other origins: any may ask, for tokens come with the request and not from the browser.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, options};

/// An endpoint whose responses any page may read.
pub(crate) fn allow_every_origin<S: Clone + Send + Sync + 'static>(
    endpoint: MethodRouter<S>,
) -> MethodRouter<S> {
    endpoint.route_layer(middleware::from_fn(allow_origin))
}

/// An endpoint where a gateway would answer preflights.
pub(crate) fn with_preflight<S: Clone + Send + Sync + 'static>(endpoint: MethodRouter<S>) -> MethodRouter<S> {
    endpoint.merge(options(preflight))
}

/// The answer of a gateway, which a browser asks for before it sends anything.
async fn preflight(headers: HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let allowed = response.headers_mut();
    allowed.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    allowed.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
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
        response
            .headers_mut()
            .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}
