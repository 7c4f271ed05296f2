//! Publications, as they have to be before a stream begins.

use crate::error::StreamError;
use crate::session::{query, quote_identifier, quote_literal};
use crate::stream::TablePublication;
use crate::wire::Wire;

/// Sees to it that a publication exists, whatever it holds.
pub(crate) async fn ensure(wire: &mut Wire, name: &str, create: bool) -> Result<(), StreamError> {
    let exists = format!(
        "SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}",
        quote_literal(name)
    );
    if !query(wire, "looking for the publication", &exists)
        .await?
        .is_empty()
    {
        return Ok(());
    }
    let missing = |cause: String| StreamError::NoPublication {
        name: name.to_owned(),
        cause,
    };
    if !create {
        return Err(missing("creating it is switched off".to_owned()));
    }
    match query(
        wire,
        "creating the publication",
        &format!("CREATE PUBLICATION {}", quote_identifier(name)),
    )
    .await
    {
        // Somebody else was faster.
        Err(StreamError::Postgres { code, .. }) if matches!(&*code, "42710" | "23505") => Ok(()),
        Err(StreamError::Postgres { message, .. }) => Err(missing(message)),
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(
                publication = name,
                "created the empty publication; add tables to it to offer their changes"
            );
            Ok(())
        }
    }
}

/// Sees to it that a publication exists and holds nothing but its table and the table's partitions. Says whether it
/// does; if our role may not make it so, the stream goes on without it.
pub(crate) async fn ensure_for_table(
    wire: &mut Wire,
    publication: &TablePublication,
) -> Result<bool, StreamError> {
    let TablePublication { name, schema, table } = publication;
    let qualified = format!("{}.{}", quote_identifier(schema), quote_identifier(table));
    // Exists the publication, does it hold what it shall and nothing else, exists the table?
    let look = format!(
        "SELECT p.oid IS NOT NULL, \
           (SELECT coalesce(pg_catalog.bool_and(t.schemaname = {schema} \
              AND (t.tablename = {table} OR pg_catalog.starts_with(t.tablename, {partitions}))), false) \
            FROM pg_catalog.pg_publication_tables t WHERE t.pubname = {name}), \
           EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {schema} AND c.relname = {table}) \
         FROM (SELECT) one LEFT JOIN pg_catalog.pg_publication p ON p.pubname = {name}",
        schema = quote_literal(schema),
        table = quote_literal(table),
        partitions = quote_literal(&format!("{table}_")),
        name = quote_literal(name),
    );
    let answer = query(wire, "looking at a publication", &look).await?;
    let is = |at: usize| {
        answer
            .first()
            .and_then(|row| row.get(at)?.as_deref())
            .is_some_and(|value| value == "t")
    };
    let (exists, is_right, has_table) = (is(0), is(1), is(2));
    if exists && is_right {
        return Ok(true);
    }
    if !has_table {
        tracing::warn!(
            table = qualified,
            "the table does not exist: nothing is streamed for it until the server starts again"
        );
        return Ok(false);
    }
    let publication_name = quote_identifier(name);
    let statement = if exists {
        format!("ALTER PUBLICATION {publication_name} SET TABLE {qualified}")
    } else {
        format!("CREATE PUBLICATION {publication_name} FOR TABLE {qualified}")
    };
    match query(wire, "making a publication right", &statement).await {
        Ok(_) => Ok(true),
        // Somebody else was faster.
        Err(StreamError::Postgres { code, .. }) if matches!(&*code, "42710" | "23505") => Ok(true),
        Err(StreamError::Postgres { message, .. }) => {
            tracing::warn!(
                publication = name,
                cause = message,
                remedy = statement,
                "a publication could not be made right: nothing is streamed for its table"
            );
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
