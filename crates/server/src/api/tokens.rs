//! Tokens that are bound to topics: `POST /api/tokens` (decision 29).
//!
//! A page without a user account gets such a token from the application's server, which asks for it with its service key.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::refusal::Refusal;
use super::upload::Upload;
use super::{BLANK, check_standing, finish, is_blank, json_text, rated};
use crate::authorize::authorize;
use crate::mint::sign;
use crate::openapi::{Told, Wrong};
use crate::settings::MintConfig;
use crate::tenant::Tenant;
use crate::tenants::OfHost;
use crate::token::{CLAIM, Grant, TopicGrant, claim, now_s};

/// Larger requests are refused: what they ask for would fit no header.
const MAX_REQUEST_BYTES: usize = 65_536;

/// Topics of one token, at most.
const MAX_TOPICS: usize = 100;

/// With its prefix, what a binary frame has room for (`protocol.md 2.3`).
const MAX_TOPIC_BYTES: usize = 255 - "realtime:".len();

/// Longest name of a role that Postgres has.
const MAX_ROLE_BYTES: usize = 63;

/// Claims that are the server's to write.
const OWN_CLAIMS: [&str; 4] = ["role", "exp", "iat", CLAIM];

/// A role that is never given away, whoever may ask.
const SERVICE_ROLE: &str = "service_role";

/// Makes a token that opens some topics and no other, for a page without a user account.
///
/// For the application's server, which asks with its service key.
#[utoipa::path(
    post,
    path = "/api/tokens",
    operation_id = "make_token",
    tag = "tokens",
    request_body = Wanted,
    security(("bearer" = []), ("apikey" = [])),
    responses(
        (status = 200, description = "The token", body = Made),
        (status = 401, description = "There is no token, or none that counts", body = Told),
        (status = 403, description = "The token's role is not WALCAST_TOKEN_MINTER_ROLE", body = Told),
        (status = 422, description = "The token asked for cannot be made", body = Wrong),
        (status = 429, description = "More requests a second than are allowed", body = Told),
        (status = 500, description = "The token could not be signed", body = Told),
        (status = 501, description = "The project has no secret to sign with", body = Told),
    ),
)]
pub(super) async fn make(OfHost(tenant): OfHost, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let handling = Box::pin(answer(&tenant, &parts.headers, &mut upload));
    let response = rated(&tenant, &parts.headers, handling).await;
    finish(upload, response).await
}

async fn answer(
    tenant: &Tenant,
    headers: &HeaderMap,
    upload: &mut Upload,
) -> Result<impl IntoResponse, Refusal> {
    let settings = tenant.settings_kept();
    let config = &settings.mint;
    let asking = authorize(&settings.verifier, headers)?;
    check_standing(tenant)?;
    // Whoever is bound to topics passes nothing on.
    if asking.is_bound() || asking.role.as_deref() != Some(&config.minter_role) {
        return Err(Refusal::NotMinter {
            role: asking.role.as_deref().unwrap_or_default().to_owned(),
            minter: config.minter_role.clone(),
        });
    }
    let secret = config.secret.as_ref().ok_or(Refusal::NoSecret)?;
    let body = upload.read_at_most(MAX_REQUEST_BYTES).await?;
    let text = json_text(&body)?;
    // serde would take a list for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::UnfitToken(json!({"body": ["must be an object"]})));
    }
    let wanted: Wanted = serde_json::from_str(text)
        .map_err(|error| Refusal::UnfitToken(json!({"body": [error.to_string()]})))?;
    wanted.judge(config)?;

    let issued_at_s = now_s();
    let lifetime_s = wanted.lifetime_s(config.longest_s);
    let expires_at_s = issued_at_s.saturating_add(lifetime_s);
    let token = sign(&wanted.claims(issued_at_s, expires_at_s)?, secret.expose())?;
    // Browsers send it in the query, servers in a header.
    let longest = tenant.config.max_header_length.saturating_sub("Bearer ".len());
    if token.len() > longest {
        let bytes = token.len();
        return Err(Refusal::UnfitToken(json!({"topics": [format!(
            "the token would have {bytes} bytes, and a header has room for {longest}; name fewer topics or claims, or raise MAX_HEADER_LENGTH"
        )]})));
    }
    if let Err(error) = settings.verifier.verify(&token) {
        let remedy = error.remedy();
        return Err(Refusal::UnfitToken(
            json!({"claims": [format!("the server would refuse the token: {error}; {remedy}")]}),
        ));
    }
    tracing::info!(
        role = wanted.role,
        topics = wanted.topics.len(),
        lifetime_s,
        "a token bound to topics was made"
    );
    let kind = [
        (header::CONTENT_TYPE, super::JSON),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ];
    Ok((
        kind,
        Json(Made {
            token,
            expires_at: expires_at_s,
        }),
    ))
}

/// The answer.
#[derive(Serialize, ToSchema)]
struct Made {
    /// A JWT.
    token: String,
    /// Seconds since the Unix epoch.
    expires_at: i64,
}

/// The body of a request. What is not known is refused: it may be meant to limit the token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// What the token opens.
    #[serde(default)]
    #[schema(required = true, min_items = 1, max_items = 100)]
    topics: Vec<TopicGrant>,
    /// Seconds; an hour, or the longest there may be, if it is not said.
    #[schema(minimum = 1)]
    expires_in: Option<i64>,
    /// The database role under which its bearer listens.
    #[serde(default = "anon")]
    #[schema(min_length = 1, max_length = 63, default = "anon")]
    role: String,
    /// More claims, for policies to read.
    #[serde(default)]
    #[schema(value_type = Object)]
    claims: Map<String, Value>,
}

fn anon() -> String {
    "anon".to_owned()
}

impl Wanted {
    /// Whether such a token may be made: the first thing that is wrong with each field.
    fn judge(&self, config: &MintConfig) -> Result<(), Refusal> {
        let errors: BTreeMap<&str, [String; 1]> = [
            ("topics", self.judge_topics()),
            ("expires_in", self.judge_lifetime(config.longest_s)),
            ("role", self.judge_role(&config.minter_role)),
            ("claims", self.judge_claims()),
        ]
        .into_iter()
        .filter_map(|(field, judged)| Some((field, [judged.err()?])))
        .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::UnfitToken(json!(errors)))
        }
    }

    fn judge_topics(&self) -> Result<(), String> {
        if self.topics.is_empty() {
            return Err(BLANK.to_owned());
        }
        if self.topics.len() > MAX_TOPICS {
            return Err(format!("a token names at most {MAX_TOPICS} topics"));
        }
        let mut named = BTreeSet::new();
        for granted in &self.topics {
            let topic = granted.topic.as_str();
            if is_blank(topic) {
                return Err(format!("topic {BLANK}"));
            }
            if topic.len() > MAX_TOPIC_BYTES {
                return Err(format!("a topic has at most {MAX_TOPIC_BYTES} bytes"));
            }
            if topic.starts_with("realtime:") {
                return Err(format!(
                    "{topic}: leave out `realtime:`, as supabase.channel(…) does"
                ));
            }
            if !named.insert(topic) {
                return Err(format!("{topic} is named twice"));
            }
            if Grant::from(granted) == Grant::default() {
                return Err(format!(
                    "{topic} has no right: give it `read`, `write`, `presence` or `changes`"
                ));
            }
        }
        Ok(())
    }

    fn lifetime_s(&self, longest_s: i64) -> i64 {
        const AN_HOUR_S: i64 = 3_600;
        self.expires_in.unwrap_or(AN_HOUR_S.min(longest_s))
    }

    fn judge_lifetime(&self, longest_s: i64) -> Result<(), String> {
        if (1..=longest_s).contains(&self.lifetime_s(longest_s)) {
            return Ok(());
        }
        Err(format!(
            "must be seconds from 1 to {longest_s} (WALCAST_TOKEN_MAX_S)"
        ))
    }

    fn judge_role(&self, minter: &str) -> Result<(), String> {
        if is_blank(&self.role) {
            return Err(BLANK.to_owned());
        }
        if self.role.len() > MAX_ROLE_BYTES {
            return Err(format!("a role's name has at most {MAX_ROLE_BYTES} bytes"));
        }
        if self.role == minter || self.role == SERVICE_ROLE {
            return Err(format!(
                "must not be {}: a token for pages has the role of their visitors, anon or authenticated",
                self.role
            ));
        }
        Ok(())
    }

    fn judge_claims(&self) -> Result<(), String> {
        match OWN_CLAIMS.iter().find(|own| self.claims.contains_key(**own)) {
            Some(own) => Err(format!("must not name {own}, which the server writes itself")),
            None => Ok(()),
        }
    }

    fn claims(&self, issued_at_s: i64, expires_at_s: i64) -> Result<Map<String, Value>, Refusal> {
        let bound = claim(&self.topics).map_err(jsonwebtoken::errors::Error::from)?;
        let mut claims = self.claims.clone();
        claims.insert("role".to_owned(), self.role.clone().into());
        claims.insert("iat".to_owned(), issued_at_s.into());
        claims.insert("exp".to_owned(), expires_at_s.into());
        claims.insert(CLAIM.to_owned(), bound);
        Ok(claims)
    }
}
