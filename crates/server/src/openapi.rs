//! What can be asked over HTTP, as OpenAPI 3 at `/api/openapi` (`protocol.md 10`).
//!
//! The document is made of what handlers say of themselves in `#[utoipa::path]`. Routes are added with `routes!`, which
//! takes handler and description together, and `clippy.toml` forbids the ways round it: there is no route without a
//! description, and none described that is not there. To add one: annotate the handler, then
//! `router.routes(routes!(handler))`, or [`for_pages`] where browsers shall call it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::path::{Operation, PathItem, Paths};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response as Answer, ResponseBuilder, Schema, Server,
    Type,
};
use utoipa::{Modify, OpenApi as _, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::{cors, http, serve};

/// Where a Supabase gateway has the API.
const GATEWAY: &str = "/realtime/v1";

/// What concerns no single route.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Walcast",
        description = "Realtime for Postgres. What travels on the sockets is the protocol of supabase-js; this is what can be asked over HTTP.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "this server")),
    tags(
        (name = "sockets", description = "Channels: by WebSocket, or as a stream of events"),
        (name = "broadcast", description = "Messages from where no socket is open"),
        (name = "tokens", description = "Tokens bound to topics"),
        (name = "tenants", description = "What administers; with tokens signed with API_JWT_SECRET"),
        (name = "operations", description = "Is it alive, ready, well"),
    ),
    components(schemas(Told, Wrong)),
    modifiers(&Common),
)]
pub(crate) struct Frame;

/// A sentence that says why.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
pub(crate) struct Told {
    /// For people; the words of a cause stay the same.
    #[schema(example = "Unauthorized")]
    message: String,
}

/// What is wrong with which field.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
pub(crate) struct Wrong {
    /// A list of sentences for each field that cannot be accepted; of a list of objects, one such object for each.
    #[schema(example = json!({"event": ["can't be blank"]}))]
    errors: BTreeMap<String, Value>,
}

/// Either of them.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the shape alone is of use")]
pub(crate) enum WrongOrTold {
    Wrong(Wrong),
    Told(Told),
}

/// A sentence that says why.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape alone is of use")]
pub(crate) struct Failed {
    /// For people; the words of a cause stay the same.
    error: String,
}

/// Names for tokens, and the answers any route may give.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".to_owned());
        bearer.description = Some("A token of the project: its anon key, or a user's.".to_owned());
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let header =
            |name, about| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, about)));
        components.add_security_scheme(
            "apikey",
            header("apikey", "The same, where there is no `Authorization`."),
        );
        components.add_security_scheme(
            "x-api-key",
            header("x-api-key", "The same, of sockets; it wins over the query."),
        );
        components.add_security_scheme(
            "query",
            SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description(
                "apikey",
                "The same, where a browser cannot send headers.",
            ))),
        );
        let mut metrics = Http::new(HttpAuthScheme::Bearer);
        metrics.description = Some("Signed with METRICS_JWT_SECRET, if that is set.".to_owned());
        components.add_security_scheme("metrics", SecurityScheme::Http(metrics));
        let mut admin = Http::new(HttpAuthScheme::Bearer);
        admin.description = Some("Signed with API_JWT_SECRET; no role is needed.".to_owned());
        components.add_security_scheme("admin", SecurityScheme::Http(admin));
        for (status, about) in ANY_TIME.iter().chain(&OF_THE_API) {
            components
                .responses
                .insert(name_of(*status), RefOr::T(unexplained(about)));
        }
    }
}

/// What any request may meet.
const ANY_TIME: [(StatusCode, &str); 2] = [
    (
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "A header value is longer than MAX_HEADER_LENGTH; or the head is longer than 64 KiB. No body.",
    ),
    (
        StatusCode::NOT_FOUND,
        "There is no such route, or not with this method.",
    ),
];

/// What a request to the API may meet besides.
const OF_THE_API: [(StatusCode, &str); 5] = [
    (
        StatusCode::BAD_REQUEST,
        "The body is not what its content-type says, or what came is not HTTP.",
    ),
    (StatusCode::NOT_ACCEPTABLE, "`Accept` leaves no room for JSON."),
    (
        StatusCode::REQUEST_TIMEOUT,
        "The body did not come within a minute.",
    ),
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body has more than 8,000,000 bytes.",
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "More a second than is allowed, on average over a minute; `retry-after` says when it is judged anew.",
    ),
];

fn name_of(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or_default().replace(' ', "")
}

/// An answer that says no more than its status: as HTML, or as a JSON string for those who accept JSON.
fn unexplained(about: &str) -> Answer {
    let text = || {
        RefOr::T(Schema::Object(
            ObjectBuilder::new().schema_type(Type::String).build(),
        ))
    };
    let mut answer = ResponseBuilder::new().description(about);
    for kind in ["text/html", "application/json"] {
        answer = answer.content(kind, ContentBuilder::new().schema(Some(text())).build());
    }
    answer.build()
}

/// Endpoints of one path, with their descriptions.
type Endpoint = UtoipaMethodRouter<Arc<serve::Server>>;

/// An endpoint that pages of every origin may call, here and where a gateway would have it.
pub(crate) fn for_pages(endpoint: Endpoint) -> OpenApiRouter<Arc<serve::Server>> {
    let (schemas, mut paths, endpoint) = open_to_pages(endpoint);
    let mut aliases = Router::new();
    for (path, item) in &mut paths.paths {
        item.servers = Some(vec![Server::new("/"), Server::new(GATEWAY)]);
        #[expect(
            clippy::disallowed_methods,
            reason = "described as another server of the path"
        )]
        {
            aliases = aliases.route(&format!("{GATEWAY}{path}"), endpoint.clone());
        }
    }
    OpenApiRouter::from(aliases).routes((schemas, paths, endpoint))
}

/// An endpoint that pages of every origin may call: it answers the preflight of a browser.
pub(crate) fn open_to_pages((schemas, paths, endpoint): Endpoint) -> Endpoint {
    let operations = paths.paths.values().flat_map(operations);
    let methods: Vec<_> = operations.map(|(method, _)| method).collect();
    (schemas, paths, cors::open_to_pages(endpoint, &methods.join(", ")))
}

/// The same endpoint at another path.
pub(crate) fn at(path: &str, (schemas, paths, endpoint): Endpoint) -> Endpoint {
    let mut moved = Paths::new();
    for mut item in paths.paths.into_values() {
        for operation in operations_mut(&mut item) {
            // An id names one operation.
            let name = path.trim_start_matches('/').replace('/', "_");
            operation.operation_id = Some(name);
        }
        moved.paths.insert(path.to_owned(), item);
    }
    (schemas, moved, endpoint)
}

fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let by_method = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    let given = by_method.into_iter();
    given.filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let by_method = [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ];
    by_method.into_iter().flatten()
}

/// Adds what routes do not say of themselves, because it is so for all of them.
fn complete(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let answers: Vec<_> = if path.starts_with("/api/") {
            ANY_TIME.iter().chain(&OF_THE_API).collect()
        } else {
            ANY_TIME.iter().collect()
        };
        for operation in operations_mut(item) {
            for (status, _) in &answers {
                let named = Ref::from_response_name(name_of(*status));
                operation
                    .responses
                    .responses
                    .entry(status.as_str().to_owned())
                    .or_insert(RefOr::Ref(named));
            }
        }
    }
    document
}

/// The document, as JSON.
static DOCUMENT: LazyLock<Result<Bytes, serde_json::Error>> = LazyLock::new(|| {
    let document = complete(http::described().into_openapi());
    serde_json::to_vec(&document).map(Bytes::from)
});

/// What concerns no single route, as the router begins with it.
pub(crate) fn frame() -> OpenApi {
    Frame::openapi()
}

/// This document.
#[utoipa::path(
    get,
    path = "/api/openapi",
    tag = "operations",
    responses((status = 200, description = "OpenAPI 3", body = BTreeMap<String, Value>)),
)]
pub(crate) async fn openapi() -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
    match &*DOCUMENT {
        Ok(document) => ([(header::CONTENT_TYPE, JSON)], document.clone()).into_response(),
        Err(error) => {
            tracing::error!(code = "HttpServerError", %error, "the description of the API cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
