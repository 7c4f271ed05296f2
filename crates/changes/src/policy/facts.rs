//! What the catalog says about a table's policies and a role.

use serde::Deserialize;
use sqlx::{Connection as _, Executor, PgConnection, PgPool, Row as _};
use std::collections::HashMap;

/// Everything that decides how visibility is to be found out, read at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct PolicyFacts {
    /// Row security is enabled on the table.
    pub(super) enabled: bool,
    /// The role is a superuser or has BYPASSRLS itself, or counts as the owner of a table that does not force row
    /// security on its owner.
    pub(super) exempt: bool,
    /// The role may use the table's schema; otherwise its queries fail, which is Postgres' to say.
    pub(super) may_use_schema: bool,
    /// Policies for SELECT that apply to the role.
    pub(super) policies: Vec<Policy>,
    /// The table's columns by name.
    pub(super) columns: HashMap<String, ColumnFacts>,
    /// Functions without arguments, by `schema.name`, that policies may call.
    pub(super) functions: HashMap<String, FunctionFacts>,
    /// Something outside `pg_catalog` has a name that function bodies rely on.
    pub(super) shadowed: bool,
}

/// A policy's condition.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) permissive: bool,
    /// Whom it is for; `public` is everybody.
    pub(super) roles: Vec<String>,
    /// As printed under an empty search path.
    pub(super) using: String,
}

/// A column's type: a built-in base type by name, or empty for any other.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ColumnFacts {
    pub(super) type_name: String,
    /// Equal under its collation means equal bytes.
    pub(super) deterministic: bool,
}

/// A function without arguments.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FunctionFacts {
    /// Plain SQL, one row, not SECURITY DEFINER, no settings of its own, not volatile, the only function of that
    /// name, executable by the role.
    pub(super) acceptable: bool,
    /// The body's names were resolved when it was made; it is then printed like a policy. Otherwise it is the text as
    /// written, resolved anew at each run.
    pub(super) resolved: bool,
    pub(super) body: String,
    /// A built-in type's name, or empty.
    pub(super) returns: String,
}

const QUERY: &str = r"
select jsonb_build_object(
  'enabled', c.relrowsecurity,
  -- BYPASSRLS and superuser do not come by membership; ownership does, through roles whose rights are inherited.
  'exempt', r.rolsuper or r.rolbypassrls or (not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage')),
  'may_use_schema', has_schema_privilege(r.oid, c.relnamespace, 'usage'),
  'policies', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', p.polname, 'permissive', p.polpermissive, 'using', pg_get_expr(p.polqual, p.polrelid),
      'roles', (select jsonb_agg(case when wanted.oid = 0 then 'public' else pg_get_userbyid(wanted.oid) end)
                from unnest(p.polroles) wanted(oid))) order by p.polname)
    from pg_policy p
    -- A policy without USING admits nothing and restricts nothing.
    where p.polrelid = c.oid and p.polcmd in ('r', '*') and p.polqual is not null
      and exists (select from unnest(p.polroles) wanted(oid)
                  where wanted.oid = 0 or pg_has_role(r.oid, wanted.oid, 'usage'))), '[]'::jsonb),
  'columns', coalesce((
    select jsonb_object_agg(a.attname, jsonb_build_object(
      'type_name', case when t.typtype = 'b' and t.typnamespace = 'pg_catalog'::regnamespace then t.typname else '' end,
      'deterministic', coalesce(l.collisdeterministic, true)))
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    left join pg_collation l on l.oid = a.attcollation
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '{}'::jsonb),
  'functions', coalesce((
    select jsonb_object_agg(f.key, f.facts) from (
      select n.nspname || '.' || p.proname as key,
        jsonb_build_object(
          'acceptable', count(*) = 1 and bool_and(
            p.pronargs = 0 and l.lanname = 'sql' and p.prokind = 'f' and not p.proretset and not p.prosecdef
            and p.proconfig is null and p.provolatile <> 'v'
            and has_function_privilege(r.oid, p.oid, 'execute')),
          'resolved', bool_and(p.prosqlbody is not null),
          'body', min(case when p.prosqlbody is null then p.prosrc else pg_get_function_sqlbody(p.oid) end),
          'returns', min(case when t.typnamespace = 'pg_catalog'::regnamespace then t.typname::text else '' end)) as facts
      from pg_proc p
      join pg_namespace n on n.oid = p.pronamespace
      join pg_language l on l.oid = p.prolang
      join pg_type t on t.oid = p.prorettype
      where n.nspname <> 'pg_catalog'
        and (n.nspname, p.proname) in (
          -- The helpers, which other functions call, and whatever the policies depend on.
          select 'auth', f.proname from pg_proc f where f.pronamespace = to_regnamespace('auth')
          union
          select fn.nspname, f.proname from pg_policy pol
          join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = pol.oid and d.refclassid = 'pg_proc'::regclass
          join pg_proc f on f.oid = d.refobjid
          join pg_namespace fn on fn.oid = f.pronamespace
          where pol.polrelid = c.oid)
      group by n.nspname, p.proname) f), '{}'::jsonb),
  'shadowed',
    exists (select from pg_proc p where p.proname = 'current_setting' and p.pronamespace <> 'pg_catalog'::regnamespace)
    or exists (select from pg_operator o where o.oprname in ('->', '->>', '#>', '#>>', '=', '<>', '<', '<=', '>', '>=')
                 and o.oprnamespace <> 'pg_catalog'::regnamespace
                 and coalesce(o.oprleft in (select b.oid from pg_type b where b.typname in ('json', 'jsonb', 'text', 'varchar', 'uuid', 'bool', 'int2', 'int4', 'int8', 'unknown') and b.typnamespace = 'pg_catalog'::regnamespace), true))
    or exists (select from pg_type t where t.typname in ('json', 'jsonb', 'text', 'varchar', 'uuid', 'bool', 'boolean', 'int', 'integer', 'int2', 'int4', 'int8', 'bigint', 'smallint')
                 and t.typnamespace <> 'pg_catalog'::regnamespace)
)::text
from pg_class c, pg_roles r
where c.oid = $1::int8::oid and r.rolname = $2";

/// Reads the facts for a role on a table.
///
/// # Errors
/// If Postgres cannot be asked. A role that does not exist is exempt from nothing and no policy applies to it.
pub async fn load(pool: &PgPool, table: u32, role: &str) -> Result<PolicyFacts, sqlx::Error> {
    // Boxed, for a transaction's future is large and this one is rare.
    Box::pin(async { load_in_transaction(&mut *pool.acquire().await?, table, role).await }).await
}

/// As [`load`], on one connection, which may be in a transaction.
///
/// # Errors
/// As [`load`].
pub async fn load_on(
    connection: &mut PgConnection,
    table: u32,
    role: &str,
) -> Result<PolicyFacts, sqlx::Error> {
    Box::pin(load_in_transaction(connection, table, role)).await
}

async fn load_in_transaction(
    connection: &mut PgConnection,
    table: u32,
    role: &str,
) -> Result<PolicyFacts, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // What pg_get_expr() prints without a schema is in pg_catalog then, and nowhere else.
    transaction.execute("set local search_path = ''").await?;
    let row = sqlx::query(QUERY)
        .bind(i64::from(table))
        .bind(role)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    let Some(row) = row else {
        return Ok(PolicyFacts {
            enabled: true,
            exempt: false,
            may_use_schema: false,
            policies: Vec::new(),
            columns: HashMap::new(),
            functions: HashMap::new(),
            shadowed: false,
        });
    };
    let text: String = row.try_get(0)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
