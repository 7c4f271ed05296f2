//! What happens to a joined channel's token and, with it, to its part in the change stream
//! (`protocol.md 4.2`, `4.3`, `7.3`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use walcast_changes::Subscription;
use walcast_protocol::{ErrorCode, Payload, System};

use crate::channel::{CastingState, Credentials, Lease, LeaseState};
use crate::join::sub_topic;
use crate::metrics;
use crate::route::{Done, SlotState};
use crate::socket::Socket;
use crate::subscribe::{Unfulfilled, Wish, reauthorize, subscribe, subscribe_later};
use crate::tenant::Tenant;
use crate::token::{Claims, OPAQUE_KEY_PREFIX, TokenError, now_s};

const CHANGES: &str = "postgres_changes";
const SYSTEM: &str = "system";

/// Payload of an `access_token` event.
#[derive(Deserialize)]
struct AccessToken {
    /// Absent counts as a value that is neither text nor null.
    #[serde(default = "absent")]
    access_token: Value,
}

fn absent() -> Value {
    Value::Bool(false)
}

impl Socket {
    /// Takes the result of slow work.
    pub(crate) fn on_done(&mut self, done: Done) {
        match done {
            Done::Joined {
                topic,
                generation,
                joined,
            } => self.finish_join(&topic, generation, *joined),
            Done::Subscribed {
                topic,
                generation,
                claims,
                subscribed,
            } => {
                self.settle(&topic, generation, &claims, subscribed.map(Some));
            }
            Done::Reauthorized {
                topic,
                generation,
                claims,
                reauthorized,
            } => {
                self.settle(&topic, generation, &claims, reauthorized.map(|()| None));
            }
            Done::ReadChecked {
                topic,
                generation,
                claims,
                checked,
            } => self.finish_read_check(&topic, generation, &claims, checked),
            Done::WriteChecked {
                topic,
                generation,
                claims,
                checked,
            } => self.finish_write_check(&topic, generation, &claims, checked),
            Done::TrackChecked {
                topic,
                generation,
                claims,
                checked,
            } => self.finish_track_check(&topic, generation, &claims, checked),
            Done::Stored {
                topic,
                generation,
                reference,
                stored,
            } => self.finish_persist(&topic, generation, &reference, stored),
            Done::ReplicationReady {
                topic,
                generation,
                is_streaming,
            } => self.announce_replication(&topic, generation, is_streaming),
            Done::Abandoned => {}
        }
    }

    /// Handles an `access_token` event; false if its payload makes it none (`protocol.md 4.3`). There is no reply.
    pub(crate) fn refresh_token(&mut self, topic: &str, payload: &Payload) -> bool {
        let Payload::Json(json) = payload else {
            return false;
        };
        let Ok(AccessToken { access_token }) = serde_json::from_str(json.get()) else {
            return false;
        };
        let token = match access_token {
            Value::Null => return true,
            Value::String(token) => token,
            _ => return false,
        };
        let Some(channel) = self.channel(topic) else {
            return true;
        };
        if token.starts_with(OPAQUE_KEY_PREFIX) || *channel.credentials.token == *token {
            return true;
        }
        let verified = self.tenant.settings().verifier.verify(&token).and_then(|claims| {
            if claims.expires_at_s > now_s() {
                Ok(claims)
            } else {
                Err(TokenError::ExpirationInvalid)
            }
        });
        match verified {
            Ok(claims) => self.adopt(
                topic,
                Credentials {
                    token: token.into(),
                    claims: Arc::new(claims),
                },
            ),
            Err(error) => self.close_for(topic, &error),
        }
        true
    }

    fn adopt(&mut self, topic: &str, credentials: Credentials) {
        let Some((topic, slot)) = self.topics.get_key_value(topic) else {
            return;
        };
        let (topic, generation) = (Arc::clone(topic), slot.generation);
        let grace_s = self.tenant.settings().token_grace_s;
        if let Err(error) = credentials.claims.grant(sub_topic(&topic)) {
            return self.close_unauthorized(&topic, &error.to_string());
        }
        let Some(channel) = self.channel(&topic) else {
            return;
        };
        let before = channel.grant();
        channel.lease = Lease::new(credentials.claims.expires_at_s, grace_s);
        channel.credentials = credentials;
        let next_check = channel.lease.next_check;
        if !channel.regrant(before) {
            let lost = format!(
                "You no longer have permission to read from this Channel topic: {}",
                sub_topic(&topic)
            );
            return self.close_unauthorized(&topic, &lost);
        }
        self.wake_by(next_check);
        self.renew_rights(&topic, generation);
        self.pursue(&topic, generation);
    }

    /// Closes a channel whose new token does not allow what it does.
    fn close_unauthorized(&mut self, topic: &str, message: &str) {
        let code = ErrorCode::Unauthorized.as_str();
        tracing::warn!(
            code,
            topic,
            cause = message,
            remedy = "have tokens made for the topic, with the rights it needs",
            "channel closed"
        );
        metrics::channel_closed(code);
        self.close_channel(topic, message);
    }

    /// Starts what the channel's part in the change stream needs now, unless that is under way: then its result is
    /// compared with the claims of then.
    fn pursue(&mut self, topic: &Arc<str>, generation: u64) {
        let tenant = Arc::clone(&self.tenant);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let claims = Arc::clone(&channel.credentials.claims);
        let Some(casting) = channel.casting.as_deref_mut() else {
            return;
        };
        let work = match &mut casting.state {
            CastingState::Trying
            | CastingState::Active {
                reauthorizing: true, ..
            } => return,
            CastingState::Active {
                subscription,
                reauthorizing,
            } => {
                *reauthorizing = true;
                reauthorizing_work(tenant, topic, generation, Arc::clone(subscription), claims)
            }
            CastingState::Refused => {
                casting.state = CastingState::Trying;
                subscribing_work(
                    tenant,
                    topic,
                    generation,
                    Arc::clone(&casting.wish),
                    claims,
                    false,
                )
            }
        };
        self.work.push(work);
    }

    /// The tenant's database side was stopped, and what channels had subscribed to is gone with it.
    pub(crate) fn resubscribe(&mut self) {
        let topics: Vec<(Arc<str>, u64)> = self
            .topics
            .iter()
            .map(|(topic, slot)| (Arc::clone(topic), slot.generation))
            .collect();
        for (topic, generation) in topics {
            self.forsake(&topic, generation);
        }
    }

    /// If what the channel has subscribed to is gone, tells it so and subscribes again, as after any failure that may
    /// be over soon.
    pub(crate) fn forsake(&mut self, topic: &Arc<str>, generation: u64) {
        let changes = self.tenant.changes();
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let Some(casting) = channel.casting.as_deref_mut() else {
            return;
        };
        let CastingState::Active { subscription, .. } = &casting.state else {
            return;
        };
        if changes.is_some_and(|changes| subscription.is_of(&changes)) {
            return;
        }
        casting.state = CastingState::Refused;
        let gone =
            "Changes may be missed: the connection to the database was ended; it is made again".to_owned();
        self.announce_casting(topic, generation, &Err(Unfulfilled::ForNow(gone)));
    }

    fn try_later(&mut self, topic: &Arc<str>, generation: u64) {
        let tenant = Arc::clone(&self.tenant);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let claims = Arc::clone(&channel.credentials.claims);
        let Some(casting) = channel.casting.as_deref_mut() else {
            return;
        };
        casting.state = CastingState::Trying;
        let work = subscribing_work(tenant, topic, generation, Arc::clone(&casting.wish), claims, true);
        self.work.push(work);
    }

    /// An attempt with some claims is over: `Some` is a new subscription, `None` the old one with new claims.
    fn settle(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        claims: &Arc<Claims>,
        settled: Result<Option<Arc<Subscription>>, Unfulfilled>,
    ) {
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let outdated = !Arc::ptr_eq(claims, &channel.credentials.claims);
        let Some(casting) = channel.casting.as_deref_mut() else {
            return;
        };
        match (&settled, &mut casting.state) {
            (Ok(Some(subscription)), state) => {
                *state = CastingState::Active {
                    subscription: Arc::clone(subscription),
                    reauthorizing: false,
                };
            }
            (Ok(None), CastingState::Active { reauthorizing, .. }) => *reauthorizing = false,
            // The subscription still has its old claims, which no longer count: it must end.
            (_, state) => *state = CastingState::Refused,
        }
        if outdated {
            return self.pursue(topic, generation);
        }
        self.announce_casting(topic, generation, &settled.map(|_| ()));
        self.forsake(topic, generation);
    }

    /// Tells the client how its subscription went, and tries again if that can help (`protocol.md 7.3`).
    pub(crate) fn announce_casting(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        casting_went: &Result<(), Unfulfilled>,
    ) {
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let reference = channel.reference.clone();
        let Some(casting) = channel.casting.as_deref_mut() else {
            return;
        };
        let warnings = match (casting_went, &casting.state) {
            (Err(unfulfilled), _) => unfulfilled.warnings().to_vec(),
            (Ok(()), CastingState::Active { subscription, .. }) => subscription.warnings(),
            (Ok(()), CastingState::Trying | CastingState::Refused) => Vec::new(),
        };
        let (status, message) = match casting_went {
            Ok(()) => ("ok", "Subscribed to PostgreSQL"),
            Err(unfulfilled) => ("error", unfulfilled.message()),
        };
        let repeated = casting_went.is_err() && casting.last_error.as_deref() == Some(message);
        casting.last_error = casting_went.is_err().then(|| message.to_owned());
        for warning in &warnings {
            tracing::info!(topic = &**topic, warning, "subscription with a warning");
        }
        if !repeated {
            let channel = sub_topic(topic);
            let system = System {
                extension: CHANGES,
                status,
                message,
                channel: Some(channel),
                warnings: &warnings,
            };
            self.push(walcast_protocol::system(self.version, &reference, topic, &system));
        }
        match casting_went {
            Ok(()) => {}
            Err(Unfulfilled::ForGood { message, .. }) => tracing::warn!(
                code = "RealtimeDisabledForConfiguration",
                topic = &**topic,
                cause = message,
                remedy = "correct the entries of postgres_changes, or publish the table",
                "subscription refused"
            ),
            Err(unfulfilled) => {
                tracing::warn!(
                    code = "UnableToSubscribeToPostgres",
                    topic = &**topic,
                    cause = unfulfilled.message(),
                    remedy = "none needed: it is tried again",
                    "subscription failed"
                );
                self.try_later(topic, generation);
            }
        }
    }

    /// Looks at the tokens that are due; returns when the next one is.
    pub(crate) fn check_leases(&mut self, now: Instant) -> Option<Instant> {
        let mut due = Vec::new();
        for (topic, slot) in &mut self.topics {
            if let SlotState::Joined(channel) = &mut slot.state
                && channel.lease.next_check <= now
            {
                due.push((
                    Arc::clone(topic),
                    channel.reference.clone(),
                    channel.lease.check(),
                ));
            }
        }
        for (topic, reference, state) in due {
            match state {
                LeaseState::Valid => {}
                LeaseState::Expired { seconds_ago } => {
                    self.close_for(&topic, &TokenError::Expired { seconds_ago });
                }
                LeaseState::Ending { seconds_left } => {
                    let renewal = self.wire.renewal();
                    let message = format!("Token expires in {seconds_left} seconds, {renewal}");
                    let system = System {
                        extension: SYSTEM,
                        status: "warning",
                        message: &message,
                        channel: Some(sub_topic(&topic)),
                        warnings: &[],
                    };
                    self.push(walcast_protocol::system(
                        self.version,
                        &reference,
                        &topic,
                        &system,
                    ));
                }
            }
        }
        let joined = self.topics.values().filter_map(|slot| match &slot.state {
            SlotState::Joined(channel) => Some(channel.lease.next_check),
            SlotState::Joining(_) => None,
        });
        joined.min()
    }

    /// Closes a channel whose token no longer counts (`protocol.md 8.4`), or lets it crash where the reference does.
    fn close_for(&mut self, topic: &str, error: &TokenError) {
        let Some(channel) = self.remove(topic) else { return };
        tracing::warn!(
            code = error.code(),
            topic,
            cause = %error,
            remedy = error.remedy(),
            "channel closed"
        );
        if let Some(message) = error.close_message() {
            let system = System {
                extension: SYSTEM,
                status: "error",
                message: &message,
                channel: Some(sub_topic(topic)),
                warnings: &[],
            };
            self.push(walcast_protocol::system(
                self.version,
                &channel.reference,
                topic,
                &system,
            ));
            self.push(walcast_protocol::close(self.version, &channel.join_ref, topic));
        } else {
            self.push(walcast_protocol::crash(self.version, &channel.join_ref, topic));
        }
        self.note_emptiness();
    }
}

fn reauthorizing_work(
    tenant: Arc<Tenant>,
    topic: &Arc<str>,
    generation: u64,
    subscription: Arc<Subscription>,
    claims: Arc<Claims>,
) -> BoxFuture<'static, Done> {
    let topic = Arc::clone(topic);
    Box::pin(async move {
        let limit = tenant.config.join.timeout;
        let reauthorized = reauthorize(&subscription, &topic, &claims, limit).await;
        Done::Reauthorized {
            topic,
            generation,
            claims,
            reauthorized,
        }
    })
}

fn subscribing_work(
    tenant: Arc<Tenant>,
    topic: &Arc<str>,
    generation: u64,
    wish: Arc<Wish>,
    claims: Arc<Claims>,
    later: bool,
) -> BoxFuture<'static, Done> {
    let topic = Arc::clone(topic);
    Box::pin(async move {
        let limit = tenant.config.join.timeout;
        let subscribed = if later {
            subscribe_later(&tenant, &wish, &claims, limit).await
        } else {
            subscribe(&tenant, &wish, &claims, limit).await
        };
        Done::Subscribed {
            topic,
            generation,
            claims,
            subscribed,
        }
    })
}
