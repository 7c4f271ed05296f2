//! Whom a question is about: the bearer of a token, or of claims. No error repeats any of their values.

use std::sync::Arc;

use serde_json::{Map, Value};
use walcast_changes::{Inquiry, TokenRefused};

use crate::token::{CLAIM, Claims, Grants, Verifier, unverified};

/// What is known of whom a question is about.
pub(crate) struct Who {
    pub(crate) claims: Arc<Claims>,
    /// Why the token is refused, with the remedy.
    pub(crate) refused: Option<(String, String)>,
}

/// What was given says of nobody who he is.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// There are no claims to judge by.
    #[error("`token` cannot be read: {0}")]
    Token(#[source] crate::token::TokenError),
    /// The claim that binds a token to topics is none.
    #[error("the claim `{CLAIM}` is not as POST /api/tokens writes it")]
    Grants,
    /// What a bound token may do differs from topic to topic.
    #[error("the token is bound to topics: give `topic`, the channel that listens")]
    NoTopic,
}

impl Who {
    /// The bearer of a token. One that is refused is judged all the same, by what it says.
    pub(crate) fn of_token(token: &str, verifier: &Verifier) -> Result<Self, Unfit> {
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
            return Err(Unfit::Token(error));
        };
        Ok(Self {
            refused: Some((error.to_string(), error.remedy().to_owned())),
            ..Self::of_claims(&claims)?
        })
    }

    pub(crate) fn of_claims(claims: &Map<String, Value>) -> Result<Self, Unfit> {
        let role = match claims.get("role") {
            None | Some(Value::Null) => None,
            Some(Value::String(role)) => Some(Arc::from(role.as_str())),
            Some(other) => Some(Arc::from(other.to_string())),
        };
        let grants = claims
            .get(CLAIM)
            .map(|claim| Grants::read(claim).map(Arc::new))
            .transpose()
            .map_err(|_| Unfit::Grants)?;
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

    /// The question whether he receives the row with this key by this entry of a join, on this channel.
    pub(crate) fn inquiry(
        &self,
        topic: Option<&str>,
        entry: Map<String, Value>,
        key: Option<Map<String, Value>>,
    ) -> Result<Inquiry, Unfit> {
        Ok(Inquiry {
            claims: crate::subscribe::identity(&self.claims),
            token_refused: self.refused_on(topic)?,
            entry,
            key,
        })
    }

    /// Why the token opens no changes on a channel.
    fn refused_on(&self, topic: Option<&str>) -> Result<Option<TokenRefused>, Unfit> {
        if let Some((reason, remedy)) = &self.refused {
            return Ok(Some(TokenRefused {
                reason: reason.clone(),
                remedy: remedy.clone(),
            }));
        }
        if !self.claims.is_bound() {
            return Ok(None);
        }
        let topic = topic.ok_or(Unfit::NoTopic)?;
        let is_granted = self.claims.grant(topic).unwrap_or_default().changes;
        Ok((!is_granted).then(|| TokenRefused {
            reason: format!("the token is bound to topics and does not allow changes on {topic}"),
            remedy: "have one made with `\"changes\": true` for this topic".to_owned(),
        }))
    }
}

/// A topic as it is known inside, without `realtime:`.
pub(crate) fn bare_topic(topic: &str) -> &str {
    topic.strip_prefix("realtime:").unwrap_or(topic)
}
