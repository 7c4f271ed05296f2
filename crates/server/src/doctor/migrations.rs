//! Whether Walcast's own schema is there, or may be made.

use sqlx::PgConnection;
use walcast_changes::diagnosis::identifier;

use super::report::{Entry, count};
use crate::migrate;

const QUERY: &str = r"
select
  current_user::text,
  current_database()::text,
  has_database_privilege(current_database(), 'create'),
  (select n.oid is not null from pg_namespace n where n.nspname = 'walcast'),
  (select has_schema_privilege(n.oid, 'usage') and has_schema_privilege(n.oid, 'create')
   from pg_namespace n where n.nspname = 'walcast'),
  (select has_schema_privilege(n.oid, 'create') from pg_namespace n where n.nspname = 'realtime'),
  (select has_table_privilege(c.oid, 'select') from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where n.nspname = 'walcast' and c.relname = 'migrations')";

/// Role, database, whether it may create schemas; whether schema `walcast` exists, may be used and filled; whether
/// schema `realtime` may be filled; whether the record of migrations may be read.
type Looked = (
    String,
    String,
    bool,
    Option<bool>,
    Option<bool>,
    Option<bool>,
    Option<bool>,
);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Looked = sqlx::query_as(QUERY).fetch_one(&mut *postgres).await?;
    let (role, database, may_create, is_there, may_fill, may_fill_realtime, may_read) = looked;
    let applied: Vec<i64> = match (may_fill, may_read) {
        (Some(true), Some(true)) => {
            sqlx::query_scalar("select version from walcast.migrations where success")
                .fetch_all(postgres)
                .await?
        }
        _ => Vec::new(),
    };
    let known: Vec<i64> = migrate::versions().collect();
    let missing = known.iter().filter(|version| !applied.contains(version)).count();
    if missing == 0 {
        return Ok(vec![Entry::ok(format!(
            "{} of Walcast are applied",
            count(known.len(), "migration")
        ))]);
    }
    let (role, database) = (identifier(&role), identifier(&database));
    let mut grants = Vec::new();
    if (is_there.is_none() || may_fill_realtime.is_none()) && !may_create {
        grants.push(format!("grant create on database {database} to {role}"));
    }
    if may_fill == Some(false) {
        grants.push(format!("grant usage, create on schema walcast to {role}"));
    }
    if may_fill_realtime == Some(false) {
        grants.push(format!("grant usage, create on schema realtime to {role}"));
    }
    let are_missing = format!(
        "{} of {} are not applied",
        count(missing, "migration"),
        known.len()
    );
    Ok(vec![if grants.is_empty() {
        Entry::warning(
            "migrations_missing",
            format!("{are_missing}: start Walcast, or run `walcast migrate`"),
        )
    } else {
        Entry::problem(
            "migrations_not_allowed",
            format!("{are_missing}, and role {role} may not apply them"),
        )
        .mended_by(grants.join("; "))
    }])
}
