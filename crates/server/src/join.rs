//! One attempt to join a topic: the algorithm of `protocol.md 3.3` as a future beside the socket.
//!
//! The database is asked only by joins that need it: a public channel without `postgres_changes` works while
//! Postgres is down.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tracing::{Instrument, Span, info_span};
use walcast_broadcast::{Member, Replay, Room, Since};
use walcast_changes::Subscription;
use walcast_messages::{Rights, RightsError};
use walcast_protocol::{
    BindingEntry, ErrorCode, Frame, JoinPayload, Outlet, Ref, TokenChoice, Version, join_response,
};

use crate::attend::Attendance;
use crate::channel::{Casting, CastingState, Channel, Credentials, Lease};
use crate::missed::{self, Asked, NotTold};
use crate::outbox::{End, Gate, close_code};
use crate::private::{self, Private};
use crate::relay::Relay;
use crate::shutdown::within;
use crate::subscribe::{Unfulfilled, Wish, subscribe};
use crate::tenant::{Standing, Tenant};
use crate::token::{Grant, NotOpened, TokenError, now_s};

/// What a join needs to know.
pub struct Attempt {
    /// Whose topic it is.
    pub tenant: Arc<Tenant>,
    /// The socket's serializer.
    pub version: Version,
    /// The full topic, which begins with `realtime:`.
    pub topic: Arc<str>,
    /// `join_ref` of the frame.
    pub join_ref: Ref,
    /// The channel's reference: `join_ref`, or `ref` without one.
    pub reference: Ref,
    /// Payload of the frame; none if it was no JSON.
    pub payload: Option<Box<RawValue>>,
    /// The connection's token, for channels that bring none.
    pub connection: Credentials,
    /// The `x-*` headers of the connect request, a JSON object.
    pub headers: Arc<str>,
    /// Way of the channel's frames, closed.
    pub gate: Arc<Gate>,
    /// Other channels of the socket.
    pub channels: usize,
    /// Whether the socket counts as a connected client already.
    pub is_user: bool,
}

/// A join that succeeded.
pub struct Accepted {
    /// The channel.
    pub channel: Box<Channel>,
    /// The `response` of the reply.
    pub response: String,
    /// Stored and missed messages it asked for, oldest first.
    pub replayed: Vec<Frame>,
    /// How its subscription went, if it asked for changes.
    pub casting: Option<Result<(), Unfulfilled>>,
    /// Whether it wants to know when database broadcasts flow.
    pub awaits_replication: bool,
}

/// A join that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// For log and metrics.
    pub code: &'static str,
    /// The `reason` of the reply.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// How the socket ends, if it shall.
    pub end: Option<End>,
}

/// A join with presence waits this long for those who are present on other nodes. Then they are told in a diff.
const FIRST_SIGHT: Duration = Duration::from_secs(2);

const NO_TENANT: End = End::new(close_code::GOING_AWAY, "the tenant does not exist any more");

const TOO_MANY_JOINS: End = End::new(
    close_code::GOING_AWAY,
    "too many joins per second; connect again later",
);

impl Refused {
    pub(crate) fn new(code: ErrorCode, text: &str, remedy: &'static str) -> Self {
        Self {
            code: code.as_str(),
            reason: walcast_protocol::join_reason(code, text),
            remedy,
            end: None,
        }
    }

    fn token(error: &TokenError) -> Self {
        Self {
            code: error.code(),
            reason: error.join_reason(),
            remedy: error.remedy(),
            end: None,
        }
    }
}

/// Runs the attempt. A refusal comes after `CHANNEL_ERROR_BACKOFF_MS`.
///
/// # Errors
/// The first step that failed.
pub async fn join(attempt: Attempt) -> Result<Accepted, Refused> {
    let backoff = attempt.tenant.config.join.error_backoff;
    let topic = Arc::clone(&attempt.topic);
    let joined = attempt.run().await;
    let code = joined.as_ref().err().map_or("ok", |refused| refused.code);
    Span::current().record("code", code);
    if let Err(refused) = &joined {
        tracing::warn!(
            code = refused.code,
            topic = &*topic,
            cause = refused.reason,
            remedy = refused.remedy,
            "join refused"
        );
        if !backoff.is_zero() {
            tokio::time::sleep(backoff).await;
        }
    }
    joined
}

impl Attempt {
    async fn run(self) -> Result<Accepted, Refused> {
        self.check_name()?;
        let payload = self.payload()?;
        self.check_limits(&payload)?;
        let credentials = info_span!("token").in_scope(|| self.credentials(&payload))?;
        let grant = credentials
            .claims
            .grant(self.sub_topic())
            .map_err(|error| not_opened(&error))?;
        let replay = self.replay_range(&payload)?;
        let since = missed::since(&payload);
        let is_told_again = replay.is_some() || since.is_some();
        let private = self.private(&payload, &credentials, is_told_again).await?;
        let entries = self.entries(&payload);
        let response = join_response(&entries);
        let legacy = payload.config.is_none();
        let casting = if entries.is_empty() {
            None
        } else {
            let wish = Arc::new(Wish {
                version: self.version,
                topic: Arc::clone(&self.topic),
                reference: self.reference.clone(),
                legacy,
                entries,
                gate: Arc::clone(&self.gate),
            });
            let subscribing = self.cast(wish, &credentials, &payload);
            Some(subscribing.instrument(info_span!("subscribe")).await?)
        };
        let (casting, outcome) = casting.unzip();
        let lease = Lease::new(
            credentials.claims.expires_at_s,
            self.tenant.settings().token_grace_s,
        );
        let history = replay.is_some().then(Arc::<Replay>::default);
        let last_kept = self.last_kept(private.is_some()).await;
        let (relay, missed) = self.relay(
            &payload,
            private.as_deref(),
            grant,
            history.clone(),
            (since, last_kept),
        );
        let with_presence = self.is_with_presence(&payload);
        // A public one may be granted to hear by a later token.
        let hears_presence = private
            .as_ref()
            .is_none_or(|private| with_presence && private.rights.presence.read == Some(true));
        let following = hears_presence.then(|| self.tenant.presences.follow(relay.membership.room()));
        if let Some(crossing) = &relay.crossing {
            crossing.ready().await;
        }
        relay.membership.keep_recent();
        if let Some(following) = following.as_ref().filter(|_| with_presence) {
            following.caught_up(FIRST_SIGHT).await;
        }
        let presence = payload.config.as_ref().map(|config| &config.presence);
        let key = presence.and_then(|presence| presence.key.as_deref());
        let attendance = Attendance::new(key, with_presence, following);
        let mut replayed = match (replay, history) {
            (Some(range), Some(history)) => self.replay(range, &history).await?,
            _ => Vec::new(),
        };
        if let Some(asked) = missed {
            let missed = self.missed(&relay.membership, asked).await;
            replayed.extend(self.tell_missed(missed));
        }
        let channel = Channel {
            join_ref: self.join_ref,
            reference: self.reference,
            gate: self.gate,
            credentials,
            lease,
            relay,
            attendance,
            private,
            casting: casting.map(Box::new),
        };
        Ok(Accepted {
            channel: Box::new(channel),
            response,
            replayed,
            casting: outcome,
            awaits_replication: payload
                .config
                .is_some_and(|config| config.broadcast.replication_ready),
        })
    }

    /// Steps 0 to 2.
    fn check_name(&self) -> Result<(), Refused> {
        if self.sub_topic().is_empty() {
            return Err(Refused::new(
                ErrorCode::TopicNameRequired,
                "You must provide a topic name",
                "name the channel",
            ));
        }
        if self.tenant.sockets.is_draining() {
            return Err(Refused::new(
                ErrorCode::RealtimeRestarting,
                "Realtime is restarting, please standby",
                "the client joins again by itself",
            ));
        }
        match self.tenant.standing() {
            Standing::Open => Ok(()),
            Standing::Gone => Err(Refused {
                end: Some(NO_TENANT),
                ..Refused::new(
                    ErrorCode::TenantNotFound,
                    "Tenant with the given ID does not exist",
                    "the tenant was deleted; connect by the name of another",
                )
            }),
            Standing::Suspended => Err(Refused::new(
                ErrorCode::RealtimeDisabledForTenant,
                "Realtime disabled for this tenant",
                "set suspend to false with PUT /api/tenants/…",
            )),
        }
    }

    /// Steps 3 to 6.
    fn check_limits(&self, payload: &JoinPayload) -> Result<(), Refused> {
        let settings = self.tenant.settings();
        let limits = &settings.limits;
        let sockets = &self.tenant.sockets;
        let is_private = payload.config.as_ref().is_some_and(|config| config.private);
        if limits.private_only && !is_private {
            return Err(Refused::new(
                ErrorCode::PrivateOnly,
                "This project only allows private channels",
                "join with private: true, or unset WALCAST_PRIVATE_ONLY",
            ));
        }
        if !self.is_user && sockets.is_full(limits.concurrent_users) {
            return Err(Refused::new(
                ErrorCode::ConnectionRateLimitReached,
                "Too many connected users",
                "raise TENANT_MAX_CONCURRENT_USERS",
            ));
        }
        self.tenant.rates.joins.count(1);
        if self.tenant.rates.joins.is_exceeded() {
            let refused = Refused::new(
                ErrorCode::ClientJoinRateLimitReached,
                "Too many joins per second",
                "join less often, or raise TENANT_MAX_JOINS_PER_SECOND",
            );
            return Err(Refused {
                end: Some(TOO_MANY_JOINS),
                ..refused
            });
        }
        if limits
            .channels_per_client
            .is_some_and(|limit| self.channels >= limit)
        {
            return Err(Refused::new(
                ErrorCode::ChannelRateLimitReached,
                "Too many channels",
                "leave channels that are not used, or raise TENANT_MAX_CHANNELS_PER_CLIENT",
            ));
        }
        Ok(())
    }

    fn payload(&self) -> Result<JoinPayload, Refused> {
        let refused = |reason: String| Refused {
            code: ErrorCode::UnknownErrorOnChannel.as_str(),
            reason,
            remedy: "send the payload a realtime client sends",
            end: None,
        };
        let Some(raw) = &self.payload else {
            return Err(refused(
                "UnknownErrorOnChannel: the join's payload is not JSON".to_owned(),
            ));
        };
        let payload = JoinPayload::parse(raw).map_err(|error| refused(error.to_string()))?;
        if !payload.problems.is_empty() {
            tracing::info!(
                code = ErrorCode::InvalidJoinPayload.as_str(),
                topic = &*self.topic,
                problems = ?payload.problems,
                "fields of a join are not valid and take their defaults"
            );
        }
        Ok(payload)
    }

    /// Step 7: the channel's token, verified now.
    fn credentials(&self, payload: &JoinPayload) -> Result<Credentials, Refused> {
        let choice = payload.channel_token();
        let token = match &choice {
            TokenChoice::Connection => &*self.connection.token,
            TokenChoice::Token(token) => token,
        };
        // Verified even if it is the connection's: that may have expired since.
        let claims = self
            .tenant
            .settings()
            .verifier
            .verify(token)
            .map_err(|error| Refused::token(&error))?;
        if claims.expires_at_s <= now_s() {
            return Err(Refused::token(&TokenError::ExpirationInvalid));
        }
        if *token == *self.connection.token {
            return Ok(self.connection.clone());
        }
        Ok(Credentials {
            token: Arc::from(token),
            claims: Arc::new(claims),
        })
    }

    /// Steps 9 and 10: what a private channel may hear.
    async fn private(
        &self,
        payload: &JoinPayload,
        credentials: &Credentials,
        replays: bool,
    ) -> Result<Option<Box<Private>>, Refused> {
        if !payload.config.as_ref().is_some_and(|config| config.private) {
            return Ok(None);
        }
        let asked = private::asked(&self.topic, &credentials.claims, &self.headers);
        let with_presence = self.is_with_presence(payload);
        let read = private::read_rights(&self.tenant, &credentials.claims, &asked, with_presence)
            .instrument(info_span!("rights"))
            .await
            .and_then(|read| read.required(&asked))
            .map_err(|error| self.unauthorized(&error))?;
        if replays && read.broadcast != Some(true) {
            return Err(Refused::new(
                ErrorCode::Unauthorized,
                &format!(
                    "You do not have permissions to read from this Channel topic: {}",
                    self.sub_topic()
                ),
                "let a policy for select on realtime.messages hold for extension = 'broadcast', or join without replay",
            ));
        }
        Ok(Some(Box::new(Private {
            rights: Rights::of_reader(read),
            with_presence,
            waiting: None,
        })))
    }

    fn unauthorized(&self, error: &RightsError) -> Refused {
        let (code, text) = error.join_reply(self.sub_topic());
        tracing::warn!(code = error.code().as_str(), topic = &*self.topic, cause = %error, "no right to read");
        Refused::new(code, &text, "the line before says what is missing")
    }

    /// Where the casts that are kept for all nodes stand, before this node hears the room.
    async fn last_kept(&self, is_private: bool) -> Option<u64> {
        let room = Room {
            topic: self.sub_topic(),
            is_private,
        };
        let crossings = self.tenant.crossings.as_ref();
        match crossings.filter(|_| self.tenant.rooms.is_shared(room)) {
            Some(crossings) => crossings.last_kept(room).await,
            None => None,
        }
    }

    /// Step 12: a place in the room. What arrives from now on waits behind the gate.
    fn relay(
        &self,
        payload: &JoinPayload,
        private: Option<&Private>,
        grant: Grant,
        history: Option<Arc<Replay>>,
        (since, last_kept): (Option<Result<Since, NotTold>>, Option<u64>),
    ) -> (Relay, Option<Asked>) {
        let config = payload.config.as_ref();
        let room = Room {
            topic: self.sub_topic(),
            is_private: private.is_some(),
        };
        let member = Member {
            version: self.version,
            outlet: Arc::clone(&self.gate) as Arc<dyn Outlet>,
            reads: private.map_or(grant.read, |private| private.rights.broadcast.read == Some(true)),
            // Who is told the state hears from then on.
            hears_presence: private.is_none() && grant.presence.read && !self.is_with_presence(payload),
            replay: history,
            name: config.and_then(|config| Some(config.broadcast.sender.as_deref()?.into())),
        };
        let own = config.is_some_and(|config| config.broadcast.own);
        let rooms = &self.tenant.rooms;
        let (since, not_told) = match since.transpose() {
            Ok(since) => (since, None),
            Err(not_told) => (None, Some(Asked::Known(Err(not_told)))),
        };
        let (membership, asked) = match since {
            _ if rooms.is_shared(room) => {
                let (membership, catchup) =
                    rooms.enter_shared(room, member, last_kept, since.map(|since| (since, own)));
                let asked = catchup.zip(since);
                (
                    membership,
                    asked.map(|(catchup, since)| Asked::Elsewhere(catchup, since)),
                )
            }
            None => (rooms.enter(room, member), None),
            Some(since) => {
                let (membership, recovered) = rooms.enter_since(room, member, since, own);
                let missed = recovered.map_err(NotTold::from);
                (membership, Some(Asked::Known(missed)))
            }
        };
        let missed = asked.or(not_told);
        let relay = Relay {
            membership,
            crossing: self
                .tenant
                .crossings
                .as_ref()
                .map(|crossings| crossings.enter(room)),
            ack: config.is_some_and(|config| config.broadcast.ack),
            own,
        };
        (relay, missed)
    }

    /// Whether the client asked for presence, or the server has it for everybody (`protocol.md 6.3`).
    fn is_with_presence(&self, payload: &JoinPayload) -> bool {
        let asked = payload
            .config
            .as_ref()
            .is_some_and(|config| config.presence.enabled);
        asked || self.tenant.settings().limits.presence_for_all
    }

    fn entries(&self, payload: &JoinPayload) -> Vec<BindingEntry> {
        match &payload.config {
            Some(config) => config.postgres_changes.clone(),
            None => vec![BindingEntry::legacy(self.sub_topic())],
        }
    }

    /// Step 8, and what makes a join ready: the subscription.
    async fn cast(
        &self,
        wish: Arc<Wish>,
        credentials: &Credentials,
        payload: &JoinPayload,
    ) -> Result<(Casting, Result<(), Unfulfilled>), Refused> {
        let config = &self.tenant.config.join;
        let options = payload
            .config
            .as_ref()
            .map(|config| config.postgres_changes_options)
            .unwrap_or_default();
        let limit = if options.wait {
            wait_limit(options.timeout_ms, config.max_wait)
        } else {
            config.timeout
        };
        let subscribed = if options.wait {
            self.subscribe_in_time(&wish, credentials, limit).await
        } else {
            subscribe(&self.tenant, &wish, &credentials.claims, limit).await
        };
        let casting = |state| Casting {
            wish,
            state,
            last_error: None,
        };
        match subscribed {
            Ok(subscription) => {
                let state = CastingState::Active {
                    subscription,
                    reauthorizing: false,
                };
                Ok((casting(state), Ok(())))
            }
            Err(Unfulfilled::NotReady | Unfulfilled::ForNow(_)) if options.wait => Err(not_in_time(limit)),
            Err(Unfulfilled::NotReady) => Err(Refused::new(
                ErrorCode::UnableToConnectToProject,
                "Realtime was unable to connect to the project database",
                "look for the cause in the server's log; GET /readyz tells when it is over",
            )),
            Err(Unfulfilled::ForGood { message, warnings }) if options.wait => Err(Refused {
                code: ErrorCode::RealtimeDisabledForConfiguration.as_str(),
                reason: std::iter::once(&message).chain(&warnings).fold(
                    format!("{}:", ErrorCode::RealtimeDisabledForConfiguration.as_str()),
                    |reason, sentence| format!("{reason} {sentence}"),
                ),
                remedy: "correct the entries of postgres_changes, or publish the table",
                end: None,
            }),
            Err(error @ Unfulfilled::ForGood { .. }) => Ok((casting(CastingState::Refused), Err(error))),
            Err(error @ Unfulfilled::ForNow(_)) => Ok((casting(CastingState::Trying), Err(error))),
        }
    }

    /// Tries again while there is time and hope.
    async fn subscribe_in_time(
        &self,
        wish: &Wish,
        credentials: &Credentials,
        limit: Duration,
    ) -> Result<Arc<Subscription>, Unfulfilled> {
        const PAUSE: Duration = Duration::from_millis(500);
        let attempts = async {
            loop {
                match subscribe(&self.tenant, wish, &credentials.claims, limit).await {
                    Err(Unfulfilled::ForNow(_)) => tokio::time::sleep(PAUSE).await,
                    other => return other,
                }
            }
        };
        within(limit, attempts)
            .await
            .unwrap_or(Err(Unfulfilled::NotReady))
    }

    pub(crate) fn sub_topic(&self) -> &str {
        sub_topic(&self.topic)
    }
}

/// A token that is bound to other topics.
fn not_opened(error: &NotOpened) -> Refused {
    Refused::new(
        ErrorCode::Unauthorized,
        &error.to_string(),
        "have a token made for this topic at POST /api/tokens",
    )
}

/// Everything after the first `realtime:`.
pub fn sub_topic(topic: &str) -> &str {
    topic.strip_prefix("realtime:").unwrap_or(topic)
}

fn wait_limit(wanted_ms: Option<u64>, ceiling: Duration) -> Duration {
    const DEFAULT_WAIT: Duration = Duration::from_secs(15);
    wanted_ms.map_or(DEFAULT_WAIT, Duration::from_millis).min(ceiling)
}

/// The client asked to wait, and that was not long enough (`protocol.md 15.1`).
fn not_in_time(limit: Duration) -> Refused {
    Refused {
        code: "PostgresChangesSubscribeTimeout",
        reason: format!(
            "PostgresChangesSubscribeTimeout: the subscription was not active within {} ms",
            limit.as_millis()
        ),
        remedy: "look for the cause in the server's log; the client joins again by itself",
        end: None,
    }
}
