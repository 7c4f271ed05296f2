//! Rows of `realtime.messages` become broadcasts as they are committed (`protocol.md 5.8`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use walcast_broadcast::{Body, Message, Room};
use walcast_changes::Tap;
use walcast_messages::{MessageRow, RowBody, is_messages_partition};
use walcast_protocol::ErrorCode;
use walcast_replication::{Change, Relation};

use crate::tenant::Tenant;

/// A transaction is seen by all sessions this long after the stream brought it, unless it waits for a standby.
const RECENT: Duration = Duration::from_secs(5);
/// So many rows are remembered at most.
const RECENT_ROWS: usize = 4_096;

/// Which transactions wrote messages of which topics just now. The stream can be ahead of what other sessions see of
/// them (`database.md 9.21`).
#[derive(Default)]
pub struct RecentRows(Mutex<VecDeque<(Instant, Box<str>, u32)>>);

impl RecentRows {
    fn note(&self, topic: &str, xid: u32) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while rows
            .front()
            .is_some_and(|(since, ..)| rows.len() >= RECENT_ROWS || since.elapsed() > RECENT)
        {
            rows.pop_front();
        }
        rows.push_back((Instant::now(), topic.into(), xid));
    }

    /// The transactions of a topic, each once.
    pub fn of(&self, topic: &str) -> Vec<u32> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut xids: Vec<u32> = rows
            .iter()
            .filter(|(since, of, _)| **of == *topic && since.elapsed() <= RECENT)
            .map(|(.., xid)| *xid)
            .collect();
        xids.sort_unstable();
        xids.dedup();
        xids
    }
}

/// Hands rows from the stream to the rooms.
pub struct DatabaseBroadcast {
    tenant: Arc<Tenant>,
}

impl DatabaseBroadcast {
    /// For the rooms of a tenant.
    pub fn new(tenant: Arc<Tenant>) -> Self {
        Self { tenant }
    }

    fn broadcast(&self, row: &MessageRow<'_>, xid: u32) -> Result<(), String> {
        if self.tenant.rates.events.is_exceeded() {
            return Err("too_many_requests: there are more messages a second than are allowed".to_owned());
        }
        // Before it goes out: whoever enters the room too late for it finds it here.
        self.tenant.recent_rows.note(row.topic, xid);
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
        if let Some(crossings) = &self.tenant.crossings
            && crossings.publish_row(room, &message, row.id)
        {
            self.tenant.note_broadcast(0);
            return Ok(());
        }
        let receivers = self
            .tenant
            .rooms
            .cast(room, &message, self.tenant.withheld.take(row.id).as_ref())
            .map_err(|error| error.to_string())?;
        self.tenant.note_broadcast(receivers);
        Ok(())
    }
}

impl Tap for DatabaseBroadcast {
    /// Rows may have been missed, so nobody who comes back is told that it has heard all.
    fn interrupted(&self) {
        self.tenant.rooms.interrupt();
        if let Some(crossings) = &self.tenant.crossings {
            crossings.interrupt();
        }
    }

    fn wants(&self, relation: &Relation) -> bool {
        is_messages_partition(relation)
    }

    fn take(&self, change: &Change) {
        let limit_bytes = self.tenant.settings().limits.max_payload_bytes;
        let relayed = match MessageRow::read(change, limit_bytes) {
            Ok(None) => return,
            Ok(Some(row)) => self.broadcast(&row, change.transaction.xid),
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
