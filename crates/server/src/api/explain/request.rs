//! The body of a question. It holds a token, so no error repeats any of its values.

use std::sync::Arc;

use serde_json::{Map, Value};
use walcast_changes::TokenRefused;

use super::Who;
use super::refusal::Refusal;
use crate::token::{CLAIM, Claims, Grants, Verifier, unverified};

const FIELDS: [&str; 6] = ["token", "claims", "postgres_changes", "key", "topic", "private"];

/// A question, read.
pub(super) struct Question {
    pub(super) who: Who,
    pub(super) matter: Matter,
}

/// What it is about.
pub(super) enum Matter {
    /// A row, or with no key a subscription.
    Row {
        entry: Map<String, Value>,
        key: Option<Map<String, Value>>,
        /// Which channel has the subscription: it matters for tokens that are bound to topics.
        topic: Option<String>,
    },
    /// A private channel, without `realtime:`.
    Channel(String),
}

impl Question {
    pub(super) fn read(body: &[u8], verifier: &Verifier) -> Result<Self, Refusal> {
        let unfit = |what: &str| Refusal::Unfit(what.to_owned());
        let body: Value = serde_json::from_slice(body).map_err(|error| {
            // Of an error's words only the place is certain to hold nothing of the body.
            Refusal::Unfit(format!(
                "the body is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        let Value::Object(mut body) = body else {
            return Err(unfit("the body is no object"));
        };
        if body.keys().any(|name| !FIELDS.contains(&name.as_str())) {
            return Err(Refusal::Unfit(format!(
                "the body may have the fields {} and no others",
                FIELDS.join(", ")
            )));
        }
        let mut take = |name: &str| body.remove(name).filter(|value| !value.is_null());
        let who = match (take("token"), take("claims")) {
            (Some(Value::String(token)), None) => Who::of_token(&token, verifier)?,
            (None, Some(Value::Object(claims))) => Who::of_claims(&claims)?,
            (Some(_), None) => return Err(unfit("`token` is no string")),
            (None, Some(_)) => return Err(unfit("`claims` is no object")),
            _ => return Err(unfit("give either `token` or `claims`")),
        };
        let topic = match take("topic") {
            None => None,
            Some(Value::String(topic)) => Some(
                topic
                    .strip_prefix("realtime:")
                    .map_or_else(|| topic.clone(), str::to_owned),
            ),
            Some(_) => return Err(unfit("`topic` is no string")),
        };
        let private = take("private");
        let matter = match (take("postgres_changes"), take("key"), topic) {
            (Some(Value::Object(entry)), key, topic) => {
                let key = match key {
                    None => None,
                    Some(Value::Object(key)) => Some(key),
                    Some(_) => return Err(unfit("`key` is no object of columns and values")),
                };
                Matter::Row { entry, key, topic }
            }
            (Some(_), ..) => return Err(unfit("`postgres_changes` is no object")),
            (None, None, Some(topic)) if private == Some(Value::Bool(true)) => Matter::Channel(topic),
            (None, _, Some(_)) => {
                return Err(unfit(
                    "a `topic` alone is explained with `\"private\": true` and without `key`: public channels are open to all",
                ));
            }
            (None, _, None) => {
                return Err(unfit(
                    "give `postgres_changes`, or `topic` and `\"private\": true`",
                ));
            }
        };
        Ok(Self { who, matter })
    }
}

impl Who {
    /// The bearer of a token. One that is refused is judged all the same, by what it says.
    fn of_token(token: &str, verifier: &Verifier) -> Result<Self, Refusal> {
        let error = match verifier.verify(token) {
            Ok(claims) => {
                return Ok(Self {
                    claims: Arc::new(claims),
                    refused: None,
                });
            }
            Err(error) => error,
        };
        let Some(claims) = unverified(token) else {
            return Err(Refusal::Unfit(format!("`token` cannot be read: {error}")));
        };
        Ok(Self {
            refused: Some((error.to_string(), error.remedy().to_owned())),
            ..Self::of_claims(&claims)?
        })
    }

    fn of_claims(claims: &Map<String, Value>) -> Result<Self, Refusal> {
        let role = match claims.get("role") {
            None | Some(Value::Null) => None,
            Some(Value::String(role)) => Some(Arc::from(role.as_str())),
            Some(other) => Some(Arc::from(other.to_string())),
        };
        let grants = claims
            .get(CLAIM)
            .map(|claim| Grants::read(claim).map(Arc::new))
            .transpose()
            .map_err(|_| {
                Refusal::Unfit(format!(
                    "the claim `{CLAIM}` is not as POST /api/tokens writes it"
                ))
            })?;
        Ok(Self {
            claims: Arc::new(Claims {
                role,
                expires_at_s: i64::MAX,
                json: Value::Object(claims.clone()).to_string().into(),
                grants,
            }),
            refused: None,
        })
    }

    /// Why the token opens no changes on a channel.
    pub(super) fn refused_on(&self, topic: Option<&str>) -> Result<Option<TokenRefused>, Refusal> {
        if let Some((reason, remedy)) = &self.refused {
            return Ok(Some(TokenRefused {
                reason: reason.clone(),
                remedy: remedy.clone(),
            }));
        }
        if !self.claims.is_bound() {
            return Ok(None);
        }
        let Some(topic) = topic else {
            return Err(Refusal::Unfit(
                "the token is bound to topics: give `topic`, the channel that listens".to_owned(),
            ));
        };
        let is_granted = self.claims.grant(topic).unwrap_or_default().changes;
        Ok((!is_granted).then(|| TokenRefused {
            reason: format!("the token is bound to topics and does not allow changes on {topic}"),
            remedy: "have one made with `\"changes\": true` for this topic".to_owned(),
        }))
    }
}
