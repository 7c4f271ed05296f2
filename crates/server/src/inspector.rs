//! The inspector: a page where people join channels and watch what arrives (decision 37), embedded in the binary.
//!
//! Its files hold no secrets and ask nobody but this server: the policy they come with allows nothing else. Keys are
//! typed in by whoever opens it; only `walcast dev` hands some out, on the loopback address.

#![expect(
    clippy::disallowed_methods,
    reason = "these are files of a page, and not for programs"
)]

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;

/// What the page may do: run and style itself, and talk to where it came from, sockets included.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const INDEX: &str = include_str!("../../../web/inspector/index.html");

/// A file beside the page: its path below `inspector/`, its type and its text.
type File = (&'static str, &'static str, &'static str);

macro_rules! files {
    ($($kind:literal: $($path:literal),+;)+) => {
        [$($(($path, $kind, include_str!(concat!("../../../web/inspector/", $path)))),+),+]
    };
}

const FILES: [File; 36] = files! {
    "text/javascript; charset=utf-8":
        "address.js",
        "app.js",
        "appearance.js",
        "binding-fields.js",
        "channel-list.js",
        "channel.js",
        "connect-form.js",
        "connection.js",
        "copy.js",
        "element.js",
        "entry.js",
        "event-list.js",
        "events.js",
        "explain-panel.js",
        "explain.js",
        "filter-bar.js",
        "join-form.js",
        "json.js",
        "keys.js",
        "latency.js",
        "notice-view.js",
        "payload-field.js",
        "plot.js",
        "presence-panel.js",
        "remedy.js",
        "send-panel.js",
        "share.js",
        "shortcuts.js",
        "tabs.js",
        "token.js",
        "vendor/realtime.js";
    "text/css; charset=utf-8":
        "theme.css",
        "page.css",
        "events.css";
    "image/svg+xml":
        "icon.svg";
    "text/plain; charset=utf-8":
        "vendor/LICENSES.txt";
};

/// What `walcast dev` prepares for whoever opens the page.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Prepared {
    /// Whom one can be. The first is connected as at once.
    pub(crate) identities: Vec<Identity>,
    /// The key for asking why a row is not shown.
    pub(crate) service_key: Option<String>,
    /// The channel that the form begins with, as a client writes it.
    pub(crate) example: Option<serde_json::Value>,
}

impl Prepared {
    /// The service key is not for a page of another name that leads here, as a rebound one does.
    fn for_visitor(mut self, headers: &HeaderMap) -> Self {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
        if !matches!(name, Some("localhost" | "127.0.0.1" | "[::1]")) {
            self.service_key = None;
        }
        self
    }
}

/// Somebody with a key.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    /// By which a link names it: `#as=ada`.
    pub(crate) id: &'static str,
    /// For people.
    pub(crate) name: &'static str,
    pub(crate) key: String,
}

/// The page at `/`, and its former addresses, which lead there with their query (`protocol.md 10`); nothing if there
/// shall be none.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(is_wanted: bool) -> Router<S> {
    if !is_wanted {
        return Router::new();
    }
    // Relative, for whoever comes through a gateway's prefix.
    let to = |root: &'static str| {
        get(move |RawQuery(query): RawQuery| async move {
            let location = query.map_or_else(|| root.to_owned(), |query| format!("{root}?{query}"));
            (StatusCode::FOUND, [(header::LOCATION, location)])
        })
    };
    page("/", Prepared::default())
        .route("/inspector", to("./"))
        .route("/inspector/new", to("../"))
}

/// The page at a path of one segment at most, for its links are relative.
pub(crate) fn page<S: Clone + Send + Sync + 'static>(path: &str, prepared: Prepared) -> Router<S> {
    let mut router = Router::new()
        .route(
            path,
            get(|headers: HeaderMap| async move { file(&headers, HTML, INDEX) }),
        )
        .route(
            "/inspector/settings",
            get(move |headers: HeaderMap| async move { Json(prepared.for_visitor(&headers)) }),
        );
    for (path, kind, text) in FILES {
        router = router.route(
            &format!("/inspector/{path}"),
            get(move |headers: HeaderMap| async move { file(&headers, kind, text) }),
        );
    }
    router
}

/// A file, or that it is still the one the browser has.
fn file(asked: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let is_known = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| {
            tags.split(',')
                .any(|known| known.trim().trim_start_matches("W/") == tag)
        });
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A new version is seen at once, an old one costs no bytes.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let status = if is_known {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let body = if is_known { "" } else { text };
    (status, headers, [(header::ETAG, tag)], body).into_response()
}
