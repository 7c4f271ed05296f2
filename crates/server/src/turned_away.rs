//! What those are told for whom there is no place: a status and a sentence, for every request but those that ask how the
//! server is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::accept::{Peer, Seat};
use crate::admission::{Admission, TurnedAway};
use crate::metrics;

/// Seconds after which it may be worth trying again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Lets requests pass that came on a connection with a place, and, of those that came through a trusted proxy, whose
/// address has one.
pub async fn turn_away(
    State(admission): State<Arc<Admission>>,
    mut request: Request,
    next: Next,
) -> Response {
    if is_about_the_server(request.uri().path()) {
        return next.run(request).await;
    }
    if let Some(reason) = request.extensions().get::<TurnedAway>() {
        return refuse(*reason);
    }
    let Some(Peer(peer)) = request.extensions().get().copied() else {
        return next.run(request).await;
    };
    match admission.enter_through_proxy(peer.ip(), request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(place)) => {
            // Instead of the connection's: that place is the proxy's, and lives as long as this one at least.
            let seat = Seat(Arc::new(place));
            request.extensions_mut().insert(seat.clone());
            let response = next.run(request).await;
            drop(seat);
            response
        }
        Err(reason) => {
            metrics::connection_turned_away(reason.cause());
            tracing::info!(%peer, cause = reason.sentence(), remedy = reason.remedy(), "request turned away");
            refuse(reason)
        }
    }
}

/// Whoever looks after the server gets an answer above all when it is full.
fn is_about_the_server(path: &str) -> bool {
    matches!(path, "/healthcheck" | "/readyz" | "/metrics")
}

fn refuse(reason: TurnedAway) -> Response {
    let status = match reason {
        TurnedAway::Full => StatusCode::SERVICE_UNAVAILABLE,
        TurnedAway::Address => StatusCode::TOO_MANY_REQUESTS,
    };
    let body = Json(json!({"error": reason.sentence()}));
    (status, [(header::RETRY_AFTER, RETRY_AFTER)], body).into_response()
}
