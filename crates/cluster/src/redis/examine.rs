//! Looks at a Redis as an operator would want it looked at, before nodes rely on it.

use crate::config::RedisConfig;
use crate::redis::dial::{ConnectError, Connection, Dial};
use crate::redis::keys::Keys;
use redis::{Cmd, RedisError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The fastest of so many answers says how far away it is.
const PINGS: u32 = 5;
/// What a crash in the middle of this leaves behind goes by itself.
const TRACE_MS: u32 = 1_000;

/// What there is to know of a Redis that nodes can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// Host and port, or a socket.
    pub address: String,
    /// `Redis 7.0.15`, `Valkey 9.1.2`.
    pub program: String,
    /// `maxmemory-policy`, unless it is not told.
    pub eviction: Option<String>,
    /// `maxmemory`; 0 is no limit.
    pub memory_limit_bytes: u64,
    /// Whether it follows another, so that nothing can be written.
    pub is_replica: bool,
    /// How long an answer takes.
    pub round_trip: Duration,
    /// What nodes do there and it does not let them, each with what it says.
    pub refused: Vec<(&'static str, String)>,
}

/// Looks at the Redis of a configuration. A key of its own is written, read by a script and removed; nothing else is changed.
///
/// # Errors
/// Nodes could not use it at all: see [`ConnectError`].
pub async fn examine(config: &RedisConfig) -> Result<Examination, ConnectError> {
    let dial = Dial::new(config)?;
    let info = dial.probe().await?;
    let address = dial.address();
    let unreachable = |error: RedisError| ConnectError::Unreachable {
        address: address.clone(),
        reason: error.to_string(),
    };
    let mut connection = dial.connect(None, Duration::ZERO).await.map_err(unreachable)?;
    let mut round_trip = Duration::MAX;
    for _ in 0..PINGS {
        let asked = Instant::now();
        ask(&mut connection, &redis::cmd("PING"))
            .await
            .map_err(unreachable)?;
        round_trip = round_trip.min(asked.elapsed());
    }
    let field = |name: &str| info.field(name).map(str::to_owned);
    let program = match field("valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", field("redis_version").unwrap_or_default()),
    };
    Ok(Examination {
        program,
        eviction: field("maxmemory_policy"),
        memory_limit_bytes: field("maxmemory")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(0),
        is_replica: field("role").is_some_and(|role| role == "slave"),
        round_trip,
        refused: try_out(&mut connection, config).await,
        address,
    })
}

/// Does what nodes do, with names that no node uses.
async fn try_out(connection: &mut Connection, config: &RedisConfig) -> Vec<(&'static str, String)> {
    let keys = Keys::new(config);
    let trace = keys.trace(Uuid::new_v4());
    let publish = if config.is_cluster { "SPUBLISH" } else { "PUBLISH" };
    let attempts = [
        (
            "keys",
            redis::cmd("SET")
                .arg(&trace)
                .arg("")
                .arg("PX")
                .arg(TRACE_MS)
                .take(),
        ),
        (
            "scripts",
            redis::cmd("EVAL")
                .arg("return redis.call('DEL', KEYS[1])")
                .arg(1)
                .arg(&trace)
                .take(),
        ),
        (
            "streams",
            redis::cmd("XADD")
                .arg(&trace)
                .arg("NOMKSTREAM")
                .arg("*")
                .arg("field")
                .arg("")
                .take(),
        ),
        (
            "channels",
            redis::cmd(publish).arg(keys.channel("~examined")).arg("").take(),
        ),
    ];
    let mut refused = Vec::new();
    for (what, command) in attempts {
        if let Err(error) = ask(connection, &command).await {
            refused.push((what, error.to_string()));
        }
    }
    refused
}

async fn ask(connection: &mut Connection, command: &Cmd) -> Result<(), RedisError> {
    command.exec_async(connection).await
}
