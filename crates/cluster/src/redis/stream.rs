//! Bounded streams in Redis.
//!
//! An entry has the fields `p`, its payload; `o`, the bytes of all payloads of its generation up to and with its own;
//! and `t`, the token it was written under. With the offsets the bytes that are kept are told without adding them up.

use crate::error::ClusterError;
use crate::memory::check_length;
use crate::redis::backoff::Backoff;
use crate::redis::dial::{Connection, Dial, told};
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use crate::stream::{Bound, Entry, From, Position, READ_BYTES, READ_ENTRIES, Read, Reader, Streams};
use futures_util::future::{BoxFuture, FutureExt};
use redis::streams::{StreamId, StreamReadReply};
use redis::{Script, Value};
use std::sync::Arc;
use std::time::Duration;

/// How long one question for a new entry waits. Then it is asked again, so that the end of a connection is noticed.
const WAIT: Duration = Duration::from_secs(5);

/// Entries that one append drops for their bytes at most, so that it stays short. Only where the bound has shrunk is
/// there more to drop than that.
const DROPPED_AT_ONCE: usize = 64;

/// Appends an entry and drops what is too much: first by the number of entries, then from the oldest on by bytes.
const APPEND: &str = r"
local key, payload, token = KEYS[1], ARGV[1], tonumber(ARGV[2])
local function offset_of(entry)
  return tonumber(entry[2][4])
end
local generation, number, offset
local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if last then
  if tonumber(last[2][6]) > token then
    return ''
  end
  local begun, place = string.match(last[1], '^(%d+)-(%d+)$')
  generation, number, offset = begun, tonumber(place) + 1, offset_of(last)
else
  local time = redis.call('TIME')
  generation, number, offset = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), 1, 0
end
offset = offset + #payload
local id = generation .. '-' .. string.format('%.0f', number)
redis.call('XADD', key, id, 'p', payload, 'o', string.format('%.0f', offset), 't', ARGV[2])
redis.call('XTRIM', key, 'MAXLEN', ARGV[3])
local most_bytes = tonumber(ARGV[4])
for _ = 1, tonumber(ARGV[5]) do
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local before = offset_of(oldest) - #oldest[2][2]
  if oldest[1] == id or offset - before <= most_bytes then
    break
  end
  redis.call('XDEL', key, oldest[1])
end
return id
";

/// The entries after a place, up to so many and so many bytes. If there are none, the place of the last.
const READ: &str = r"
local key, from, found, bytes = KEYS[1], ARGV[1], {}, 0
for i = 1, tonumber(ARGV[2]) do
  local entry = redis.call('XRANGE', key, from, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  bytes = bytes + #entry[2][2]
  if i > 1 and bytes > tonumber(ARGV[3]) then
    break
  end
  found[i] = {entry[1], entry[2][2]}
  from = '(' .. entry[1]
end
local last = ''
if #found == 0 then
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if newest then
    last = newest[1]
  end
end
return {last, found}
";

pub(crate) struct RedisStreams {
    link: Arc<Link>,
    dial: Dial,
    keys: Keys,
    append: Script,
    read: Arc<Script>,
}

impl RedisStreams {
    pub(crate) fn new(link: Arc<Link>, dial: Dial, keys: Keys) -> Self {
        Self {
            link,
            dial,
            keys,
            append: Script::new(APPEND),
            read: Arc::new(Script::new(READ)),
        }
    }
}

impl Streams for RedisStreams {
    fn append<'a>(
        &'a self,
        stream: &'a str,
        payload: &'a [u8],
        bound: Bound,
        token: u64,
    ) -> BoxFuture<'a, Result<Position, ClusterError>> {
        async move {
            check_length(payload)?;
            let [token_text, entries, bytes, at_once] = [
                token.to_string(),
                bound.entries.max(1).to_string(),
                bound.bytes.to_string(),
                DROPPED_AT_ONCE.to_string(),
            ];
            let arguments = [
                payload,
                token_text.as_bytes(),
                entries.as_bytes(),
                bytes.as_bytes(),
                at_once.as_bytes(),
            ];
            let key = self.keys.stream(stream);
            let position: String = self.link.run(&self.append, &[&key], &arguments).await?;
            if position.is_empty() {
                return Err(ClusterError::Fenced { token });
            }
            place(&position)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a str,
        from: From,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, ClusterError>> {
        async move {
            let key = self.keys.stream(stream);
            let position = match from {
                From::Oldest => None,
                From::After(position) => Some(position),
                From::Now => {
                    // From beyond the end there is nothing but the place of the last.
                    let (last, _): (String, Vec<(String, Vec<u8>)>) =
                        self.link.run(&self.read, &[&key], &[b"+", b"0", b"0"]).await?;
                    if last.is_empty() {
                        None
                    } else {
                        Some(place(&last)?)
                    }
                }
            };
            let reader = RedisReader {
                dial: self.dial.clone(),
                key,
                script: Arc::clone(&self.read),
                connection: None,
                pause: None,
                backoff: Backoff::new(),
                position,
            };
            Ok(Box::new(reader) as Box<dyn Reader>)
        }
        .boxed()
    }
}

fn place(text: &str) -> Result<Position, ClusterError> {
    Position::parse(text)
        .ok_or_else(|| ClusterError::Malformed(format!("`{text:.60}` as the place of an entry")))
}

/// A reader with a connection of its own, on which it may wait without holding up anybody else.
struct RedisReader {
    dial: Dial,
    key: String,
    script: Arc<Script>,
    connection: Option<Connection>,
    /// After a failure.
    pause: Option<Duration>,
    backoff: Backoff,
    /// None before the first entry, of a reader that takes what is kept.
    position: Option<Position>,
}

impl RedisReader {
    /// Takes what was found, in order; if it does not begin right after the reader's place, tells that instead.
    fn take(&mut self, found: Vec<(String, Vec<u8>)>) -> Result<Option<Read>, ClusterError> {
        let mut entries = Vec::with_capacity(found.len());
        let mut last = self.position;
        for (id, payload) in found {
            let position = place(&id)?;
            match last {
                Some(last) if !last.is_followed_by(position) => {
                    // What is before the gap is handed out first.
                    if entries.is_empty() {
                        self.position = None;
                        return Ok(Some(Read::Gap { after: last }));
                    }
                    break;
                }
                _ => {}
            }
            last = Some(position);
            entries.push(Entry {
                position,
                payload: payload.into(),
            });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        self.position = last;
        Ok(Some(Read::Entries(entries)))
    }

    /// Reads what is there, or waits for it for a while. The connection is kept only if it can be used for the next
    /// question, which it cannot while a call that was given up still waits on it.
    async fn attempt(&mut self) -> Result<Option<Read>, ClusterError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self
                .dial
                .connect(None, WAIT)
                .await
                .map_err(|error| told(&error))?,
        };
        let from = self
            .position
            .map_or_else(|| "-".to_owned(), |position| format!("({position}"));
        let (last, found): (String, Vec<(String, Vec<u8>)>) = self
            .script
            .key(&self.key)
            .arg(from)
            .arg(READ_ENTRIES)
            .arg(READ_BYTES)
            .invoke_async(&mut connection)
            .await
            .map_err(|error| told(&error))?;
        let is_beyond = !last.is_empty()
            && self
                .position
                .is_some_and(|position| place(&last).is_ok_and(|last| last < position));
        if is_beyond {
            self.connection = Some(connection);
            let after = self.position.take();
            return Ok(after.map(|after| Read::Gap { after }));
        }
        if let Some(read) = self.take(found)? {
            self.connection = Some(connection);
            return Ok(Some(read));
        }
        let after = self
            .position
            .map_or_else(|| "0-0".to_owned(), |position| position.to_string());
        let reply: Option<StreamReadReply> = redis::cmd("XREAD")
            .arg("BLOCK")
            .arg(u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX))
            .arg("COUNT")
            .arg(1)
            .arg("STREAMS")
            .arg(&self.key)
            .arg(after)
            .query_async(&mut connection)
            .await
            .map_err(|error| told(&error))?;
        self.connection = Some(connection);
        let found = reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|key| key.ids);
        let found: Result<Vec<_>, ClusterError> = found.map(entry).collect();
        self.take(found?)
    }
}

fn entry(StreamId { id, mut map, .. }: StreamId) -> Result<(String, Vec<u8>), ClusterError> {
    match map.remove("p") {
        Some(Value::BulkString(payload)) => Ok((id, payload)),
        _ => Err(ClusterError::Malformed(
            "an entry of a stream without payload".to_owned(),
        )),
    }
}

impl Reader for RedisReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, ClusterError>> {
        async move {
            loop {
                if let Some(pause) = self.pause {
                    tokio::time::sleep(pause).await;
                    self.pause = None;
                }
                match Box::pin(self.attempt()).await {
                    Ok(Some(read)) => {
                        self.backoff.reset();
                        return Ok(read);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.pause = Some(self.backoff.next());
                        return Err(error);
                    }
                }
            }
        }
        .boxed()
    }

    fn position(&self) -> Option<Position> {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_places_and_entries_are_errors() {
        assert_eq!(
            place("7-1"),
            Ok(Position {
                generation: 7,
                number: 1
            })
        );
        for text in ["", "7", "7-", "-1", "7-x", "99999999999999999999-1"] {
            assert!(matches!(place(text), Err(ClusterError::Malformed(_))), "{text}");
        }
        let without = StreamId {
            id: "7-1".to_owned(),
            ..StreamId::default()
        };
        assert!(entry(without).is_err());
    }
}
