//! Kept publications in Redis: a stream for each topic, and the number of the last.
//!
//! Numbering, keeping and publishing are one script, so that what is heard and what is kept have one order. An entry has
//! the fields `p`, the sealed publication; `t`, its time; and `o`, the bytes up to and with it. The last number
//! outlives the entries, so that a topic in which nothing happened for long is not taken for one that was forgotten.

use crate::envelope;
use crate::error::ClusterError;
use crate::recent::{Keep, Kept, Recent};
use crate::redis::backoff::Backoff;
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use crate::redis::publisher::Publisher;
use bytes::Bytes;
use redis::{Cmd, Script};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Numbers, keeps and publishes, unless it is known by its id. It drops few entries at once for their age and bytes, so that it stays short.
const KEEP: &str = r"
local stream, last, sealed, age = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[4])
if KEYS[3] and not redis.call('SET', KEYS[3], '', 'NX', 'PX', ARGV[7]) then
  return
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', last) == 0 then
  redis.call('SET', last, string.format('%.0f', now * 1000))
  redis.call('DEL', stream)
end
local number = string.format('%.0f', redis.call('INCR', last))
local id, offset = number .. '-0', #sealed
redis.call('PEXPIRE', last, string.format('%.0f', age + 3600000))
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if newest then
  offset = offset + tonumber(newest[2][6])
end
redis.call('XADD', stream, 'MAXLEN', ARGV[5], id, 'p', sealed, 't', string.format('%.0f', now), 'o', string.format('%.0f', offset))
redis.call('PEXPIRE', stream, ARGV[4])
for _ = 1, 64 do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local bytes = offset - tonumber(oldest[2][6]) + #oldest[2][2]
  if oldest[1] == id or (now - tonumber(oldest[2][4]) <= age and bytes <= tonumber(ARGV[6])) then
    break
  end
  redis.call('XDEL', stream, oldest[1])
end
redis.call(ARGV[3], ARGV[2], string.char(2) .. string.format('%020.0f', tonumber(number)) .. sealed)
";

/// The last number, and the entries after one if that is asked for. A topic that has no number yet gets the one before its
/// first, so that who asks before anything was published can tell later whether all is there.
const READ: &str = r"
local found = {}
if ARGV[1] ~= '' then
  found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+')
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('SET', KEYS[2], string.format('%.0f', now * 1000), 'PX', 3600000)
end
return {redis.call('GET', KEYS[2]), found}
";

/// The place of an entry, then names and values of its fields in turn.
type StreamEntry = (String, Vec<Vec<u8>>);

/// The names of a topic's entries and of the number of the last.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) entries: String,
    pub(crate) last: String,
    /// Where it stands that something was published already.
    pub(crate) once: Option<String>,
}

impl Places {
    /// For a publication that has an id.
    pub(crate) fn once(self, id: &str) -> Self {
        // In the slot of the number, which stands between the first braces or in front of all.
        let once = format!("{}:{id}", self.last);
        Self {
            once: Some(once),
            ..self
        }
    }
}

/// The command that keeps and publishes.
pub(crate) fn keep(places: &Places, keep: Keep, publish: &str, channel: &str, sealed: &[u8]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command
        .arg(KEEP)
        .arg(if places.once.is_some() { 3 } else { 2 })
        .arg(&places.entries)
        .arg(&places.last)
        .arg(&places.once)
        .arg(sealed)
        .arg(channel)
        .arg(publish)
        .arg(u64::try_from(keep.age.as_millis()).unwrap_or(u64::MAX).max(1))
        .arg(keep.entries.max(1))
        .arg(keep.bytes)
        .arg(u64::try_from(keep.remembers().as_millis()).unwrap_or(u64::MAX));
    command
}

/// What was taken before it is asked for is read, or the answer is that Redis is away.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Reads what is kept, and has everybody know when some of it was lost.
pub(crate) struct RecentReader {
    link: Arc<Link>,
    keys: Keys,
    read: Script,
    loss: Arc<Loss>,
    confessor: AbortHandle,
}

/// Publications that should have been kept and perhaps were not.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    /// How often something was lost.
    noted: AtomicU64,
    /// Up to which of these Redis was told.
    told: AtomicU64,
    news: Notify,
}

impl Loss {
    pub(crate) fn note(&self) {
        self.noted.fetch_add(1, Ordering::AcqRel);
        self.news.notify_one();
    }

    fn is_untold(&self) -> bool {
        self.told.load(Ordering::Acquire) < self.noted.load(Ordering::Acquire)
    }
}

impl Drop for RecentReader {
    fn drop(&mut self) {
        self.confessor.abort();
    }
}

impl RecentReader {
    pub(crate) fn start(link: Arc<Link>, keys: Keys, loss: Arc<Loss>) -> Self {
        let confessing = confess(Arc::clone(&link), keys.recent_epoch(), Arc::clone(&loss));
        Self {
            confessor: tokio::spawn(confessing).abort_handle(),
            link,
            keys,
            read: Script::new(READ),
            loss,
        }
    }

    /// As [`crate::Bus::recent`].
    pub(crate) async fn recent(
        &self,
        publisher: &Publisher,
        topic: &str,
        after: Option<u64>,
    ) -> Result<Recent, ClusterError> {
        // What this node published it does not hear, so it must be among what is read.
        let flushed = tokio::time::timeout(FLUSH_LIMIT, publisher.flush()).await;
        if !matches!(flushed, Ok(true)) {
            return Err(ClusterError::Away(
                "more waits to be published than goes out".to_owned(),
            ));
        }
        let nowhere = || ClusterError::Malformed("a topic of which nothing can be kept".to_owned());
        let places = self.keys.recent(topic).ok_or_else(nowhere)?;
        // Before the rest: what is lost while it is read is found by the next.
        let epoch = self.epoch().await?;
        let after_text = after.map(|number| number.to_string()).unwrap_or_default();
        let (last, found): (String, Vec<StreamEntry>) = self
            .link
            .run(
                &self.read,
                &[&places.entries, &places.last],
                &[after_text.as_bytes()],
            )
            .await?;
        if self.loss.is_untold() {
            return Err(ClusterError::Away(
                "publications were lost, which the others do not know yet".to_owned(),
            ));
        }
        Ok(Recent {
            epoch,
            last: number(&last)?,
            kept: found.into_iter().map(kept).collect::<Result<_, _>>()?,
        })
    }

    /// The epoch; if Redis knows none, be it that it lost its data, a new one.
    async fn epoch(&self) -> Result<u64, ClusterError> {
        let key = self.keys.recent_epoch();
        let known: Option<String> = self.link.ask(redis::cmd("GET").arg(&key)).await?;
        if let Some(known) = known {
            return epoch_of(&known);
        }
        let set = redis::cmd("SET").arg(&key).arg(new_epoch()).arg("NX").to_owned();
        let _: Option<String> = self.link.ask(&set).await?;
        let made: Option<String> = self.link.ask(redis::cmd("GET").arg(&key)).await?;
        epoch_of(&made.unwrap_or_default())
    }
}

fn new_epoch() -> u64 {
    // 48 bits, for it stands in every position.
    rand::random_range(1..1 << 48)
}

fn epoch_of(text: &str) -> Result<u64, ClusterError> {
    text.parse()
        .map_err(|_| ClusterError::Malformed(format!("`{text:.60}` as an epoch")))
}

/// Begins a new epoch after each loss, as soon as Redis answers.
async fn confess(link: Arc<Link>, key: String, loss: Arc<Loss>) {
    let mut backoff = Backoff::new();
    loop {
        loss.news.notified().await;
        while loss.is_untold() {
            if link.wait().await.is_none() {
                return;
            }
            let noted = loss.noted.load(Ordering::Acquire);
            let set = redis::cmd("SET").arg(&key).arg(new_epoch()).to_owned();
            match link.ask::<()>(&set).await {
                Ok(()) => {
                    loss.told.store(noted, Ordering::Release);
                    backoff.reset();
                    tracing::warn!(
                        "publications that should have been kept were lost; who comes back is told"
                    );
                }
                Err(_) => tokio::time::sleep(backoff.next()).await,
            }
        }
    }
}

fn number(text: &str) -> Result<u64, ClusterError> {
    text.parse()
        .map_err(|_| ClusterError::Malformed(format!("`{text:.60}` as the number of a publication")))
}

fn kept((id, fields): StreamEntry) -> Result<Kept, ClusterError> {
    let malformed = || ClusterError::Malformed("a publication that is kept".to_owned());
    let [_, sealed, _, at_ms, ..] = fields.as_slice() else {
        return Err(malformed());
    };
    let (origin, payload) = envelope::open(&Bytes::copy_from_slice(sealed)).map_err(|_| malformed())?;
    let at_ms = std::str::from_utf8(at_ms).ok().and_then(|text| text.parse().ok());
    Ok(Kept {
        number: number(id.split_once('-').ok_or_else(malformed)?.0)?,
        origin,
        at_ms: at_ms.ok_or_else(malformed)?,
        payload,
    })
}
