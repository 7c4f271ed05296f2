//! What a published table shows to a role, and what is wrong with that.

use super::finding::{Finding, KeyOffer, Listing, TableName};
use crate::binding::{Binding, EventFilter};
use crate::catalog::row_security_source;
use crate::clause::Clause;
use serde::Deserialize;
use sqlx::{PgExecutor, Row as _};

/// Everything between a published table and a role, read at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Exposure {
    #[serde(flatten)]
    table: TableName,
    role: String,
    /// The role Walcast is connected as.
    connected_as: String,
    has_role_options: bool,
    may_become: bool,
    publication: String,
    /// What `publish` may name, and whether it does.
    publishes: [bool; 4],
    is_listed: bool,
    row_filter: Option<String>,
    has_children: bool,
    /// Columns can be added to it, and a primary key of any columns.
    is_free_of_partitioning: bool,
    columns: Vec<ColumnExposure>,
    unique_key: Option<Vec<String>>,
    row_security: Option<RowSecurity>,
}

#[derive(Clone, Debug, Deserialize)]
struct ColumnExposure {
    name: String,
    is_selectable: bool,
    is_published: bool,
    is_generated: bool,
    is_key: bool,
    is_identity: bool,
}

/// Row level security as it meets the role.
#[derive(Clone, Debug, Deserialize)]
struct RowSecurity {
    /// The table, or the one it is a partition of.
    #[serde(flatten)]
    decided_at: TableName,
    oid: u32,
    is_exempt: bool,
    has_policy: bool,
    may_use_schema: bool,
}

/// What is wanted of a table.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// Every change, with everything in it.
    Everything,
    /// What a subscription asks for.
    Binding(&'a Binding),
}

/// What `publish` may name, in the order of [`Exposure::publishes`].
const ACTIONS: [&str; 4] = ["insert", "update", "delete", "truncate"];

const QUERY: &str = concat!(
    r"
select jsonb_build_object(
  'schema', n.nspname,
  'name', c.relname,
  'role', r.rolname,
  'connected_as', current_user,
  'has_role_options', current_setting('server_version_num')::int >= 160000,
  'may_become', pg_has_role(r.oid,
    case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end),
  'publication', p.pubname,
  'publishes', jsonb_build_array(p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate),
  'is_listed', exists (select from pg_publication_rel l where l.prpubid = p.oid and l.prrelid = c.oid),
  -- Postgres 14 has neither filters nor lists.
  'row_filter', offer.facts ->> 'rowfilter',
  'has_children', c.relkind = 'r' and c.relhassubclass,
  'is_free_of_partitioning', c.relkind = 'r' and not c.relispartition,
  'columns', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', a.attname,
      'is_selectable', has_column_privilege(r.oid, c.oid, a.attnum, 'select'),
      'is_published', coalesce((offer.facts -> 'attnames') ? a.attname::text, true),
      'is_generated', a.attgenerated <> '',
      'is_key', exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary
                          and a.attnum = any (i.indkey::int2[])),
      'is_identity', case c.relreplident
        when 'f' then a.attgenerated = ''
        when 'n' then false
        else exists (select from pg_index i where i.indrelid = c.oid
                       and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end
                       and a.attnum = any (i.indkey::int2[]))
      end)
      order by a.attnum)
    from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'::jsonb),
  'unique_key', (
    select jsonb_agg(a.attname order by k.position)
    from (
      select i.indexrelid, i.indkey from pg_index i
      where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
        and i.indnatts = i.indnkeyatts
        and (select bool_and(a.attnotnull) from pg_attribute a
             where a.attrelid = c.oid and a.attnum = any (i.indkey::int2[]))
      order by i.indnatts, i.indexrelid limit 1) candidate
    cross join lateral unnest(candidate.indkey::int2[]) with ordinality k(attnum, position)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum),
  'row_security', (
    select jsonb_build_object(
      'schema', s_ns.nspname,
      'name', s.relname,
      'oid', s.oid::int8,
      -- BYPASSRLS and superuser do not come by membership; ownership does, through roles whose rights are inherited.
      'is_exempt', r.rolsuper or r.rolbypassrls
        or (not s.relforcerowsecurity and pg_has_role(r.oid, s.relowner, 'usage')),
      'has_policy', exists (
        select from pg_policy policy
        where policy.polrelid = s.oid and policy.polcmd in ('r', '*') and policy.polpermissive
          and policy.polqual is not null
          and exists (select from unnest(policy.polroles) wanted(oid)
                      where wanted.oid = 0 or pg_has_role(r.oid, wanted.oid, 'usage'))),
      'may_use_schema', has_schema_privilege(r.oid, s.relnamespace, 'usage'))
",
    row_security_source!(),
    r"))::text
from pg_publication p
join lateral (select t.schemaname, t.tablename, to_jsonb(t) as facts from pg_publication_tables t
              where t.pubname = p.pubname) offer on true
join pg_namespace n on n.nspname = offer.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = offer.tablename
join pg_roles r on r.rolname = any ($3::text[])
where p.pubname = $1 and ($2::int8[] is null or c.oid = any ($2::int8[]::oid[]))
order by n.nspname, c.relname, array_position($3::text[], r.rolname::text)"
);

/// What `publication` shows of tables to roles: of all its tables, or of those with these oids. A role that does not
/// exist has no answer, nor has a table that is not published.
///
/// # Errors
/// Postgres cannot be asked.
pub async fn exposures(
    postgres: impl PgExecutor<'_>,
    publication: &str,
    tables: Option<&[u32]>,
    roles: &[&str],
) -> Result<Vec<Exposure>, sqlx::Error> {
    let oids: Option<Vec<i64>> = tables.map(|oids| oids.iter().map(|oid| i64::from(*oid)).collect());
    let rows = sqlx::query(QUERY)
        .bind(publication)
        .bind(oids)
        .bind(roles)
        .fetch_all(postgres)
        .await?;
    rows.iter()
        .map(|row| {
            let text: String = row.try_get(0)?;
            serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
        })
        .collect()
}

impl Wish<'_> {
    pub(super) fn hears(self, action: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Binding(binding) => match binding.event {
                EventFilter::All => true,
                EventFilter::Insert => action == "insert",
                EventFilter::Update => action == "update",
                EventFilter::Delete => action == "delete",
            },
        }
    }

    pub(super) fn filters_by(self, column: &str) -> bool {
        match self {
            Self::Everything => false,
            Self::Binding(binding) => binding
                .clauses
                .iter()
                .flat_map(Clause::conditions)
                .any(|condition| condition.column == column),
        }
    }

    /// Whether it is to be told that a row left.
    pub(super) fn wants_leaving(self) -> bool {
        match self {
            Self::Everything => false,
            Self::Binding(binding) => binding.options.leave,
        }
    }

    /// Whether the column is asked for by name. Who names none takes what there is.
    fn names(self, column: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Binding(binding) => binding.select.iter().flatten().any(|selected| selected == column),
        }
    }
}

impl Exposure {
    /// The table.
    #[must_use]
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Every reason why what is wanted will not arrive, or not all of it, as things stand.
    #[must_use]
    pub fn findings(&self, wish: Wish<'_>) -> Vec<Finding> {
        // What concerns DELETE alone needs neither key nor visibility (`database.md 2.5`).
        let judges_rows = wish.hears("insert") || wish.hears("update");
        let mut found = Vec::new();
        found.extend(self.actions_left_out(wish));
        if self.row_filter.is_some() {
            found.push(Finding::RowFilter(self.listing()));
        }
        found.extend(self.columns_left_out(wish, judges_rows));
        found.extend(self.rights(judges_rows));
        found.extend(self.key(wish, judges_rows));
        if judges_rows {
            found.extend(self.row_security());
        }
        found.extend(self.filters_of_old_rows(wish));
        found.extend(self.leaving_by_filter(wish));
        found
    }

    /// The table whose policies count, if there are any that may hide something.
    pub(crate) fn row_security_of(&self) -> Option<u32> {
        self.row_security.as_ref().map(|security| security.oid)
    }

    /// Which columns of a kind are not told of rows as they were.
    pub(super) fn lacking_in_identity(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        self.names(|column| !column.is_identity && is_meant(&column.name))
    }

    fn names(&self, is_meant: impl Fn(&ColumnExposure) -> bool) -> Vec<String> {
        let meant = self.columns.iter().filter(|column| is_meant(column));
        meant.map(|column| column.name.clone()).collect()
    }

    fn listing(&self) -> Listing {
        let has_list = self
            .columns
            .iter()
            .any(|column| !column.is_published && !column.is_generated);
        Listing {
            publication: self.publication.clone(),
            table: self.table.clone(),
            is_explicit: self.is_listed,
            has_children: self.has_children,
            columns: has_list.then(|| self.names(|column| column.is_published)),
            row_filter: self.row_filter.clone(),
        }
    }

    fn published(&self) -> impl Iterator<Item = &'static str> + '_ {
        let is_published = ACTIONS.iter().zip(self.publishes);
        is_published.filter(|(_, is)| *is).map(|(action, _)| *action)
    }

    fn is_published(&self, action: &str) -> bool {
        self.published().any(|published| published == action)
    }

    fn actions_left_out(&self, wish: Wish<'_>) -> Option<Finding> {
        let wanted = ["insert", "update", "delete"].into_iter();
        let wanted: Vec<&'static str> = wanted.filter(|action| wish.hears(action)).collect();
        let missing: Vec<&'static str> = wanted
            .iter()
            .copied()
            .filter(|action| !self.is_published(action))
            .collect();
        (!missing.is_empty()).then(|| Finding::ActionsNotPublished {
            publication: self.publication.clone(),
            published: self.published().collect(),
            is_all: missing.len() == wanted.len(),
            missing,
        })
    }

    fn columns_left_out(&self, wish: Wish<'_>, judges_rows: bool) -> Option<Finding> {
        let is_hidden = |column: &ColumnExposure| !column.is_published && !column.is_generated;
        let is_needed = |column: &ColumnExposure| {
            is_hidden(column) && ((judges_rows && column.is_key) || wish.filters_by(&column.name))
        };
        let columns =
            self.names(|column| is_needed(column) || (is_hidden(column) && wish.names(&column.name)));
        (!columns.is_empty()).then(|| Finding::ColumnsNotPublished {
            listing: self.listing(),
            columns,
            is_needed: self.columns.iter().any(is_needed),
        })
    }

    fn rights(&self, judges_rows: bool) -> Option<Finding> {
        let (table, role) = (self.table.clone(), self.role.clone());
        if !self.columns.iter().any(|column| column.is_selectable) {
            return Some(Finding::NoSelect { table, role });
        }
        let columns = self.names(|column| column.is_key && !column.is_selectable);
        (judges_rows && !columns.is_empty()).then_some(Finding::KeyNotSelectable { table, role, columns })
    }

    fn key(&self, wish: Wish<'_>, judges_rows: bool) -> Option<Finding> {
        let table = self.table.clone();
        let has_key = self.columns.iter().any(|column| column.is_key);
        if judges_rows && !has_key {
            return Some(Finding::NoPrimaryKey {
                table,
                offer: self.key_offer(),
            });
        }
        let has_identity = self.columns.iter().any(|column| column.is_identity);
        let is_refused = ["update", "delete"]
            .into_iter()
            .any(|action| wish.hears(action) && self.is_published(action));
        (is_refused && !has_identity).then_some(Finding::NoReplicaIdentity { table, has_key })
    }

    fn key_offer(&self) -> KeyOffer {
        if let Some(columns) = &self.unique_key {
            return KeyOffer::Columns(columns.clone());
        }
        if !self.is_free_of_partitioning {
            return KeyOffer::Nothing;
        }
        let is_free = |name: &String| !self.columns.iter().any(|column| column.name == *name);
        let names = std::iter::once("id".to_owned()).chain((1..).map(|number| format!("id_{number}")));
        names
            .take(self.columns.len() + 1)
            .find(is_free)
            .map_or(KeyOffer::Nothing, KeyOffer::NewColumn)
    }

    fn row_security(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some(security) = self.row_security.as_ref().filter(|security| !security.is_exempt) else {
            return found;
        };
        if !security.may_use_schema {
            found.push(Finding::NoSchemaUsage {
                table: self.table.clone(),
                schema: security.decided_at.schema.clone(),
                role: self.role.clone(),
            });
        }
        if !security.has_policy {
            found.push(Finding::NoPolicy {
                table: self.table.clone(),
                decided_at: security.decided_at.clone(),
                role: self.role.clone(),
            });
        } else if !self.may_become {
            found.push(Finding::RoleNotGranted {
                role: self.role.clone(),
                to: self.connected_as.clone(),
                has_options: self.has_role_options,
            });
        }
        found
    }

    fn filters_of_old_rows(&self, wish: Wish<'_>) -> Option<Finding> {
        if !wish.hears("delete") || !self.is_published("delete") {
            return None;
        }
        let columns = self.lacking_in_identity(|column| wish.filters_by(column));
        (!columns.is_empty()).then(|| Finding::FilterNotInIdentity {
            table: self.table.clone(),
            columns,
            is_all: !wish.hears("insert"),
        })
    }
}
