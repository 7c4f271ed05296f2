//! The API of tenants, `/api/tenants` (`protocol.md 10`): their records are shown, written and deleted, and what works
//! for them is begun anew or ended. How one is, is in [`super::health`].
//!
//! Where there is one tenant, that of the settings, it is shown; its record is the environment, which no request can
//! write. Not at a gateway's address: gateways keep what administers to themselves.

mod one;
mod refusal;
mod write;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_tenants::{Control, Happening};

use super::admin::Admin;
use super::{JSON, require_json};
use crate::openapi::Told;
use crate::serve::Server;
use one::OneTenant;
use refusal::Refusal;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Arc<Server>> {
    let mut router = OpenApiRouter::new();
    for (schemas, paths, endpoint) in [
        routes!(list, write::create),
        routes!(show, write::put, write::patch, delete),
        routes!(reload),
        routes!(shutdown),
    ] {
        let endpoint = endpoint.route_layer(middleware::from_fn(require_json));
        router = router.routes((schemas, paths, endpoint));
    }
    router
}

/// What is answered with something to show.
#[derive(Serialize)]
struct Data<T> {
    data: T,
}

fn shown(status: StatusCode, data: impl Serialize) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], Json(Data { data })).into_response()
}

/// Where tenants are recorded, to be written there.
fn records(server: &Server) -> Result<&Control, Refusal> {
    server.control.as_ref().ok_or(Refusal::OneTenant)
}

/// All tenants.
#[utoipa::path(
    get,
    path = "/api/tenants",
    operation_id = "list_tenants",
    tag = "tenants",
    security(("admin" = [])),
    responses(
        (status = 200, description = "All of them, in the order of their making", body = TenantList),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 503, description = "The records cannot be read", body = Told),
    ),
)]
async fn list(_: Admin, State(server): State<Arc<Server>>) -> Result<Response, Refusal> {
    let Some(control) = &server.control else {
        return Ok(shown(StatusCode::OK, [OneTenant::of(&server.config)]));
    };
    let tenants = control.list().await?;
    let data: Vec<_> = tenants.iter().map(walcast_tenants::Tenant::shown).collect();
    Ok(shown(StatusCode::OK, data))
}

/// One tenant.
#[utoipa::path(
    get,
    path = "/api/tenants/{name}",
    operation_id = "show_tenant",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's external id")),
    security(("admin" = [])),
    responses(
        (status = 200, description = "Its record", body = TenantAnswer),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 404, description = "There is no such tenant", body = Told),
        (status = 503, description = "The records cannot be read", body = Told),
    ),
)]
async fn show(
    _: Admin,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let Some(control) = &server.control else {
        OneTenant::find(&server.config, &name)?;
        return Ok(shown(StatusCode::OK, OneTenant::of(&server.config)));
    };
    let tenant = control.find(&name).await?.ok_or(Refusal::NotFound)?;
    Ok(shown(StatusCode::OK, tenant.shown()))
}

/// Deletes a tenant and disconnects its sockets.
#[utoipa::path(
    delete,
    path = "/api/tenants/{name}",
    operation_id = "delete_tenant",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's external id")),
    security(("admin" = [])),
    responses(
        (status = 204, description = "There is no such tenant any more, or there never was"),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 501, description = "The server has one tenant, that of its settings", body = Told),
        (status = 503, description = "The records cannot be written", body = Told),
    ),
)]
async fn delete(
    _: Admin,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    if records(&server)?.delete(&name).await? {
        tracing::info!(tenant = name, "a tenant was deleted");
        server.tenants.changed(&name).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Disconnects a tenant's sockets, on all nodes, and begins its work on the database anew.
#[utoipa::path(
    post,
    path = "/api/tenants/{name}/reload",
    operation_id = "reload_tenant",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's external id")),
    security(("admin" = [])),
    responses(
        (status = 204, description = "It will be"),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 404, description = "There is no such tenant", body = Told),
        (status = 503, description = "The records cannot be read", body = Told),
    ),
)]
async fn reload(
    _: Admin,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    tell(&server, &name, Happening::Reload).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a tenant's connections to its database, on all nodes, until somebody needs them; its sockets stay.
#[utoipa::path(
    post,
    path = "/api/tenants/{name}/shutdown",
    operation_id = "shut_down_tenant",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's external id")),
    security(("admin" = [])),
    responses(
        (status = 204, description = "They will end"),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 404, description = "There is no such tenant", body = Told),
        (status = 503, description = "The records cannot be read", body = Told),
    ),
)]
async fn shutdown(
    _: Admin,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    tell(&server, &name, Happening::Shutdown).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has it done on all nodes; alone, where the tenant is that of the settings.
async fn tell(server: &Server, name: &str, happening: Happening) -> Result<(), Refusal> {
    if let Some(control) = &server.control {
        control.find(name).await?.ok_or(Refusal::NotFound)?;
        return Ok(control.tell(name, happening).await?);
    }
    OneTenant::find(&server.config, name)?;
    match happening {
        Happening::Reload => server.tenants.reload(&server.config, name).await,
        Happening::Shutdown => server.tenants.shutdown(&server.config, name).await,
        Happening::Changed => server.tenants.changed(name).await,
    }
    Ok(())
}

/// All tenants.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct TenantList {
    data: Vec<TenantShape>,
}

/// One tenant.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct TenantAnswer {
    data: TenantShape,
}

/// A tenant's record, without its keys and the password of its database.
#[derive(ToSchema)]
#[schema(as = Tenant)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct TenantShape {
    /// Of the record; no tenant is asked for by it.
    id: String,
    /// For people.
    name: Option<String>,
    /// How its database is reached.
    extensions: Vec<ExtensionShape>,
    /// UTC; null if there is no record.
    inserted_at: Option<String>,
    /// What the Host of its clients begins with.
    external_id: String,
    /// Whether its channels must be private.
    private_only: bool,
    /// In which presence calls of a channel are counted.
    client_presence_window_ms: Option<i64>,
    /// Channels of a socket.
    max_channels_per_client: Option<i64>,
    /// Presence calls of a channel in the window.
    max_client_presence_events_per_window: Option<i64>,
    /// Sockets with a joined channel.
    max_concurrent_users: Option<i64>,
    /// Messages a second.
    max_events_per_second: Option<i64>,
    /// Joins a second.
    max_joins_per_second: Option<i64>,
    /// Whether its channels hear of presence without asking.
    presence_enabled: bool,
}

/// How a tenant's database is reached.
#[derive(ToSchema)]
#[schema(as = Extension)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct ExtensionShape {
    /// Of the extension; there is one.
    #[schema(example = "postgres_cdc_rls")]
    r#type: String,
    /// UTC; null if there is no record.
    inserted_at: Option<String>,
    /// UTC; null if there is no record.
    updated_at: Option<String>,
    /// `db_host`, `db_port`, `db_name` and `db_user` are encrypted, and `db_password` is never shown.
    settings: serde_json::Map<String, serde_json::Value>,
}
