//! Replication slots that nobody reads, and the log they keep from being removed.

use sqlx::PgConnection;
use walcast_changes::diagnosis::literal;

use super::report::Entry;

const QUERY: &str = r"
select slot_name::text, pg_size_pretty(coalesce(pg_wal_lsn_diff(
    case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn), 0))
from pg_replication_slots
where not active
order by slot_name";

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let slots: Vec<(String, String)> = sqlx::query_as(QUERY).fetch_all(postgres).await?;
    if slots.is_empty() {
        return Ok(vec![Entry::ok("every replication slot is in use")]);
    }
    Ok(slots
        .into_iter()
        .map(|(name, held)| {
            Entry::warning(
                "inactive_slot",
                format!("nobody reads replication slot {name}, which holds {held} of the log; drop it if nobody will"),
            )
            .mended_by(format!("select pg_drop_replication_slot({})", literal(&name)))
        })
        .collect())
}
