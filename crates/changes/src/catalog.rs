//! What Postgres' catalog says about a published table: columns, types, primary key, row security, a role's rights.
//!
//! Everything here is true at one moment. Postgres announces a relation again in the stream whenever a cached fact
//! about it may have changed (DDL, GRANT, policies), so facts are kept until then and read anew at that point
//! ([`walcast_replication::Relation::version`]), plus a time limit for what is not announced: role attributes and
//! memberships.

use crate::binding::Pattern;
use crate::scalar::Family;
use serde::{Deserialize, Deserializer};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{PgPool, Row};
use std::sync::Arc;
use walcast_replication::json::{TYPE_QUERY, Type, TypeCatalog, TypeRow};

/// A column of a table, as the catalog has it now.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    /// The type spelled so that a cast to it means the same under any search path and applies no type modifier:
    /// `pg_catalog.bpchar`, not `character(3)`.
    pub(crate) cast_type: String,
    /// The type as error texts name it: `character varying`.
    pub(crate) shown_type: String,
    /// Patterns can be matched against it (`database.md 12`: `varchar` too).
    pub(crate) is_text: bool,
    /// How its values are read, so that equal ones are found without asking.
    pub(crate) family: Family,
    /// The type's order is that of what is read; of text, that of its bytes.
    pub(crate) is_ordered: bool,
    /// Labels of an enum, in its order. Among themselves they keep it, whatever is added.
    #[serde(deserialize_with = "shared")]
    pub(crate) labels: Option<Arc<[String]>>,
    /// `like` compares characters one by one.
    pub(crate) is_plain_like: bool,
    /// `ilike` takes `A` to `Z` for `a` to `z`, which no locale of its collation may change.
    pub(crate) folds_ascii: bool,
}

fn shared<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Arc<[String]>>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(source)?.map(Arc::from))
}

/// A primary key column and how to compare it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    pub(crate) cast_type: String,
    /// The equality operator of the key's index, schema-qualified: `OPERATOR(pg_catalog.=)`.
    pub(crate) equality: String,
}

/// A table to select from, quoted for SQL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Source {
    pub(crate) oid: u32,
    /// `only "public"."messages"`.
    pub(crate) from: String,
}

/// Facts about one table.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TableFacts {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) primary_key: Vec<KeyColumn>,
    /// Postgres announces nothing for a partition when its parent's row security changes.
    pub(crate) is_partition: bool,
    /// Where row security is decided: the table itself, or the nearest ancestor of a partition that has it on when
    /// the partition has not (stricter than the reference, `database.md 12`). `None`: no row security.
    pub(crate) row_security: Option<Source>,
}

impl TableFacts {
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }
}

/// Where row security of a table `c` is decided, as a table `s` in a schema `s_ns`: by the table itself, or by the nearest
/// ancestor of a partition that has it on when the partition has not (`database.md 12`). No row: nowhere.
macro_rules! row_security_source {
    () => {
        "
    from (
      select c.oid as candidate, 0 as distance
      union all
      select ancestor, row_number() over () from pg_partition_ancestors(c.oid) ancestor where ancestor <> c.oid
    ) line
    join pg_class s on s.oid = line.candidate and s.relrowsecurity
    join pg_namespace s_ns on s_ns.oid = s.relnamespace
    order by line.distance limit 1"
    };
}
pub(crate) use row_security_source;

const FACTS_QUERY: &str = concat!(
    r#"
select jsonb_build_object(
  'oid', c.oid::int8,
  'schema', n.nspname,
  'name', c.relname,
  'is_partition', c.relispartition,
  'attributes', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', a.attname,
      'cast_type', format('%I.%I', t_ns.nspname, t.typname),
      'shown_type', format_type(a.atttypid, null),
      'is_text', base.typname in ('text', 'varchar', 'bpchar', 'name', 'citext'),
      'family', case
        when base.typtype = 'e' then 'text'
        when base.typnamespace <> 'pg_catalog'::regnamespace then 'unknown'
        when base.typname in ('text', 'varchar', 'name', 'bpchar') and not collated.is_deterministic then 'unknown'
        when base.typname in ('text', 'varchar', 'name', 'uuid', 'bytea', 'char', 'macaddr', 'macaddr8', 'pg_lsn',
                              'xid8', 'inet', 'cidr', 'varbit', 'bit') then 'text'
        when base.typname = 'bpchar' then 'padded'
        when base.typname in ('int2', 'int4', 'int8', 'oid') then 'whole'
        when base.typname in ('bool', 'float4', 'float8', 'numeric', 'date', 'time', 'timestamp', 'timestamptz')
          then base.typname::text
        else 'unknown' end,
      'is_ordered', base.typnamespace = 'pg_catalog'::regnamespace and (
        base.typname in ('uuid', 'bytea', 'macaddr', 'macaddr8', 'int2', 'int4', 'int8', 'oid', 'bool', 'float4',
                         'float8', 'numeric', 'date', 'time', 'timestamp', 'timestamptz')
        or base.typname in ('text', 'varchar', 'name', 'bpchar') and collated.orders_bytes),
      'labels', (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = base.oid),
      'is_plain_like', base.typnamespace = 'pg_catalog'::regnamespace
        and base.typname in ('text', 'varchar', 'name', 'bpchar') and collated.is_deterministic
        and getdatabaseencoding() = 'UTF8',
      'folds_ascii', collated.folds_ascii)
      order by a.attnum)
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    join pg_namespace t_ns on t_ns.oid = t.typnamespace
    join lateral (
      with recursive chain(oid, typbasetype, typtype, typname, typnamespace, depth) as (
        select t.oid, t.typbasetype, t.typtype, t.typname, t.typnamespace, 0
        union all
        select b.oid, b.typbasetype, b.typtype, b.typname, b.typnamespace, chain.depth + 1
        from chain join pg_type b on b.oid = chain.typbasetype
        where chain.typtype = 'd' and chain.depth < 32)
      select * from chain order by depth desc limit 1) base on true
    -- The type's collation, not the column's: a filter compares values, not columns (`database.md 2.6`). Unknown
    -- providers and locales are taken for such that order and fold in ways of their own.
    cross join lateral (
      select coalesce(bool_and(l.collisdeterministic), true) as is_deterministic,
        getdatabaseencoding() = 'UTF8'
          and coalesce(bool_or(used.provider = 'b' or used.provider = 'c' and used.order_of in ('C', 'POSIX')), false)
          as orders_bytes,
        coalesce(bool_or(used.provider = 'b' or used.provider = 'c' and used.case_of in ('C', 'POSIX')), false)
          as folds_ascii
      from pg_collation l
      cross join pg_database d
      cross join lateral (
        select case when l.collprovider = 'd' then coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
                    else l.collprovider::text end as provider,
               case when l.collprovider = 'd' then d.datcollate else l.collcollate end::text as order_of,
               case when l.collprovider = 'd' then d.datctype else l.collctype end::text as case_of) used
      where l.oid = t.typcollation and d.datname = current_database()) collated
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'::jsonb),
  'primary_key', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', a.attname,
      'cast_type', format('%I.%I', t_ns.nspname, t.typname),
      'equality', format('OPERATOR(%I.%s)', o_ns.nspname, o.oprname))
      order by k.position)
    from pg_index i
    cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k(attnum, opclass, position)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
    join pg_type t on t.oid = a.atttypid
    join pg_namespace t_ns on t_ns.oid = t.typnamespace
    join pg_opclass oc on oc.oid = k.opclass
    join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype
      and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 3 and ao.amoppurpose = 's'
    join pg_operator o on o.oid = ao.amopopr
    join pg_namespace o_ns on o_ns.oid = o.oprnamespace
    where i.indrelid = c.oid and i.indisprimary and k.position <= i.indnkeyatts), '[]'::jsonb),
  'row_security', (
    select jsonb_build_object(
      'oid', s.oid::int8,
      'from', format('%s%I.%I', case when s.relkind = 'r' then 'only ' else '' end, s_ns.nspname, s.relname))
"#,
    row_security_source!(),
    r#"))::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = any($1::int8[]::oid[])"#
);

/// The published tables that a pattern names, by oid.
pub(crate) async fn published(
    pool: &PgPool,
    publication: &str,
    schema: &Pattern,
    table: &Pattern,
) -> Result<Vec<u32>, sqlx::Error> {
    let rows = sqlx::query(
        "select c.oid::int8 from pg_publication_tables p \
         join pg_namespace n on n.nspname = p.schemaname \
         join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename \
         where p.pubname = $1 and ($2::text is null or p.schemaname = $2) and ($3::text is null or p.tablename = $3) \
         order by p.schemaname, p.tablename",
    )
    .bind(publication)
    .bind(schema.exact())
    .bind(table.exact())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| Ok(oid(row.try_get::<i64, _>(0)?)))
        .collect()
}

/// Facts about the tables among `oids` that still exist.
pub(crate) async fn facts(pool: &PgPool, oids: &[u32]) -> Result<Vec<TableFacts>, sqlx::Error> {
    let oids: Vec<i64> = oids.iter().map(|oid| i64::from(*oid)).collect();
    let rows = sqlx::query(FACTS_QUERY).bind(oids).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let text: String = row.try_get(0)?;
            serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
        })
        .collect()
}

/// Whether a role of exactly this name exists. `none` and `public` never do, although `SET ROLE none` and privilege
/// functions understand them.
pub(crate) async fn role_exists(pool: &PgPool, role: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
        .bind(role)
        .fetch_one(pool)
        .await
}

/// The names of the columns of `table` that `role` may SELECT (`database.md 2.5`).
pub(crate) async fn selectable(pool: &PgPool, table: u32, role: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "select a.attname::text from pg_attribute a \
         where a.attrelid = $1::int8::oid and a.attnum > 0 and not a.attisdropped \
           and exists (select from pg_roles r where r.rolname = $2) \
           and has_column_privilege($2::name, a.attrelid, a.attnum, 'select')",
    )
    .bind(i64::from(table))
    .bind(role)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The JSON form and the `typname` of each type. Types that are not built in may have been altered, so Postgres is
/// asked about them each time. A type that is gone is shown as text.
pub(crate) async fn kinds(pool: &PgPool, oids: &[u32]) -> Result<Vec<(Arc<Type>, String)>, sqlx::Error> {
    let mut types = TypeCatalog::new();
    let unknown: Vec<Oid> = oids
        .iter()
        .filter(|oid| types.get(**oid).is_none())
        .map(|oid| Oid(*oid))
        .collect();
    if !unknown.is_empty() {
        let rows = sqlx::query(TYPE_QUERY).bind(unknown).fetch_all(pool).await?;
        types.extend(rows.iter().map(type_row).collect::<Result<Vec<_>, _>>()?);
    }
    let kind = |oid: &u32| Some((types.get(*oid)?, types.name(*oid)?.to_owned()));
    Ok(oids
        .iter()
        .map(|oid| kind(oid).unwrap_or_else(|| (Arc::new(Type::Text), "unknown".to_owned())))
        .collect())
}

fn type_row(row: &PgRow) -> Result<TypeRow, sqlx::Error> {
    let oid = |name: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<Oid>, _>(name)?.map(|oid| oid.0));
    Ok(TypeRow {
        oid: row.try_get::<Oid, _>("oid")?.0,
        name: row.try_get("name")?,
        base: oid("base")?,
        element: oid("element")?,
        delimiter: row.try_get("delimiter")?,
        attribute_names: row.try_get("attribute_names")?,
        attribute_types: row
            .try_get::<Option<Vec<Oid>>, _>("attribute_types")?
            .map(|oids| oids.into_iter().map(|oid| oid.0).collect()),
        extension: row.try_get("extension")?,
    })
}

/// What the type's output function prints for `value` read as the SQL type `cast_type`, as the stream carries it (a
/// cast to text may print something else: `true` for `t`); Postgres' error when it is no such value.
pub(crate) async fn canonical(
    pool: &PgPool,
    value: &str,
    cast_type: &str,
) -> Result<Option<String>, sqlx::Error> {
    // `cast_type` comes from the catalog, which quotes what needs quoting. The setting is the stream's, whatever the
    // database prefers (`database.md 9.12`); sqlx itself sees to the others.
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select format('%s', ($1::text)::{cast_type}) from set_config('bytea_output', 'hex', true)"
    )))
    .bind(value)
    .fetch_one(pool)
    .await
}

/// How many elements the array literal `value` has, read as an array of `cast_type`.
pub(crate) async fn array_length(pool: &PgPool, value: &str, cast_type: &str) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select cardinality(($1::text)::{cast_type}[])"
    )))
    .bind(value)
    .fetch_one(pool)
    .await
}

/// The elements of the array literal `value`, read as an array of the scalar type `cast_type`, each as [`canonical`]
/// prints it; `None` is NULL.
pub(crate) async fn elements(
    pool: &PgPool,
    value: &str,
    cast_type: &str,
) -> Result<Vec<Option<String>>, sqlx::Error> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select array(select case when element is not null then format('%s', element) end \
           from unnest(($1::text)::{cast_type}[]) as element)"
    )))
    .bind(value)
    .fetch_one(pool)
    .await
}

/// Fails when `pattern` is no regular expression.
pub(crate) async fn compile_pattern(pool: &PgPool, pattern: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select '' ~ $1::text")
        .bind(pattern)
        .execute(pool)
        .await
        .map(drop)
}

fn oid(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}
