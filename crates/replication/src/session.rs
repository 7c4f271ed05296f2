//! From an open connection to a running stream: login, publication, slot, START_REPLICATION.

use crate::config::Config;
use crate::error::StreamError;
use crate::lsn::Lsn;
use crate::transport::Transport;
use crate::wire::{Backend, Wire};
use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use std::time::Duration;

/// How values are printed, whatever the server's settings (`database.md 9.12`). The time zone is not set: it is the
/// database's own, as the reference's.
const SETTINGS: [(&str, &str); 5] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

/// A stream that runs.
pub(crate) struct Session {
    pub(crate) wire: Wire,
    /// Where it begins: every transaction that commits after this is seen.
    pub(crate) start: Lsn,
    /// `wal_sender_timeout`; `None` when it is off.
    pub(crate) sender_timeout: Option<Duration>,
}

/// What to stream.
pub(crate) struct Wanted<'a> {
    pub(crate) publications: &'a [String],
    pub(crate) create_publication: bool,
    pub(crate) slot: &'a str,
    pub(crate) max_message_bytes: usize,
}

impl Session {
    /// Does everything up to the first change. Connecting and logging in are bounded; making the slot is not, since
    /// Postgres waits there for the transactions that are running.
    pub(crate) async fn start(config: &Config, wanted: &Wanted<'_>) -> Result<Self, StreamError> {
        let limit = Duration::from_millis(config.connect_timeout_ms);
        let login = async {
            let mut wire = Wire::new(Transport::open(config).await?);
            log_in(&mut wire, config).await?;
            Ok::<_, StreamError>(wire)
        };
        let mut wire = tokio::time::timeout(limit, login).await.map_err(|_| StreamError::ConnectTimeout {
            endpoint: config.endpoint.to_string(),
            timeout_ms: config.connect_timeout_ms,
        })??;
        wire.max_message_bytes = wanted.max_message_bytes;
        // The slot comes after the publication: decoding a change that was made before the publication existed
        // would end the stream for good (`database.md 9.9`).
        for publication in wanted.publications {
            ensure_publication(&mut wire, publication, wanted.create_publication).await?;
        }
        let timeout = query(&mut wire, "reading wal_sender_timeout", SENDER_TIMEOUT).await?;
        let timeout_ms = timeout.first().and_then(|row| row.first()?.as_deref()?.parse::<u64>().ok()).unwrap_or(0);
        let create = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT", wanted.slot);
        let created = query(&mut wire, "creating the slot", &create).await?;
        let start = created
            .first()
            .and_then(|row| row.get(1)?.as_deref()?.parse().ok())
            .ok_or_else(|| StreamError::Protocol("the answer to CREATE_REPLICATION_SLOT".to_owned()))?;
        start_replication(&mut wire, wanted).await?;
        Ok(Self { wire, start, sender_timeout: (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms)) })
    }
}

const SENDER_TIMEOUT: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";

async fn log_in(wire: &mut Wire, config: &Config) -> Result<(), StreamError> {
    let mut out = BytesMut::new();
    let parameters = [
        ("user", config.user.as_str()),
        ("database", config.database.as_str()),
        ("replication", "database"),
        ("application_name", config.application_name.as_str()),
    ];
    frontend::startup_message(parameters.into_iter().chain(SETTINGS), &mut out)?;
    wire.write(&out).await?;
    let mut scram: Option<ScramSha256> = None;
    loop {
        let mut message = wire.read().await?;
        match message.tag {
            b'R' => {
                out.clear();
                if message.body.remaining() < 4 {
                    return Err(StreamError::Protocol("an authentication request".to_owned()));
                }
                let kind = message.body.get_u32();
                authenticate(kind, &message.body, config, &mut scram, &mut out)?;
                if !out.is_empty() {
                    wire.write(&out).await?;
                }
            }
            b'E' => return Err(answer("logging in", &message)),
            b'Z' => return Ok(()),
            // Parameter statuses, the cancellation key, notices, an older protocol minor.
            b'S' | b'K' | b'N' | b'v' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

fn authenticate(
    kind: u32,
    body: &[u8],
    config: &Config,
    scram: &mut Option<ScramSha256>,
    out: &mut BytesMut,
) -> Result<(), StreamError> {
    let password = || config.password.as_deref().ok_or(StreamError::NoPassword);
    let failed = |error: std::io::Error| StreamError::Authentication(error.to_string());
    match kind {
        0 => Ok(()),
        3 => Ok(frontend::password_message(password()?.as_bytes(), out)?),
        5 => {
            let salt = body.first_chunk().ok_or_else(|| StreamError::Protocol("a salt of four bytes".to_owned()))?;
            let hash = md5_hash(config.user.as_bytes(), password()?.as_bytes(), *salt);
            Ok(frontend::password_message(hash.as_bytes(), out)?)
        }
        10 => {
            if !body.split(|byte| *byte == 0).any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
                return Err(StreamError::AuthenticationMethod("SASL other than SCRAM-SHA-256"));
            }
            let exchange = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
            frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), out)?;
            *scram = Some(exchange);
            Ok(())
        }
        11 => {
            let exchange = scram.as_mut().ok_or_else(|| StreamError::Protocol("SCRAM out of turn".to_owned()))?;
            exchange.update(body).map_err(failed)?;
            Ok(frontend::sasl_response(exchange.message(), out)?)
        }
        // The server proves here that it knows the password, too.
        12 => {
            let exchange = scram.as_mut().ok_or_else(|| StreamError::Protocol("SCRAM out of turn".to_owned()))?;
            exchange.finish(body).map_err(failed)
        }
        2 => Err(StreamError::AuthenticationMethod("Kerberos V5")),
        7 | 8 => Err(StreamError::AuthenticationMethod("GSSAPI")),
        9 => Err(StreamError::AuthenticationMethod("SSPI")),
        _ => Err(StreamError::AuthenticationMethod("of an unknown kind")),
    }
}

async fn ensure_publication(wire: &mut Wire, name: &str, create: bool) -> Result<(), StreamError> {
    let exists = format!("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}", quote_literal(name));
    if !query(wire, "looking for the publication", &exists).await?.is_empty() {
        return Ok(());
    }
    let missing = |cause: String| StreamError::NoPublication { name: name.to_owned(), cause };
    if !create {
        return Err(missing("creating it is switched off".to_owned()));
    }
    match query(wire, "creating the publication", &format!("CREATE PUBLICATION {}", quote_identifier(name))).await {
        // Somebody else was faster.
        Err(StreamError::Postgres { code, .. }) if code == "42710" => Ok(()),
        Err(StreamError::Postgres { message, .. }) => Err(missing(message)),
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(publication = name, "created the empty publication; add tables to it to offer their changes");
            Ok(())
        }
    }
}

async fn start_replication(wire: &mut Wire, wanted: &Wanted<'_>) -> Result<(), StreamError> {
    let names: Vec<String> = wanted.publications.iter().map(|name| quote_identifier(name)).collect();
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {})",
        wanted.slot,
        quote_literal(&names.join(","))
    );
    let mut out = BytesMut::new();
    frontend::query(&command, &mut out)?;
    wire.write(&out).await?;
    loop {
        let message = wire.read().await?;
        match message.tag {
            b'W' => return Ok(()),
            b'E' => return Err(answer("starting replication", &message)),
            b'S' | b'N' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

/// Runs a statement of the simple protocol and returns its rows as text.
async fn query(
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
            let Ok(length) = usize::try_from(length) else { return Ok(None) };
            let (value, rest) = body.split_at_checked(length).ok_or_else(malformed)?;
            body = rest;
            Ok(Some(String::from_utf8_lossy(value).into_owned()))
        })
        .collect()
}

/// The error Postgres answered with: fields of a kind byte and a text, each ended by a zero byte.
pub(crate) fn answer(doing: &'static str, message: &Backend) -> StreamError {
    let field = |wanted: u8| {
        let mut fields = message.body.split(|byte| *byte == 0).filter_map(|field| field.split_first());
        let value = fields.find(|(kind, _)| **kind == wanted).map(|(_, value)| value);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    StreamError::from_answer(doing, field(b'C'), field(b'M'))
}

pub(crate) fn unexpected(tag: u8) -> StreamError {
    StreamError::Protocol(format!("a message of kind {:?}", char::from(tag)))
}

fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
