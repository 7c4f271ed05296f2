//! A joined topic.

use crate::event::Event;
use crate::socket::Command;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// What to join with.
#[derive(Clone, Debug, Default)]
pub struct Join {
    config: Map<String, Value>,
    access_token: Option<String>,
}

impl Join {
    /// Adds a binding: an entry of `config.postgres_changes`, e.g.
    /// `{"event":"INSERT","schema":"public","table":"todos","filter":"id=eq.1"}`.
    #[must_use]
    pub fn binding(mut self, entry: Value) -> Self {
        if let Value::Array(entries) = self.config.entry("postgres_changes").or_insert_with(|| json!([])) {
            entries.push(entry);
        }
        self
    }

    /// Sets a key of `config`, e.g. `broadcast` or `private`.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// The channel's own token, instead of the connection's key.
    #[must_use]
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        self.access_token = Some(token.into());
        self
    }

    pub(crate) fn payload(&self) -> Value {
        let mut payload = json!({ "config": self.config });
        if let Some(token) = &self.access_token {
            payload["access_token"] = Value::from(token.as_str());
        }
        payload
    }
}

/// Why a join failed.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The server answered with an error.
    #[error("the join was refused: {0}")]
    Refused(String),
    /// The socket ended first.
    #[error("the socket closed before the join was answered")]
    Closed,
}

/// A joined channel. Dropping it leaves the topic without waiting for the answer.
pub struct Channel {
    pub(crate) topic: String,
    /// The `response` of the join reply.
    pub(crate) response: Value,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

impl Channel {
    /// The full topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The `response` object of the join reply.
    #[must_use]
    pub fn response(&self) -> &Value {
        &self.response
    }

    /// The next event; `None` after [`Event::Closed`].
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Sends an event, now; the returned future waits for its reply: `Ok(response)` or `Err(response)`. Without a reply
    /// (some events have none) that is until the socket ends. It does not hold the channel, which may be read meanwhile.
    ///
    /// # Errors
    /// The `response` of an error reply; null when the socket ended.
    pub fn push(
        &self,
        event: &str,
        payload: Value,
    ) -> impl Future<Output = Result<Value, Value>> + Send + use<> {
        let (reply, answered) = oneshot::channel();
        let command = Command::Push {
            topic: self.topic.clone(),
            event: event.to_owned(),
            payload,
            reply: Some(reply),
        };
        // A socket that has ended drops the command, and with it the reply.
        let _ = self.commands.send(command);
        async { answered.await.unwrap_or(Err(Value::Null)) }
    }

    /// Sends an event that has no reply.
    pub fn send(&self, event: &str, payload: Value) {
        let _ = self.commands.send(Command::Push {
            topic: self.topic.clone(),
            event: event.to_owned(),
            payload,
            reply: None,
        });
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Leave {
            topic: self.topic.clone(),
        });
    }
}
