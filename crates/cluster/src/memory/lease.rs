//! Leases within a process.

use crate::error::ClusterError;
use crate::lease::LeaseBook;
use futures_util::future::{BoxFuture, FutureExt, ready};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
struct Entries {
    held: HashMap<String, (u64, Instant)>,
    last_token: u64,
}

/// The leases of the nodes of a process.
#[derive(Default)]
pub(crate) struct MemoryLeases {
    entries: Mutex<Entries>,
}

impl MemoryLeases {
    fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Entries) -> T,
    ) -> BoxFuture<'static, Result<T, ClusterError>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(act(&mut entries))).boxed()
    }
}

impl LeaseBook for MemoryLeases {
    fn acquire<'a>(
        &'a self,
        name: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Result<u64, Duration>, ClusterError>> {
        self.with(|entries| {
            let now = Instant::now();
            if let Some((_, until)) = entries.held.get(name)
                && *until > now
            {
                return Err(*until - now);
            }
            entries.last_token += 1;
            let token = entries.last_token;
            entries.held.insert(name.to_owned(), (token, now + ttl));
            Ok(token)
        })
    }

    fn renew<'a>(
        &'a self,
        name: &'a str,
        token: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, ClusterError>> {
        self.with(|entries| {
            let now = Instant::now();
            match entries.held.get_mut(name) {
                Some((holder, until)) if *holder == token && *until > now => {
                    *until = now + ttl;
                    true
                }
                _ => false,
            }
        })
    }

    fn release<'a>(&'a self, name: &'a str, token: u64) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.with(|entries| {
            if entries.held.get(name).is_some_and(|(holder, _)| *holder == token) {
                entries.held.remove(name);
            }
        })
    }
}
