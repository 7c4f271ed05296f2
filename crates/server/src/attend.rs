//! A channel's part in presence: what it tracks, and what it is told (`protocol.md 6`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;
use walcast_broadcast::{PayloadCost, payload_cost};
use walcast_presence::{Following, Presence, Presences, TrackError, Tracked};
use walcast_protocol::{ErrorCode, Message, Outlet, Payload, Status, Version, push};

use crate::channel::Channel;
use crate::limits::PresenceCalls;
use crate::metrics;
use crate::private::Leave;
use crate::socket::Socket;

/// What a channel's presence needs to know.
pub struct Attendance {
    /// As the client gave it, if it did (`protocol.md 6.4`).
    key: Option<Box<str>>,
    /// Whether the channel joined with presence.
    pub(crate) is_enabled: bool,
    window: CallWindow,
    presence: Option<Box<Presence>>,
    /// Its part in hearing of other nodes, if it hears of presences.
    following: Option<Following>,
}

/// The calls a channel has made since a moment (`protocol.md 6.5`).
#[derive(Debug, Default, Clone, Copy)]
struct CallWindow {
    since: Option<Instant>,
    calls: u32,
}

impl CallWindow {
    /// Whether one more call is allowed now. A window begins with its first call.
    fn admits(&mut self, limit: PresenceCalls, now: Instant) -> bool {
        let is_over = self
            .since
            .is_none_or(|since| now.duration_since(since) >= limit.window);
        if is_over {
            *self = Self {
                since: Some(now),
                calls: 0,
            };
        }
        self.calls < limit.calls
    }

    fn count(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }
}

impl Attendance {
    /// That of a channel that joins.
    pub(crate) fn new(key: Option<&str>, is_enabled: bool, following: Option<Following>) -> Self {
        Self {
            key: key.map(Into::into),
            is_enabled,
            window: CallWindow::default(),
            presence: None,
            following,
        }
    }
}

/// What a `presence` push asks for.
enum Call<'a> {
    /// Nothing.
    None,
    Track(&'a str),
    Untrack,
    /// Something that does not exist.
    Unknown,
    /// Its event is no string.
    Unnamed,
}

impl<'a> Call<'a> {
    fn read(payload: &'a Payload) -> Self {
        let Payload::Json(json) = payload else {
            return Self::None;
        };
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json.get()) else {
            return Self::None;
        };
        let Some(event) = fields.get("event") else {
            return Self::None;
        };
        let Ok(event) = serde_json::from_str::<String>(event.get()) else {
            return Self::Unnamed;
        };
        match event.to_ascii_lowercase().as_str() {
            "track" => Self::Track(fields.get("payload").map_or("{}", |payload| payload.get())),
            "untrack" => Self::Untrack,
            _ => Self::Unknown,
        }
    }
}

/// How a call ends.
enum Outcome {
    /// The reply `ok`.
    Done,
    /// An error reply with this `response`.
    Refused(String),
    /// No reply; the channel is closed.
    Closed(ErrorCode, &'static str),
    /// No reply; the channel breaks as it does in the reference.
    Crashed,
    /// Not yet: it waits for a check, and comes again.
    Asked,
}

const NO_REASON: &str = "{}";

impl Outcome {
    fn refused(reason: &TrackError) -> Self {
        Self::Refused(serde_json::json!({"reason": reason.to_string()}).to_string())
    }
}

impl Socket {
    /// Handles a `presence` push on a joined channel.
    pub(crate) fn attend(&mut self, topic: &str, message: &Message) {
        let call = Call::read(&message.payload);
        let outcome = self.answer(topic, message, &call);
        match outcome {
            Outcome::Asked => {}
            Outcome::Done => self.reply_to_call(topic, message, Status::Ok, NO_REASON),
            Outcome::Refused(response) => {
                self.reply_to_call(topic, message, Status::Error, &response);
            }
            Outcome::Closed(code, text) => {
                tracing::warn!(code = code.as_str(), topic, cause = text, "channel closed");
                metrics::channel_closed(code.as_str());
                self.close_channel(topic, text);
            }
            Outcome::Crashed => {
                let Some(channel) = self.remove(topic) else { return };
                let code = ErrorCode::UnableToHandlePresence.as_str();
                tracing::info!(code, topic, remedy = "send `event` as a string", "channel closed");
                metrics::channel_closed(code);
                self.push(walcast_protocol::crash(self.version, &channel.join_ref, topic));
                self.note_emptiness();
            }
        }
    }

    fn answer(&mut self, topic: &str, message: &Message, call: &Call<'_>) -> Outcome {
        let limit = self.tenant.settings().limits.presence_calls;
        let presences = Arc::clone(&self.tenant.presences);
        let Some(channel) = self.channel(topic) else {
            return Outcome::Asked;
        };
        if matches!(call, Call::None) {
            return Outcome::Done;
        }
        if let Some(limit) = limit
            && !channel.attendance.window.admits(limit, Instant::now())
        {
            return Outcome::Closed(
                ErrorCode::ClientPresenceRateLimitReached,
                "Client presence rate limit exceeded",
            );
        }
        let outcome = match *call {
            Call::None => Outcome::Done,
            Call::Unnamed => Outcome::Crashed,
            Call::Unknown => {
                metrics::presence_refused(ErrorCode::UnknownPresenceEvent.as_str());
                Outcome::Refused(NO_REASON.to_owned())
            }
            Call::Untrack => {
                channel.presence(&presences).untrack();
                Outcome::Done
            }
            Call::Track(payload) => self.track(topic, message, payload),
        };
        // Calls that are refused do not count (`protocol.md 6.5`).
        if let (Outcome::Done, Some(channel)) = (&outcome, self.channel(topic)) {
            channel.attendance.window.count();
        }
        outcome
    }

    fn track(&mut self, topic: &str, message: &Message, payload: &str) -> Outcome {
        if !payload.starts_with('{') {
            metrics::presence_refused(ErrorCode::InvalidPresencePayload.as_str());
            return Outcome::refused(&TrackError::NotAnObject);
        }
        let limit_bytes = self.tenant.settings().limits.max_payload_bytes;
        if !matches!(payload_cost(payload, limit_bytes), Ok(PayloadCost::Fits)) {
            return Outcome::Closed(ErrorCode::UnableToTrackPresence, "Track message size exceeded");
        }
        match self.may_track(topic, message) {
            Leave::Granted => {}
            Leave::Asked => return Outcome::Asked,
            Leave::Denied => {
                metrics::presence_refused(ErrorCode::Unauthorized.as_str());
                return Outcome::Refused(NO_REASON.to_owned());
            }
        }
        if self.tenant.rates.presence.is_exceeded() {
            return TOO_MANY;
        }
        let tenant = Arc::clone(&self.tenant);
        let Some(channel) = self.channel(topic) else {
            return Outcome::Asked;
        };
        match channel.presence(&tenant.presences).track(payload) {
            Ok(Tracked::Same) => Outcome::Done,
            Ok(Tracked::Changed) => {
                tenant.rates.presence.count(1);
                Outcome::Done
            }
            Err(error) => {
                let code = ErrorCode::UnableToTrackPresence.as_str();
                tracing::warn!(code, topic, cause = %error, "a presence was not tracked");
                metrics::presence_refused(code);
                Outcome::refused(&error)
            }
        }
    }

    fn reply_to_call(&mut self, topic: &str, message: &Message, status: Status, response: &str) {
        let Some(channel) = self.channel(topic) else {
            return;
        };
        let join_ref = channel.reference.clone();
        self.acknowledge(&join_ref, &message.reference, topic, status, response);
    }

    /// The answer to a `track` whose rights could not be checked.
    pub(crate) fn refuse_track(&mut self, topic: &str, message: &Message) {
        self.reply_to_call(topic, message, Status::Error, NO_REASON);
    }

    /// Tells a channel that joined with presence who is present, if it may know (`protocol.md 6.3`).
    pub(crate) fn introduce(&mut self, topic: &Arc<str>, generation: u64) {
        let (tenant, outbox, version) = (Arc::clone(&self.tenant), Arc::clone(&self.outbox), self.version);
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        let may_know = match &channel.private {
            Some(private) => private.rights.presence.read == Some(true),
            None => channel.grant().presence.read,
        };
        if !channel.attendance.is_enabled || !may_know {
            return;
        }
        if tenant.rates.presence.is_exceeded() {
            if let Outcome::Closed(code, text) = TOO_MANY {
                metrics::channel_closed(code.as_str());
                self.close_channel(topic, text);
            }
            return;
        }
        tenant.rates.presence.count(1);
        let reference = channel.reference.clone();
        tenant.presences.introduce(&channel.relay.membership, |state| {
            outbox.push(push(version, &reference, topic, "presence_state", state).into());
        });
    }
}

const TOO_MANY: Outcome = Outcome::Closed(
    ErrorCode::PresenceRateLimitReached,
    "Too many presence messages per second",
);

impl Channel {
    /// What it tracks. Without a key of the client's the server makes one.
    fn presence(&mut self, presences: &Arc<Presences>) -> &mut Presence {
        let membership = &self.relay.membership;
        let key = &self.attendance.key;
        self.attendance.presence.get_or_insert_with(|| {
            let made;
            let key = match key {
                Some(key) => &**key,
                None => {
                    made = uuid::Uuid::now_v1(&rand::random()).to_string();
                    &made
                }
            };
            Box::new(presences.attend(membership, key))
        })
    }

    /// Has a private channel hear who comes and goes from now on, if it may: with a reference of its own if it joined
    /// without presence (`protocol.md 6.3`).
    pub(crate) fn hear_presence(&mut self, presences: &Arc<Presences>, version: Version) {
        let reads = |rights: &walcast_messages::Rights| rights.presence.read == Some(true);
        if !self
            .private
            .as_ref()
            .is_some_and(|private| reads(&private.rights))
        {
            return;
        }
        if self.attendance.is_enabled {
            let room = self.relay.membership.room();
            self.attendance
                .following
                .get_or_insert_with(|| presences.follow(room));
            return self.relay.membership.set_hears_presence(true);
        }
        let (reference, outlet) = (self.reference.clone(), Arc::clone(&self.gate) as Arc<dyn Outlet>);
        self.presence(presences).hear_apart(version, &reference, outlet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_window_begins_with_its_first_call_and_the_next_with_the_first_after_its_end() {
        let limit = PresenceCalls {
            calls: 2,
            window: Duration::from_secs(30),
        };
        let mut window = CallWindow::default();
        let start = Instant::now();
        for (after_s, is_admitted) in [
            (0, true),
            (29, true),
            (29, false),
            (31, true),
            (60, true),
            (60, false),
            (61, true),
        ] {
            let now = start + Duration::from_secs(after_s);
            assert_eq!(window.admits(limit, now), is_admitted, "after {after_s} s");
            if is_admitted {
                window.count();
            }
        }
    }

    #[test]
    fn a_call_is_known_by_its_event_in_any_case() {
        let told = |json: &str| {
            let payload = Payload::Json(RawValue::from_string(json.to_owned()).unwrap_or_default());
            match Call::read(&payload) {
                Call::None => "none".to_owned(),
                Call::Track(payload) => format!("track {payload}"),
                Call::Untrack => "untrack".to_owned(),
                Call::Unknown => "unknown".to_owned(),
                Call::Unnamed => "unnamed".to_owned(),
            }
        };
        for (json, expected) in [
            (
                r#"{"type":"presence","event":"track","payload":{"a":1}}"#,
                r#"track {"a":1}"#,
            ),
            (r#"{"event":"TRACK"}"#, "track {}"),
            (r#"{"event":"track","payload":null}"#, "track null"),
            (r#"{"event":"UnTrack","payload":5}"#, "untrack"),
            (r#"{"event":""}"#, "unknown"),
            (r#"{"event":null}"#, "unnamed"),
            (r#"{"event":{"a":1}}"#, "unnamed"),
            ("{}", "none"),
            ("[1]", "none"),
            ("null", "none"),
            (r#""track""#, "none"),
        ] {
            assert_eq!(told(json), expected, "{json}");
        }
    }
}
