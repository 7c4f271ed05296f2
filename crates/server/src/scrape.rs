//! `/metrics`: who may read the figures, and the figures (`protocol.md 10`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::MetricsAccess;
use crate::metrics;
use crate::serve::Server;
use crate::token::{ClaimRules, Keys, Verifier};

/// The handler.
pub async fn metrics(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if let Some(access) = &server.config.metrics_access
        && !may_read(access, &headers)
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    if let Some(changes) = server.changes() {
        metrics::observe_replication(&changes.replication_stats());
        if let Some(figures) = changes.sharing_figures() {
            metrics::observe_sharing(&figures);
        }
    }
    if server.config.cluster.redis.is_some() {
        metrics::observe_nodes(&**server.cluster.bus());
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, server.recorder.render()).into_response()
}

fn may_read(access: &MetricsAccess, headers: &HeaderMap) -> bool {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        tracing::warn!(
            "metrics refused: no token; send `Authorization: Bearer <jwt>` signed with METRICS_JWT_SECRET"
        );
        return false;
    };
    if access.blocked.iter().any(|blocked| blocked.expose() == token) {
        tracing::warn!("metrics refused: the token is in METRICS_TOKEN_BLOCKLIST");
        return false;
    }
    let keys = Keys::of_secrets([access.secret.expose()]);
    match Verifier::new(keys, ClaimRules::default()).verify_admin(token) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "metrics refused: sign the token with METRICS_JWT_SECRET");
            false
        }
    }
}
