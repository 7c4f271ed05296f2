//! Brings the application's database to the version this binary needs.
//!
//! The migrations are files of the repository's `migrations` folder, compiled in. What was applied is recorded in
//! `walcast.migrations`, never in a table of the application's schemas.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

/// Why the database is not at its version.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseNotReady {
    /// It cannot be reached, or does not let the role in.
    #[error("the database cannot be reached: {0}; check DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME")]
    Unreachable(#[source] sqlx::Error),
    /// It was reached, or not even that, and says nothing.
    #[error(
        "the database has not answered within {0} s; see whether it hangs, and whether a firewall drops packets"
    )]
    Silent(u64),
    /// The role lacks a right.
    #[error("the role {role} may not prepare the database ({message}); run as its owner: {grant}")]
    NotAllowed {
        /// The role Walcast connects with.
        role: String,
        /// What Postgres said.
        message: String,
        /// The statement that helps.
        grant: String,
    },
    /// A migration failed, or the database is newer than this binary.
    #[error("the database cannot be prepared: {0}")]
    Migrate(#[source] MigrateError),
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name("walcast.migrations");
    // A newer Walcast that was rolled back leaves migrations this one does not know; they are additive.
    migrator.set_ignore_missing(true);
    migrator
}

/// Texts of migrations that have been corrected since, by number and SHA-384. The corrected one gives a database that has
/// applied such a text nothing it does not have.
const SUPERSEDED: [(i64, &str); 1] = [(
    1,
    "bb71c50dd894b150d9b17e519fcea72e456e28e33bb28517f1a6df8b7ff1d9f5fa5ece8ff3d80efc38ad14950d4e5805",
)];

/// The migrations of this binary; those that a database has applied in a superseded text, as that text.
async fn migrator_for(connection: &mut PgConnection) -> Result<Migrator, sqlx::Error> {
    let mut migrator = migrator();
    let has_record: bool = sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where n.nspname = 'walcast' and c.relname = 'migrations')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !has_record {
        return Ok(migrator);
    }
    for (version, checksum) in SUPERSEDED {
        let applied: Option<Vec<u8>> = sqlx::query_scalar(
            "select checksum from walcast.migrations where version = $1 and checksum = decode($2, 'hex')",
        )
        .bind(version)
        .bind(checksum)
        .fetch_optional(&mut *connection)
        .await?;
        let migrations = migrator.migrations.to_mut();
        if let Some(migration) = migrations
            .iter_mut()
            .find(|migration| migration.version == version)
            && let Some(applied) = applied
        {
            migration.checksum = applied.into();
        }
    }
    Ok(migrator)
}

/// The migrations of this binary, by number.
pub fn versions() -> impl Iterator<Item = i64> {
    let migrations = migrator().migrations;
    (0..migrations.len()).filter_map(move |at| migrations.get(at).map(|migration| migration.version))
}

/// Applies what is missing. Several processes may do this at once: they take turns by an advisory lock.
///
/// # Errors
/// See [`DatabaseNotReady`].
pub async fn migrate(connection: &mut PgConnection) -> Result<(), DatabaseNotReady> {
    let (role, database): (String, String) =
        sqlx::query_as("select current_user::text, current_database()::text")
            .fetch_one(&mut *connection)
            .await
            .map_err(DatabaseNotReady::Unreachable)?;
    // `create schema if not exists` asks for the right to create even where the schema exists.
    let exists: bool = sqlx::query_scalar("select to_regnamespace('walcast') is not null")
        .fetch_one(&mut *connection)
        .await
        .map_err(DatabaseNotReady::Unreachable)?;
    if !exists {
        let created = sqlx::query("create schema if not exists walcast")
            .execute(&mut *connection)
            .await;
        match created {
            Ok(_) => {}
            // Another process was faster; `if not exists` does not see what is being created.
            Err(sqlx::Error::Database(error))
                if matches!(error.code().as_deref(), Some("23505" | "42P06")) => {}
            Err(error) => return Err(refusal(MigrateError::Execute(error), &role, &database)),
        }
    }
    // `run` cannot be awaited in a spawned task ("Acquire is not general enough"); this is its body.
    let refused = |error| refusal(MigrateError::Execute(error), &role, &database);
    migrator_for(connection)
        .await
        .map_err(refused)?
        .run_direct(None, connection, false)
        .await
        .map_err(|error| refusal(error, &role, &database))
}

/// Connects once and applies what is missing.
///
/// # Errors
/// See [`DatabaseNotReady`].
pub async fn migrate_at(url: &str) -> Result<(), DatabaseNotReady> {
    let mut connection = PgConnection::connect(url)
        .await
        .map_err(DatabaseNotReady::Unreachable)?;
    migrate(&mut connection).await?;
    connection.close().await.map_err(DatabaseNotReady::Unreachable)
}

fn refusal(error: MigrateError, role: &str, database: &str) -> DatabaseNotReady {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let cause = match &error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => Some(cause),
        _ => None,
    };
    let denied = cause
        .and_then(sqlx::Error::as_database_error)
        .filter(|cause| cause.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE));
    match (denied, cause) {
        (Some(denied), _) => {
            let message = denied.message().to_owned();
            let object = if message.contains("for schema") {
                message
                    .rsplit(' ')
                    .next()
                    .map_or_else(String::new, |schema| format!("schema {schema}"))
            } else {
                format!("database \"{database}\"")
            };
            DatabaseNotReady::NotAllowed {
                role: role.to_owned(),
                grant: format!("grant create on {object} to \"{role}\""),
                message,
            }
        }
        (None, Some(sqlx::Error::Io(_))) => match error {
            MigrateError::Execute(cause) => DatabaseNotReady::Unreachable(cause),
            other => DatabaseNotReady::Migrate(other),
        },
        (None, _) => DatabaseNotReady::Migrate(error),
    }
}
