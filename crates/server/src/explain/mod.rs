//! `walcast explain`: would this user receive this row, and if not, which check says no (decision 36)?
//!
//! The checks of `POST /api/explain`, made from here instead of by a server: it needs the database, and for a token the
//! keys, but no stream and no service key. Nothing is changed.

mod answer;
pub(crate) mod who;

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use walcast_changes::diagnosis::TableName;
use walcast_changes::{ExplainError, Explainer};

use crate::config::{ChangesConfig, DatabaseConfig};
use crate::doctor::session::Session;
use crate::doctor::table_name;
use crate::options::Options;
use crate::setting::ConfigError;
use crate::shutdown::within;
use who::{Who, bare_topic};

pub use answer::Answer;
pub use who::Unfit;

/// Longest time an answer may take. Its parts have shorter limits of their own.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// Name under which Postgres shows the connections.
const APPLICATION_NAME: &str = "walcast explain";

/// Connections for the catalog and the row; policies are asked through one more.
const CONNECTIONS: u32 = 2;

/// Who, by which subscription, and which row. The database and the keys are those of `serve`.
#[derive(Args, Clone)]
#[command(group(clap::ArgGroup::new("who").required(true).args(["token", "claims"])))]
pub struct ExplainOptions {
    /// The table: schema.name, or the name of a table in public
    #[arg(long, value_name = "TABLE", value_parser = table_name)]
    pub table: TableName,
    /// The row, by its whole primary key as a JSON object; without it only the subscription is judged
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub key: Option<Map<String, Value>>,
    /// The user, by his token
    #[arg(long, value_name = "JWT")]
    pub token: Option<String>,
    /// The user, by the claims of his token as a JSON object, with `role`
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub claims: Option<Map<String, Value>>,
    /// The event of the subscription: *, INSERT, UPDATE or DELETE
    #[arg(long, default_value = "*", value_name = "EVENT", value_parser = ["*", "INSERT", "UPDATE", "DELETE"], ignore_case = true)]
    pub event: String,
    /// The filter of the subscription, as in id=eq.5
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// The columns the subscription selects, separated by commas
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub select: Vec<String>,
    /// The channel that listens, for tokens that are bound to topics
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Print what POST /api/explain answers, one JSON object
    #[arg(long)]
    pub json: bool,
    /// The settings of `serve`.
    #[command(flatten)]
    pub server: Options,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Unexplained {
    /// A setting means nothing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The user cannot be told.
    #[error(transparent)]
    Who(#[from] Unfit),
    /// The URL names something the driver does not know, or the database does not let us in.
    #[error("the database cannot be reached: {0}; check DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME")]
    Unreachable(#[source] sqlx::Error),
    /// The question has no answer.
    #[error(transparent)]
    NoAnswer(#[from] ExplainError),
    /// It took too long.
    #[error(
        "there was no answer within {} s; if it stays so, look for what holds up the database",
        LONGEST.as_secs()
    )]
    TooSlow,
}

/// Makes the checks.
///
/// # Errors
/// The question means nothing, or the database cannot be asked.
pub async fn run(options: &ExplainOptions) -> Result<Answer, Unexplained> {
    let database = DatabaseConfig::from_options(&options.server)?;
    let changes = ChangesConfig::from_options(&options.server)?;
    let who = match (&options.token, &options.claims) {
        (Some(token), _) => Who::of_token(token.trim(), &crate::settings::verifier(&options.server)?)?,
        (None, claims) => Who::of_claims(claims.as_ref().unwrap_or(&Map::new()))?,
    };
    let topic = options.topic.as_deref().map(bare_topic);
    let inquiry = who.inquiry(topic, entry(options), options.key.clone())?;

    // A pool tries a server that is not there again and again.
    let session = Session::open(&database.url, APPLICATION_NAME)
        .await
        .map_err(Unexplained::Unreachable)?;
    let place = format!("database {} as role {}", session.database(), session.role());
    session.close().await;
    let pool = pool(database.url.expose()).map_err(Unexplained::Unreachable)?;
    let explainer = Explainer::new(pool.clone(), &changes.to_options());
    let explained = within(LONGEST, Box::pin(explainer.explain(&inquiry))).await;
    let _closed = within(LONGEST, pool.close()).await;
    let explanation = explained.ok_or(Unexplained::TooSlow)??;
    Ok(Answer::new(place, &inquiry, explanation))
}

fn pool(url: &str) -> Result<PgPool, sqlx::Error> {
    let connect = PgConnectOptions::from_str(url)?
        .application_name(APPLICATION_NAME)
        .log_statements(log::LevelFilter::Trace);
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(LONGEST)
        .connect_lazy_with(connect))
}

/// The subscription, as a join has it.
fn entry(options: &ExplainOptions) -> Map<String, Value> {
    let mut entry = Map::new();
    let mut put = |name: &str, value: Value| entry.insert(name.to_owned(), value);
    put("event", options.event.clone().into());
    put("schema", options.table.schema.clone().into());
    put("table", options.table.name.clone().into());
    if let Some(filter) = &options.filter {
        put("filter", filter.clone().into());
    }
    if !options.select.is_empty() {
        put("select", options.select.clone().into());
    }
    entry
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}
