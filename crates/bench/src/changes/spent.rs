//! What a load cost: CPU time of the server, of Postgres and of the load itself.

use crate::process;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The processes to look at, those of them that run on this machine.
pub(super) struct Processes {
    server: Option<u32>,
    postmaster: Option<u32>,
    /// They decode the log for whoever streams changes of the database.
    walsenders: Vec<u32>,
}

impl Processes {
    /// # Errors
    /// If the database does not answer.
    pub(super) async fn find(database: &Client, server: Option<u32>) -> anyhow::Result<Self> {
        let backend: i32 = database.query_one("select pg_backend_pid()", &[]).await?.get(0);
        let slots =
            "select active_pid from pg_replication_slots where database = current_database() and active";
        let walsenders = database.query(slots, &[]).await?;
        let walsenders = walsenders
            .iter()
            .filter_map(|slot| u32::try_from(slot.get::<_, i32>(0)).ok());
        // The parent of any backend is the postmaster; only there if Postgres runs on this machine.
        let postmaster = u32::try_from(backend).ok().and_then(process::parent_of);
        Ok(Self {
            server,
            postmaster,
            walsenders: walsenders
                .filter(|pid| postmaster.is_some() && process::parent_of(*pid) == postmaster)
                .collect(),
        })
    }

    /// Reads the clocks; see [`Clocks::spent`].
    pub(super) fn clocks(&self) -> Clocks {
        Clocks {
            at: Instant::now(),
            server_ms: self.server.and_then(process::cpu_ms),
            postgres_ms: self.postmaster.and_then(process::family_cpu_ms),
            walsender_ms: self
                .walsenders
                .iter()
                .map(|pid| process::cpu_ms(*pid))
                .reduce(|sum, more| Some(sum? + more?))
                .flatten(),
            load_ms: process::cpu_ms(std::process::id()),
        }
    }
}

/// CPU time used so far.
pub(super) struct Clocks {
    at: Instant,
    server_ms: Option<u64>,
    postgres_ms: Option<u64>,
    walsender_ms: Option<u64>,
    load_ms: Option<u64>,
}

/// CPU time between two readings, of what could be read.
pub(super) struct Spent {
    pub(super) took: Duration,
    pub(super) server_ms: Option<u64>,
    /// With the walsenders and the backends that insert.
    pub(super) postgres_ms: Option<u64>,
    pub(super) walsender_ms: Option<u64>,
    pub(super) load_ms: Option<u64>,
}

impl Clocks {
    /// What was spent from this reading to a later one.
    pub(super) fn spent(&self, later: &Self) -> Spent {
        let between = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        Spent {
            took: later.at.duration_since(self.at),
            server_ms: between(self.server_ms, later.server_ms),
            postgres_ms: between(self.postgres_ms, later.postgres_ms),
            walsender_ms: between(self.walsender_ms, later.walsender_ms),
            load_ms: between(self.load_ms, later.load_ms),
        }
    }
}

/// Microseconds of each of `count`; `None` of none.
pub(super) fn each_us(spent_ms: Option<u64>, count: u64) -> Option<f64> {
    (count > 0).then_some(spent_ms? as f64 * 1_000.0 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_not_reported() {
        let clocks = |server_ms, load_ms| Clocks {
            at: Instant::now(),
            server_ms,
            postgres_ms: None,
            walsender_ms: Some(1),
            load_ms,
        };
        let spent = clocks(Some(30), Some(10)).spent(&clocks(Some(50), None));
        assert_eq!((spent.server_ms, spent.load_ms), (Some(20), None));
        assert_eq!((spent.postgres_ms, spent.walsender_ms), (None, Some(0)));
    }

    #[test]
    fn a_share_is_in_microseconds() {
        assert_eq!(each_us(Some(20), 1_000), Some(20.0));
        assert_eq!(each_us(None, 1_000), None);
        assert_eq!(each_us(Some(20), 0), None);
    }
}
