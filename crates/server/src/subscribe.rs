//! A channel's wish for changes, and attempts to fulfil it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use walcast_changes::{Request, Subscription};
use walcast_protocol::{BindingEntry, Ref, Version};

use crate::join::sub_topic;
use crate::outbox::Gate;
use crate::shutdown::within;
use crate::tenant::Tenant;
use crate::token::Claims;

/// What a channel asked for at its join.
pub struct Wish {
    /// The socket's serializer.
    pub version: Version,
    /// The full topic.
    pub topic: Arc<str>,
    /// The channel's reference.
    pub reference: Ref,
    /// Whether it joined without `config` (`protocol.md 3.6`).
    pub legacy: bool,
    /// The entries, in request order.
    pub entries: Vec<BindingEntry>,
    /// Where the frames go.
    pub gate: Arc<Gate>,
}

/// Why a wish is not fulfilled.
#[derive(Debug)]
pub enum Unfulfilled {
    /// The database or the stream did not answer in time.
    NotReady,
    /// It cannot be now, but may be later; the text of `protocol.md 7.3`.
    ForNow(String),
    /// It cannot be.
    ForGood {
        /// The text of `protocol.md 7.3`.
        message: String,
        /// What the text does not say: causes with their remedies.
        warnings: Vec<String>,
    },
}

impl Unfulfilled {
    /// The message of the `system` event.
    pub fn message(&self) -> &str {
        match self {
            Self::NotReady => {
                "Unable to subscribe to changes: the database did not answer in time; it is tried again"
            }
            Self::ForNow(message) | Self::ForGood { message, .. } => message,
        }
    }

    /// The `warnings` of the `system` event.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::ForGood { warnings, .. } => warnings,
            Self::NotReady | Self::ForNow(_) => &[],
        }
    }
}

impl From<walcast_changes::SubscribeError> for Unfulfilled {
    fn from(error: walcast_changes::SubscribeError) -> Self {
        if error.is_final() {
            Self::ForGood {
                message: error.to_string(),
                warnings: error.warnings(),
            }
        } else {
            Self::ForNow(error.to_string())
        }
    }
}

/// The claims as the change stream takes them.
///
/// A token whose role is `null` names no role; the empty name is none either, so Postgres refuses it.
pub(crate) fn identity(claims: &Claims) -> Arc<walcast_changes::Claims> {
    let role = claims.role.as_deref().unwrap_or_default().to_owned();
    Arc::new(walcast_changes::Claims {
        role,
        json: Arc::clone(&claims.json),
    })
}

/// Whether the token lets the channel listen to changes; row level security decides about each of them.
fn check_granted(topic: &str, claims: &Claims) -> Result<(), Unfulfilled> {
    let topic = sub_topic(topic);
    if claims.grant(topic).unwrap_or_default().changes {
        return Ok(());
    }
    Err(Unfulfilled::ForGood {
        message: format!("Unable to subscribe to changes: the token does not allow changes on the topic: {topic}"),
        warnings: vec![
            "The token is bound to topics: have one made with `\"changes\": true` for this one, or leave out postgres_changes."
                .to_owned(),
        ],
    })
}

/// Subscribes; the result is active when it is there.
///
/// # Errors
/// Nothing within the limit, or the refusal.
pub async fn subscribe(
    tenant: &Tenant,
    wish: &Wish,
    claims: &Claims,
    limit: Duration,
) -> Result<Arc<Subscription>, Unfulfilled> {
    check_granted(&wish.topic, claims)?;
    let attempt = async {
        let changes = tenant.prepared_changes().await;
        let request = Request {
            version: wish.version,
            topic: Arc::clone(&wish.topic),
            join_ref: wish.reference.clone(),
            legacy: wish.legacy,
            entries: wish.entries.clone(),
            claims: identity(claims),
            outlet: Arc::clone(&wish.gate) as Arc<dyn walcast_protocol::Outlet>,
        };
        Ok(Arc::new(changes.subscribe(request).await?))
    };
    within(limit, Box::pin(attempt))
        .await
        .unwrap_or(Err(Unfulfilled::NotReady))
}

/// Subscribes after a pause, so that a database in trouble is not met by all channels at once.
///
/// # Errors
/// As [`subscribe`].
pub async fn subscribe_later(
    tenant: &Tenant,
    wish: &Wish,
    claims: &Claims,
    limit: Duration,
) -> Result<Arc<Subscription>, Unfulfilled> {
    let pause_ms = rand::rng().random_range(1_000..3_000);
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    subscribe(tenant, wish, claims, limit).await
}

/// Goes on with other claims (`protocol.md 4.3`).
///
/// # Errors
/// As [`subscribe`].
pub async fn reauthorize(
    subscription: &Subscription,
    topic: &str,
    claims: &Claims,
    limit: Duration,
) -> Result<(), Unfulfilled> {
    check_granted(topic, claims)?;
    match within(limit, Box::pin(subscription.reauthorize(identity(claims)))).await {
        Some(done) => Ok(done?),
        None => Err(Unfulfilled::NotReady),
    }
}
