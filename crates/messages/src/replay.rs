//! Stored messages for a channel that joins (`database.md 5`, `protocol.md 5.9`).

use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::Row;
use std::time::{Duration, Instant};
use thiserror::Error;
use walcast_protocol::ErrorCode;

use crate::archive::{Archive, Failure};
use crate::body::Body;

/// Which stored messages a channel wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayRange {
    /// Not stored before: milliseconds since 1970 in UTC.
    pub since_ms: i64,
    /// The newest so many of them, 1 to 25.
    pub limit: u8,
}

/// A message as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The row's UUID, lower case, with hyphens.
    pub id: Box<str>,
    /// The user's event.
    pub event: Box<str>,
    /// The user's payload; JSON compact, as the reference replays it.
    pub body: Body,
}

/// Why there is no replay.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    /// The channel is public.
    #[error("stored messages are those of private channels: join with `private: true`")]
    PublicChannel,
    /// `config.broadcast.replay` cannot be used.
    #[error(
        "`config.broadcast.replay` needs an integer `since`, milliseconds since 1970, and may have an integer `limit`"
    )]
    Invalid,
    /// The messages could not be read.
    #[error("stored messages of {topic} could not be read: {cause}")]
    Unreadable {
        /// Without `realtime:`.
        topic: Box<str>,
        /// What happened.
        cause: String,
    },
}

impl ReplayError {
    /// Code and text of the error reply to the join.
    #[must_use]
    pub fn join_reply(&self) -> (ErrorCode, &'static str) {
        let text = match self {
            Self::PublicChannel => "Replay is not allowed for public channels",
            Self::Invalid => "Replay params are not valid",
            Self::Unreadable { .. } => "Realtime was unable to replay messages",
        };
        (ErrorCode::UnableToReplayMessages, text)
    }
}

/// The last millisecond of the year 9999, and the first of the year 0.
const SINCE_MS_MAX: i64 = 253_402_300_799_999;
const SINCE_MS_MIN: i64 = -62_167_219_200_000;
const LIMIT_MAX: u8 = 25;

impl ReplayRange {
    /// What `config.broadcast.replay` of a join asks for; on a private channel what is no object asks for nothing.
    ///
    /// # Errors
    /// [`ReplayError::PublicChannel`] if the key is there at all, [`ReplayError::Invalid`].
    pub fn requested(private: bool, replay: Option<&RawValue>) -> Result<Option<Self>, ReplayError> {
        let Some(replay) = replay else { return Ok(None) };
        if !private {
            return Err(ReplayError::PublicChannel);
        }
        let Ok(Value::Object(replay)) = serde_json::from_str(replay.get()) else {
            return Ok(None);
        };
        let since_ms = replay
            .get("since")
            .and_then(Value::as_i64)
            .filter(|since_ms| (SINCE_MS_MIN..=SINCE_MS_MAX).contains(since_ms))
            .ok_or(ReplayError::Invalid)?;
        let limit = match replay.get("limit") {
            None | Some(Value::Null) => LIMIT_MAX,
            Some(limit) => match (limit.as_i64(), limit.as_u64()) {
                (Some(limit), _) => u8::try_from(limit.clamp(1, LIMIT_MAX.into())).unwrap_or(LIMIT_MAX),
                (None, Some(_)) => LIMIT_MAX,
                (None, None) => return Err(ReplayError::Invalid),
            },
        };
        Ok(Some(Self { since_ms, limit }))
    }
}

impl Archive {
    /// The newest messages in `range` that are stored for the private channel `topic` (without `realtime:`), oldest
    /// first. Whether they may be read is the caller's question; policies play no part.
    ///
    /// Those of the transactions `after` (32 bit) are among them: the stream can be ahead of what other sessions see
    /// (`database.md 9.21`), and a message that it brought before the channel was there must not be missed here.
    ///
    /// # Errors
    /// [`ReplayError::Unreadable`], within the time limit.
    pub async fn replay(
        &self,
        topic: &str,
        range: ReplayRange,
        after: &[u32],
    ) -> Result<Vec<StoredMessage>, ReplayError> {
        let newest = async {
            self.settle(after).await?;
            self.newest(topic, range).await
        };
        newest.await.map_err(|failure| ReplayError::Unreadable {
            topic: topic.into(),
            cause: failure.to_string(),
        })
    }

    /// Waits until other sessions see what these transactions did.
    async fn settle(&self, xids: &[u32]) -> Result<(), Failure> {
        if xids.is_empty() {
            return Ok(());
        }
        let xids: Vec<i64> = xids.iter().map(|xid| i64::from(*xid)).collect();
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            // The upper half of a 64-bit id is that of the snapshot, or its neighbour around a wrap.
            let query = sqlx::query(
                "select coalesce(bool_and(pg_visible_in_snapshot((case \
                   when near - horizon > 2147483648 then near - 4294967296 \
                   when horizon - near > 2147483648 then near + 4294967296 \
                   else near end)::text::xid8, snapshot)), true) \
                 from pg_current_snapshot() snapshot, \
                   lateral (select pg_snapshot_xmax(snapshot)::text::int8 as horizon) as h, \
                   unnest($1::int8[]) as xid, \
                   lateral (select horizon >> 32 << 32 | xid as near) as n",
            )
            .bind(&xids);
            let is_settled = match self.fetch(query).await?.first() {
                Some(row) => row.try_get(0).map_err(Failure::from)?,
                None => true,
            };
            if is_settled {
                return Ok(());
            }
            if started.elapsed() + pause > self.time_limit() {
                return Err(Failure::TooSlow(self.time_limit().as_millis()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    async fn newest(&self, topic: &str, range: ReplayRange) -> Result<Vec<StoredMessage>, Failure> {
        // `private is true` is how the index says it, and what the planner finds the index by.
        let query = sqlx::query(
            "select id::text, event, payload::text as json, binary_payload from realtime.messages as message \
             where topic = $1 and private is true and extension = 'broadcast' \
               and inserted_at >= timestamp 'epoch' + $2::bigint * interval '1 millisecond' \
               and inserted_at < (now() at time zone 'utc') + interval '1 minute' \
               and event is not null and (payload is not null or binary_payload is not null) \
               and not exists (select from walcast.message_lifetimes as lifetime \
                 where lifetime.id = message.id and lifetime.expires_at <= now()) \
             order by inserted_at desc limit $3",
        )
        .bind(topic)
        .bind(range.since_ms)
        .bind(i32::from(range.limit));
        let rows = self.fetch(query).await?;
        let mut messages = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            let body = match row.try_get::<Option<&[u8]>, _>("binary_payload")? {
                Some(bytes) => Body::Binary(bytes.into()),
                None => Body::Json(compact(row.try_get("json")?).into()),
            };
            messages.push(StoredMessage {
                id: row.try_get::<&str, _>("id")?.into(),
                event: row.try_get::<&str, _>("event")?.into(),
                body,
            });
        }
        Ok(messages)
    }
}

/// `jsonb` as Postgres prints it has a blank after each colon and comma; this is without.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character == '"' {
            in_string = true;
        } else if character == ' ' {
            continue;
        }
        compact.push(character);
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(private: bool, replay: &str) -> Result<Option<ReplayRange>, ReplayError> {
        let raw = RawValue::from_string(replay.to_owned()).unwrap();
        ReplayRange::requested(private, Some(&raw))
    }

    #[test]
    fn since_is_an_integer_and_the_limit_is_clamped() {
        let range = |since_ms, limit| Ok(Some(ReplayRange { since_ms, limit }));
        for (replay, expected) in [
            (r#"{"since":1795236200814}"#, range(1_795_236_200_814, 25)),
            (r#"{"since":0,"limit":null}"#, range(0, 25)),
            (r#"{"since":0,"limit":2}"#, range(0, 2)),
            (r#"{"since":0,"limit":0}"#, range(0, 1)),
            (r#"{"since":0,"limit":-5}"#, range(0, 1)),
            (r#"{"since":0,"limit":100}"#, range(0, 25)),
            (r#"{"since":0,"limit":18446744073709551615}"#, range(0, 25)),
            (r#"{"since":-1,"limit":1}"#, range(-1, 1)),
            (r#"{"since":253402300799999}"#, range(253_402_300_799_999, 25)),
            (r#"{"since":253402300800000}"#, Err(ReplayError::Invalid)),
            (r#"{"since":-9223372036854775808}"#, Err(ReplayError::Invalid)),
            (r#"{"since":1.5}"#, Err(ReplayError::Invalid)),
            (r#"{"since":"1"}"#, Err(ReplayError::Invalid)),
            (r#"{"since":null}"#, Err(ReplayError::Invalid)),
            (r#"{"since":1,"limit":"2"}"#, Err(ReplayError::Invalid)),
            (r#"{"since":1,"limit":2.5}"#, Err(ReplayError::Invalid)),
            ("{}", Err(ReplayError::Invalid)),
            ("null", Ok(None)),
            ("false", Ok(None)),
            (r#""x""#, Ok(None)),
            ("[]", Ok(None)),
        ] {
            assert_eq!(requested(true, replay), expected, "{replay}");
        }
    }

    #[test]
    fn a_public_channel_may_not_even_name_it() {
        for replay in ["null", "{}", r#"{"since":1}"#] {
            assert_eq!(
                requested(false, replay),
                Err(ReplayError::PublicChannel),
                "{replay}"
            );
        }
        assert_eq!(ReplayRange::requested(false, None), Ok(None));
        assert_eq!(ReplayRange::requested(true, None), Ok(None));
    }

    #[test]
    fn blanks_go_only_from_between_tokens() {
        for (json, expected) in [
            (r#"{"a": 1, "b": [1, 2]}"#, r#"{"a":1,"b":[1,2]}"#),
            (r#"{"a b": "c, d: \" e"}"#, r#"{"a b":"c, d: \" e"}"#),
            (r#"["\\", "\\\" x"]"#, r#"["\\","\\\" x"]"#),
            (r#""ä  ö""#, r#""ä  ö""#),
            ("null", "null"),
        ] {
            assert_eq!(compact(json), expected);
        }
    }
}
