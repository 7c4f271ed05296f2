//! `walcast doctor`: why changes do not arrive, looked for in the whole database at once (`design.md 3`, promise 7).
//!
//! Each file looks at one matter and returns [`Entry`]s. What concerns tables and roles is found by
//! [`walcast_changes::diagnosis`], as for the confirmation of a subscription. Nothing is changed: every look is a
//! read-only transaction, and the one replication connection makes no slot. In Redis a key is made and removed.

mod clock;
mod message_publication;
mod messages;
mod migrations;
mod redis;
mod replication;
mod report;
mod roles;
mod server;
pub(crate) mod session;
mod settings;
mod slots;
mod tables;
mod token;

use clap::Args;
use walcast_changes::DeleteVisibility;
use walcast_changes::diagnosis::TableName;

use crate::config::{ChangesConfig, DatabaseConfig};
use crate::database_side::MESSAGES_PUBLICATION;
use crate::options::Options;
use crate::setting::ConfigError;

pub use report::{CODES, Entry, Level, Report};
use session::Session;

/// Name under which Postgres shows the connection.
const APPLICATION_NAME: &str = "walcast doctor";

/// The roles that tokens have (`database.md 1.1`).
const API_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// What to look at. The database and the keys are those of `serve`.
#[derive(Args, Clone)]
pub struct DoctorOptions {
    /// Look at this table only: schema.name, or the name of a table in public; may be repeated
    #[arg(long, value_name = "TABLE", value_parser = table_name)]
    pub table: Vec<TableName>,
    /// Look at this role only; may be repeated [default: anon, authenticated, service_role]
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
    /// A key or token: is it valid here, and does its role exist?
    #[arg(long, value_name = "JWT")]
    pub key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The settings of `serve`.
    #[command(flatten)]
    pub server: Options,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// A setting means nothing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The URL names something the replication driver does not know.
    #[error("the database URL cannot be used for replication: {0}; check DATABASE_URL or the DB_* settings")]
    ReplicationUrl(#[from] walcast_replication::ConfigError),
    /// The database does not let us in.
    #[error("the database cannot be reached: {0}; check DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME")]
    Unreachable(#[source] sqlx::Error),
}

/// Looks at everything.
///
/// # Errors
/// Nothing could be looked at. A single look that fails is an entry of the report.
pub async fn run(options: &DoctorOptions) -> Result<Report, DoctorError> {
    let database = DatabaseConfig::from_options(&options.server)?;
    let changes = ChangesConfig::from_options(&options.server)?;
    let nodes = options.server.nodes.judge().map_err(ConfigError::from)?;
    let replication = walcast_replication::Config::from_url(database.url.expose())?;
    let token = match &options.key {
        None => None,
        Some(key) => Some(token::judge(&crate::settings::verifier(&options.server)?, key)),
    };
    let is_asked_for = !options.role.is_empty();
    let mut roles: Vec<String> = if is_asked_for {
        options.role.clone()
    } else {
        API_ROLES.map(str::to_owned).to_vec()
    };
    if let Some(role) = token.as_ref().and_then(|token| token.role.clone())
        && !roles.contains(&role)
    {
        roles.push(role);
    }

    let mut session = Session::open(&database.url, APPLICATION_NAME)
        .await
        .map_err(DoctorError::Unreachable)?;
    let connected_as = session.role().to_owned();
    let mut report = Report::new(&session);
    report.extend(token.into_iter().flat_map(|token| token.entries));
    session
        .look("the server", &mut report, async |postgres| {
            server::look(postgres).await
        })
        .await;
    report.extend(replication::look(&replication, &connected_as).await);
    session
        .look("replication slots", &mut report, async |postgres| {
            slots::look(postgres).await
        })
        .await;
    session
        .look("settings", &mut report, async |postgres| {
            settings::look(postgres).await
        })
        .await;
    session
        .look("the clock", &mut report, async |postgres| {
            clock::look(postgres).await
        })
        .await;
    session
        .look("migrations", &mut report, async |postgres| {
            migrations::look(postgres).await
        })
        .await;
    session
        .look("roles", &mut report, async |postgres| {
            roles::look(postgres, &roles).await
        })
        .await;
    let wanted = tables::Wanted {
        publication: &changes.publication,
        tables: &options.table,
        roles: &roles,
        is_each_role_wanted: is_asked_for,
        checks_deletes: changes.delete_visibility == DeleteVisibility::RowSecurity,
    };
    session
        .look("published tables", &mut report, async |postgres| {
            tables::look(postgres, &wanted).await
        })
        .await;
    session
        .look("realtime.messages", &mut report, async |postgres| {
            messages::look(postgres).await
        })
        .await;
    session
        .look(MESSAGES_PUBLICATION, &mut report, async |postgres| {
            message_publication::look(postgres).await
        })
        .await;
    session.close().await;
    if let Some(redis) = &nodes.redis {
        report.extend(redis::look(redis).await);
    }
    Ok(report)
}

/// `schema.name`, or the name of a table in public.
pub(crate) fn table_name(text: &str) -> Result<TableName, String> {
    let (schema, name) = text.split_once('.').unwrap_or(("public", text));
    if schema.is_empty() || name.is_empty() {
        return Err("expected schema.name".to_owned());
    }
    Ok(TableName {
        schema: schema.to_owned(),
        name: name.to_owned(),
    })
}
