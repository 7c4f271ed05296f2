//! Whether this Postgres can stream its changes at all.

use sqlx::PgConnection;

use super::report::Entry;

const OLDEST: i32 = 140_000;

const QUERY: &str = r"
select
  current_setting('server_version_num')::int4,
  current_setting('server_version'),
  current_setting('wal_level'),
  pg_is_in_recovery(),
  current_setting('max_replication_slots')::int8,
  (select count(*) from pg_replication_slots),
  current_setting('max_wal_senders')::int8,
  -- Other roles' rows of pg_stat_activity say of themselves only that they are there.
  (select count(*) from pg_stat_get_wal_senders()),
  exists (select from pg_replication_slots
          where database = current_database() and active and starts_with(slot_name, 'walcast_'))";

type Looked = (i32, String, String, bool, i64, i64, i64, i64, bool);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Looked = sqlx::query_as(QUERY).fetch_one(postgres).await?;
    let (number, version, wal_level, is_standby, slots, slots_taken, senders, senders_taken, is_streaming) =
        looked;
    let mut entries = vec![if number < OLDEST {
        Entry::problem(
            "old_version",
            format!("Postgres {version} is too old: Walcast needs 14 or newer"),
        )
    } else {
        Entry::ok(format!("Postgres {version}"))
    }];
    if is_standby {
        entries.push(Entry::problem(
            "standby",
            "this server is a standby, which Walcast cannot prepare: connect to the primary",
        ));
    }
    entries.push(if wal_level == "logical" {
        Entry::ok("wal_level is logical")
    } else {
        Entry::problem(
            "wal_level",
            format!(
                "wal_level is {wal_level}, so the log does not say what changed: set it to logical, and restart Postgres"
            ),
        )
        .mended_by("alter system set wal_level = logical")
    });
    if is_streaming {
        entries.push(Entry::ok("a Walcast server is streaming from this database"));
    }
    // One that streams already has what it needs.
    let room = [
        (
            "max_replication_slots",
            "no_free_slot",
            "replication slot",
            slots,
            slots_taken,
        ),
        (
            "max_wal_senders",
            "no_free_walsender",
            "walsender",
            senders,
            senders_taken,
        ),
    ];
    for (setting, code, thing, all, taken) in room {
        let free = all.saturating_sub(taken).max(0);
        entries.push(if free > 0 || is_streaming {
            Entry::ok(format!("{free} of {all} {thing}s are free"))
        } else {
            Entry::problem(
                code,
                format!("no {thing} is free of {all}: raise {setting}, and restart Postgres"),
            )
            .mended_by(format!("alter system set {setting} = {}", all.saturating_add(10)))
        });
    }
    Ok(entries)
}
