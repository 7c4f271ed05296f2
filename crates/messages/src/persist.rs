//! Storing a broadcast so that it can be replayed (`protocol.md 15.2`).
//!
//! A stored message comes back through the replication stream like any other row, on every node. So it reaches live
//! members once if it is delivered from there alone: whoever stores it remembers its id and whom to leave out, and
//! delivers nothing.

use std::time::Duration;

use sqlx::Row;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::archive::{Archive, Failure};
use crate::body::Body;

/// How long a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// As long as messages are kept at all (`database.md 6`).
    Retention,
    /// At most that long; less if the retention ends before.
    AtMost(Duration),
}

/// A message to be stored. Whether its sender may write is the caller's question; policies play no part.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// The row's UUID, which live members and those it is replayed to get as `meta.id`.
    pub id: &'a str,
    /// The private channel, without `realtime:`.
    pub topic: &'a str,
    /// The user's event.
    pub event: &'a str,
    /// The user's payload.
    pub body: &'a Body,
    /// For how long.
    pub keep: Keep,
}

/// Why a message is not stored. `Display` is for the log.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PersistError {
    /// There is nowhere to write today's rows.
    #[error(
        "the message could not be stored: realtime.messages has no partition for the present day (UTC); the server \
         creates partitions itself, look for why it could not"
    )]
    MissingPartition,
    /// What Postgres cannot hold: JSON it does not take, a NUL character, an id that is no UUID or taken.
    #[error("the message could not be stored as it is: {0}")]
    Refused(String),
    /// The database did not take it in time.
    #[error("the database did not do it: {0}")]
    Unavailable(String),
}

impl PersistError {
    /// The value of `error` in the reply to a sender who asked for an acknowledgement (`protocol.md 15.2`).
    #[must_use]
    pub fn told(&self) -> &'static str {
        match self {
            Self::MissingPartition => {
                "the message could not be stored: there is no partition for the present day"
            }
            Self::Refused(_) => "the message could not be stored: the database does not accept it",
            Self::Unavailable(_) => "the message could not be stored: the database is unavailable",
        }
    }
}

impl From<Failure> for PersistError {
    fn from(failure: Failure) -> Self {
        const CHECK_VIOLATION: &str = "23514";
        match failure {
            Failure::Refused {
                sqlstate, relation, ..
            } if *sqlstate == *CHECK_VIOLATION && relation.as_deref() == Some("messages") => {
                Self::MissingPartition
            }
            Failure::Refused {
                ref sqlstate,
                ref message,
                ..
            } => match sqlstate.get(..2) {
                // Data exceptions and violated constraints.
                Some("22" | "23") => Self::Refused(message.to_string()),
                _ => Self::Unavailable(failure.to_string()),
            },
            failure => Self::Unavailable(failure.to_string()),
        }
    }
}

/// How long an expired message may stay in the table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// So many expired messages are deleted in one statement.
const SWEEP_ROWS: i32 = 1_000;

impl Archive {
    /// Stores a message, in one round trip. Once this returns it is committed.
    ///
    /// # Errors
    /// [`PersistError`], within the time limit. After [`PersistError::Unavailable`] it may be stored nevertheless.
    pub async fn persist(&self, message: NewMessage<'_>) -> Result<(), PersistError> {
        let (json, bytes) = match message.body {
            Body::Json(json) => (Some(json.as_ref()), None),
            Body::Binary(bytes) => (None, Some(bytes.as_ref())),
        };
        let lifetime_s = match message.keep {
            Keep::Retention => None,
            Keep::AtMost(lifetime) => Some(i32::try_from(lifetime.as_secs()).unwrap_or(i32::MAX)),
        };
        let query = sqlx::query(
            "with stored as ( \
               insert into realtime.messages \
                 (id, topic, extension, event, private, payload, binary_payload, inserted_at, updated_at) \
               values ($1::text::uuid, $2, 'broadcast', $3, true, $4::text::jsonb, $5, \
                 now() at time zone 'utc', now() at time zone 'utc') \
               returning id, inserted_at) \
             insert into walcast.message_lifetimes (id, inserted_at, expires_at) \
             select id, inserted_at, now() + $6::int * interval '1 second' from stored where $6::int is not null",
        )
        .bind(message.id)
        .bind(message.topic)
        .bind(message.event)
        .bind(json)
        .bind(bytes)
        .bind(lifetime_s);
        self.fetch(query).await?;
        Ok(())
    }

    /// Deletes expired messages, now and every minute until it is cancelled. Several servers may do so at once.
    pub async fn keep_deleting_expired(&self, cancel: CancellationToken) {
        let mut tick = interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.delete_expired().await {
                Ok(0) => {}
                Ok(deleted) => tracing::debug!(deleted, "deleted stored messages that had expired"),
                Err(error) => tracing::warn!("expired messages stay for now: {error}"),
            }
        }
    }

    /// Deletes what was to be kept only until now; says how many messages that were. A message that has expired is not
    /// replayed, deleted or not.
    ///
    /// # Errors
    /// When the database did not do it in time. What is left is for the next time.
    pub async fn delete_expired(&self) -> Result<u64, PersistError> {
        let mut deleted = 0;
        loop {
            let query = sqlx::query(
                "with expired as ( \
                   delete from walcast.message_lifetimes where id in ( \
                     select id from walcast.message_lifetimes where expires_at <= now() \
                     order by expires_at limit $1 for update skip locked) \
                   returning id, inserted_at), \
                 deleted as ( \
                   delete from realtime.messages as message using expired \
                   where message.id = expired.id and message.inserted_at = expired.inserted_at) \
                 select count(*) from expired",
            )
            .bind(SWEEP_ROWS);
            let rows = self.fetch(query).await?;
            let now_deleted: i64 = match rows.first() {
                Some(row) => row.try_get(0).map_err(Failure::from)?,
                None => 0,
            };
            deleted += u64::try_from(now_deleted).unwrap_or_default();
            if now_deleted < i64::from(SWEEP_ROWS) {
                return Ok(deleted);
            }
        }
    }
}
