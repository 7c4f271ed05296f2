//! Settings, judged: from raw text to values that the rest of the server can rely on.

use std::net::IpAddr;
use std::time::Duration;

use walcast_changes::{DeleteVisibility, Digits, Visibility, WindowLimits};
use walcast_replication::Slot;

use crate::admission::AdmissionConfig;
use crate::api::admin::AdminAccess;
use crate::control::ControlConfig;
use crate::database_url::database_url;
use crate::options::Options;
use crate::setting::{ConfigError, Secret, boolean, duration, invalid, number, one_of, parse, text};
use crate::settings::{Settings, secrets};

/// Whether numbers are strings.
const NUMBER: (&str, bool) = ("number", false);
const STRING: [(&str, bool); 1] = [("string", true)];

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// None: every IPv6 and IPv4 address.
    pub address: Option<IpAddr>,
    /// 0 lets the system choose.
    pub port: u16,
}

/// What the database side needs, enough for `migrate`.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `postgres://` URL with user, password and `sslmode`; both drivers read it.
    pub url: Secret,
    /// Query connections, at most.
    pub pool_size: u32,
}

/// Bounds and times of one socket.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// Without any byte from the client for this long the socket is closed (`protocol.md 1.5`).
    pub idle_timeout: Duration,
    /// Frames that may wait to be written.
    pub queue_frames: usize,
    /// Bytes that may wait to be written.
    pub queue_bytes: usize,
    /// Without progress of a write for this long the socket is closed.
    pub write_timeout: Duration,
    /// A socket without channels, once it had one, is closed after this long (`protocol.md 1.6`).
    pub no_channel_timeout: Duration,
    /// A stream of events is sent a comment this often (decision 28).
    pub stream_heartbeat: Duration,
}

/// Times of a join.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// A join that is not ready by then is refused; below the client's 10 s (`protocol.md 11.1`).
    pub timeout: Duration,
    /// Ceiling for `postgres_changes_options.timeout` (`protocol.md 15.1`).
    pub max_wait: Duration,
    /// Delay of an error reply (`protocol.md 3.3`).
    pub error_backoff: Duration,
}

/// Times of a shutdown.
#[derive(Debug, Clone)]
pub struct DrainConfig {
    /// Sockets are closed spread over this long, so that not all clients reconnect at one instant.
    pub spread: Duration,
    /// After this long what is still open is dropped.
    pub timeout: Duration,
}

/// Everything `serve` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// What the project is called where something asks for it by name.
    pub tenant_name: String,
    /// Where this node says it is.
    pub region: Option<String>,
    /// What concerns the tenant.
    pub tenant: Settings,
    /// Several tenants, if there are to be several.
    pub control: Option<ControlConfig>,
    /// Who may administer tenants.
    pub admin: AdminAccess,
    /// Who may read `/metrics`; none if everybody may.
    pub metrics_access: Option<AdminAccess>,
    /// Whether the inspector is served at `/`.
    pub inspector: bool,
    /// How much is kept of private broadcasts for channels that come back.
    pub broadcast_window: walcast_broadcast::WindowLimits,
    /// Delay of a refused connect (`protocol.md 1.4`).
    pub connect_error_backoff: Duration,
    /// Longest header value (`protocol.md 1.5`).
    pub max_header_length: usize,
    /// Sockets.
    pub socket: SocketConfig,
    /// Joins.
    pub join: JoinConfig,
    /// Other nodes.
    pub cluster: walcast_cluster::Config,
    /// Which connections are let in.
    pub admission: AdmissionConfig,
    /// Shutdown.
    pub drain: DrainConfig,
    /// Files the process must be able to have open.
    pub open_files: Option<u64>,
    /// Filter directives for the log.
    pub log_level: String,
    /// Log form.
    pub log_format: LogFormat,
}

/// What is handed on to the change stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesConfig {
    /// Publication whose tables are cast.
    pub publication: String,
    /// Whether to create it when missing.
    pub create_publication: bool,
    /// Larger records lose their large values.
    pub max_record_bytes: usize,
    /// Who hears that a row was deleted.
    pub delete_visibility: DeleteVisibility,
    /// Which numbers are sent as strings, unless a binding says otherwise.
    pub digits: Digits,
    /// Whether filters may have groups (`or=(…)`).
    pub filter_or: bool,
    /// Who decides which rows are visible.
    pub visibility: Visibility,
    /// Longer visibility checks count as "not visible".
    pub visibility_timeout_ms: u64,
    /// How long the replication slot lives.
    pub slot: Slot,
    /// How much is kept for channels that come back.
    pub window: WindowLimits,
}

impl DatabaseConfig {
    /// The database settings alone.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn from_options(options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            url: Secret::new(database_url(options)?),
            pool_size: number("WALCAST_POOL_SIZE", &options.pool_size, 4, 1, 100)?,
        })
    }
}

impl ChangesConfig {
    /// The settings of the change stream alone.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn from_options(options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            publication: text(&options.publication)
                .unwrap_or("supabase_realtime")
                .to_owned(),
            create_publication: boolean("WALCAST_CREATE_PUBLICATION", &options.create_publication, true)?,
            max_record_bytes: number(
                "WALCAST_MAX_RECORD_BYTES",
                &options.max_record_bytes,
                1_048_576,
                1024,
                1 << 30,
            )?,
            delete_visibility: one_of(
                "WALCAST_DELETE_VISIBILITY",
                &options.delete_visibility,
                ("all", DeleteVisibility::All),
                [("rls", DeleteVisibility::RowSecurity)],
            )?,
            digits: Digits {
                int8: one_of("WALCAST_INT8", &options.int8, NUMBER, STRING)?,
                numeric: one_of("WALCAST_NUMERIC", &options.numeric, NUMBER, STRING)?,
            },
            filter_or: boolean("WALCAST_FILTER_OR", &options.filter_or, false)?,
            visibility: one_of(
                "WALCAST_RLS",
                &options.rls,
                ("compiled", Visibility::Compiled),
                [("sql", Visibility::Sql), ("verify", Visibility::Verify)],
            )?,
            visibility_timeout_ms: number(
                "WALCAST_VISIBILITY_TIMEOUT_MS",
                &options.visibility_timeout_ms,
                5_000,
                10,
                600_000,
            )?,
            slot: slot(options)?,
            window: WindowLimits {
                age: duration("WALCAST_WINDOW_MS", &options.window_ms, 120_000, 0, 86_400_000)?,
                bytes: number(
                    "WALCAST_WINDOW_BYTES",
                    &options.window_bytes,
                    32 << 20,
                    0,
                    16 << 30,
                )?,
            },
        })
    }

    /// What of it the engine goes by, beside the stream.
    pub(crate) fn to_options(&self) -> walcast_changes::Options {
        walcast_changes::Options {
            publication: self.publication.clone(),
            create_publication: self.create_publication,
            max_record_bytes: self.max_record_bytes,
            delete_visibility: self.delete_visibility,
            digits: self.digits,
            filter_or: self.filter_or,
            visibility: self.visibility,
            visibility_timeout_ms: self.visibility_timeout_ms,
            window: self.window,
            ..walcast_changes::Options::default()
        }
    }
}

fn slot(options: &Options) -> Result<Slot, ConfigError> {
    const NAME: &str = "WALCAST_SLOT_NAME";
    let name = text(&options.slot_name).unwrap_or("walcast_changes").trim();
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() > 63 || !name.bytes().all(is_allowed) {
        return Err(invalid(NAME, "at most 63 lower-case letters, digits and _", name));
    }
    let is_permanent = one_of(
        "WALCAST_SLOT",
        &options.slot,
        ("temporary", false),
        [("permanent", true)],
    )?;
    Ok(if is_permanent {
        Slot::Permanent {
            name: name.to_owned(),
            // What was committed before the start concerns nobody who is connected.
            resumes: false,
        }
    } else {
        Slot::Temporary
    })
}

impl Config {
    /// All settings.
    ///
    /// # Errors
    /// A value that means nothing, or one that is missing.
    pub fn from_options(options: &Options) -> Result<Self, ConfigError> {
        let tenant = Settings::from_options(options)?;
        Ok(Self {
            listen: Listen {
                address: text(&options.host)
                    .map(|host| parse("WALCAST_HOST", host, "an IPv4 or IPv6 address"))
                    .transpose()?,
                port: number("PORT", &options.port, 4000, 0, u16::MAX)?,
            },
            tenant_name: text(&options.tenant_name)
                .unwrap_or("realtime-dev")
                .trim()
                .to_owned(),
            region: text(&options.region).map(|region| region.trim().to_owned()),
            control: ControlConfig::from_options(options, &tenant.database.url)?,
            tenant,
            admin: AdminAccess::new(secrets(options), options.api_token_blocklist.as_deref()),
            metrics_access: text(&options.metrics_jwt_secret)
                .map(|secret| AdminAccess::new([secret], options.metrics_token_blocklist.as_deref())),
            inspector: boolean("WALCAST_INSPECTOR", &options.inspector, true)?,
            broadcast_window: broadcast_window(options)?,
            connect_error_backoff: duration(
                "CONNECT_ERROR_BACKOFF_MS",
                &options.connect_error_backoff_ms,
                2_000,
                0,
                60_000,
            )?,
            max_header_length: number("MAX_HEADER_LENGTH", &options.max_header_length, 4096, 256, 65_536)?,
            socket: SocketConfig {
                idle_timeout: duration(
                    "WALCAST_IDLE_TIMEOUT_MS",
                    &options.idle_timeout_ms,
                    60_000,
                    100,
                    86_400_000,
                )?,
                queue_frames: number(
                    "WALCAST_QUEUE_FRAMES",
                    &options.queue_frames,
                    10_000,
                    16,
                    100_000_000,
                )?,
                queue_bytes: number(
                    "WALCAST_QUEUE_BYTES",
                    &options.queue_bytes,
                    16 << 20,
                    65_536,
                    16 << 30,
                )?,
                write_timeout: duration(
                    "WALCAST_WRITE_TIMEOUT_MS",
                    &options.write_timeout_ms,
                    20_000,
                    100,
                    3_600_000,
                )?,
                no_channel_timeout: duration(
                    "NO_CHANNEL_TIMEOUT_IN_MS",
                    &options.no_channel_timeout_ms,
                    600_000,
                    100,
                    86_400_000,
                )?,
                stream_heartbeat: duration(
                    "WALCAST_SSE_HEARTBEAT_MS",
                    &options.sse_heartbeat_ms,
                    20_000,
                    10,
                    3_600_000,
                )?,
            },
            join: JoinConfig {
                timeout: duration(
                    "WALCAST_JOIN_TIMEOUT_MS",
                    &options.join_timeout_ms,
                    8_000,
                    50,
                    600_000,
                )?,
                max_wait: duration(
                    "WALCAST_MAX_JOIN_WAIT_MS",
                    &options.max_join_wait_ms,
                    20_000,
                    50,
                    600_000,
                )?,
                error_backoff: duration(
                    "CHANNEL_ERROR_BACKOFF_MS",
                    &options.channel_error_backoff_ms,
                    0,
                    0,
                    60_000,
                )?,
            },
            cluster: options.nodes.judge()?,
            admission: options.admission.judge()?,
            drain: DrainConfig {
                spread: duration(
                    "WALCAST_DRAIN_SPREAD_MS",
                    &options.drain_spread_ms,
                    500,
                    0,
                    3_600_000,
                )?,
                timeout: duration(
                    "WALCAST_DRAIN_TIMEOUT_MS",
                    &options.drain_timeout_ms,
                    10_000,
                    100,
                    3_600_000,
                )?,
            },
            open_files: text(&options.open_files)
                .filter(|count| !count.trim().eq_ignore_ascii_case("unlimited"))
                .map(|_| number("RLIMIT_NOFILE", &options.open_files, 0, 1, u64::from(u32::MAX)))
                .transpose()?,
            log_level: log_level(&options.log_level)?,
            log_format: log_format(&options.log_format)?,
        })
    }
}

/// Nothing unless one of the two is asked for; then the other has a default.
fn broadcast_window(options: &Options) -> Result<walcast_broadcast::WindowLimits, ConfigError> {
    let (age_ms, bytes) = (&options.broadcast_window_ms, &options.broadcast_window_bytes);
    let (default_ms, default_bytes) = if text(age_ms).or(text(bytes)).is_some() {
        (120_000, 16 << 20)
    } else {
        (0, 0)
    };
    Ok(walcast_broadcast::WindowLimits {
        age: duration("WALCAST_BROADCAST_WINDOW_MS", age_ms, default_ms, 0, 3_600_000)?,
        bytes: number(
            "WALCAST_BROADCAST_WINDOW_BYTES",
            bytes,
            default_bytes,
            0,
            16 << 30,
        )?,
        // What clients of other nodes cast is heard only while somebody is in the room.
        outlives_members: text(&options.nodes.redis_url).is_none(),
    })
}

/// Reads the log level as the reference names it (`warning`, `notice`, ...) or as tracing directives.
///
/// # Errors
/// Neither of the two.
pub fn log_level(raw: &Option<String>) -> Result<String, ConfigError> {
    let level = text(raw).unwrap_or("info");
    let known = match level.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        "notice" => "info".to_owned(),
        "critical" | "alert" | "emergency" => "error".to_owned(),
        "none" => "off".to_owned(),
        _ => level.to_owned(),
    };
    match tracing_subscriber::EnvFilter::try_new(&known) {
        Ok(_) => Ok(known),
        Err(_) => Err(invalid(
            "LOG_LEVEL",
            "a log level (error, warning, info, debug, trace)",
            level,
        )),
    }
}

/// Reads the log form.
///
/// # Errors
/// Neither `text` nor `json`.
pub fn log_format(raw: &Option<String>) -> Result<LogFormat, ConfigError> {
    match text(raw) {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(invalid("WALCAST_LOG_FORMAT", "`text` or `json`", other)),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
