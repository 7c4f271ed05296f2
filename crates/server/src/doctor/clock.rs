//! Whether the clock here and that of Postgres agree: tokens expire by ours, partitions begin by Postgres'.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sqlx::PgConnection;

use super::report::Entry;

const TOLERATED_MS: i64 = 2_000;

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let before_ms = now_ms();
    let asked = Instant::now();
    let theirs_ms: i64 = sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000)::int8")
        .fetch_one(postgres)
        .await?;
    let took_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    Ok(vec![judge(before_ms, took_ms, theirs_ms)])
}

fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// Postgres looked at its clock at some time between `before_ms` and `took_ms` later.
fn judge(before_ms: i64, took_ms: i64, theirs_ms: i64) -> Entry {
    let ahead_ms = theirs_ms.saturating_sub(before_ms.saturating_add(took_ms));
    let behind_ms = before_ms.saturating_sub(theirs_ms);
    let (apart_ms, how) = if ahead_ms > behind_ms {
        (ahead_ms, "ahead of")
    } else {
        (behind_ms, "behind")
    };
    if apart_ms <= TOLERATED_MS {
        return Entry::ok("the clocks here and in Postgres agree");
    }
    let seconds = apart_ms / 1_000;
    Entry::warning(
        "clock_skew",
        format!(
            "the clock of Postgres is {seconds} s {how} the one here: tokens expire too late or too early, and messages of around midnight find no partition; set both by NTP"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn clocks_two_seconds_apart_are_worth_a_word_however_long_the_answer_took() {
        for (took_ms, theirs_ms, expected) in [
            (0, 100_000, None),
            (0, 102_000, None),
            (0, 98_000, None),
            (5_000, 106_000, None),
            (0, 103_500, Some("3 s ahead of")),
            (0, 40_000, Some("60 s behind")),
            (5_000, 110_000, Some("5 s ahead of")),
        ] {
            let entry = judge(100_000, took_ms, theirs_ms);
            match expected {
                None => assert_eq!(entry.level, Level::Ok, "{theirs_ms}"),
                Some(words) => assert!(
                    entry.code == Some("clock_skew") && entry.message.contains(words),
                    "{entry:?}"
                ),
            }
        }
    }
}
