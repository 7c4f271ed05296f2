//! The partitions of `realtime.messages`: a UTC day each, made ahead and dropped when they are old
//! (`database.md 6`).
//!
//! What day it is, Postgres says: with a wrong clock here messages would find no partition, or be dropped too early.

use crate::upkeep_error::{PartitionFailure, UpkeepError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// What every partition of ours is called, before its day.
const PREFIX: &str = "messages_";

/// Settings of the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// A partition is dropped when its day ended before the day that was so many hours ago began. Yesterday's always
    /// stays.
    pub retention_hours: u32,
    /// How long making a partition may wait for a lock. It holds up nobody who reads or writes meanwhile.
    pub create_lock_timeout_ms: u32,
    /// How long dropping one may wait for a lock. Whoever wants to use the table waits behind it.
    pub drop_lock_timeout_ms: u32,
}

impl Default for PartitionOptions {
    fn default() -> Self {
        Self {
            retention_hours: 72,
            create_lock_timeout_ms: 2_000,
            drop_lock_timeout_ms: 250,
        }
    }
}

/// The advisory lock under which servers take turns: "walcast" in bytes.
const TURN: i64 = 0x7761_6c63_6173_7400;

/// How long to wait for the turn.
const TURN_TIMEOUT_MS: u32 = 2_000;

/// What keeping the partitions came to. Tables are named without their schema, `realtime`.
#[derive(Debug, Default)]
pub struct Kept {
    /// Partitions that were made.
    pub created: Vec<String>,
    /// Partitions that were dropped, with their messages.
    pub dropped: Vec<String>,
    /// Partitions that are not named after a day: none of ours, they stay.
    pub odd: Vec<String>,
    /// Wanted, but another partition has messages of that day.
    pub covered: Vec<String>,
    /// What could not be done and is worth trying again.
    pub failures: Vec<PartitionFailure>,
    /// From then until the next UTC day by Postgres' clock.
    pub until_midnight_ms: u64,
}

/// Makes the partitions of yesterday to three days ahead that are missing, and drops those that are too old. Several
/// servers may do this at once, the reference server among them.
///
/// # Errors
/// If nothing could be done. What fails for one partition is in [`Kept::failures`].
pub async fn keep_partitions(
    connection: &mut PgConnection,
    options: &PartitionOptions,
) -> Result<Kept, UpkeepError> {
    let table = look(connection, options.retention_hours).await?;
    let mut kept = Kept {
        until_midnight_ms: table.until_midnight_ms,
        ..Kept::default()
    };
    for day in table.days.windows(2) {
        let [day, next_day] = day else { continue };
        let name = partition_name(day);
        if table.partitions.contains(&name) {
            continue;
        }
        match create(connection, &table, &name, (day, next_day), options).await? {
            Created::Now => kept.created.push(name),
            Created::BySomebodyElse => {}
            Created::Covered => kept.covered.push(name),
            Created::Failed(cause) => kept.failures.push(PartitionFailure::Create { name, cause }),
        }
    }
    for name in table.partitions {
        match day_of(&name) {
            None => kept.odd.push(name),
            Some(day) if day >= table.oldest_kept => {}
            Some(_) => match drop_partition(connection, &name, options).await? {
                Dropped::Now => kept.dropped.push(name),
                Dropped::BySomebodyElse => {}
                Dropped::Failed(cause) => kept.failures.push(PartitionFailure::Drop { name, cause }),
            },
        }
    }
    Ok(kept)
}

/// The table as it is.
struct Table {
    /// As Postgres quotes it; none if the owner is our own role.
    other_owner: Option<String>,
    /// The days that need a partition and the one after, `2026-11-21`.
    days: Vec<String>,
    /// The oldest day that stays.
    oldest_kept: Day,
    partitions: Vec<String>,
    until_midnight_ms: u64,
}

/// A day as partitions are named after it: year, month, day.
type Day = (u16, u8, u8);

const LOOK: &str = r"
select
  root.relkind = 'p',
  owner.rolname::text,
  current_user::text,
  pg_catalog.pg_has_role(root.relowner, 'usage'),
  case when owner.rolname <> current_user then pg_catalog.quote_ident(owner.rolname) end,
  array(
    select pg_catalog.to_char(clock.today + ahead, 'YYYY-MM-DD') from pg_catalog.generate_series(-1, 4) as ahead order by ahead),
  pg_catalog.to_char(least(clock.retained_from, clock.today - 1), 'YYYY-MM-DD'),
  array(
    select child.relname::text from pg_catalog.pg_inherits as part
    join pg_catalog.pg_class as child on child.oid = part.inhrelid
    where part.inhparent = root.oid and child.relnamespace = root.relnamespace
    order by child.relname),
  clock.until_midnight_ms
from pg_catalog.pg_class as root
join pg_catalog.pg_roles as owner on owner.oid = root.relowner
cross join lateral (
  select
    utc::date as today,
    (utc - $1 * interval '1 hour')::date as retained_from,
    pg_catalog.ceil(extract(epoch from (utc::date + 1) - utc) * 1000)::int8 as until_midnight_ms
  from pg_catalog.timezone('UTC'::text, pg_catalog.clock_timestamp()) as utc
) as clock
where root.oid = pg_catalog.to_regclass('realtime.messages')";

type Looked = (
    bool,
    String,
    String,
    bool,
    Option<String>,
    Vec<String>,
    String,
    Vec<String>,
    i64,
);

async fn look(connection: &mut PgConnection, retention_hours: u32) -> Result<Table, UpkeepError> {
    let looked: Option<Looked> = sqlx::query_as(LOOK)
        .bind(f64::from(retention_hours))
        .fetch_optional(connection)
        .await?;
    let (
        is_partitioned,
        owner,
        role,
        may_keep,
        other_owner,
        days,
        oldest_kept,
        partitions,
        until_midnight_ms,
    ) = looked.ok_or(UpkeepError::NoTable)?;
    if !is_partitioned {
        return Err(UpkeepError::NotPartitioned);
    }
    if !may_keep {
        return Err(UpkeepError::NotOwner { role, owner });
    }
    Ok(Table {
        other_owner,
        oldest_kept: day_of(&partition_name(&oldest_kept)).ok_or(UpkeepError::Clock(oldest_kept))?,
        days,
        partitions,
        until_midnight_ms: u64::try_from(until_midnight_ms).unwrap_or_default(),
    })
}

enum Created {
    Now,
    BySomebodyElse,
    Covered,
    Failed(sqlx::Error),
}

/// Makes a table and attaches it. `create table … partition of` would do both at once, under a lock that keeps
/// everybody from the whole of `realtime.messages`; to attach holds up nobody.
async fn create(
    connection: &mut PgConnection,
    table: &Table,
    name: &str,
    (day, next_day): (&str, &str),
    options: &PartitionOptions,
) -> Result<Created, UpkeepError> {
    const TAKEN: [&str; 3] = ["42P07", "23505", "42710"];
    const OVERLAPS: &str = "42P17";
    // As the root's, so that whoever may keep that may keep these.
    let owner = table.other_owner.as_ref().map_or_else(String::new, |owner| {
        format!("alter table realtime.{name} owner to {owner};")
    });
    // Row security is decided at the root. With it on and no policy, nobody gets past the root by a default privilege.
    let statements = format!(
        "create table realtime.{name} (
           like realtime.messages including defaults including constraints including generated including storage);
         {owner}
         alter table realtime.{name} enable row level security;
         alter table realtime.messages attach partition realtime.{name} for values from ('{day}') to ('{next_day}');",
    );
    let Err(error) = execute(connection, &statements, options.create_lock_timeout_ms).await else {
        return Ok(Created::Now);
    };
    let Some(code) = sqlstate(&error) else {
        return Err(error.into());
    };
    if TAKEN.contains(&&*code) && is_partition(connection, name).await? {
        return Ok(Created::BySomebodyElse);
    }
    Ok(match &*code {
        OVERLAPS => Created::Covered,
        _ => Created::Failed(error),
    })
}

enum Dropped {
    Now,
    BySomebodyElse,
    Failed(sqlx::Error),
}

async fn drop_partition(
    connection: &mut PgConnection,
    name: &str,
    options: &PartitionOptions,
) -> Result<Dropped, UpkeepError> {
    const GONE: &str = "42P01";
    let statement = format!("drop table realtime.{name}");
    let Err(error) = execute(connection, &statement, options.drop_lock_timeout_ms).await else {
        return Ok(Dropped::Now);
    };
    match sqlstate(&error).as_deref() {
        None => Err(error.into()),
        Some(GONE) => Ok(Dropped::BySomebodyElse),
        Some(_) => Ok(Dropped::Failed(error)),
    }
}

async fn is_partition(connection: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from pg_catalog.pg_inherits as part \
         where part.inhparent = pg_catalog.to_regclass('realtime.messages') \
           and part.inhrelid = pg_catalog.to_regclass('realtime.' || $1))",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

/// Runs statements in one transaction, when it is our turn. They are made of names of days and settings, never of
/// anything from outside.
async fn execute(
    connection: &mut PgConnection,
    statements: &str,
    lock_timeout_ms: u32,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let statements = format!(
        "set local lock_timeout = {TURN_TIMEOUT_MS};
         select pg_catalog.pg_advisory_xact_lock({TURN});
         set local lock_timeout = {lock_timeout_ms};
         {statements}"
    );
    match sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *transaction)
        .await
    {
        Ok(_) => transaction.commit().await,
        Err(error) => {
            transaction.rollback().await?;
            Err(error)
        }
    }
}

/// What Postgres answered; none if it did not answer, or ended the session with this.
fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    (!code.starts_with("57P") && !code.starts_with("08")).then(|| code.into_owned())
}

/// The partition of a day written `2026-11-21`.
fn partition_name(day: &str) -> String {
    format!("{PREFIX}{}", day.replace('-', "_"))
}

/// The day a partition is named after; none if it is not.
fn day_of(name: &str) -> Option<Day> {
    const DAYS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    fn number<T: std::str::FromStr>(digits: &str, length: usize) -> Option<T> {
        let are_digits = digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_digit());
        are_digits.then(|| digits.parse().ok()).flatten()
    }
    let mut parts = name.strip_prefix(PREFIX)?.split('_');
    let year = number(parts.next()?, 4)?;
    let month: u8 = number(parts.next()?, 2)?;
    let day: u8 = number(parts.next()?, 2)?;
    let days = *DAYS.get(usize::from(month).checked_sub(1)?)?;
    let exists = parts.next().is_none() && (1..=days).contains(&day);
    exists.then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day_and_days_are_in_order() {
        let days: Vec<Day> = [
            "2025-12-31",
            "2026-01-01",
            "2026-02-28",
            "2028-02-29",
            "2028-10-05",
        ]
        .iter()
        .map(|day| day_of(&partition_name(day)).unwrap())
        .collect();
        assert_eq!(days[0], (2025, 12, 31));
        assert!(days.is_sorted());
    }

    #[test]
    fn other_names_are_no_days() {
        for name in [
            "messages",
            "messages_",
            "messages_default",
            "messages_2026",
            "messages_2026_11",
            "messages_2026_11_21_old",
            "messages_2026_13_01",
            "messages_2026_00_01",
            "messages_2026_02_30",
            "messages_2026_11_00",
            "messages_26_11_21",
            "messages_2026_11_1",
            "messages_+026_11_21",
            "messages_2026_+1_21",
            "old_messages_2026_11_21",
            "messages_2026-11-21",
            "Messages_2026_11_21",
        ] {
            assert_eq!(day_of(name), None, "{name}");
        }
    }
}
