//! Leases in Redis.

use crate::error::ClusterError;
use crate::lease::LeaseBook;
use crate::redis::keys::Keys;
use crate::redis::link::Link;
use futures_util::future::{BoxFuture, FutureExt};
use redis::Script;
use std::sync::Arc;
use std::time::Duration;

/// Gives the lease to who asks if nobody holds it. A token is the time in microseconds, or one more than the last if
/// that is more: so it grows even when Redis has lost the last one.
const ACQUIRE: &str = r"
local left = redis.call('PTTL', KEYS[1])
if left ~= -2 then
  return {0, math.max(left, 1)}
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if token <= last then
  token = last + 1
end
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text)
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
return {1, token}
";

const RENEW: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
";

pub(crate) struct RedisLeases {
    link: Arc<Link>,
    keys: Keys,
    acquire: Script,
    renew: Script,
    release: Script,
}

impl RedisLeases {
    pub(crate) fn new(link: Arc<Link>, keys: Keys) -> Self {
        Self {
            link,
            keys,
            acquire: Script::new(ACQUIRE),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
        }
    }
}

impl LeaseBook for RedisLeases {
    fn acquire<'a>(
        &'a self,
        name: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Result<u64, Duration>, ClusterError>> {
        async move {
            let (lease, fence) = (self.keys.lease(name), self.keys.fence(name));
            let ttl_ms = ttl.as_millis().to_string();
            let keys = [lease.as_str(), fence.as_str()];
            let (is_acquired, number): (u8, u64) =
                self.link.run(&self.acquire, &keys, &[ttl_ms.as_bytes()]).await?;
            Ok(if is_acquired == 1 {
                Ok(number)
            } else {
                Err(Duration::from_millis(number))
            })
        }
        .boxed()
    }

    fn renew<'a>(
        &'a self,
        name: &'a str,
        token: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, ClusterError>> {
        async move {
            let (token, ttl_ms) = (token.to_string(), ttl.as_millis().to_string());
            let arguments = [token.as_bytes(), ttl_ms.as_bytes()];
            let renewed: u8 = self
                .link
                .run(&self.renew, &[&self.keys.lease(name)], &arguments)
                .await?;
            Ok(renewed == 1)
        }
        .boxed()
    }

    fn release<'a>(&'a self, name: &'a str, token: u64) -> BoxFuture<'a, Result<(), ClusterError>> {
        async move {
            let token = token.to_string();
            let _: u8 = self
                .link
                .run(&self.release, &[&self.keys.lease(name)], &[token.as_bytes()])
                .await?;
            Ok(())
        }
        .boxed()
    }
}
