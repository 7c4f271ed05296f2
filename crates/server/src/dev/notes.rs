//! The notes of the page, read and written as the user who asks: Postgres applies its policies.

use crate::authorize::authorize;
use crate::token::Verifier;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, patch};
use axum::{Router, extract::DefaultBodyLimit};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};

const MAX_BODY_BYTES: usize = 16 * 1024;
/// The newest notes a page begins with.
const LIST: &str = "select coalesce(jsonb_agg(to_jsonb(m) order by m.id), '[]')::text from \
     (select * from public.messages order by id desc limit 50) m";
const INSERT: &str = "with made as (insert into public.messages (body, is_private) values ($1, $2) returning id) \
     select jsonb_build_object('id', id)::text from made";
const UPDATE: &str = "with changed as (update public.messages set body = $1, is_private = $2 where id = $3 returning id) \
     select jsonb_build_object('changed', count(*))::text from changed";
const DELETE: &str = "with gone as (delete from public.messages where id = $1 returning id) \
     select jsonb_build_object('deleted', count(*))::text from gone";

#[derive(Clone)]
struct Notes {
    pool: PgPool,
    verifier: Verifier,
}

#[derive(Deserialize)]
struct Note {
    body: String,
    #[serde(default)]
    is_private: bool,
}

/// What went wrong, as JSON with a status.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "message": self.1 }))).into_response()
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        let status = match &error {
            // What the user may not or must not do; anything else is ours.
            sqlx::Error::Database(answer)
                if answer
                    .code()
                    .is_some_and(|code| code.starts_with("42") || code.starts_with("23")) =>
            {
                StatusCode::FORBIDDEN
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "of the page alone, and not for programs"
)]
pub(super) fn routes(pool: PgPool, verifier: Verifier) -> Router {
    Router::new()
        .route("/dev/notes", get(list).post(insert))
        .route("/dev/notes/{id}", patch(update).delete(delete))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Notes { pool, verifier })
}

impl Notes {
    /// A transaction as the bearer of the token.
    async fn begin(&self, headers: &HeaderMap) -> Result<Transaction<'static, Postgres>, Refused> {
        let unauthorized = |why: String| Refused(StatusCode::UNAUTHORIZED, why);
        let claims = authorize(&self.verifier, headers).map_err(|error| unauthorized(error.to_string()))?;
        let role = claims
            .role
            .as_deref()
            .filter(|role| matches!(*role, "anon" | "authenticated"));
        let role = role.ok_or_else(|| unauthorized("notes are for anon and authenticated".to_owned()))?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)")
            .bind(role)
            .bind(&*claims.json)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

async fn finish(transaction: Transaction<'static, Postgres>, text: &str) -> Result<Json<Value>, Refused> {
    transaction.commit().await?;
    let answer = serde_json::from_str(text);
    answer
        .map(Json)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn list(State(notes): State<Notes>, headers: HeaderMap) -> Result<Json<Value>, Refused> {
    let mut transaction = notes.begin(&headers).await?;
    let text: String = sqlx::query_scalar(LIST).fetch_one(&mut *transaction).await?;
    finish(transaction, &text).await
}

async fn insert(
    State(notes): State<Notes>,
    headers: HeaderMap,
    Json(note): Json<Note>,
) -> Result<Json<Value>, Refused> {
    let mut transaction = notes.begin(&headers).await?;
    let query = sqlx::query_scalar(INSERT).bind(note.body).bind(note.is_private);
    let text: String = query.fetch_one(&mut *transaction).await?;
    finish(transaction, &text).await
}

async fn update(
    State(notes): State<Notes>,
    Path(id): Path<i64>,
    headers: HeaderMap,
    Json(note): Json<Note>,
) -> Result<Json<Value>, Refused> {
    let mut transaction = notes.begin(&headers).await?;
    let query = sqlx::query_scalar(UPDATE)
        .bind(note.body)
        .bind(note.is_private)
        .bind(id);
    let text: String = query.fetch_one(&mut *transaction).await?;
    finish(transaction, &text).await
}

async fn delete(
    State(notes): State<Notes>,
    Path(id): Path<i64>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    let mut transaction = notes.begin(&headers).await?;
    let text: String = sqlx::query_scalar(DELETE)
        .bind(id)
        .fetch_one(&mut *transaction)
        .await?;
    finish(transaction, &text).await
}
