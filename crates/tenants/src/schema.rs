//! The tables of the control database: made where they are missing, left as they are where the reference server made
//! them.
//!
//! What was applied is recorded in `walcast.control_migrations`; the reference server's own `schema_migrations` is not
//! touched.

use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};

/// The schema of the reference server's control database.
const SCHEMA: &str = "_realtime";

/// Why the control database has no tables of tenants.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The role lacks a right, most likely.
    #[error(
        "the control database cannot be prepared: {0}; run as its owner: grant create on database … to the role in DB_USER"
    )]
    Refused(#[from] sqlx::Error),
    /// A migration failed.
    #[error("the control database cannot be prepared: {0}")]
    Migrate(#[from] MigrateError),
    /// `DB_AFTER_CONNECT_QUERY` leads nowhere.
    #[error(
        "no schema of search_path exists; make the one that DB_AFTER_CONNECT_QUERY names, or unset it to use _realtime"
    )]
    Nowhere,
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations/control");
    migrator.dangerous_set_table_name("walcast.control_migrations");
    // A newer Walcast that was rolled back leaves migrations this one does not know; they are additive.
    migrator.set_ignore_missing(true);
    migrator
}

/// Applies what is missing. Several processes may do this at once: they take turns by an advisory lock.
pub(crate) async fn prepare(connection: &mut PgConnection) -> Result<(), SchemaError> {
    for schema in [SCHEMA, "walcast"] {
        create(connection, schema).await?;
    }
    let target: Option<String> = sqlx::query_scalar("select current_schema()::text")
        .fetch_one(&mut *connection)
        .await?;
    if target.is_none() {
        return Err(SchemaError::Nowhere);
    }
    // `run` cannot be awaited in a spawned task ("Acquire is not general enough"); this is its body.
    migrator().run_direct(None, connection, false).await?;
    Ok(())
}

async fn create(connection: &mut PgConnection, schema: &'static str) -> Result<(), sqlx::Error> {
    // `create schema if not exists` asks for the right to create even where the schema exists.
    let exists: bool = sqlx::query_scalar("select to_regnamespace($1) is not null")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if exists {
        return Ok(());
    }
    let statement = sqlx::AssertSqlSafe(format!("create schema if not exists {schema}"));
    match sqlx::query(statement).execute(connection).await {
        // Another process was faster; `if not exists` does not see what is being created.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("23505" | "42P06")) => {
            Ok(())
        }
        done => done.map(|_| ()),
    }
}
