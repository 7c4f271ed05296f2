//! The body of a question. It holds a token, so no error repeats any of its values.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::explain::who::{Who, bare_topic};
use crate::token::Verifier;

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
            Some(Value::String(topic)) => Some(bare_topic(&topic).to_owned()),
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
