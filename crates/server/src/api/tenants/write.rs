//! Tenants are made and changed (`protocol.md 10`). A new one has its database prepared before the answer, so that
//! whoever makes it learns whether that can be reached.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use walcast_tenants::{Control, Defaults, Invalid, Tenant, Written};

use super::refusal::Refusal;
use super::{TenantAnswer, records, shown};
use crate::api::admin::{Admin, AdminRefusal};
use crate::api::upload::Upload;
use crate::api::{INVALID, finish, json_text};
use crate::migrate::migrate_at;
use crate::openapi::{Told, Wrong};
use crate::serve::Server;
use crate::shutdown::within;

/// A database that takes longer is as good as none, for now.
const PREPARING: Duration = Duration::from_secs(10);

/// Makes a tenant, or changes the one of that external id.
#[utoipa::path(
    post,
    path = "/api/tenants",
    operation_id = "create_tenant",
    tag = "tenants",
    request_body = WantedTenant,
    security(("admin" = [])),
    responses(
        (status = 200, description = "It was there before, and has changed", body = TenantAnswer),
        (status = 201, description = "It was made, and its database prepared", body = TenantAnswer),
        (status = 401, description = "It was made, but its database cannot be prepared; the log says why", body = Told),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 422, description = "What is wrong with which field", body = Wrong),
        (status = 501, description = "The server has one tenant, that of its settings", body = Told),
        (status = 503, description = "The records cannot be written", body = Told),
    ),
)]
pub(super) async fn create(
    admitted: Result<Admin, AdminRefusal>,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Response {
    answer(&server, admitted, None, request).await
}

/// Makes or changes the tenant of this external id; what is not named stays as it is.
#[utoipa::path(
    put,
    path = "/api/tenants/{name}",
    operation_id = "put_tenant",
    tag = "tenants",
    params(("name" = String, Path, description = "The tenant's external id; and its name, if it is made")),
    request_body = WantedTenant,
    security(("admin" = [])),
    responses(
        (status = 200, description = "It was there before, and has changed", body = TenantAnswer),
        (status = 201, description = "It was made, and its database prepared", body = TenantAnswer),
        (status = 401, description = "It was made, but its database cannot be prepared; the log says why", body = Told),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 422, description = "What is wrong with which field", body = Wrong),
        (status = 501, description = "The server has one tenant, that of its settings", body = Told),
        (status = 503, description = "The records cannot be written", body = Told),
    ),
)]
pub(super) async fn put(
    admitted: Result<Admin, AdminRefusal>,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    answer(&server, admitted, Some(&name), request).await
}

/// As PUT.
#[utoipa::path(
    patch,
    path = "/api/tenants/{name}",
    operation_id = "patch_tenant",
    tag = "tenants",
    summary = "Makes or changes the tenant of this external id, as PUT does",
    params(("name" = String, Path, description = "The tenant's external id; and its name, if it is made")),
    request_body = WantedTenant,
    security(("admin" = [])),
    responses(
        (status = 200, description = "It was there before, and has changed", body = TenantAnswer),
        (status = 201, description = "It was made, and its database prepared", body = TenantAnswer),
        (status = 401, description = "It was made, but its database cannot be prepared; the log says why", body = Told),
        (status = 403, description = "The token is not signed with API_JWT_SECRET, has ended or is blocked; no body"),
        (status = 422, description = "What is wrong with which field", body = Wrong),
        (status = 501, description = "The server has one tenant, that of its settings", body = Told),
        (status = 503, description = "The records cannot be written", body = Told),
    ),
)]
pub(super) async fn patch(
    admitted: Result<Admin, AdminRefusal>,
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    answer(&server, admitted, Some(&name), request).await
}

async fn answer(
    server: &Server,
    admitted: Result<Admin, AdminRefusal>,
    name: Option<&str>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let response = match admitted {
        Ok(Admin) => Box::pin(write(server, name, &mut upload))
            .await
            .unwrap_or_else(|refusal| refusal.respond(&parts.headers)),
        Err(refusal) => refusal.into_response(),
    };
    finish(upload, response).await
}

async fn write(server: &Server, name: Option<&str>, upload: &mut Upload) -> Result<Response, Refusal> {
    let control = records(server)?;
    let body = upload.read().await?;
    let wanted = wanted(json_text(&body)?)?;
    let defaults = server
        .config
        .control
        .as_ref()
        .map_or_else(Defaults::default, |config| config.defaults);
    let written = match name {
        Some(name) => control.upsert_named(name, &wanted, defaults).await?,
        None => control.upsert(&wanted, defaults).await?,
    };
    let (status, tenant) = match &written {
        Written::Created(tenant) => (StatusCode::CREATED, tenant),
        Written::Updated(tenant) => (StatusCode::OK, tenant),
    };
    tracing::info!(
        tenant = tenant.external_id,
        status = status.as_u16(),
        "a tenant was written"
    );
    server.tenants.changed(&tenant.external_id).await;
    if let Written::Created(tenant) = &written {
        prepare(control, tenant).await.map_err(Refusal::Unprepared)?;
    }
    let mut response = shown(status, tenant.shown());
    if let Ok(location) = HeaderValue::from_str(&format!("/api/tenants/{}", tenant.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn wanted(body: &str) -> Result<Map<String, Value>, Refusal> {
    // It has been found to be JSON; what is no object has no `tenant`.
    let mut body: Map<String, Value> = serde_json::from_str(body).map_err(|_| Refusal::NoTenant)?;
    match body.remove("tenant") {
        None => Err(Refusal::NoTenant),
        Some(Value::Object(wanted)) => Ok(wanted),
        Some(_) => Err(Refusal::Invalid(Invalid::field("tenant", INVALID))),
    }
}

async fn prepare(control: &Control, tenant: &Tenant) -> Result<(), String> {
    let database = tenant
        .open_database(control.cipher())
        .map_err(|error| error.to_string())?;
    match within(PREPARING, Box::pin(migrate_at(database.url().expose()))).await {
        Some(prepared) => prepared.map_err(|error| error.to_string()),
        None => Err(format!("it took more than {} s", PREPARING.as_secs())),
    }
}

/// What is wanted of a tenant.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct WantedTenant {
    tenant: WantedFields,
}

/// Every field may be left out, but for those that a new tenant needs: an external id, in the path or here, `jwt_secret`
/// or `jwt_jwks`, and `extensions`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct WantedFields {
    /// What the Host of its clients begins with.
    external_id: Option<String>,
    /// For people.
    name: Option<String>,
    /// Signs its tokens.
    jwt_secret: Option<String>,
    /// Keys of its tokens, a JSON Web Key Set.
    jwt_jwks: Option<Map<String, Value>>,
    /// Sockets with a joined channel.
    max_concurrent_users: Option<i32>,
    /// Channels of a socket.
    max_channels_per_client: Option<i32>,
    /// Messages a second.
    max_events_per_second: Option<i32>,
    /// Joins a second.
    max_joins_per_second: Option<i32>,
    /// Stored, and not enforced.
    max_bytes_per_second: Option<i32>,
    /// Presence messages a second.
    max_presence_events_per_second: Option<i32>,
    /// Longest payload of a broadcast, in units of 1000 bytes.
    max_payload_size_in_kb: Option<i32>,
    /// Presence calls of a channel in the window.
    max_client_presence_events_per_window: Option<i32>,
    /// The window.
    client_presence_window_ms: Option<i32>,
    /// Whether channels must be private.
    private_only: Option<bool>,
    /// Whether channels hear of presence without asking.
    presence_enabled: Option<bool>,
    /// Whether nobody may connect.
    suspend: Option<bool>,
    /// How its database is reached; they replace those that are there.
    extensions: Option<Vec<WantedExtension>>,
}

/// How a tenant's database is reached.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
struct WantedExtension {
    /// Of the extension.
    #[schema(example = "postgres_cdc_rls")]
    r#type: String,
    /// Strings `region`, `db_host`, `db_port`, `db_name`, `db_user` and `db_password`; also `ssl_enforced` (true unless
    /// false), `publication`, `db_pool`, `poll_max_record_bytes`.
    settings: Map<String, Value>,
}
