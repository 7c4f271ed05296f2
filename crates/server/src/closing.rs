//! A channel that the server closes, with the word that says why (`protocol.md 8.4`).

use std::sync::Arc;

use walcast_protocol::{ErrorCode, System, fan_out};

use crate::join::sub_topic;
use crate::metrics;
use crate::outbox::DISCONNECTED;
use crate::route::SlotState;
use crate::socket::Socket;

impl Socket {
    /// `system`, then `phx_close`; the socket lives on.
    pub(crate) fn close_channel(&mut self, topic: &str, message: &str) {
        let Some(channel) = self.remove(topic) else { return };
        let system = System {
            extension: "system",
            status: "error",
            message,
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
        self.note_emptiness();
    }

    /// Tells each joined channel that the tenant ends its sockets, and ends this one (`protocol.md 1.6`).
    pub(crate) fn disconnect(&mut self) {
        let payload = r#"{"extension":"system","status":"ok","message":"Server requested disconnect"}"#;
        let joined = self
            .topics
            .iter()
            .filter(|(_, slot)| matches!(slot.state, SlotState::Joined(_)));
        let mut topics: Vec<Arc<str>> = joined.map(|(topic, _)| Arc::clone(topic)).collect();
        topics.sort_unstable();
        for topic in &topics {
            self.push(fan_out(self.version, topic, "system", payload));
        }
        self.outbox.end(DISCONNECTED);
    }

    /// Closes the channels behind these gates: they were delivered a message while there were too many
    /// (`protocol.md 9`).
    pub(crate) fn close_over_limit(&mut self, gates: &[u32]) {
        let of_gates = |slot: &SlotState| match slot {
            SlotState::Joined(channel) => gates.contains(&channel.gate.number()),
            SlotState::Joining(_) => false,
        };
        let topics: Vec<Arc<str>> = self
            .topics
            .iter()
            .filter(|(_, slot)| of_gates(&slot.state))
            .map(|(topic, _)| Arc::clone(topic))
            .collect();
        for topic in topics {
            // Logged once for the burst, where the limit is found exceeded.
            metrics::channel_closed(ErrorCode::MessagePerSecondRateLimitReached.as_str());
            self.close_channel(&topic, "Too many messages per second");
        }
    }
}
