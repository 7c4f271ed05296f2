//! Rows of `realtime.messages` become broadcasts as they are committed (`protocol.md 5.8`).

use std::sync::Arc;

use metrics::counter;
use walcast_broadcast::{Body, Message, Room};
use walcast_changes::Tap;
use walcast_messages::{MessageRow, RowBody, is_messages_partition};
use walcast_protocol::ErrorCode;
use walcast_replication::{Change, Relation};

use crate::serve::Server;

/// Hands rows from the stream to the rooms.
pub struct DatabaseBroadcast {
    server: Arc<Server>,
}

impl DatabaseBroadcast {
    /// For the rooms of a server.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server }
    }

    fn broadcast(&self, row: &MessageRow<'_>) -> Result<(), String> {
        if self.server.rates.events.is_exceeded() {
            return Err("too_many_requests: there are more messages a second than are allowed".to_owned());
        }
        let room = Room {
            topic: row.topic,
            is_private: row.private,
        };
        let message = Message::Event {
            event: row.event,
            body: match &row.body {
                RowBody::Json(json) => Body::Json(json),
                RowBody::Binary(bytes) => Body::Binary(bytes),
            },
            id: Some(row.id),
        };
        let receivers = self
            .server
            .rooms
            .cast(room, &message, self.server.withheld.take(row.id))
            .map_err(|error| error.to_string())?;
        self.server.note_broadcast(receivers);
        Ok(())
    }
}

impl Tap for DatabaseBroadcast {
    fn wants(&self, relation: &Relation) -> bool {
        is_messages_partition(relation)
    }

    fn take(&self, change: &Change) {
        let limit_bytes = self.server.config.limits.max_payload_bytes;
        let relayed = match MessageRow::read(change, limit_bytes) {
            Ok(None) => return,
            Ok(Some(row)) => self.broadcast(&row),
            Err(unrelayed) => Err(unrelayed.to_string()),
        };
        let code = match relayed {
            Ok(()) => "ok",
            Err(cause) => {
                let code = ErrorCode::UnableToBroadcastChanges.as_str();
                tracing::warn!(
                    code,
                    cause,
                    partition = change.relation.name,
                    "a row of realtime.messages was not broadcast"
                );
                code
            }
        };
        counter!("walcast_database_broadcasts_total", "code" => code).increment(1);
    }
}
