//! The page at `/`, embedded in the binary, and the inspector beside it. Only supabase-js, which is others' work, comes
//! from where it is installed.

use super::greeting::{ADA, BEN, Greeting};
use crate::inspector::{self, Identity, Prepared};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INDEX: &str = include_str!("../../../../web/dev/index.html");
const STYLE: &str = include_str!("../../../../web/dev/style.css");
const SCRIPT: &str = include_str!("../../../../web/dev/app.js");

#[expect(
    clippy::disallowed_methods,
    reason = "of the page alone, and not for programs"
)]
pub(super) fn routes(greeting: &Greeting, modules: &Path) -> Router {
    let settings = json!({
        "url": greeting.url,
        "anonKey": greeting.anon_key,
        "users": {
            "ada": { "id": ADA, "token": greeting.ada_key },
            "ben": { "id": BEN, "token": greeting.ben_key },
        },
    });
    let library = Arc::new(modules.join("@supabase/supabase-js/dist/umd/supabase.js"));
    Router::new()
        .route("/", get(|| async { text("text/html; charset=utf-8", INDEX) }))
        .route(
            "/dev/style.css",
            get(|| async { text("text/css; charset=utf-8", STYLE) }),
        )
        .route(
            "/dev/app.js",
            get(|| async { text("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route("/dev/settings", get(move || async { Json(settings) }))
        .route("/dev/supabase.js", get(supabase_js).with_state(library))
        .merge(inspector::page("/inspector", prepared(greeting)))
}

/// Whom the inspector can be here, and what it can join at once.
fn prepared(greeting: &Greeting) -> Prepared {
    let identity = |id, name, key: &str| Identity {
        id,
        name,
        key: key.to_owned(),
    };
    Prepared {
        identities: vec![
            identity("anon", "a visitor (anon)", &greeting.anon_key),
            identity("ada", "Ada", &greeting.ada_key),
            identity("ben", "Ben", &greeting.ben_key),
        ],
        service_key: Some(greeting.service_key.clone()),
        example: Some(json!({
            "topic": "notes",
            "postgres_changes": [{ "event": "*", "schema": "public", "table": "messages" }],
        })),
    }
}

fn text(kind: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The page says what to do when this is missing.
async fn supabase_js(State(path): State<Arc<PathBuf>>) -> Response {
    match tokio::fs::read(&*path).await {
        Ok(script) => text("text/javascript; charset=utf-8", script),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "supabase-js is not installed; run: npm ci in web/");
            StatusCode::NOT_FOUND.into_response()
        }
    }
}
