//! Broadcasts over HTTP: `POST /api/broadcast`, `POST /api/broadcast/{topic}/events/{event}` and `GET /api/ping`
//! (`protocol.md 5.6`, `5.7`, `10`); tokens bound to topics: `POST /api/tokens` (decision 29); and `explain`. What
//! administers is in [`admin`], `tenants` and [`health`].
//!
//! Here is what they share: who may ask from where, the count of requests, the token, the words for what is wrong. They
//! also answer where a Supabase gateway would have them, and answer a browser's preflight as it would.

pub mod admin;
mod batch;
mod explain;
pub mod health;
mod media_type;
mod reencode;
mod refusal;
mod single;
mod tenants;
mod tokens;
mod upload;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_messages::{Asked, RightsError};

use crate::authorize::authorize;
use crate::http::plain_error;
use crate::openapi::{self, Told};
use crate::policy_headers::policy_headers;
use crate::private::write_rights;
use crate::rate::BUCKET;
use crate::serve::Server;
use crate::tenant::{Standing, Tenant};
use crate::tenants::OfHost;
use crate::token::Claims;
use refusal::Refusal;
use upload::Upload;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What may be wrong with a field, in the reference's words.
const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
const OVERSIZED: &str = "Payload size exceeds tenant limit";

const RATE_AVERAGE: HeaderName = HeaderName::from_static("x-rate-rolling");
const RATE_LIMIT: HeaderName = HeaderName::from_static("x-rate-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");

/// The same by the names that programs know which wait until they may ask again.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Server>> {
    let mut router = health::routes().merge(tenants::routes());
    for (schemas, paths, endpoint) in [
        routes!(ping),
        routes!(batch::broadcast),
        routes!(single::broadcast),
        routes!(tokens::make),
        routes!(explain::explain),
    ] {
        let endpoint = endpoint.route_layer(middleware::from_fn(require_json));
        router = router.merge(openapi::for_pages((schemas, paths, endpoint)));
    }
    router
}

/// Whether the API answers; counts as a request.
#[utoipa::path(
    get,
    path = "/api/ping",
    tag = "operations",
    responses((status = 200, description = "It does", body = Told, example = json!({"message": "Success"}))),
)]
async fn ping(OfHost(tenant): OfHost, headers: HeaderMap) -> Response {
    let success = ([(header::CONTENT_TYPE, JSON)], r#"{"message":"Success"}"#);
    rated(&tenant, &headers, std::future::ready(Ok(success))).await
}

async fn require_json(request: Request, next: Next) -> Response {
    if accepts_json(request.headers()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let response = plain_error(StatusCode::NOT_ACCEPTABLE, &parts.headers);
    finish(Upload::new(&parts.headers, body), response).await
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT) else {
        return true;
    };
    let ranges = accept.to_str().unwrap_or_default().split(',');
    ranges.into_iter().any(|range| {
        let range = range.split(';').next().unwrap_or_default().trim();
        matches!(
            range.to_ascii_lowercase().as_str(),
            "*/*" | "application/*" | "application/json"
        )
    })
}

/// Counts a request, handles it if there are not too many, and says how many there are.
async fn rated(
    tenant: &Tenant,
    headers: &HeaderMap,
    handling: impl Future<Output = Result<impl IntoResponse, Refusal>>,
) -> Response {
    let rate = &tenant.rates.requests;
    rate.count(1);
    let handled = if rate.is_exceeded() {
        Err(Refusal::TooManyRequests)
    } else {
        handling.await
    };
    let mut response = match handled {
        Ok(success) => success.into_response(),
        Err(refusal) => refusal.respond(headers),
    };
    let average = rate.average_floor();
    let headers = response.headers_mut();
    headers.insert(RATE_AVERAGE, average.into());
    if let Some(limit) = rate.limit() {
        headers.insert(RATE_LIMIT, limit.into());
        let remaining = limit.saturating_sub(average);
        headers.insert(RATE_REMAINING, remaining.into());
        headers.insert(LIMIT, limit.into());
        headers.insert(REMAINING, remaining.into());
        headers.insert(RESET, BUCKET.as_secs().into());
    }
    response
}

/// Sends the response once the request is out of the way.
async fn finish(upload: Upload, response: Response) -> Response {
    upload.discard().await;
    response
}

/// Whether the tenant is served (`protocol.md 5.6`).
fn check_standing(tenant: &Tenant) -> Result<(), Refusal> {
    match tenant.standing() {
        Standing::Suspended => Err(Refusal::Suspended),
        Standing::Open | Standing::Gone => Ok(()),
    }
}

/// Who sent a request.
struct Sender<'a> {
    tenant: &'a Tenant,
    claims: Claims,
    /// For policies.
    headers: Arc<str>,
}

impl<'a> Sender<'a> {
    fn of(tenant: &'a Tenant, headers: &HeaderMap) -> Result<Self, Refusal> {
        let claims = authorize(&tenant.settings().verifier, headers)?;
        check_standing(tenant)?;
        Ok(Self {
            tenant,
            claims,
            headers: policy_headers(headers, |_| true),
        })
    }

    /// Whether the sender's token, if it is bound to topics, lets it send to this one.
    fn check_grant(&self, topic: &str) -> Result<(), Refusal> {
        if self.claims.grant(topic).unwrap_or_default().write {
            Ok(())
        } else {
            Err(Refusal::NotGranted(topic.to_owned()))
        }
    }

    /// Asks the policies whether the sender may broadcast to a private topic. The answer is not kept
    /// (`database.md 3.1`).
    async fn check_write(&self, topic: &str) -> Result<(), RightsError> {
        let asked = Asked {
            // No token's role is no role of the database.
            role: self.claims.role.as_deref().unwrap_or_default().into(),
            topic: topic.into(),
            claims: Arc::clone(&self.claims.json),
            headers: Arc::clone(&self.headers),
        };
        write_rights(self.tenant, &self.claims, &asked)
            .await?
            .broadcast_required(&asked)
    }
}

/// The body as JSON text.
fn json_text(body: &[u8]) -> Result<&str, Refusal> {
    let malformed =
        |error: &dyn std::error::Error| Refusal::Malformed(format!("the body is not JSON: {error}"));
    if body.is_empty() {
        return Ok("{}");
    }
    let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(&error))?;
    Ok(text)
}

/// Tells `null` from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Whether there is nothing to be seen of a text: the reference then takes it for none.
fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
