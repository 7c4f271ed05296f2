//! Whether nodes can share what they have through this Redis.

use std::time::Duration;

use walcast_cluster::{ConnectError, Examination, RedisConfig};

use super::report::Entry;

/// Whatever nodes tell each other waits for as long: rows, messages, who is present.
const TOLERATED_ROUND_TRIP: Duration = Duration::from_millis(10);

pub(super) async fn look(config: &RedisConfig) -> Vec<Entry> {
    match Box::pin(walcast_cluster::examine(config)).await {
        Ok(examination) => judge(&examination),
        Err(error) => vec![refusal(&error)],
    }
}

/// Nodes cannot use it at all. The sentence names the remedy.
fn refusal(error: &ConnectError) -> Entry {
    let code = match error {
        ConnectError::Unreachable { .. } | ConnectError::Certificates(_) => "redis_unreachable",
        ConnectError::Login { .. } => "redis_login",
        ConnectError::TooOld { .. } => "redis_old_version",
        ConnectError::IsCluster { .. } | ConnectError::IsNoCluster { .. } => "redis_cluster",
    };
    Entry::problem(code, error.to_string())
}

fn judge(examination: &Examination) -> Vec<Entry> {
    let Examination {
        address,
        program,
        eviction,
        memory_limit_bytes,
        is_replica,
        round_trip,
        refused,
    } = examination;
    let mut entries = vec![Entry::ok(format!("{program} at {address} can be reached"))];
    if *is_replica {
        entries.push(Entry::problem(
            "redis_replica",
            format!(
                "Redis at {address} follows another and takes nothing itself: put the primary into REDIS_URL"
            ),
        ));
    } else if refused.is_empty() {
        entries.push(Entry::ok(
            "Redis lets nodes use keys, scripts, streams and channels",
        ));
    } else {
        entries.extend(refused.iter().map(|(what, reason)| {
            Entry::problem(
                "redis_refuses",
                format!("Redis does not let nodes use {what}: {reason}; see the ACL of the user in REDIS_URL, and the disk of Redis"),
            )
        }));
    }
    match eviction.as_deref() {
        Some(policy) if policy != "noeviction" && *memory_limit_bytes > 0 => entries.push(Entry::warning(
            "redis_eviction",
            format!(
                "maxmemory-policy of Redis is {policy}: at {} MiB it drops what nodes rely on, and presences and changes vanish; set it to noeviction",
                memory_limit_bytes >> 20
            ),
        )),
        Some(_) => entries.push(Entry::ok("Redis drops nothing that nodes rely on")),
        // Some providers do not tell.
        None => {}
    }
    let round_trip_ms = round_trip.as_secs_f64() * 1_000.0;
    entries.push(if *round_trip > TOLERATED_ROUND_TRIP {
        Entry::warning(
            "redis_far",
            format!(
                "an answer of Redis takes {round_trip_ms:.1} ms, and what nodes tell each other as much: run it next to them"
            ),
        )
    } else {
        Entry::ok(format!("Redis answers within {:.0} ms", round_trip_ms.ceil()))
    });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn fit() -> Examination {
        Examination {
            address: "redis:6379".to_owned(),
            program: "Redis 7.0.15".to_owned(),
            eviction: Some("noeviction".to_owned()),
            memory_limit_bytes: 0,
            is_replica: false,
            round_trip: Duration::from_micros(200),
            refused: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_has_a_code() {
        let cases = [
            (fit(), None),
            // Without a limit nothing is ever evicted, and some do not tell.
            (
                Examination {
                    eviction: Some("allkeys-lru".to_owned()),
                    ..fit()
                },
                None,
            ),
            (
                Examination {
                    eviction: None,
                    memory_limit_bytes: 1,
                    ..fit()
                },
                None,
            ),
            (
                Examination {
                    eviction: Some("allkeys-lru".to_owned()),
                    memory_limit_bytes: 64 << 20,
                    ..fit()
                },
                Some("redis_eviction"),
            ),
            (
                Examination {
                    is_replica: true,
                    ..fit()
                },
                Some("redis_replica"),
            ),
            (
                Examination {
                    round_trip: Duration::from_millis(35),
                    ..fit()
                },
                Some("redis_far"),
            ),
            (
                Examination {
                    refused: vec![("scripts", "NOPERM".to_owned())],
                    ..fit()
                },
                Some("redis_refuses"),
            ),
        ];
        for (examination, expected) in cases {
            let entries = judge(&examination);
            let found: Vec<_> = entries.iter().filter(|entry| entry.level != Level::Ok).collect();
            let codes: Vec<_> = found.iter().filter_map(|entry| entry.code).collect();
            assert_eq!(codes, Vec::from_iter(expected), "{entries:?}");
        }
    }
}
