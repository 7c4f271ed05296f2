//! The login: startup packet, authentication, and what the server then says about the session.

use crate::config::Config;
use crate::error::{LOGGING_IN, StreamError};
use crate::session::{answer, unexpected};
use crate::wire::Wire;
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

/// How values are printed, whatever the server's settings (`database.md 9.12`), and no limit on statements.
const SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
];

/// Logs in and returns the key with which a statement of this session can be cancelled.
pub(crate) async fn log_in(wire: &mut Wire, config: &Config) -> Result<Bytes, StreamError> {
    let mut out = BytesMut::new();
    let parameters = [
        ("user", config.user.as_str()),
        ("database", config.database.as_str()),
        ("replication", "database"),
        ("application_name", config.application_name.as_str()),
    ];
    frontend::startup_message(parameters.into_iter().chain(SETTINGS), &mut out)?;
    wire.write(&out).await?;
    let mut login = Login {
        config,
        transport: Binding::of(wire),
        scram: None,
        is_authenticated: false,
    };
    let mut cancel_key = Bytes::new();
    loop {
        let mut message = wire.read().await?;
        match message.tag {
            b'R' => {
                out.clear();
                let kind = message.body.try_get_u32();
                let kind = kind.map_err(|_| StreamError::Protocol("an authentication request".to_owned()))?;
                login.answer(kind, &message.body, &mut out)?;
                if !out.is_empty() {
                    wire.write(&out).await?;
                }
            }
            b'E' => return Err(answer(LOGGING_IN, &message)),
            b'Z' if login.is_authenticated => return Ok(cancel_key),
            b'K' => cancel_key = message.body,
            // Parameter statuses, notices, an older protocol minor.
            b'S' | b'N' | b'v' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

/// What a login can be bound to.
enum Binding {
    /// No TLS.
    None,
    /// TLS, with the hash of the certificate if it has one.
    Tls(Option<Vec<u8>>),
}

impl Binding {
    fn of(wire: &Wire) -> Self {
        match wire.transport().server_certificate() {
            None => Self::None,
            Some(certificate) => Self::Tls(crate::channel_binding::server_end_point(certificate)),
        }
    }
}

struct Login<'a> {
    config: &'a Config,
    transport: Binding,
    /// The exchange, from its first message until the server has proved that it knows the password, too.
    scram: Option<ScramSha256>,
    is_authenticated: bool,
}

impl Login<'_> {
    /// Answers an authentication request into `out`.
    fn answer(&mut self, kind: u32, body: &[u8], out: &mut BytesMut) -> Result<(), StreamError> {
        let config = self.config;
        let password = || {
            config
                .password
                .as_deref()
                .map(str::as_bytes)
                .ok_or(StreamError::NoPassword)
        };
        let failed = |error: std::io::Error| StreamError::Authentication(error.to_string());
        let out_of_turn = || StreamError::Authentication("SCRAM messages come out of turn".to_owned());
        match kind {
            0 if self.scram.is_some() => Err(StreamError::Authentication(
                "the server did not prove that it knows the password".to_owned(),
            )),
            0 => {
                self.is_authenticated = true;
                Ok(())
            }
            3 => Ok(frontend::password_message(password()?, out)?),
            5 => {
                let salt = body.first_chunk();
                let salt = salt.ok_or_else(|| StreamError::Protocol("a salt of four bytes".to_owned()))?;
                let hash = md5_hash(config.user.as_bytes(), password()?, *salt);
                Ok(frontend::password_message(hash.as_bytes(), out)?)
            }
            10 => {
                let (mechanism, binding) = self.mechanism(body)?;
                let exchange = ScramSha256::new(password()?, binding);
                frontend::sasl_initial_response(mechanism, exchange.message(), out)?;
                self.scram = Some(exchange);
                Ok(())
            }
            11 => {
                let exchange = self.scram.as_mut().ok_or_else(out_of_turn)?;
                exchange.update(body).map_err(failed)?;
                Ok(frontend::sasl_response(exchange.message(), out)?)
            }
            12 => self
                .scram
                .take()
                .ok_or_else(out_of_turn)?
                .finish(body)
                .map_err(failed),
            2 => Err(StreamError::AuthenticationMethod("Kerberos V5")),
            7 | 8 => Err(StreamError::AuthenticationMethod("GSSAPI")),
            9 => Err(StreamError::AuthenticationMethod("SSPI")),
            _ => Err(StreamError::AuthenticationMethod("of an unknown kind")),
        }
    }

    /// The best mechanism both sides know. Over TLS, with a server that says it cannot bind, the answer says that we
    /// could have: if the offer was tampered with, the server notices.
    fn mechanism(&mut self, offered: &[u8]) -> Result<(&'static str, ChannelBinding), StreamError> {
        let offers = |name: &str| {
            offered
                .split(|byte| *byte == 0)
                .any(|offer| offer == name.as_bytes())
        };
        match &mut self.transport {
            Binding::Tls(hash) if offers(SCRAM_SHA_256_PLUS) && hash.is_some() => {
                let hash = hash.take().unwrap_or_default();
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)))
            }
            _ if !offers(SCRAM_SHA_256) => {
                Err(StreamError::AuthenticationMethod("SASL other than SCRAM-SHA-256"))
            }
            Binding::Tls(Some(_)) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
            Binding::Tls(None) | Binding::None => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }
}
