//! From a configuration to a running stream: connection, login, publication, slot, START_REPLICATION.

use crate::config::{Config, SslMode};
use crate::error::{STARTING, StreamError};
use crate::login::log_in;
use crate::lsn::Lsn;
use crate::publication;
use crate::slot::{self, Guard, Making};
use crate::stream::TablePublication;
use crate::transport::Transport;
use crate::wire::{Backend, Wire};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// The code of a request to cancel a statement, in place of a protocol version.
const CANCEL_REQUEST: u32 = 80_877_102;

/// A stream that runs.
pub(crate) struct Session {
    pub(crate) wire: Wire,
    /// Where it begins: every transaction that commits after this is seen.
    pub(crate) start: Lsn,
    /// A slot that was there goes on.
    pub(crate) is_resumed: bool,
    /// `wal_sender_timeout`; `None` when it is off.
    pub(crate) sender_timeout: Option<Duration>,
}

/// What to stream.
pub(crate) struct Wanted<'a> {
    pub(crate) publications: &'a [String],
    pub(crate) create_publication: bool,
    pub(crate) table_publications: &'a [TablePublication],
    pub(crate) slot: &'a str,
    pub(crate) making: Making,
    pub(crate) guard: Option<&'a Guard>,
    /// Whether a session that holds the guard is ended.
    pub(crate) may_evict: bool,
    pub(crate) max_message_bytes: usize,
}

/// A session that is logged in and does not stream yet.
pub(crate) struct Prepared {
    wire: Wire,
    /// Those that are there.
    publications: Vec<String>,
    cancel_key: Bytes,
    sender_timeout: Option<Duration>,
}

impl Prepared {
    /// Connects, logs in, and sees to it that the publications exist. All of it is bounded in time.
    pub(crate) async fn new(config: &Config, wanted: &Wanted<'_>) -> Result<Self, StreamError> {
        let (mut wire, cancel_key) = connect_as_configured(config).await?;
        wire.max_message_bytes = wanted.max_message_bytes;
        let (sender_timeout, publications) = bounded(config, async {
            query(&mut wire, "setting the time zone", SETTINGS_OF_DATABASE).await?;
            // The slot comes after the publication: decoding a change that was made before the publication existed
            // would end the stream for good (`database.md 9.9`).
            let mut publications = wanted.publications.to_vec();
            for publication in wanted.publications {
                publication::ensure(&mut wire, publication, wanted.create_publication).await?;
            }
            for publication in wanted.table_publications {
                if publication::ensure_for_table(&mut wire, publication).await? {
                    publications.push(publication.name.clone());
                }
            }
            let answer = query(&mut wire, "reading wal_sender_timeout", SENDER_TIMEOUT).await?;
            let timeout_ms = answer
                .first()
                .and_then(|row| row.first()?.as_deref()?.parse::<u64>().ok());
            let timeout = timeout_ms.filter(|limit| *limit > 0).map(Duration::from_millis);
            Ok((timeout, publications))
        })
        .await?;
        Ok(Self {
            wire,
            publications,
            cancel_key,
            sender_timeout,
        })
    }

    /// The key that [`cancel`] takes.
    pub(crate) fn cancel_key(&self) -> Bytes {
        self.cancel_key.clone()
    }

    /// Makes the slot and starts the stream. Postgres waits here for the transactions that are running, which may
    /// take any time.
    pub(crate) async fn stream(mut self, wanted: &Wanted<'_>) -> Result<Session, StreamError> {
        if let Some(guard) = wanted.guard {
            slot::acquire(&mut self.wire, guard, wanted.may_evict).await?;
        }
        let made = slot::make(&mut self.wire, wanted.slot, wanted.making).await?;
        start_replication(&mut self.wire, wanted.slot, &self.publications).await?;
        Ok(Session {
            wire: self.wire,
            start: made.start,
            is_resumed: made.is_resumed,
            sender_timeout: self.sender_timeout,
        })
    }
}

/// The zone of the database, or else of the server, not one that our role may have for itself
/// (`database.md 9.12`). And where anything may be stored as text, it is taken as it is: Postgres would end the stream
/// at the first value that is not UTF-8, while to us it costs one change.
const SETTINGS_OF_DATABASE: &str = "\
    SELECT pg_catalog.set_config('TimeZone', pg_catalog.split_part(entry, '=', 2), false) \
    FROM pg_catalog.pg_db_role_setting s \
    JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
    CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS entry \
    WHERE d.datname = pg_catalog.current_database() AND s.setrole = 0 \
    AND pg_catalog.lower(pg_catalog.split_part(entry, '=', 1)) = 'timezone'; \
    SELECT pg_catalog.set_config('client_encoding', 'SQL_ASCII', false) \
    WHERE pg_catalog.current_setting('server_encoding') = 'SQL_ASCII'";

const SENDER_TIMEOUT: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";

async fn connect_as_configured(config: &Config) -> Result<(Wire, Bytes), StreamError> {
    match connect(config, config.ssl_mode).await {
        // As in libpq, `prefer` means that a server whose TLS or whose rules for TLS connections do not let us in is
        // asked again without.
        Err(first @ (StreamError::Tls(_) | StreamError::LoginRefused(_)))
            if config.ssl_mode == SslMode::Prefer =>
        {
            connect(config, SslMode::Disable)
                .await
                .map_err(|second| match second {
                    StreamError::LoginRefused(_) => first,
                    second => second,
                })
        }
        connected => connected,
    }
}

/// Whether a replication connection can be made: logs in and leaves. Makes nothing, no slot either.
///
/// # Errors
/// Why a stream would not run. What only shows when a slot is made, such as `wal_level`, does not show here.
pub async fn probe(config: &Config) -> Result<(), StreamError> {
    let (mut wire, _) = connect_as_configured(config).await?;
    bounded(config, async {
        query(&mut wire, "identifying the system", "IDENTIFY_SYSTEM").await?;
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        wire.write(&out).await
    })
    .await
}

async fn connect(config: &Config, ssl_mode: SslMode) -> Result<(Wire, Bytes), StreamError> {
    let transport = Transport::open(config, ssl_mode).await?;
    bounded(config, async {
        let mut wire = Wire::new(transport);
        let cancel_key = log_in(&mut wire, config).await?;
        Ok((wire, cancel_key))
    })
    .await
}

async fn bounded<T>(
    config: &Config,
    work: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, StreamError> {
    timeout(Duration::from_millis(config.connect_timeout_ms), work)
        .await
        .unwrap_or_else(|_| {
            Err(StreamError::ConnectTimeout {
                endpoint: config.endpoint.to_string(),
                timeout_ms: config.connect_timeout_ms,
            })
        })
}

/// Ends the statement of another session. A server that waits for open transactions before it makes a slot does not
/// notice that we are gone; unless told, it would hold the log back until they end.
pub(crate) async fn cancel(config: &Config, cancel_key: &[u8]) -> Result<(), StreamError> {
    let transport = Transport::open(config, config.ssl_mode).await?;
    let mut request = BytesMut::new();
    let length = u32::try_from(cancel_key.len() + 8).unwrap_or_default();
    request.put_u32(length);
    request.put_u32(CANCEL_REQUEST);
    request.put_slice(cancel_key);
    let mut wire = Wire::new(transport);
    wire.write(&request).await?;
    // The server closes the connection once it has passed the request on.
    wire.drain().await;
    Ok(())
}

async fn start_replication(wire: &mut Wire, slot: &str, publications: &[String]) -> Result<(), StreamError> {
    let names: Vec<String> = publications.iter().map(|name| quote_identifier(name)).collect();
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {})",
        quote_identifier(slot),
        quote_literal(&names.join(","))
    );
    let mut out = BytesMut::new();
    frontend::query(&command, &mut out)?;
    wire.write(&out).await?;
    loop {
        let message = wire.read().await?;
        match message.tag {
            b'W' => return Ok(()),
            b'E' => return Err(answer(STARTING, &message)),
            b'S' | b'N' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

/// Runs a statement of the simple protocol and returns its rows as text.
pub(crate) async fn query(
    wire: &mut Wire,
    doing: &'static str,
    statement: &str,
) -> Result<Vec<Vec<Option<String>>>, StreamError> {
    let mut out = BytesMut::new();
    frontend::query(statement, &mut out)?;
    wire.write(&out).await?;
    let (mut rows, mut failure) = (Vec::new(), None);
    loop {
        let message = wire.read().await?;
        match message.tag {
            b'D' => rows.push(data_row(&message.body)?),
            b'E' => failure = Some(answer(doing, &message)),
            b'Z' => return failure.map_or(Ok(rows), Err),
            b'T' | b'C' | b'S' | b'N' | b'I' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

fn data_row(mut body: &[u8]) -> Result<Vec<Option<String>>, StreamError> {
    let malformed = || StreamError::Protocol("a result row".to_owned());
    let count = body.try_get_u16().map_err(|_| malformed())?;
    (0..count)
        .map(|_| {
            let length = body.try_get_i32().map_err(|_| malformed())?;
            let Ok(length) = usize::try_from(length) else {
                return Ok(None);
            };
            let (value, rest) = body.split_at_checked(length).ok_or_else(malformed)?;
            body = rest;
            Ok(Some(String::from_utf8_lossy(value).into_owned()))
        })
        .collect()
}

/// The error Postgres answered with: fields of a kind byte and a text, each ended by a zero byte.
pub(crate) fn answer(doing: &'static str, message: &Backend) -> StreamError {
    let field = |wanted: u8| {
        let mut fields = message
            .body
            .split(|byte| *byte == 0)
            .filter_map(|field| field.split_first());
        let value = fields.find(|(kind, _)| **kind == wanted).map(|(_, value)| value);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    StreamError::from_answer(doing, field(b'C'), field(b'M'))
}

pub(crate) fn unexpected(tag: u8) -> StreamError {
    StreamError::Protocol(format!("a message of kind {:?}", char::from(tag)))
}

pub(crate) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
