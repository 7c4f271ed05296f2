//! What the command line and the environment may say, as raw text.
//!
//! Everything is text here and is judged in `config`, so that an empty variable (compose files pass `NAME=` for
//! "not set") counts as absent and a wrong value is refused in one sentence that names its variable.

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::admission::AdmissionOptions;
use crate::control::TenantOptions;
use crate::limits::LimitOptions;
use crate::nodes::NodeOptions;

/// The command line of `walcast`.
#[derive(Parser)]
#[command(
    name = "walcast",
    version,
    about = "Realtime server for Postgres: casts the WAL to supabase.channel(...)",
    args_conflicts_with_subcommands = true,
    args_override_self = true
)]
pub struct Cli {
    /// What to do; `serve` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of `serve`, so that the bare `walcast` takes them too.
    #[command(flatten)]
    pub options: Options,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Serve sockets (the default)
    Serve(Box<Options>),
    /// Bring the database to the version this binary needs, then exit
    Migrate(Box<Options>),
    /// Print a signed API key
    Token(Box<crate::mint::TokenOptions>),
    /// Say why changes do not arrive: look at the database, its tables and its roles, and change nothing
    Doctor(Box<crate::doctor::DoctorOptions>),
    /// Say why a row does not reach a user: make the checks of delivery one by one, and change nothing
    Explain(Box<crate::explain::ExplainOptions>),
    /// Run a server with a Postgres of its own and a page to try it
    Dev(Box<crate::dev::DevOptions>),
}

/// Settings of the server. Field by field: a flag, and the environment variable that does the same.
#[derive(Args, Clone, Default)]
pub struct Options {
    /// Port to listen on [default: 4000]
    #[arg(long, env = "PORT", hide_env_values = true, value_name = "PORT")]
    pub port: Option<String>,
    /// Address to listen on [default: every IPv6 and IPv4 address]
    #[arg(long, env = "WALCAST_HOST", hide_env_values = true, value_name = "ADDRESS")]
    pub host: Option<String>,

    /// What the project is called in /api/tenants/{name}/health [default: realtime-dev]
    #[arg(
        long,
        env = "SELF_HOST_TENANT_NAME",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub tenant_name: Option<String>,
    /// Where this node is, for those who ask after its health
    #[arg(long, env = "REGION", hide_env_values = true, value_name = "NAME")]
    pub region: Option<String>,
    /// Whether the inspector is served at / [default: true]
    #[arg(long, env = "WALCAST_INSPECTOR", hide_env_values = true, value_name = "BOOL")]
    pub inspector: Option<String>,

    /// Postgres as one URL; wins over the DB_* settings
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Postgres host or socket directory [default: localhost]
    #[arg(long, env = "DB_HOST", hide_env_values = true, value_name = "HOST")]
    pub db_host: Option<String>,
    /// Postgres port [default: 5432]
    #[arg(long, env = "DB_PORT", hide_env_values = true, value_name = "PORT")]
    pub db_port: Option<String>,
    /// Postgres role; needs REPLICATION [default: postgres]
    #[arg(long, env = "DB_USER", hide_env_values = true, value_name = "ROLE")]
    pub db_user: Option<String>,
    /// Its password
    #[arg(long, env = "DB_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub db_password: Option<String>,
    /// Database [default: postgres]
    #[arg(long, env = "DB_NAME", hide_env_values = true, value_name = "NAME")]
    pub db_name: Option<String>,
    /// TLS to Postgres: true, false, or an sslmode [default: prefer]
    #[arg(long, env = "DB_SSL", hide_env_values = true, value_name = "MODE")]
    pub db_ssl: Option<String>,
    /// File of the certificates (PEM) that Postgres must prove itself by [default: it need not]
    #[arg(long, env = "DB_SSL_CA_CERT", hide_env_values = true, value_name = "FILE")]
    pub db_ssl_ca_cert: Option<String>,
    /// Connections for queries, beside the one for replication [default: 4]
    #[arg(long, env = "WALCAST_POOL_SIZE", hide_env_values = true, value_name = "COUNT")]
    pub pool_size: Option<String>,
    /// Publication whose tables are cast [default: supabase_realtime]
    #[arg(
        long,
        env = "WALCAST_PUBLICATION",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub publication: Option<String>,
    /// Create the publication, empty, when it is missing [default: true]
    #[arg(
        long,
        env = "WALCAST_CREATE_PUBLICATION",
        hide_env_values = true,
        value_name = "BOOL"
    )]
    pub create_publication: Option<String>,
    /// Larger changes are sent without their large values [default: 1048576]
    #[arg(
        long,
        env = "WALCAST_MAX_RECORD_BYTES",
        hide_env_values = true,
        value_name = "BYTES"
    )]
    pub max_record_bytes: Option<String>,
    /// Who hears DELETE under row level security: all, or rls for those who could see the row [default: all]
    #[arg(
        long,
        env = "WALCAST_DELETE_VISIBILITY",
        hide_env_values = true,
        value_name = "RULE"
    )]
    pub delete_visibility: Option<String>,
    /// How int8 values are sent: number or string [default: number]
    #[arg(long, env = "WALCAST_INT8", hide_env_values = true, value_name = "FORM")]
    pub int8: Option<String>,
    /// How numeric values are sent: number or string [default: number]
    #[arg(long, env = "WALCAST_NUMERIC", hide_env_values = true, value_name = "FORM")]
    pub numeric: Option<String>,
    /// Whether filters of row changes may have groups, `or=(a.eq.1,b.lt.2)`, which the Elixir server refuses [default: false]
    #[arg(long, env = "WALCAST_FILTER_OR", hide_env_values = true, value_name = "BOOL")]
    pub filter_or: Option<String>,
    /// Who decides which rows are visible under row level security: compiled (this process, where policies are
    /// understood), sql (Postgres alone) or verify (both, Postgres is believed, differences are reported)
    /// [default: compiled]
    #[arg(long, env = "WALCAST_RLS", hide_env_values = true, value_name = "MODE")]
    pub rls: Option<String>,
    /// A row visibility check that takes longer counts as "not visible" [default: 5000]
    #[arg(
        long,
        env = "WALCAST_VISIBILITY_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub visibility_timeout_ms: Option<String>,
    /// The replication slot: temporary, which goes with its connection, or permanent, which keeps what is committed while
    /// there is none, and all the log for it [default: temporary]
    #[arg(long, env = "WALCAST_SLOT", hide_env_values = true, value_name = "KIND")]
    pub slot: Option<String>,
    /// Name of the permanent slot, unique in the database server; lower-case letters, digits and _
    /// [default: walcast_changes]
    #[arg(long, env = "WALCAST_SLOT_NAME", hide_env_values = true, value_name = "NAME")]
    pub slot_name: Option<String>,
    /// For how long changes are kept for channels that come back; 0 keeps none [default: 120000]
    #[arg(long, env = "WALCAST_WINDOW_MS", hide_env_values = true, value_name = "MS")]
    pub window_ms: Option<String>,
    /// Memory for changes that are kept [default: 33554432]
    #[arg(
        long,
        env = "WALCAST_WINDOW_BYTES",
        hide_env_values = true,
        value_name = "BYTES"
    )]
    pub window_bytes: Option<String>,

    /// For how long broadcasts of private channels are kept for channels that come back
    /// [default: 0, or 120000 if WALCAST_BROADCAST_WINDOW_BYTES is set]
    #[arg(
        long,
        env = "WALCAST_BROADCAST_WINDOW_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub broadcast_window_ms: Option<String>,
    /// Memory for broadcasts that are kept [default: 0, or 16777216 if WALCAST_BROADCAST_WINDOW_MS is set]
    #[arg(
        long,
        env = "WALCAST_BROADCAST_WINDOW_BYTES",
        hide_env_values = true,
        value_name = "BYTES"
    )]
    pub broadcast_window_bytes: Option<String>,

    /// The project's JWT secret, which signs its API keys and user tokens
    #[arg(long, env = "API_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub api_jwt_secret: Option<String>,
    /// A second secret whose signatures count too, while a rotation lasts
    #[arg(
        long,
        env = "API_JWT_SECRET_NEXT",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub api_jwt_secret_next: Option<String>,
    /// Comma-separated tokens that the API of tenants refuses
    #[arg(
        long,
        env = "API_TOKEN_BLOCKLIST",
        hide_env_values = true,
        value_name = "TOKENS"
    )]
    pub api_token_blocklist: Option<String>,
    /// Keys that tokens name by `kid`, as a JSON Web Key Set: {"keys":[…]} or the bare array
    #[arg(long, env = "API_JWT_JWKS", hide_env_values = true, value_name = "JSON")]
    pub api_jwt_jwks: Option<String>,
    /// When set, /metrics requires a JWT signed with it
    #[arg(
        long,
        env = "METRICS_JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub metrics_jwt_secret: Option<String>,
    /// Comma-separated tokens that /metrics refuses
    #[arg(
        long,
        env = "METRICS_TOKEN_BLOCKLIST",
        hide_env_values = true,
        value_name = "TOKENS"
    )]
    pub metrics_token_blocklist: Option<String>,
    /// JSON object of claims that tokens which have them must match
    #[arg(
        long,
        env = "JWT_CLAIM_VALIDATORS",
        hide_env_values = true,
        value_name = "JSON"
    )]
    pub jwt_claim_validators: Option<String>,
    /// Seconds a channel stays after its token has expired, waiting for a fresh one [default: 0]
    #[arg(
        long,
        env = "WALCAST_TOKEN_GRACE_S",
        hide_env_values = true,
        value_name = "SECONDS"
    )]
    pub token_grace_s: Option<String>,
    /// Role whose tokens may make tokens bound to topics, at POST /api/tokens [default: service_role]
    #[arg(
        long,
        env = "WALCAST_TOKEN_MINTER_ROLE",
        hide_env_values = true,
        value_name = "ROLE"
    )]
    pub token_minter_role: Option<String>,
    /// Longest life of such tokens, in seconds [default: 86400]
    #[arg(
        long,
        env = "WALCAST_TOKEN_MAX_S",
        hide_env_values = true,
        value_name = "SECONDS"
    )]
    pub token_max_s: Option<String>,

    /// Delay before a refused connect is answered [default: 2000]
    #[arg(
        long,
        env = "CONNECT_ERROR_BACKOFF_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub connect_error_backoff_ms: Option<String>,
    /// Delay before a failed join is answered; holds up nothing else [default: 0]
    #[arg(
        long,
        env = "CHANNEL_ERROR_BACKOFF_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub channel_error_backoff_ms: Option<String>,
    /// A socket that left its last channel is closed after this long [default: 600000]
    #[arg(
        long,
        env = "NO_CHANNEL_TIMEOUT_IN_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub no_channel_timeout_ms: Option<String>,
    /// Longest HTTP header value [default: 4096]
    #[arg(long, env = "MAX_HEADER_LENGTH", hide_env_values = true, value_name = "BYTES")]
    pub max_header_length: Option<String>,
    /// Quotas.
    #[command(flatten)]
    pub limits: LimitOptions,

    /// Connections.
    #[command(flatten)]
    pub admission: AdmissionOptions,

    /// Several tenants.
    #[command(flatten)]
    pub tenants: TenantOptions,

    /// Other nodes.
    #[command(flatten)]
    pub nodes: NodeOptions,

    /// A socket that sends nothing for this long, not even pongs, is closed [default: 60000]
    #[arg(
        long,
        env = "WALCAST_IDLE_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub idle_timeout_ms: Option<String>,
    /// Frames that may wait for one socket before it is closed as a slow reader [default: 10000]
    #[arg(
        long,
        env = "WALCAST_QUEUE_FRAMES",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub queue_frames: Option<String>,
    /// Bytes that may wait for one socket before it is closed as a slow reader [default: 16777216]
    #[arg(
        long,
        env = "WALCAST_QUEUE_BYTES",
        hide_env_values = true,
        value_name = "BYTES"
    )]
    pub queue_bytes: Option<String>,
    /// A socket whose peer takes no byte for this long while some wait is closed [default: 20000]
    #[arg(
        long,
        env = "WALCAST_WRITE_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub write_timeout_ms: Option<String>,
    /// A stream of server-sent events gets a comment this often [default: 20000]
    #[arg(
        long,
        env = "WALCAST_SSE_HEARTBEAT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub sse_heartbeat_ms: Option<String>,
    /// A join that is not ready by then is refused [default: 8000]
    #[arg(
        long,
        env = "WALCAST_JOIN_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub join_timeout_ms: Option<String>,
    /// Ceiling of the time a client may ask a join to wait for its changes [default: 20000]
    #[arg(
        long,
        env = "WALCAST_MAX_JOIN_WAIT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub max_join_wait_ms: Option<String>,
    /// On shutdown, sockets are closed spread over this long [default: 500]
    #[arg(
        long,
        env = "WALCAST_DRAIN_SPREAD_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub drain_spread_ms: Option<String>,
    /// On shutdown, wait this long for closing handshakes and the replication slot [default: 10000]
    #[arg(
        long,
        env = "WALCAST_DRAIN_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub drain_timeout_ms: Option<String>,

    /// Presence changes of a channel within this time travel as one message; 0 = each by itself [default: 10]
    #[arg(
        long,
        env = "WALCAST_PRESENCE_WINDOW_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub presence_window_ms: Option<String>,
    /// What may be tracked on one channel, keys and payloads together, in units of 1000 bytes [default: 8000]
    #[arg(
        long,
        env = "WALCAST_PRESENCE_TOPIC_KB",
        hide_env_values = true,
        value_name = "KB"
    )]
    pub presence_topic_kb: Option<String>,

    /// Open files, and with them sockets, that there must be room for; the limit is raised as far as it may be in any
    /// case, and never lowered
    #[arg(long, env = "RLIMIT_NOFILE", hide_env_values = true, value_name = "COUNT")]
    pub open_files: Option<String>,

    /// What to log: a level, or tracing directives [default: info]
    #[arg(long, env = "LOG_LEVEL", hide_env_values = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(
        long,
        env = "WALCAST_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT"
    )]
    pub log_format: Option<String>,
}

impl Options {
    /// The options an environment with exactly these variables gives; what has no flag is ignored, as `serve` does.
    ///
    /// # Errors
    /// None of its own: clap refuses nothing that is text.
    pub fn from_environment<'a>(
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, clap::Error> {
        let command = Cli::command().mut_args(|argument| argument.env(None::<&str>));
        let flags = Cli::command();
        let mut line = vec!["walcast".to_owned()];
        for (name, value) in variables {
            let flag = flags
                .get_arguments()
                .find(|argument| argument.get_env().is_some_and(|env| env == name))
                .and_then(clap::Arg::get_long);
            line.extend(flag.map(|flag| format!("--{flag}={value}")));
        }
        let matches = command.try_get_matches_from(line)?;
        <Self as clap::FromArgMatches>::from_arg_matches(&matches)
    }
}
