//! `/metrics`: who may read the figures, and the figures (`protocol.md 10`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use crate::serve::Server;
use crate::sockets::Queued;
use crate::{metrics, process_figures};

/// The figures, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    security((), ("metrics" = [])),
    responses(
        (status = 200, description = "Every figure; docs/metrics.md explains them", body = String, content_type = "text/plain"),
        (status = 403, description = "METRICS_JWT_SECRET is set, and the token is not signed with it, has ended or is blocked"),
    ),
)]
pub async fn metrics(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if let Some(access) = &server.config.metrics_access
        && let Err(refusal) = access.admit(&headers)
    {
        tracing::warn!(cause = %refusal, "metrics refused; tokens for them are signed with METRICS_JWT_SECRET");
        return refusal.into_response();
    }
    metrics::observe_process(server.admission.open());
    let living = server.tenants.living();
    for tenant in &living {
        metrics::observe_replication(tenant);
    }
    if server.config.cluster.redis.is_some() {
        metrics::observe_nodes(&**server.cluster.bus());
    }
    metrics::observe_readiness(server.readiness());
    let queued = living.iter().map(|tenant| tenant.sockets.queued());
    metrics::observe_queues(queued.fold(Queued::default(), Queued::and));
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let figures = [server.recorder.render(), process_figures::render()].concat();
    (kind, figures).into_response()
}
