//! Settings of Postgres that bite Walcast's own connections.

use sqlx::PgConnection;
use walcast_changes::diagnosis::identifier;

use super::report::Entry;

/// A question to the catalog may take so long on a busy server. Checks of rows and channels have limits of their own.
const SHORTEST_STATEMENT_MS: i64 = 1_000;
/// Walcast's transactions are short, but not shorter than this on a busy server.
const SHORTEST_IDLE_MS: i64 = 5_000;
/// With less the stream is at the mercy of a slow network.
const SHORTEST_SENDER_TIMEOUT_MS: i64 = 5_000;

/// `reset_val` is what a new session has, whatever was set in this one. These are in milliseconds and megabytes.
const QUERY: &str = r"
select
  current_user::text,
  current_database()::text,
  max(reset_val) filter (where name = 'statement_timeout'),
  max(reset_val) filter (where name = 'idle_in_transaction_session_timeout'),
  max(reset_val) filter (where name = 'wal_sender_timeout'),
  max(reset_val) filter (where name = 'max_slot_wal_keep_size'),
  max(reset_val) filter (where name = 'row_security')
from pg_settings";

type Looked = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Looked = sqlx::query_as(QUERY).fetch_one(postgres).await?;
    let (role, database, statement, idle, sender, kept, row_security) = looked;
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<i64>().ok());
    let set = |setting: &str, value: &str| {
        format!(
            "alter role {} in database {} set {setting} = {value}",
            identifier(&role),
            identifier(&database)
        )
    };
    let mut entries = Vec::new();
    if let Some(limit_ms) = number(&statement).filter(|limit| (1..SHORTEST_STATEMENT_MS).contains(limit)) {
        entries.push(
            Entry::warning(
                "short_statement_timeout",
                format!(
                    "statement_timeout is {limit_ms} ms: under load it makes joins fail, and the preparation of the database"
                ),
            )
            .mended_by(set("statement_timeout", "0")),
        );
    }
    if let Some(limit_ms) = number(&idle).filter(|limit| (1..SHORTEST_IDLE_MS).contains(limit)) {
        entries.push(
            Entry::warning(
                "short_idle_timeout",
                format!(
                    "idle_in_transaction_session_timeout is {limit_ms} ms: under load it ends transactions of Walcast's in their middle"
                ),
            )
            .mended_by(set("idle_in_transaction_session_timeout", "0")),
        );
    }
    match number(&sender) {
        Some(0) => entries.push(
            Entry::warning(
                "wal_sender_timeout",
                "wal_sender_timeout is off: Postgres does not notice that a replication connection is gone, and keeps its log for it",
            )
            .mended_by(set("wal_sender_timeout", "'60s'")),
        ),
        Some(limit_ms) if limit_ms < SHORTEST_SENDER_TIMEOUT_MS => entries.push(
            Entry::warning(
                "wal_sender_timeout",
                format!("wal_sender_timeout is {limit_ms} ms: a hiccup of the network ends the stream, and changes are missed"),
            )
            .mended_by(set("wal_sender_timeout", "'60s'")),
        ),
        _ => {}
    }
    if number(&kept).is_some_and(|limit| limit < 0) {
        entries.push(
            Entry::warning(
                "max_slot_wal_keep_size",
                "max_slot_wal_keep_size is not set: a reader that does not keep up fills the disk of Postgres with log",
            )
            .mended_by("alter system set max_slot_wal_keep_size = '10GB'; select pg_reload_conf()"),
        );
    }
    if row_security.as_deref() == Some("off") {
        entries.push(
            Entry::problem(
                "row_security_off",
                "row_security is off for this role: every check of rows under row level security fails, so they are hidden",
            )
            .mended_by(set("row_security", "on")),
        );
    }
    if entries.is_empty() {
        entries.push(Entry::ok("no setting of Postgres is in the way"));
    }
    Ok(entries)
}
