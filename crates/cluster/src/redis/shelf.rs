//! Presences in Redis.
//!
//! A place is a hash: field `node:id`, value as it was put. Which places a node has written to is a set, so that its
//! traces are found when it is dead; a place is added before the first field is written and taken out after the last
//! is removed, so that the set names too many rather than too few.

use crate::error::ClusterError;
use crate::node::NodeId;
use crate::presence::shelf::{Beat, Changes, Shelf, Standing, Stored};
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use futures_util::future::{BoxFuture, FutureExt};
use redis::Script;
use std::sync::Arc;
use std::time::Duration;

/// Fields that one piece of a place has, about.
const PIECE: usize = 128;

/// A node says that it lives. Those whose time is over are moved to the dead, each for one caller to clean up after.
///
/// If nobody has said anything for longer than half the time it takes to be dead, it was Redis that was away: then
/// everybody gets new time.
const BEAT: &str = r"
local alive, dead, me = KEYS[1], KEYS[2], ARGV[1]
local expiry, claim = tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[3], ARGV[4], 'NX')
local last = tonumber(redis.call('GET', KEYS[4]) or '0')
redis.call('SET', KEYS[4], now)
local was_away = now - last > expiry / 2
local standing = 'dead'
if redis.call('HEXISTS', dead, me) == 0 then
  standing = 'known'
  if redis.call('HSET', alive, me, now + expiry) == 1 then
    standing = 'new'
  end
end
local living, claimed = {}, {}
local nodes = redis.call('HGETALL', alive)
for i = 1, #nodes, 2 do
  local node, by = nodes[i], tonumber(nodes[i + 1])
  if by >= now or node == me then
    living[#living + 1] = node
  elseif was_away then
    redis.call('HSET', alive, node, now + expiry)
    living[#living + 1] = node
  else
    redis.call('HDEL', alive, node)
    redis.call('HSET', dead, node, '0')
  end
end
local gone = redis.call('HGETALL', dead)
for i = 1, #gone, 2 do
  if tonumber(gone[i + 1]) < now and gone[i] ~= me then
    redis.call('HSET', dead, gone[i], now + claim)
    claimed[#claimed + 1] = gone[i]
  end
end
return {redis.call('GET', KEYS[3]), standing, living, claimed}
";

pub(crate) struct RedisShelf {
    link: Arc<Link>,
    keys: Keys,
    beat: Script,
}

impl RedisShelf {
    pub(crate) fn new(link: Arc<Link>, keys: Keys) -> Self {
        Self {
            link,
            keys,
            beat: Script::new(BEAT),
        }
    }

    async fn sweep_place(&self, place: &str, owner: NodeId) -> Result<(), ClusterError> {
        let key = self.keys.presence(place);
        let mut cursor = 0_u64;
        loop {
            let (next, found): (u64, Vec<(String, Vec<u8>)>) = self
                .link
                .ask(
                    redis::cmd("HSCAN")
                        .arg(&key)
                        .arg(cursor)
                        .arg("MATCH")
                        .arg(format!("{owner}:*"))
                        .arg("COUNT")
                        .arg(PIECE),
                )
                .await?;
            if !found.is_empty() {
                let mut remove = redis::cmd("HDEL");
                remove.arg(&key);
                for (field, _) in &found {
                    remove.arg(field);
                }
                self.link.ask::<u64>(&remove).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

fn nodes(names: Vec<String>) -> Result<Vec<NodeId>, ClusterError> {
    names
        .into_iter()
        .map(|name| {
            name.parse()
                .map_err(|_| ClusterError::Malformed(format!("`{name:.60}` as a node")))
        })
        .collect()
}

impl Shelf for RedisShelf {
    fn beat(
        &self,
        owner: NodeId,
        expiry: Duration,
        claim: Duration,
    ) -> BoxFuture<'_, Result<Beat, ClusterError>> {
        async move {
            let keys = [
                self.keys.alive(),
                self.keys.dead(),
                self.keys.epoch(),
                self.keys.beaten(),
            ];
            let [name, expiry, claim, epoch] = [
                owner.to_string(),
                expiry.as_millis().to_string(),
                claim.as_millis().to_string(),
                NodeId::random().to_string(),
            ];
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let arguments = [
                name.as_bytes(),
                expiry.as_bytes(),
                claim.as_bytes(),
                epoch.as_bytes(),
            ];
            let (epoch, standing, alive, claimed): (String, String, Vec<String>, Vec<String>) =
                self.link.run(&self.beat, &keys, &arguments).await?;
            let standing = match standing.as_str() {
                "known" => Standing::Known,
                "new" => Standing::New,
                "dead" => Standing::Dead,
                other => {
                    return Err(ClusterError::Malformed(format!(
                        "`{other:.60}` as the standing of a node"
                    )));
                }
            };
            Ok(Beat {
                epoch,
                standing,
                alive: nodes(alive)?,
                claimed: nodes(claimed)?,
            })
        }
        .boxed()
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        async move { self.link.ask(redis::cmd("GET").arg(self.keys.epoch())).await }.boxed()
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> BoxFuture<'a, Result<(), ClusterError>> {
        async move {
            let Changes {
                place,
                owner,
                puts,
                removes,
                is_last,
            } = changes;
            let (key, traces) = (self.keys.presence(place), self.keys.traces(*owner));
            if !puts.is_empty() {
                self.link
                    .ask::<u64>(redis::cmd("SADD").arg(&traces).arg(&**place))
                    .await?;
                let mut put = redis::cmd("HSET");
                put.arg(&key);
                for (id, value) in puts {
                    put.arg(format!("{owner}:{id}")).arg(&**value);
                }
                self.link.ask::<u64>(&put).await?;
            }
            if !removes.is_empty() {
                let mut remove = redis::cmd("HDEL");
                remove.arg(&key);
                for id in removes {
                    remove.arg(format!("{owner}:{id}"));
                }
                self.link.ask::<u64>(&remove).await?;
            }
            if *is_last {
                self.link
                    .ask::<u64>(redis::cmd("SREM").arg(&traces).arg(&**place))
                    .await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        place: &'a str,
        cursor: u64,
    ) -> BoxFuture<'a, Result<(Vec<Stored>, u64), ClusterError>> {
        async move {
            let (next, found): (u64, Vec<(String, Vec<u8>)>) = self
                .link
                .ask(
                    redis::cmd("HSCAN")
                        .arg(self.keys.presence(place))
                        .arg(cursor)
                        .arg("COUNT")
                        .arg(PIECE),
                )
                .await?;
            let stored = found.into_iter().map(|(field, value)| {
                let malformed =
                    || ClusterError::Malformed(format!("`{field:.60}` as the field of a presence"));
                let (owner, id) = field.split_once(':').ok_or_else(malformed)?;
                Ok(Stored {
                    owner: owner.parse().map_err(|_| malformed())?,
                    id: id.to_owned(),
                    value: value.into(),
                })
            });
            Ok((stored.collect::<Result<_, ClusterError>>()?, next))
        }
        .boxed()
    }

    fn sweep(&self, owner: NodeId) -> BoxFuture<'_, Result<(), ClusterError>> {
        async move {
            let traces = self.keys.traces(owner);
            let mut cursor = 0_u64;
            loop {
                let (next, places): (u64, Vec<String>) = self
                    .link
                    .ask(
                        redis::cmd("SSCAN")
                            .arg(&traces)
                            .arg(cursor)
                            .arg("COUNT")
                            .arg(PIECE),
                    )
                    .await?;
                for place in places {
                    self.sweep_place(&place, owner).await?;
                }
                if next == 0 {
                    break;
                }
                cursor = next;
            }
            self.link.ask::<u64>(redis::cmd("DEL").arg(&traces)).await?;
            let name = owner.to_string();
            for key in [self.keys.alive(), self.keys.dead()] {
                self.link
                    .ask::<u64>(redis::cmd("HDEL").arg(key).arg(&name))
                    .await?;
            }
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_node_is_an_error() {
        let node = NodeId::random();
        assert_eq!(nodes(vec![node.to_string()]), Ok(vec![node]));
        assert!(matches!(
            nodes(vec!["x".to_owned()]),
            Err(ClusterError::Malformed(_))
        ));
    }
}
