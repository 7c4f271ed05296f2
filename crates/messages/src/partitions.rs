//! The partitions of `realtime.messages`: one for each UTC day, made ahead and dropped when nobody replays them any more
//! (`database.md 6`).

use std::time::Duration;

use metrics::counter;
use rand::Rng;
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

/// Days ahead of today that have a partition already.
const DAYS_AHEAD: i32 = 3;
/// How long the messages of a day are kept after its end, in days: a message can be replayed for 72 hours at least.
const DAYS_KEPT: i32 = 3;
/// A partition is made or dropped at once or later, so that nobody waits behind us for long.
const LOCK_TIMEOUT: &str = "2s";
/// At least this often it is looked whether all is right.
const LONGEST_PAUSE: Duration = Duration::from_secs(4 * 3600);
/// Pause after a failure: doubles from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Several servers do not come at the very same moment after midnight.
const SPREAD: Duration = Duration::from_secs(30);
/// Taken in turn by the servers that are at it.
const ADVISORY_LOCK: i64 = 0x7761_6c63_6173_7401;

/// What was done to the partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Names of partitions made.
    pub created: Vec<String>,
    /// Names of partitions dropped.
    pub dropped: Vec<String>,
    /// What could not be done, and why.
    pub failed: Vec<String>,
    /// Until the next UTC day begins by the clock of Postgres.
    pub day_ends_in: Duration,
}

/// Makes the partitions from yesterday to three days ahead and drops those of days that are over for three. By the
/// clock of Postgres; whatever time has passed since it was last done. Several servers may do it at once.
///
/// # Errors
/// If Postgres cannot be asked at all. A single partition that cannot be made or dropped is in [`Kept::failed`].
pub async fn keep_partitions(pool: &PgPool) -> Result<Kept, sqlx::Error> {
    let connection = &mut *pool.acquire().await?;
    let kept = keep(connection).await?;
    if !kept.created.is_empty() || !kept.dropped.is_empty() {
        tracing::info!(created = ?kept.created, dropped = ?kept.dropped, "partitions of realtime.messages");
    }
    for failure in &kept.failed {
        tracing::warn!(
            code = "PartitionCreationFailed",
            failure,
            "a partition of realtime.messages is not as it should be"
        );
    }
    counter!("walcast_partitions_created_total").increment(kept.created.len() as u64);
    counter!("walcast_partitions_dropped_total").increment(kept.dropped.len() as u64);
    counter!("walcast_partitions_failed_total").increment(kept.failed.len() as u64);
    Ok(kept)
}

async fn keep(connection: &mut PgConnection) -> Result<Kept, sqlx::Error> {
    let mut kept = Kept::default();
    let seconds: f64 = sqlx::query_scalar(
        "select extract(epoch from date_trunc('day', utc) + interval '1 day' - utc)::float8 \
         from (select clock_timestamp() at time zone 'utc' as utc) as clock",
    )
    .fetch_one(&mut *connection)
    .await?;
    kept.day_ends_in = Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0));

    let missing: Vec<(String, String, String)> = sqlx::query_as(
        "select name, lower_bound::text, (lower_bound + 1)::text \
         from (select clock_timestamp() at time zone 'utc' as utc) as clock, \
           generate_series(-1, $1) as day, \
           lateral (select utc::date + day as lower_bound) as bounds, \
           lateral (select 'messages_' || to_char(lower_bound, 'YYYY_MM_DD') as name) as names \
         where not exists ( \
           select from pg_class c where c.relname = name and c.relnamespace = 'realtime'::regnamespace) \
         order by lower_bound",
    )
    .bind(DAYS_AHEAD)
    .fetch_all(&mut *connection)
    .await?;
    for (name, from, to) in missing {
        // The name is made of digits, and the bounds are dates as Postgres prints them.
        let create = format!(
            "create table if not exists realtime.{name} partition of realtime.messages \
             for values from ('{from}') to ('{to}')"
        );
        let own = format!(
            "do $$ begin execute format('alter table realtime.{name} owner to %I', \
               (select relowner::regrole::text from pg_class where oid = 'realtime.messages'::regclass)); \
             exception when insufficient_privilege then null; end $$"
        );
        match change(connection, &[&create, &own]).await? {
            Done::Yes => kept.created.push(name),
            Done::No(reason) => kept.failed.push(format!("{name} was not created: {reason}")),
        }
    }

    let children: Vec<(String, bool)> = sqlx::query_as(
        "select c.relname::text, \
           c.relname ~ '^messages_[0-9]{4}_[0-9]{2}_[0-9]{2}$' \
             and substr(c.relname, 10) < to_char(((clock_timestamp() at time zone 'utc')::date - $1), 'YYYY_MM_DD') \
         from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'realtime.messages'::regclass and c.relnamespace = 'realtime'::regnamespace \
         order by c.relname",
    )
    .bind(DAYS_KEPT)
    .fetch_all(&mut *connection)
    .await?;
    for (name, _) in children.into_iter().filter(|(_, is_over)| *is_over) {
        let drop = format!("drop table if exists realtime.{name}");
        match change(connection, &[&drop]).await? {
            Done::Yes => kept.dropped.push(name),
            Done::No(reason) => kept.failed.push(format!("{name} was not dropped: {reason}")),
        }
    }
    Ok(kept)
}

/// Keeps the partitions right until cancelled: at once, shortly after each UTC midnight, and every few hours.
pub async fn upkeep(pool: PgPool, cancel: CancellationToken) {
    let mut retry = RETRY.0;
    loop {
        let pause = match keep_partitions(&pool).await {
            Ok(kept) => {
                if kept.failed.is_empty() {
                    retry = RETRY.0;
                    let spread = rand::rng().random_range(Duration::ZERO..SPREAD);
                    LONGEST_PAUSE.min(kept.day_ends_in + spread)
                } else {
                    next(&mut retry)
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the partitions of realtime.messages could not be looked at; trying again");
                next(&mut retry)
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn next(retry: &mut Duration) -> Duration {
    let pause = *retry;
    *retry = (*retry * 2).min(RETRY.1);
    pause
}

enum Done {
    Yes,
    No(String),
}

/// Runs statements in a transaction of their own, one server at a time.
async fn change(connection: &mut PgConnection, statements: &[&str]) -> Result<Done, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let patience = format!("set local lock_timeout = '{LOCK_TIMEOUT}'");
    let turn = format!("select pg_advisory_xact_lock({ADVISORY_LOCK})");
    for statement in [&*patience, &*turn].iter().chain(statements) {
        match sqlx::query(sqlx::AssertSqlSafe((*statement).to_owned()))
            .execute(&mut *transaction)
            .await
        {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => return Ok(Done::No(error.message().to_owned())),
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await?;
    Ok(Done::Yes)
}
