//! Why a name means no published table.

use super::finding::{Finding, TableName};
use crate::binding::Pattern;
use serde::Deserialize;
use sqlx::{PgExecutor, Row as _};

#[derive(Deserialize)]
struct Facts {
    publication: Option<Publication>,
    /// What has the name.
    relation: Option<Relation>,
    /// A published table whose name is nearly the same.
    similar: Option<TableName>,
}

#[derive(Deserialize)]
struct Publication {
    is_for_all_tables: bool,
}

#[derive(Deserialize)]
struct Relation {
    /// `relkind`
    kind: String,
    /// `relpersistence`
    persistence: String,
    /// Under whose name its changes are published.
    published_root: Option<TableName>,
    /// Partitions of it are published under their own names.
    has_published_partitions: bool,
}

const QUERY: &str = r"
with published as (
  select t.schemaname, t.tablename, n.oid as namespace, c.oid
  from pg_publication_tables t
  join pg_namespace n on n.nspname = t.schemaname
  join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
  where t.pubname = $1)
select jsonb_build_object(
  'publication', (
    select jsonb_build_object('is_for_all_tables', p.puballtables) from pg_publication p where p.pubname = $1),
  'relation', (
    select jsonb_build_object(
      'kind', c.relkind,
      'persistence', c.relpersistence,
      'published_root', (
        select jsonb_build_object('schema', published.schemaname, 'name', published.tablename)
        from pg_partition_ancestors(c.oid) ancestor
        join published on published.oid = ancestor
        limit 1),
      'has_published_partitions', exists (
        select from pg_partition_tree(c.oid) part join published on published.oid = part.relid))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $2 and c.relname = $3),
  'similar', (
    select jsonb_build_object('schema', schemaname, 'name', tablename) from published
    where lower(tablename) in (lower($3), lower(split_part($3, '.', 2)))
    order by schemaname = $2 desc, schemaname, tablename limit 1)
)::text";

/// Why no table of `publication` has a name that a subscription asks for.
///
/// # Errors
/// Postgres cannot be asked.
pub async fn unpublished(
    postgres: impl PgExecutor<'_>,
    publication: &str,
    schema: &Pattern,
    table_pattern: &Pattern,
) -> Result<Finding, sqlx::Error> {
    let row = sqlx::query(QUERY)
        .bind(publication)
        .bind(schema.exact())
        .bind(table_pattern.exact())
        .fetch_one(postgres)
        .await?;
    let text: String = row.try_get(0)?;
    let facts: Facts = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let publication = publication.to_owned();
    let table = match (schema.exact(), table_pattern.exact()) {
        (Some(schema), Some(name)) => Some(TableName {
            schema: schema.to_owned(),
            name: name.to_owned(),
        }),
        _ => None,
    };
    Ok(match (facts.publication, table) {
        (None, table) => Finding::NoPublication {
            publication,
            // What does not exist cannot be published either.
            table: table.filter(|_| facts.relation.is_some_and(|relation| relation.is_table())),
        },
        (Some(_), None) => Finding::NothingPublished {
            publication,
            schema: schema.exact().map(str::to_owned),
            name: table_pattern.exact().map(str::to_owned),
        },
        (Some(published), Some(table)) => match facts.relation {
            None => Finding::NoSuchTable {
                table,
                similar: facts.similar,
            },
            Some(relation) => relation.finding(publication, published.is_for_all_tables, table),
        },
    })
}

impl Relation {
    fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p") && self.persistence == "p"
    }

    fn finding(self, publication: String, is_for_all_tables: bool, table: TableName) -> Finding {
        let kind = match (self.kind.as_str(), self.persistence.as_str()) {
            (_, "t") => "a temporary table",
            ("v", _) => "a view",
            ("m", _) => "a materialized view",
            ("f", _) => "a foreign table",
            ("r" | "p", "u") => {
                return Finding::Unlogged {
                    publication,
                    table,
                    is_for_all_tables,
                };
            }
            ("r" | "p", _) => {
                return match self.published_root {
                    Some(root) => Finding::PublishedUnderRoot {
                        publication,
                        table,
                        root,
                    },
                    None if self.has_published_partitions => {
                        Finding::PublishedAsPartitions { publication, table }
                    }
                    None => Finding::NotPublished { publication, table },
                };
            }
            _ => "no table",
        };
        Finding::NotATable {
            table,
            kind: kind.to_owned(),
        }
    }
}
