//! `walcast_replication::json` against the table of `database.md 2.10`, and against Postgres' own `to_jsonb`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests, not what they call"
)]

#[path = "json_values/catalog.rs"]
mod catalog;
#[path = "json_values/table.rs"]
mod table;
#[path = "json_values/to_jsonb.rs"]
mod to_jsonb;
#[path = "json_values/unreadable.rs"]
mod unreadable;

use std::sync::Arc;
use walcast_replication::json::{self, Type, TypeCatalog, TypeRow};

/// The oid of a built-in type.
fn built_in(name: &str) -> Arc<Type> {
    let types = TypeCatalog::new();
    let oid = (1..10_000).find(|oid| types.name(*oid) == Some(name));
    types
        .get(oid.unwrap_or_else(|| panic!("{name} is not built in")))
        .unwrap()
}

fn written(kind: &Type, text: &str) -> Result<String, json::ValueError> {
    let mut out = String::new();
    json::write(kind, text, &mut out).map(|()| out)
}

/// The rows of [`json::TYPE_QUERY`] for `oids`.
async fn type_rows(client: &tokio_postgres::Client, oids: &[u32]) -> Vec<TypeRow> {
    let rows = client.query(json::TYPE_QUERY, &[&oids]).await.unwrap();
    rows.iter()
        .map(|row| TypeRow {
            oid: row.get("oid"),
            name: row.get("name"),
            base: row.get("base"),
            element: row.get("element"),
            delimiter: row.get("delimiter"),
            attribute_names: row.get("attribute_names"),
            attribute_types: row.get("attribute_types"),
            extension: row.get("extension"),
        })
        .collect()
}
