//! The rights of a private channel: what its policies let it hear and say (`protocol.md 4.3` to `4.6`, `5.2`).
//!
//! A token that is bound to topics says itself what it lets a channel do, public or private; then no policy is asked.
//! Reading is checked at the join and again for each new token; writing at the first message that needs it. While a
//! check is under way whatever arrives for the channel waits, in order.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use walcast_messages::{Asked, Extensions, ReadRights, Rights, RightsError, WriteRights};
use walcast_protocol::Message;

use crate::channel::Channel;
use crate::join::sub_topic;
use crate::metrics;
use crate::route::Done;
use crate::shutdown::within;
use crate::socket::Socket;
use crate::tenant::Tenant;
use crate::token::{Claims, Grant};

/// What a private channel knows of itself.
pub struct Private {
    /// What is known of its rights.
    pub rights: Rights,
    /// Whether the channel joined with presence, or has tracked: then reading it is checked too.
    pub with_presence: bool,
    /// Messages that wait for a check, while one is under way.
    pub waiting: Option<Vec<Message>>,
}

/// What policies see of a channel.
pub(crate) fn asked(topic: &str, claims: &Claims, headers: &Arc<str>) -> Asked {
    Asked {
        // A token whose role is `null` names no role; the empty name is none either, so Postgres refuses it.
        role: claims.role.as_deref().unwrap_or_default().into(),
        topic: sub_topic(topic).into(),
        claims: Arc::clone(&claims.json),
        headers: Arc::clone(headers),
    }
}

/// Asks what may be heard: the token if it is bound to topics, else the policies. Waits for the database to be prepared, and for the answer, no longer than a join may take.
pub(crate) async fn read_rights(
    tenant: &Tenant,
    claims: &Claims,
    asked: &Asked,
    with_presence: bool,
) -> Result<ReadRights, RightsError> {
    let extensions = if with_presence {
        Extensions::Both
    } else {
        Extensions::Broadcast
    };
    check_read(tenant, claims, asked, extensions).await
}

async fn check_read(
    tenant: &Tenant,
    claims: &Claims,
    asked: &Asked,
    extensions: Extensions,
) -> Result<ReadRights, RightsError> {
    if claims.is_bound() {
        let grant = claims.grant(&asked.topic).unwrap_or_default();
        return Ok(ReadRights {
            broadcast: (extensions != Extensions::Presence).then_some(grant.read),
            presence: (extensions != Extensions::Broadcast).then_some(grant.presence.read),
        });
    }
    let checked = async {
        let authorizer = tenant.prepared_authorizer().await;
        authorizer.read(asked, extensions).await
    };
    within(tenant.config.join.timeout, Box::pin(checked))
        .await
        .unwrap_or_else(|| {
            Err(RightsError::Unavailable(
                "the database is not prepared yet".into(),
            ))
        })
        .inspect_err(|error| heed(tenant, error))
}

/// A check that found no partition for its rows is the first to notice that the days went by without us.
fn heed(tenant: &Tenant, error: &RightsError) {
    if matches!(error, RightsError::MissingPartition) {
        tenant.note_missing_partition();
    }
}

/// Asks what may be said: the token if it is bound to topics, else the policies.
pub(crate) async fn write_rights(
    tenant: &Tenant,
    claims: &Claims,
    asked: &Asked,
) -> Result<WriteRights, RightsError> {
    if claims.is_bound() {
        let grant = claims.grant(&asked.topic).unwrap_or_default();
        let is_all = grant.write && grant.presence.write;
        return Ok(WriteRights {
            broadcast: grant.write,
            presence: grant.presence.write,
            refusal: (!is_all).then(|| "its token is bound to topics and does not grant it".into()),
        });
    }
    let checked = async {
        let authorizer = tenant.prepared_authorizer().await;
        authorizer.write(asked).await
    };
    within(tenant.config.join.timeout, Box::pin(checked))
        .await
        .unwrap_or_else(|| {
            Err(RightsError::Unavailable(
                "the database is not prepared yet".into(),
            ))
        })
        .inspect_err(|error| heed(tenant, error))
}

/// Asks what may be said, and before that what may be heard of presence, if that is not known.
async fn track_rights(
    tenant: &Tenant,
    claims: &Claims,
    asked: &Asked,
    asks_to_read: bool,
) -> Result<(Option<ReadRights>, WriteRights), RightsError> {
    let read = if asks_to_read {
        Some(check_read(tenant, claims, asked, Extensions::Presence).await?)
    } else {
        None
    };
    Ok((read, write_rights(tenant, claims, asked).await?))
}

/// Whether a message may go on.
pub(crate) enum Leave {
    /// It may.
    Granted,
    /// It may not.
    Denied,
    /// That is being asked; the message was taken and comes again.
    Asked,
}

impl Leave {
    fn of_public(is_granted: bool) -> Self {
        if is_granted { Self::Granted } else { Self::Denied }
    }
}

impl Socket {
    /// Whether the channel may broadcast. If that is not known yet it is asked, and the message waits.
    pub(crate) fn may_broadcast(&mut self, topic: &str, message: &Message) -> Leave {
        let Some((topic, slot)) = self.topics.get_key_value(topic) else {
            return Leave::Denied;
        };
        let (topic, generation) = (Arc::clone(topic), slot.generation);
        let Some(channel) = self.channel(&topic) else {
            return Leave::Denied;
        };
        let grant = channel.grant();
        let Some(private) = &mut channel.private else {
            return Leave::of_public(grant.write);
        };
        match private.rights.broadcast.write {
            Some(true) => Leave::Granted,
            Some(false) => Leave::Denied,
            None => {
                private.waiting = Some(vec![message.clone()]);
                let claims = Arc::clone(&channel.credentials.claims);
                let work = writing_work(Arc::clone(&self.tenant), topic, generation, claims, &self.headers);
                self.work.push(work);
                Leave::Asked
            }
        }
    }

    /// Whether the channel may track, with what it may hear of presence. If that is not known yet it is asked, and the
    /// message waits.
    pub(crate) fn may_track(&mut self, topic: &str, message: &Message) -> Leave {
        let Some((topic, slot)) = self.topics.get_key_value(topic) else {
            return Leave::Denied;
        };
        let (topic, generation) = (Arc::clone(topic), slot.generation);
        let Some(channel) = self.channel(&topic) else {
            return Leave::Denied;
        };
        let grant = channel.grant();
        let Some(private) = &mut channel.private else {
            return Leave::of_public(grant.presence.write);
        };
        let reads = private.rights.presence.read;
        match (reads, private.rights.presence.write) {
            (Some(_), Some(true)) => return Leave::Granted,
            (Some(_), Some(false)) => return Leave::Denied,
            (None, _) | (_, None) => {}
        }
        private.waiting = Some(vec![message.clone()]);
        let claims = Arc::clone(&channel.credentials.claims);
        let tenant = Arc::clone(&self.tenant);
        let asked = asked(&topic, &claims, &self.headers);
        self.work.push(Box::pin(async move {
            let checked = track_rights(&tenant, &claims, &asked, reads.is_none()).await;
            Done::TrackChecked {
                topic,
                generation,
                claims,
                checked,
            }
        }));
        Leave::Asked
    }

    /// A check for a `track` is over: what waited for it goes on.
    pub(crate) fn finish_track_check(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        claims: &Arc<Claims>,
        checked: Result<(Option<ReadRights>, WriteRights), RightsError>,
    ) {
        self.full_backlog.take_if(|full| *full == generation);
        let (tenant, headers, version) = (Arc::clone(&self.tenant), Arc::clone(&self.headers), self.version);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let is_current = Arc::ptr_eq(claims, &channel.credentials.claims);
        let Some(private) = &mut channel.private else {
            return;
        };
        let mut waiting = private.waiting.take().unwrap_or_default();
        match checked {
            // It was asked for a token that is no longer the channel's: the first message asks again.
            _ if !is_current => {}
            Ok((read, write)) => {
                private.rights.learn_write(&write);
                if let Some(read) = read {
                    private.rights.learn_read(read);
                    private.with_presence = true;
                    channel.hear_presence(&tenant.presences, version);
                }
                if let Err(denied) = write.presence_required(&asked(topic, claims, &headers)) {
                    tracing::info!(code = denied.code().as_str(), %denied, "presences of a channel are refused");
                }
            }
            Err(error) => {
                tracing::warn!(
                    code = error.code().as_str(),
                    topic = &**topic,
                    cause = %error,
                    "a presence was refused: the right to track it could not be checked"
                );
                metrics::presence_refused(error.code().as_str());
                // The one that asked; those behind it ask again.
                if !waiting.is_empty() {
                    let refused = waiting.remove(0);
                    self.refuse_track(topic, &refused);
                }
            }
        }
        for message in waiting {
            self.route(message);
        }
    }

    /// A check of writing is over: what waited for it goes on.
    pub(crate) fn finish_write_check(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        claims: &Arc<Claims>,
        checked: Result<WriteRights, RightsError>,
    ) {
        self.full_backlog.take_if(|full| *full == generation);
        let headers = Arc::clone(&self.headers);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let is_current = Arc::ptr_eq(claims, &channel.credentials.claims);
        let Some(private) = &mut channel.private else {
            return;
        };
        let mut waiting = private.waiting.take().unwrap_or_default();
        match checked {
            // It was asked for a token that is no longer the channel's: the first message asks again.
            _ if !is_current => {}
            Ok(rights) => {
                private.rights.learn_write(&rights);
                if let Err(denied) = rights.broadcast_required(&asked(topic, claims, &headers)) {
                    tracing::info!(code = denied.code().as_str(), %denied, "broadcasts of a channel are dropped");
                }
            }
            Err(error) => {
                tracing::warn!(
                    code = error.code().as_str(),
                    topic = &**topic,
                    cause = %error,
                    "a broadcast was dropped: the right to send it could not be checked"
                );
                metrics::broadcast_refused(error.code().as_str());
                // The one that asked; those behind it ask again.
                if !waiting.is_empty() {
                    waiting.remove(0);
                }
            }
        }
        for message in waiting {
            self.route(message);
        }
    }

    /// Checks for a new token what a private channel may hear (`protocol.md 4.3`). What comes after the token waits: its
    /// answer tells the client that the token is in use.
    pub(crate) fn renew_rights(&mut self, topic: &Arc<str>, generation: u64) {
        let (tenant, headers) = (Arc::clone(&self.tenant), Arc::clone(&self.headers));
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let claims = Arc::clone(&channel.credentials.claims);
        let Some(private) = &mut channel.private else {
            return;
        };
        private.rights.broadcast.write = None;
        private.rights.presence.write = None;
        private.waiting.get_or_insert_default();
        let with_presence = private.with_presence;
        let topic = Arc::clone(topic);
        self.work.push(Box::pin(async move {
            let asked = asked(&topic, &claims, &headers);
            let checked = read_rights(&tenant, &claims, &asked, with_presence).await;
            Done::ReadChecked {
                topic,
                generation,
                claims,
                checked,
            }
        }));
    }

    /// The check for a new token is over.
    pub(crate) fn finish_read_check(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        claims: &Arc<Claims>,
        checked: Result<ReadRights, RightsError>,
    ) {
        self.full_backlog.take_if(|full| *full == generation);
        let (tenant, headers, version) = (Arc::clone(&self.tenant), Arc::clone(&self.headers), self.version);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let Some((renewed, waiting)) = channel.renew(checked, &asked(topic, claims, &headers)) else {
            return;
        };
        if let Err(error) = renewed {
            tracing::warn!(code = error.code().as_str(), topic = &**topic, cause = %error, "channel closed");
            metrics::channel_closed(error.code().as_str());
            self.close_channel(topic, &error.refresh_message(sub_topic(topic)));
        } else {
            channel.hear_presence(&tenant.presences, version);
        }
        for message in waiting {
            self.route(message);
        }
    }
}

impl Channel {
    /// What the token leaves to the channel. All of a public one's rights; what a private one may do is in
    /// [`Private::rights`].
    pub(crate) fn grant(&self) -> Grant {
        let topic = self.relay.membership.room().topic;
        self.credentials.claims.grant(topic).unwrap_or_default()
    }

    /// Gives a public channel the rights of its new token; false if it may hear less than before.
    pub(crate) fn regrant(&mut self, before: Grant) -> bool {
        let after = self.grant();
        let hears_less = (before.read && !after.read)
            || (self.attendance.is_enabled && before.presence.read && !after.presence.read);
        if self.private.is_none() && before != after {
            if hears_less {
                return false;
            }
            self.relay.membership.set_reads(after.read);
            self.relay.membership.set_hears_presence(after.presence.read);
        }
        true
    }

    /// Whether a check is under way.
    pub(crate) fn is_being_checked(&self) -> bool {
        self.private
            .as_ref()
            .is_some_and(|private| private.waiting.is_some())
    }

    /// What waits for that check.
    pub(crate) fn waiting(&mut self) -> Option<&mut Vec<Message>> {
        self.private.as_mut()?.waiting.as_mut()
    }

    /// Takes in what may be heard with a new token, and gives out what waited for that; none if the channel is public.
    fn renew(
        &mut self,
        checked: Result<ReadRights, RightsError>,
        asked: &Asked,
    ) -> Option<(Result<(), RightsError>, Vec<Message>)> {
        let private = self.private.as_mut()?;
        let waiting = private.waiting.take().unwrap_or_default();
        let renewed = checked.and_then(|read| private.rights.renewed(read, asked));
        let renewed = renewed.map(|rights| {
            private.rights = rights;
            self.relay
                .membership
                .set_reads(rights.broadcast.read == Some(true));
        });
        Some((renewed, waiting))
    }
}

fn writing_work(
    tenant: Arc<Tenant>,
    topic: Arc<str>,
    generation: u64,
    claims: Arc<Claims>,
    headers: &Arc<str>,
) -> BoxFuture<'static, Done> {
    let asked = asked(&topic, &claims, headers);
    Box::pin(async move {
        let checked = write_rights(&tenant, &claims, &asked).await;
        Done::WriteChecked {
            topic,
            generation,
            claims,
            checked,
        }
    })
}
