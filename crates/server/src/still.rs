//! The two files a browser or a crawler asks every server for (`protocol.md 10`).

use axum::http::{HeaderName, HeaderValue, header};

const FOR_A_DAY: HeaderValue = HeaderValue::from_static("public, max-age=86400");

const ROBOTS: &str = "# Nothing here is for search engines.\nUser-agent: *\nDisallow: /\n";

const FAVICON: &str = include_str!("favicon.svg");

type File = ([(HeaderName, HeaderValue); 2], &'static str);

fn file(kind: &'static str, content: &'static str) -> File {
    (
        [
            (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
            (header::CACHE_CONTROL, FOR_A_DAY),
        ],
        content,
    )
}

/// What crawlers may look at: nothing.
#[utoipa::path(
    get,
    path = "/robots.txt",
    tag = "operations",
    responses((status = 200, description = "For crawlers", body = String, content_type = "text/plain")),
)]
pub(crate) async fn robots() -> File {
    file("text/plain", ROBOTS)
}

/// The sign in a browser's tab.
#[utoipa::path(
    get,
    path = "/favicon.svg",
    tag = "operations",
    responses((status = 200, description = "An image", body = String, content_type = "image/svg+xml")),
)]
pub(crate) async fn favicon() -> File {
    file("image/svg+xml", FAVICON)
}
