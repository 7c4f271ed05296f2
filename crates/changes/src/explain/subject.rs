//! The table and the row that are asked about, as the stream would carry them.

use super::ExplainError;
use crate::catalog::{self, TableFacts};
use crate::generated::stream_forms;
use crate::index::ActionKind;
use crate::visibility;
use serde::Deserialize;
use serde_json::Value as Json;
use sqlx::{PgConnection, PgPool, Row as _};
use std::sync::Arc;
use walcast_replication::{
    Action, Change, Column, Lsn, OldTuple, Relation, ReplicaIdentity, Transaction, Tuple, Value,
};

/// A table by its exact name, whether it is published or not.
pub(super) struct Subject {
    pub(super) facts: TableFacts,
    pub(super) relation: Arc<Relation>,
    /// The table itself, quoted for SQL: `only "public"."todos"`.
    from: String,
    /// The condition by which the publication leaves out rows, as SQL.
    row_filter: Option<String>,
}

/// What is in the table under a key.
pub(super) enum Found {
    /// The row.
    Row {
        /// As the stream would carry it.
        change: Box<Change>,
        /// Whether the publication lets it through.
        is_published: bool,
    },
    /// No row has the key.
    Nothing,
    /// The role Walcast is connected as may not look, for this reason; the change has the key alone.
    Unreadable {
        /// As the stream would carry it, with nothing known but the key.
        change: Box<Change>,
        /// Why.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Announced {
    replica_identity: char,
    from: String,
    row_filter: Option<String>,
    columns: Vec<AnnouncedColumn>,
}

#[derive(Deserialize)]
struct AnnouncedColumn {
    name: String,
    type_oid: u32,
    type_modifier: i32,
    is_identity: bool,
}

const OID_QUERY: &str = "select c.oid::int8 from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";

/// The table as the stream announces it. What is not published is there as if it were.
const QUERY: &str = r"
select jsonb_build_object(
  'replica_identity', c.relreplident,
  'from', format('%s%I.%I', case when c.relkind = 'r' then 'only ' else '' end, n.nspname, c.relname),
  'row_filter', offer.facts ->> 'rowfilter',
  'columns', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', a.attname,
      'type_oid', a.atttypid::int8,
      'type_modifier', a.atttypmod,
      'is_identity', case c.relreplident
        when 'f' then true
        when 'n' then false
        else exists (select from pg_index i where i.indrelid = c.oid
                       and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end
                       and a.attnum = any (i.indkey::int2[]))
      end)
      order by a.attnum)
    from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and coalesce((offer.facts -> 'attnames') ? a.attname::text, true)
      -- Before Postgres 18 these are never published, and their list has them nevertheless.
      and (a.attgenerated = ''
           or current_setting('server_version_num')::int >= 180000 and offer.facts is not null)), '[]'::jsonb)
)::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join lateral (select to_jsonb(t) as facts from pg_publication_tables t
                   where t.pubname = $1 and t.schemaname = n.nspname and t.tablename = c.relname) offer on true
where c.oid = $2::int8::oid";

impl Subject {
    /// Reads what the catalog says; `None` if there is no such table.
    pub(super) async fn load(
        pool: &PgPool,
        publication: &str,
        schema: &str,
        name: &str,
    ) -> Result<Option<Self>, sqlx::Error> {
        let oid: Option<i64> = sqlx::query_scalar(OID_QUERY)
            .bind(schema)
            .bind(name)
            .fetch_optional(pool)
            .await?;
        let Some(oid) = oid else { return Ok(None) };
        let mut transaction = pool.begin().await?;
        // The row filter is to be printed so that its names mean the same in any session.
        sqlx::query("select set_config('search_path', '', true)")
            .execute(&mut *transaction)
            .await?;
        let text: Option<String> = sqlx::query_scalar(QUERY)
            .bind(publication)
            .bind(oid)
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.rollback().await?;
        let Some(text) = text else { return Ok(None) };
        let announced: Announced =
            serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let oid = u32::try_from(oid).unwrap_or_default();
        let Some(facts) = catalog::facts(pool, &[oid]).await?.pop() else {
            return Ok(None);
        };
        let relation = Relation {
            oid,
            schema: facts.schema.clone(),
            name: facts.name.clone(),
            replica_identity: match announced.replica_identity {
                'f' => ReplicaIdentity::Full,
                'n' => ReplicaIdentity::Nothing,
                'i' => ReplicaIdentity::Index,
                _ => ReplicaIdentity::Default,
            },
            columns: announced
                .columns
                .into_iter()
                .map(|column| Column {
                    name: column.name,
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                    is_key: column.is_identity,
                })
                .collect(),
            // Those of the stream begin with 1.
            version: 0,
        };
        Ok(Some(Self {
            facts,
            relation: Arc::new(relation),
            from: announced.from,
            row_filter: announced.row_filter,
        }))
    }

    /// The texts of the primary key's columns, in its order.
    ///
    /// # Errors
    /// Not exactly those columns are given, or not with values.
    pub(super) fn key(&self, given: &serde_json::Map<String, Json>) -> Result<Vec<String>, ExplainError> {
        let names: Vec<&str> = self
            .facts
            .primary_key
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let unfit = || {
            ExplainError::Key(format!(
                "`key` has to have a value for each column of the primary key of {}.{} and nothing else: {}",
                self.facts.schema,
                self.facts.name,
                names.join(", ")
            ))
        };
        if given.len() != names.len() {
            return Err(unfit());
        }
        let text = |name: &&str| match given.get(*name) {
            None | Some(Json::Null) => Err(unfit()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(value) => Ok(value.to_string()),
        };
        names.iter().map(text).collect()
    }

    /// Looks the row up with the rights of Walcast's own role.
    pub(super) async fn find(
        &self,
        pool: &PgPool,
        kind: ActionKind,
        key: &[String],
        timeout_ms: u64,
    ) -> Result<Found, ExplainError> {
        let mut transaction = pool.begin().await?;
        sqlx::query(concat!(
            "select set_config('transaction_read_only', 'on', true), set_config('search_path', '', true), \
               set_config('statement_timeout', $1, true), ",
            stream_forms!()
        ))
        .bind(timeout_ms.to_string())
        .execute(&mut *transaction)
        .await?;
        let found = self.find_in(&mut transaction, kind, key).await;
        transaction.rollback().await?;
        found
    }

    async fn find_in(
        &self,
        connection: &mut PgConnection,
        kind: ActionKind,
        key: &[String],
    ) -> Result<Found, ExplainError> {
        // Over for certain: what would be waited for is not the question.
        let xid: i64 = sqlx::query_scalar(
            "select (pg_snapshot_xmin(pg_current_snapshot())::text::int8 - 1) & 4294967295",
        )
        .fetch_one(&mut *connection)
        .await?;
        let xid = u32::try_from(xid).unwrap_or_default();
        let is_filtered: bool = sqlx::query_scalar("select row_security_active($1::int8::oid)")
            .bind(i64::from(self.facts.oid))
            .fetch_one(&mut *connection)
            .await?;
        let values = match self.values(connection, key).await {
            Ok(values) => values,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                return self.unreadable(kind, key, xid, error.message());
            }
            Err(sqlx::Error::Database(error)) if is_about_value(error.code().as_deref()) => {
                return Err(ExplainError::Key(format!(
                    "`key` does not fit the primary key of {}.{}: {}",
                    self.facts.schema,
                    self.facts.name,
                    error.message()
                )));
            }
            Err(error) => return Err(error.into()),
        };
        match values {
            Some(values) => {
                let is_published = self.passes_row_filter(connection, key).await?;
                let carried = values.iter().map(|value| match value {
                    Some(text) => Value::Text(text),
                    None => Value::Null,
                });
                let change = self.change(kind, carried, xid)?;
                Ok(Found::Row { change, is_published })
            }
            None if is_filtered => self.unreadable(
                kind,
                key,
                xid,
                "row level security applies to the role Walcast is connected as",
            ),
            None => Ok(Found::Nothing),
        }
    }

    /// The row's values as text, `None` for NULL.
    async fn values(
        &self,
        connection: &mut PgConnection,
        key: &[String],
    ) -> Result<Option<Vec<Option<String>>>, sqlx::Error> {
        let values: Vec<String> = self
            .relation
            .columns
            .iter()
            .map(|column| visibility::quote_identifier(&column.name))
            // A composite value whose fields are all NULL `is null`, and is not counted as one.
            .map(|name| format!("case when num_nulls(t.{name}) = 0 then format('%s', t.{name}) end"))
            .collect();
        let statement = format!("array[{}]::text[]", values.join(", "));
        self.of_row(connection, &statement, key).await
    }

    async fn passes_row_filter(
        &self,
        connection: &mut PgConnection,
        key: &[String],
    ) -> Result<bool, sqlx::Error> {
        let Some(condition) = &self.row_filter else {
            return Ok(true);
        };
        let passes = self
            .of_row(connection, &format!("({condition}) is true"), key)
            .await?;
        Ok(passes.unwrap_or(false))
    }

    /// An expression of the row. All that is not a parameter comes from the catalog, which quotes what needs quoting.
    async fn of_row<T>(
        &self,
        connection: &mut PgConnection,
        expression: &str,
        key: &[String],
    ) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let conditions: Vec<String> = (1..)
            .zip(&self.facts.primary_key)
            .map(|(number, column)| visibility::key_condition(column, &format!("${number}::text")))
            .collect();
        let statement = format!(
            "select {expression} from {} t where {} limit 1",
            self.from,
            conditions.join(" and ")
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
        for text in key {
            query = query.bind(text);
        }
        let row = query.fetch_optional(connection).await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    fn unreadable(
        &self,
        kind: ActionKind,
        key: &[String],
        xid: u32,
        reason: &str,
    ) -> Result<Found, ExplainError> {
        let key_text = |name: &str| {
            let at = self.facts.primary_key.iter().position(|key| key.name == name)?;
            key.get(at).map(String::as_str)
        };
        let known = self
            .relation
            .columns
            .iter()
            .map(|column| key_text(&column.name).map_or(Value::UnchangedToast, Value::Text));
        Ok(Found::Unreadable {
            change: self.change(kind, known, xid)?,
            reason: reason.to_owned(),
        })
    }

    /// What the stream would say if this happened to the row now.
    fn change<'a>(
        &self,
        kind: ActionKind,
        values: impl Iterator<Item = Value<'a>>,
        xid: u32,
    ) -> Result<Box<Change>, ExplainError> {
        let values: Vec<Value<'a>> = values.collect();
        let tuple = |values: &[Value<'a>]| {
            Tuple::of(values.iter().copied())
                .ok_or_else(|| ExplainError::Key("the row is larger than the stream can carry".to_owned()))
        };
        let old = || {
            if self.relation.replica_identity == ReplicaIdentity::Full {
                return Ok(OldTuple::Full(tuple(&values)?));
            }
            let columns = self.relation.columns.iter();
            let known = columns.zip(&values);
            let known: Vec<Value<'a>> = known
                .map(|(column, value)| if column.is_key { *value } else { Value::Null })
                .collect();
            Ok::<_, ExplainError>(OldTuple::Key(tuple(&known)?))
        };
        let action = match kind {
            ActionKind::Insert => Action::Insert { new: tuple(&values)? },
            ActionKind::Update => Action::Update {
                old: Some(old()?).filter(|old| matches!(old, OldTuple::Full(_))),
                new: tuple(&values)?,
            },
            ActionKind::Delete => Action::Delete { old: old()? },
        };
        Ok(Box::new(Change {
            transaction: Transaction {
                xid,
                commit: Lsn::default(),
                commit_timestamp_us: 0,
            },
            index: 0,
            relation: Arc::clone(&self.relation),
            action,
        }))
    }
}

/// Raised by reading a text as a value: class 22, or the check of a domain.
fn is_about_value(sqlstate: Option<&str>) -> bool {
    sqlstate.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
