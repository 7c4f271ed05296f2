//! Whether Walcast's own schema is there, or may be made, and is its own.

use sqlx::PgConnection;
use walcast_changes::diagnosis::identifier;

use super::report::{Entry, count};
use crate::migrate;

/// What the migrations make in schema `realtime` where it is missing.
const CONTRACT: [&str; 4] = [
    "realtime.topic()",
    "realtime.send(jsonb,text,text,boolean)",
    "realtime.send_binary(bytea,text,text,boolean)",
    "realtime.broadcast_changes(text,text,text,text,text,record,record,text)",
];

const QUERY: &str = r"
select
  current_user::text,
  current_database()::text,
  has_database_privilege(current_database(), 'create'),
  exists (select from pg_namespace where nspname = 'walcast'),
  array(
    select format('alter %s %s owner to %I', thing.kind, thing.name, current_user)
    from (
      select 1, 'schema', quote_ident(nspname), nspowner from pg_namespace where nspname = 'walcast'
      union all
      select 2, 'table', oid::regclass::text, relowner from pg_class
      where relnamespace = (select oid from pg_namespace where nspname = 'walcast') and relkind = 'r'
      union all
      select 3, 'function', oid::regprocedure::text, proowner from pg_proc
      where pronamespace = (select oid from pg_namespace where nspname = 'walcast')
    ) thing(position, kind, name, owner)
    where not pg_has_role(thing.owner, 'usage')
    order by thing.position, thing.name),
  (select has_schema_privilege(oid, 'create') from pg_namespace where nspname = 'realtime'),
  exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'realtime' and c.relname = 'messages')
    and $1::text[] <@ array(
      select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname = 'realtime')";

/// Role, database, whether it may create schemas; whether schema `walcast` exists, and what makes what of it is not ours
/// ours; whether schema `realtime` may be filled, if it exists, and whether it has all it shall have.
type Looked = (String, String, bool, bool, Vec<String>, Option<bool>, bool);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Looked = sqlx::query_as(QUERY)
        .bind(CONTRACT)
        .fetch_one(&mut *postgres)
        .await?;
    let (role, database, may_create, is_there, foreign, may_fill_realtime, is_complete) = looked;
    if !foreign.is_empty() {
        return Ok(vec![
            Entry::problem(
                "walcast_not_owned",
                format!(
                    "schema walcast, or some of what is in it, belongs to another role, as which Walcast ran before: role \"{role}\" may not use it"
                ),
            )
            .mended_by(foreign.join("; ")),
        ]);
    }
    let applied: Vec<i64> = if is_there && has_record(postgres).await? {
        sqlx::query_scalar("select version from walcast.migrations where success")
            .fetch_all(postgres)
            .await?
    } else {
        Vec::new()
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
    if (!is_there || may_fill_realtime.is_none()) && !may_create {
        grants.push(format!("grant create on database {database} to {role}"));
    }
    if may_fill_realtime == Some(false) && !is_complete {
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

async fn has_record(postgres: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where n.nspname = 'walcast' and c.relname = 'migrations')",
    )
    .fetch_one(postgres)
    .await
}
