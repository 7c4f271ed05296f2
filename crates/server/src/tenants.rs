//! Which tenant a request is for.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::serve::Server;
use crate::tenant::Tenant;

/// The tenants of this server. There is one, whatever a request names.
pub struct Tenants {
    one: Arc<Tenant>,
}

impl Tenants {
    /// The tenant of every request.
    #[must_use]
    pub fn of_one(tenant: Arc<Tenant>) -> Self {
        Self { one: tenant }
    }

    /// The tenant of a request with these headers.
    #[must_use]
    pub fn by_host(&self, _headers: &HeaderMap) -> Arc<Tenant> {
        Arc::clone(&self.one)
    }

    /// Those that live.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        std::iter::once(&self.one)
    }

    /// The one that answers whatever a request names.
    #[must_use]
    pub fn one(&self) -> &Arc<Tenant> {
        &self.one
    }
}

/// The tenant that a request is for, as an argument of a handler.
pub struct OfHost(pub Arc<Tenant>);

impl FromRequestParts<Arc<Server>> for OfHost {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Infallible> {
        Ok(Self(server.tenants.by_host(&parts.headers)))
    }
}
