//! Asks Postgres which rows which identities may see: many rows and many identities in one round trip
//! (`design.md 4.2` and `4.3`), through the function `walcast.visible_rows` of our migrations.

use crate::catalog::{KeyColumn, Source};
use crate::claims::IdentityRef;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long the function itself waits for a transaction to be over before it answers "not yet".
const WAIT_IN_POSTGRES_MS: i32 = 50;
/// First and last pause between two questions about rows whose transaction is still running, or while Postgres
/// cannot be reached.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A batch that could not be decided. Nothing of it is visible.
#[derive(Debug, Error)]
pub(crate) enum VisibilityError {
    #[error(
        "the transaction of the change was not over after {0} s (does it wait for a synchronous standby?)"
    )]
    StillRunning(u64),
    #[error("asking Postgres failed: {0}")]
    Postgres(#[from] sqlx::Error),
}

impl VisibilityError {
    /// What Postgres answered with, if it did.
    pub(crate) fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Postgres(sqlx::Error::Database(error)) => error.code().map(Into::into),
            _ => None,
        }
    }

    /// The time limit was reached.
    pub(crate) fn is_timeout(&self) -> bool {
        self.sqlstate().as_deref() == Some("57014")
    }
}

/// A check that raised for one identity: its policy, its claims or its rights.
pub(crate) struct Failure {
    pub(crate) identity: IdentityRef,
    pub(crate) reason: String,
}

/// Rows to be looked at, and who asks for which of them.
pub(crate) struct Question {
    /// The statement that looks rows up (see [`probe`]).
    pub(crate) probe: Arc<str>,
    pub(crate) key_columns: usize,
    /// Key texts of each row, in key order.
    pub(crate) rows: Vec<Vec<String>>,
    /// For each identity the rows it asks for, ascending.
    pub(crate) asked: HashMap<IdentityRef, Vec<usize>>,
    /// The transactions the rows were committed by.
    pub(crate) xids: Vec<u32>,
}

/// Who decides which rows are visible under row level security.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// This process, where policies are understood; Postgres for all others.
    #[default]
    Compiled,
    /// Postgres alone.
    Sql,
    /// Both: differences are reported, and Postgres is believed.
    Verify,
}

/// What deciding visibility took so far.
#[derive(Debug, Default)]
pub struct VisibilityFigures {
    /// Evaluations of compiled policies: one a change and identity that its index could not leave out.
    pub evaluated: AtomicU64,
    /// Decisions that were compared with Postgres' ([`Visibility::Verify`]).
    pub verified: AtomicU64,
    /// Those that Postgres decided otherwise, about the same row under the same policies.
    pub differences: AtomicU64,
}

/// Which rows an identity sees; absent = none.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) seen: HashMap<IdentityRef, Vec<usize>>,
    pub(crate) failures: Vec<Failure>,
}

impl Answer {
    pub(crate) fn sees(&self, identity: &IdentityRef, row: usize) -> bool {
        self.seen
            .get(identity)
            .is_some_and(|rows| rows.binary_search(&row).is_ok())
    }
}

/// Where functions in policies and operators in filters look for what they name without a schema: the reference's
/// (`database.md 1.1`), whatever that of the role we connect as.
pub(crate) const SEARCH_PATH: &str = "public, extensions, realtime";

/// The connections questions are asked through: few, with a time limit of their own.
#[derive(Clone)]
pub(crate) struct Asker {
    pool: PgPool,
    patience: Duration,
    second_connections: Arc<Semaphore>,
}

impl Asker {
    /// `timeout_ms` bounds one question; `patience_ms` how long a question is repeated while its transaction runs or
    /// Postgres is away.
    pub(crate) fn new(
        options: PgConnectOptions,
        connections: u32,
        timeout_ms: u64,
        patience_ms: u64,
    ) -> Self {
        let options = options.application_name("walcast_visibility").options([
            ("statement_timeout", timeout_ms.to_string()),
            ("search_path", SEARCH_PATH.to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_millis(timeout_ms))
            .connect_lazy_with(options);
        let second_connections = usize::try_from(connections / 2).unwrap_or_default();
        Self {
            pool,
            patience: Duration::from_millis(patience_ms),
            second_connections: Arc::new(Semaphore::new(second_connections)),
        }
    }

    /// The right to have a second question under way for one table. At most half of the connections are used so:
    /// a table that is slow leaves the others theirs.
    pub(crate) fn second_connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.second_connections).try_acquire_owned().ok()
    }

    /// For further questions that need the same settings and limits.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer, VisibilityError> {
        self.patiently(|| self.ask_once(question)).await
    }

    /// Waits until other sessions see what transaction `xid` (32 bit) did: the stream can be ahead of them, and of the
    /// catalog with them (`database.md 9.21`).
    pub(crate) async fn settled(&self, xid: u32) -> Result<(), VisibilityError> {
        self.patiently(|| async move {
            // The upper half of the 64-bit id is that of the snapshot, or its neighbour around a wrap.
            let is_settled: bool = sqlx::query_scalar(
                "select pg_visible_in_snapshot((case \
                   when near - horizon > 2147483648 then near - 4294967296 \
                   when horizon - near > 2147483648 then near + 4294967296 \
                   else near end)::text::xid8, snapshot) \
                 from pg_current_snapshot() snapshot, \
                   lateral (select pg_snapshot_xmax(snapshot)::text::int8 as horizon) as h, \
                   lateral (select horizon >> 32 << 32 | $1 as near) as n",
            )
            .bind(i64::from(xid))
            .fetch_one(&self.pool)
            .await?;
            Ok(is_settled.then_some(()))
        })
        .await
    }

    /// Repeats a question while its transaction runs (the answer is `None`) or Postgres is away, as long as patience
    /// lasts.
    pub(crate) async fn patiently<T, F: Future<Output = Result<Option<T>, sqlx::Error>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, VisibilityError> {
        let started = Instant::now();
        let mut pause = RETRY_MIN;
        loop {
            let error = match ask().await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => VisibilityError::StillRunning(self.patience.as_secs()),
                Err(error @ (sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut)) => {
                    error.into()
                }
                // Postgres is going down or coming up: the rows will still be there.
                Err(sqlx::Error::Database(answer))
                    if answer
                        .code()
                        .is_some_and(|code| code.starts_with("57P") || code.starts_with("08")) =>
                {
                    VisibilityError::Postgres(sqlx::Error::Database(answer))
                }
                Err(error) => return Err(error.into()),
            };
            if started.elapsed() + pause > self.patience {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// `None`: a transaction is still running.
    async fn ask_once(&self, question: &Question) -> Result<Option<Answer>, sqlx::Error> {
        let mut identities: Vec<(&IdentityRef, &Vec<usize>)> = question.asked.iter().collect();
        // Equal roles next to each other save a switch, equal row lists a rebuilt call.
        identities.sort_by(|a, b| (&a.0.0.claims.role, a.1).cmp(&(&b.0.0.claims.role, b.1)));
        let mut row_sets: Vec<String> = Vec::new();
        let mut set_numbers: HashMap<&Vec<usize>, i32> = HashMap::new();
        let mut sets: Vec<i32> = Vec::with_capacity(identities.len());
        for (_, rows) in &identities {
            let number = *set_numbers.entry(rows).or_insert_with(|| {
                let numbers: Vec<String> = rows.iter().map(|row| (row + 1).to_string()).collect();
                row_sets.push(format!("{{{}}}", numbers.join(",")));
                i32::try_from(row_sets.len()).unwrap_or(i32::MAX)
            });
            sets.push(number);
        }
        let roles: Vec<&str> = identities
            .iter()
            .map(|(identity, _)| identity.0.claims.role.as_str())
            .collect();
        let claims: Vec<&str> = identities
            .iter()
            .map(|(identity, _)| identity.0.claims.json.as_ref())
            .collect();
        let mut keys: Vec<&str> = Vec::with_capacity(question.rows.len() * question.key_columns);
        for column in 0..question.key_columns {
            keys.extend(
                question
                    .rows
                    .iter()
                    .map(|row| row.get(column).map_or("", String::as_str)),
            );
        }
        let xids: Vec<i64> = question.xids.iter().map(|xid| i64::from(*xid)).collect();
        let rows = sqlx::query(
            "select identity, seen, failure from walcast.visible_rows($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(question.probe.as_ref())
        .bind(&roles)
        .bind(&claims)
        .bind(&sets)
        .bind(&row_sets)
        .bind(&keys)
        .bind(i32::try_from(question.key_columns).unwrap_or(i32::MAX))
        .bind(&xids)
        .bind(WAIT_IN_POSTGRES_MS)
        .fetch_all(&self.pool)
        .await?;
        let mut answer = Answer::default();
        for row in rows {
            let number: i32 = row.try_get(0)?;
            let Some(at) = usize::try_from(number)
                .ok()
                .and_then(|number| number.checked_sub(1))
            else {
                return Ok(None);
            };
            let Some((identity, _)) = identities.get(at) else {
                continue;
            };
            if let Some(reason) = row.try_get::<Option<String>, _>(2)? {
                answer.failures.push(Failure {
                    identity: (*identity).clone(),
                    reason,
                });
            }
            let mut seen: Vec<usize> = row
                .try_get::<Option<Vec<i32>>, _>(1)?
                .unwrap_or_default()
                .into_iter()
                .filter_map(|number| usize::try_from(number).ok()?.checked_sub(1))
                .collect();
            seen.sort_unstable();
            answer.seen.insert((*identity).clone(), seen);
        }
        Ok(Some(answer))
    }
}

/// The statement that finds which keys have a row for whoever asks. The rows are of `table`: of a source that is its
/// ancestor only its own rows count. The sub-select stays one probe of the key's
/// index per row: joined, the planner may prefer to run the policy over the whole table.
pub(crate) fn probe(table: u32, source: &Source, primary_key: &[KeyColumn]) -> String {
    format!(
        "select pg_catalog.array_agg(k.n::int) from unnest({}) with ordinality as k({}, n) \
         where (select true from {} t where {} limit 1)",
        key_parameters(primary_key).join(", "),
        key_aliases(primary_key).join(", "),
        source.from,
        key_conditions(table, source, primary_key)
    )
}

/// A parameter for the texts of each key column.
pub(crate) fn key_parameters(primary_key: &[KeyColumn]) -> Vec<String> {
    (1..=primary_key.len())
        .map(|number| format!("${number}::text[]"))
        .collect()
}

/// A name for each key column's texts.
pub(crate) fn key_aliases(primary_key: &[KeyColumn]) -> Vec<String> {
    (1..=primary_key.len())
        .map(|number| format!("c{number}"))
        .collect()
}

/// Row `t` is one of `table` with the key texts in `k`.
pub(crate) fn key_conditions(table: u32, source: &Source, primary_key: &[KeyColumn]) -> String {
    let mut conditions: Vec<String> = primary_key
        .iter()
        .zip(key_aliases(primary_key))
        .map(|(column, alias)| key_condition(column, &format!("k.{alias}")))
        .collect();
    if source.oid != table {
        conditions.push(format!("t.tableoid OPERATOR(pg_catalog.=) {table}::oid"));
    }
    conditions.join(" and ")
}

/// A key column of row `t` equals what an SQL expression has as text.
pub(crate) fn key_condition(column: &KeyColumn, text: &str) -> String {
    format!(
        "t.{} {} {text}::{}",
        quote_identifier(&column.name),
        column.equality,
        column.cast_type
    )
}

/// `name` as an SQL identifier.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_names_every_key_column_and_quotes_it() {
        let key = |name: &str, cast_type: &str| KeyColumn {
            name: name.into(),
            cast_type: cast_type.into(),
            equality: "OPERATOR(pg_catalog.=)".into(),
        };
        let source = Source {
            oid: 1,
            from: "only public.\"odd name\"".into(),
        };
        assert_eq!(
            probe(1, &source, &[key("a\"b", "bigint"), key("c", "uuid")]),
            "select pg_catalog.array_agg(k.n::int) from unnest($1::text[], $2::text[]) with ordinality as k(c1, c2, n) \
             where (select true from only public.\"odd name\" t where t.\"a\"\"b\" OPERATOR(pg_catalog.=) k.c1::bigint \
             and t.\"c\" OPERATOR(pg_catalog.=) k.c2::uuid limit 1)"
        );
    }

    #[test]
    fn rows_of_a_partition_are_looked_for_in_that_partition_alone() {
        let source = Source {
            oid: 1,
            from: "public.parent".into(),
        };
        let key = KeyColumn {
            name: "id".into(),
            cast_type: "integer".into(),
            equality: "OPERATOR(pg_catalog.=)".into(),
        };
        let probe = probe(2, &source, &[key]);
        assert!(
            probe.contains("and t.tableoid OPERATOR(pg_catalog.=) 2::oid limit 1"),
            "{probe}"
        );
    }
}
