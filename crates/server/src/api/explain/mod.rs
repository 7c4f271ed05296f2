//! `POST /api/explain`: would this user receive this row, or hear this private channel, and if not, which check says no
//! (decision 36).
//!
//! What is asked for may tell of rows that are hidden from everybody else, so the service role alone may ask. Neither
//! tokens nor claims come back, nor are they logged.

mod channel;
mod refusal;
mod request;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use walcast_changes::Explanation;

use super::refusal::Refusal as RequestRefusal;
use super::upload::Upload;
use super::{finish, rated};
use crate::authorize::authorize;
use crate::explain::LONGEST;
use crate::shutdown::within;
use crate::tenant::Tenant;
use crate::tenants::OfHost;
use refusal::{Refusal, Refused};
use request::{Matter, Question};

/// Larger requests are refused: a token, a filter and a key have room in it many times over.
const MAX_REQUEST_BYTES: usize = 65_536;

/// Who may ask.
const SERVICE_ROLE: &str = "service_role";

/// Would this user receive this row, and if not, which check says no?
///
/// The body names the user by `token` or `claims`, the subscription by `postgres_changes`, an entry of a join, and the row
/// by its primary key, `key`. `topic` with `"private": true` in their place asks about a private channel. The answer has
/// `visible`, the `identity`, the `checks` in the order of delivery, each with `passed`, `detail` and `remedy`, and what
/// each of the `policies` says of the row.
#[utoipa::path(
    post,
    path = "/api/explain",
    operation_id = "explain",
    tag = "explain",
    request_body = Value,
    security(("bearer" = []), ("apikey" = [])),
    responses(
        (status = 200, description = "What each check says", body = Value),
        (status = 401, description = "There is no token, or none that counts", body = Refused),
        (status = 403, description = "The token's role is not service_role", body = Refused),
        (status = 413, description = "The body is too large", body = Refused),
        (status = 422, description = "The question, the subscription or the key is none", body = Refused),
        (status = 429, description = "More requests, or explanations at once, than are allowed", body = Refused),
        (status = 503, description = "The database cannot be asked", body = Refused),
        (status = 504, description = "There was no answer in time", body = Refused),
    ),
)]
pub(super) async fn explain(OfHost(tenant): OfHost, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let handling = async {
        Ok(
            match Box::pin(answer(&tenant, &parts.headers, &mut upload)).await {
                Ok(answer) => ([(header::CONTENT_TYPE, super::JSON)], Json(answer)).into_response(),
                Err(refusal) => refusal.respond(&parts.headers),
            },
        )
    };
    let response = rated(&tenant, &parts.headers, handling).await;
    finish(upload, response).await
}

async fn answer(tenant: &Tenant, headers: &HeaderMap, upload: &mut Upload) -> Result<Answer, Refusal> {
    let asking = authorize(&tenant.settings().verifier, headers)?;
    if asking.is_bound() || asking.role.as_deref() != Some(SERVICE_ROLE) {
        return Err(Refusal::NotService);
    }
    let body = upload
        .read_at_most(MAX_REQUEST_BYTES)
        .await
        .map_err(|refusal| match refusal {
            RequestRefusal::TooLarge(_) => Refusal::TooLarge,
            other => Refusal::Request(other),
        })?;
    let question = Question::read(&body, &tenant.settings().verifier)?;
    within(LONGEST, Box::pin(judge(tenant, question)))
        .await
        .unwrap_or(Err(Refusal::TooSlow))
}

async fn judge(tenant: &Tenant, question: Question) -> Result<Answer, Refusal> {
    let who = question.who;
    let role = who.claims.role.as_deref().unwrap_or_default().to_owned();
    match question.matter {
        Matter::Channel(topic) => {
            let explained = channel::explain(tenant, &who, &topic).await?;
            tracing::info!(role, topic, visible = ?explained["visible"].as_bool(), "a private channel was explained");
            Ok(Answer::Channel(explained))
        }
        Matter::Row { entry, key, topic } => {
            tenant.want_database();
            let changes = tenant.changes().ok_or(Refusal::NotPrepared)?;
            let inquiry = who.inquiry(topic.as_deref(), entry, key)?;
            let explanation = changes.explain(&inquiry).await?;
            let first_no = explanation
                .checks
                .iter()
                .find(|check| check.passed == Some(false))
                .map(|check| check.check);
            let text = |field: &str| inquiry.entry.get(field).and_then(Value::as_str);
            tracing::info!(
                role, schema = text("schema"), table = text("table"), of_row = inquiry.key.is_some(),
                visible = ?explanation.visible, ?first_no, "a row was explained"
            );
            Ok(Answer::Row(Box::new(explanation)))
        }
    }
}

/// An answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Row(Box<Explanation>),
    Channel(Value),
}
