//! `GET /api/tenants/{name}/health`: how the database behind a tenant is (`protocol.md 10`). Supabase's compose file
//! asks with `HEAD` whether the container is healthy, and its Studio shows the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_changes::Status;

use super::admin::Admin;
use super::{JSON, require_json};
use crate::nodes::TenantName;
use crate::openapi::Told;
use crate::serve::Server;
use crate::tenant::{Ground, Tenant};

/// Below the five seconds that Supabase's health check waits for its answer.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The route of this module. Not at a gateway's address: gateways keep what administers to themselves.
pub(super) fn routes() -> OpenApiRouter<Arc<Server>> {
    let (schemas, paths, endpoint) = routes!(health);
    let endpoint = endpoint.route_layer(middleware::from_fn(require_json));
    OpenApiRouter::new().routes((schemas, paths, endpoint))
}

/// How the database behind a tenant is.
#[utoipa::path(
    get,
    path = "/api/tenants/{name}/health",
    operation_id = "tenant_health",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's name")),
    security(("admin" = [])),
    responses(
        (status = 200, description = "How it is, well or not", body = HealthAnswer),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 404, description = "There is no such tenant", body = Told),
    ),
)]
async fn health(_: Admin, State(server): State<Arc<Server>>, Path(name): Path<String>) -> Response {
    let told = |status: StatusCode, body: Value| (status, [(header::CONTENT_TYPE, JSON)], Json(body));
    match server.tenants.health(&server.config, &name).await {
        Ok(Some(health)) => told(StatusCode::OK, json!({"data": health})).into_response(),
        Ok(None) => told(StatusCode::NOT_FOUND, json!({"message": "not found"})).into_response(),
        Err(error) => error.into_response(),
    }
}

/// The answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct HealthAnswer {
    data: Health,
}

/// How a tenant is, as the reference shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// Whether clients lack anything that the database should give them.
    pub healthy: bool,
    /// Whether the database answers.
    pub db_connected: bool,
    /// Whether changes are streamed.
    pub replication_connected: bool,
    /// Sockets with a joined channel, on all nodes.
    pub connected_cluster: u64,
    /// Where this node says it is (`REGION`).
    pub region: Option<String>,
    /// The node that answers.
    pub node: String,
}

impl Health {
    /// How it is now. Takes two seconds at most.
    pub async fn of(tenant: &Tenant) -> Self {
        let status = tenant.changes().map(|changes| *changes.status().borrow());
        let replication_connected = status == Some(Status::Streaming);
        // A stream has its database; without one, asking tells.
        let db_connected = replication_connected || tenant.database_answers(LONGEST_WAIT).await;
        let connected_cluster = tenant.sockets.users_everywhere();
        Self {
            // A database that nobody has asked for yet is not missed.
            healthy: db_connected || (connected_cluster == 0 && !tenant.is_trying()),
            db_connected,
            replication_connected,
            connected_cluster,
            region: tenant.config.region.clone(),
            node: tenant.cluster.node().to_string(),
        }
    }

    /// Of a tenant that nobody uses on this node.
    pub(crate) fn of_nobody(ground: &Ground, name: &str) -> Self {
        let connected_cluster = Tenant::users_of(&ground.cluster, &TenantName::of(name));
        Self {
            healthy: connected_cluster == 0,
            db_connected: false,
            replication_connected: false,
            connected_cluster,
            region: ground.config.region.clone(),
            node: ground.cluster.node().to_string(),
        }
    }
}
