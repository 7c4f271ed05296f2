//! Which tenant a request is for: the one there is, or the one its Host names (`protocol.md 1.2`).

use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::health::Health;
use crate::config::Config;
use crate::directory::Directory;
use crate::metrics;
use crate::serve::Server;
use crate::shutdown::drain;
use crate::tenant::Tenant;

/// The tenants of a server.
pub enum Tenants {
    /// There is one, whatever a request names.
    One(Arc<Tenant>),
    /// Those that are recorded.
    Several(Arc<Directory>),
}

/// Why a request has no tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTenant {
    /// None of this name is recorded.
    #[error("no tenant is called as the Host begins; make it with POST /api/tenants, or ask by another name")]
    Unknown,
    /// The records cannot be read.
    #[error("the records of tenants cannot be read; see the log for the control database")]
    Unavailable,
}

impl NoTenant {
    /// Under which it is logged and counted.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "TenantNotFound",
            Self::Unavailable => "UnableToConnectToTenants",
        }
    }
}

impl Tenants {
    /// The tenant of a request with these headers.
    ///
    /// # Errors
    /// There is none, or that cannot be said.
    pub async fn by_host(&self, headers: &HeaderMap) -> Result<Arc<Tenant>, NoTenant> {
        match self {
            Self::One(tenant) => Ok(Arc::clone(tenant)),
            Self::Several(directory) => {
                let id = external_id(headers).ok_or(NoTenant::Unknown)?;
                directory.find(id).await
            }
        }
    }

    /// The tenants that are in use on this node.
    pub fn living(&self) -> Vec<Arc<Tenant>> {
        match self {
            Self::One(tenant) => vec![Arc::clone(tenant)],
            Self::Several(directory) => directory.living(),
        }
    }

    /// Closes the sockets of all, and waits until they have ended, as long as configured.
    pub(crate) async fn drain(&self, config: &Config) {
        if let Self::Several(directory) = self {
            directory.begin_drain();
        }
        let living = self.living();
        let drains = living.iter().map(|tenant| drain(&tenant.sockets, &config.drain));
        futures_util::future::join_all(drains).await;
    }

    /// Lives until the token is cancelled and everything has ended.
    pub(crate) async fn live(&self, stop: &CancellationToken) {
        match self {
            Self::One(tenant) => {
                tenant.want_database();
                tenant.live(None, stop).await;
            }
            Self::Several(directory) => directory.live(stop).await,
        }
    }

    /// Disconnects the sockets of a tenant on this node and starts its work on the database anew (`protocol.md 10`).
    pub async fn reload(&self, config: &Config, name: &str) {
        if let Some(tenant) = self.living_named(config, name) {
            tracing::info!(tenant = name, "reloaded");
            tenant.reload().await;
        }
    }

    /// Ends a tenant's connections to the database on this node; its sockets stay (`protocol.md 10`).
    pub async fn shutdown(&self, config: &Config, name: &str) {
        if let Some(tenant) = self.living_named(config, name) {
            tracing::info!(tenant = name, "shut down");
            tenant.stop_database().await;
        }
    }

    /// A record was written or deleted: takes note of it now.
    pub async fn changed(&self, name: &str) {
        if let Self::Several(directory) = self {
            directory.changed(name).await;
        }
    }

    /// How a tenant is; none if there is none of this name.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn health(&self, config: &Config, name: &str) -> Result<Option<Health>, NoTenant> {
        if let Some(tenant) = self.living_named(config, name) {
            return Ok(Some(Health::of(&tenant).await));
        }
        match self {
            Self::One(_) => Ok(None),
            Self::Several(directory) => Ok(directory
                .is_recorded(name)
                .await?
                .then(|| Health::of_nobody(directory.ground(), name))),
        }
    }

    fn living_named(&self, config: &Config, name: &str) -> Option<Arc<Tenant>> {
        match self {
            Self::One(tenant) => (name == config.tenant_name).then(|| Arc::clone(tenant)),
            Self::Several(directory) => directory.get(name),
        }
    }
}

/// Longer names are nobody's, and not worth a question.
const LONGEST_ID_BYTES: usize = 255;

/// What the Host begins with: everything before the first dot or the port.
fn external_id(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let id = host.split(['.', ':']).next()?;
    (!id.is_empty() && id.len() <= LONGEST_ID_BYTES).then_some(id)
}

/// The tenant that a request is for, as an argument of a handler. As `Result<OfHost, NoTenant>` where there are words
/// of their own for a request without one, or something is to be looked at first.
pub struct OfHost(pub Arc<Tenant>);

impl FromRequestParts<Arc<Server>> for OfHost {
    type Rejection = NoTenant;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, NoTenant> {
        let found = server.tenants.by_host(&parts.headers).await;
        if let Err(error) = &found {
            let host = parts.headers.get(header::HOST);
            tracing::warn!(code = error.code(), ?host, cause = %error, "request refused");
        }
        found.map(Self)
    }
}

/// As the HTTP API says it (`protocol.md 5.6`).
impl IntoResponse for NoTenant {
    fn into_response(self) -> Response {
        metrics::api_refused(self.code());
        let (status, message) = match self {
            Self::Unknown => (StatusCode::UNAUTHORIZED, "Tenant not found in database"),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Tenants cannot be looked up for the moment",
            ),
        };
        let kind = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
        (status, kind, Json(json!({"message": message}))).into_response()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// `protocol.md 1.2`
    #[test]
    fn the_host_begins_with_the_tenant_s_name() {
        for (host, id) in [
            ("realtime-dev.supabase-realtime", Some("realtime-dev")),
            ("abc.supabase.co", Some("abc")),
            ("abc.supabase.co:4000", Some("abc")),
            ("localhost:4000", Some("localhost")),
            ("localhost", Some("localhost")),
            (".localhost", None),
            ("", None),
            ("[::1]:4000", Some("[")),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert_eq!(external_id(&headers), id, "{host}");
        }
        assert_eq!(external_id(&HeaderMap::new()), None);
    }
}
