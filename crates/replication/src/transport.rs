//! The bytes below the protocol: TCP over IPv4 or IPv6, with or without TLS, or a Unix socket.

use crate::config::{Config, Endpoint, SslMode};
use crate::error::StreamError;
use crate::tls;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// An open connection.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    /// A TCP connection the runtime does not watch for now (see [`Transport::rest`]).
    Resting(std::net::TcpStream),
    /// Between two of the others, for no longer than it takes to turn one into the other.
    Turning,
}

impl Transport {
    /// Stops watching the connection until it is used again: what arrives meanwhile wakes nobody. A connection with TLS
    /// is watched on, for its stream cannot be taken apart.
    pub(crate) fn rest(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::Turning) {
            Self::Tcp(stream) => *self = Self::Resting(stream.into_std()?),
            other => *self = other,
        }
        Ok(())
    }

    fn watched(&mut self) -> io::Result<&mut Self> {
        match std::mem::replace(self, Self::Turning) {
            Self::Resting(stream) => *self = Self::Tcp(TcpStream::from_std(stream)?),
            other => *self = other,
        }
        Ok(self)
    }

    /// Connects and agrees on TLS. Takes at most the time limit for each address, and once more for TLS.
    pub(crate) async fn open(config: &Config, ssl_mode: SslMode) -> Result<Self, StreamError> {
        let limit = Duration::from_millis(config.connect_timeout_ms);
        let refused = |error: io::Error| StreamError::Connect {
            endpoint: config.endpoint.to_string(),
            error,
        };
        let late = |_| StreamError::ConnectTimeout {
            endpoint: config.endpoint.to_string(),
            timeout_ms: config.connect_timeout_ms,
        };
        let tcp = match &config.endpoint {
            Endpoint::Unix(..) => {
                let connecting = timeout(limit, UnixStream::connect(config.endpoint.to_string()));
                return connecting.await.map_err(late)?.map(Self::Unix).map_err(refused);
            }
            Endpoint::Tcp(host, port) => connect_any(host, *port, limit).await.map_err(refused)?,
        };
        tcp.set_nodelay(true)?;
        if config.tcp_keepalive_ms > 0 {
            let idle = Duration::from_millis(config.tcp_keepalive_ms);
            SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
        if ssl_mode == SslMode::Disable {
            return Ok(Self::Tcp(tcp));
        }
        timeout(limit, negotiate(config, ssl_mode, tcp))
            .await
            .map_err(late)?
    }

    /// The certificate the server showed, in DER; `None` without TLS.
    pub(crate) fn server_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => Some(stream.get_ref().1.peer_certificates()?.first()?),
            Self::Tcp(_) | Self::Unix(_) | Self::Resting(_) | Self::Turning => None,
        }
    }
}

async fn negotiate(config: &Config, ssl_mode: SslMode, mut tcp: TcpStream) -> Result<Transport, StreamError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    // Exactly one byte: anything behind it could have been put there before TLS protects us.
    match tcp.read_u8().await? {
        b'S' => Ok(Transport::Tls(Box::new(tls::connect(config, tcp).await?))),
        b'N' if ssl_mode == SslMode::Prefer => Ok(Transport::Tcp(tcp)),
        b'N' => Err(StreamError::TlsNotOffered),
        _ => Err(StreamError::Protocol(
            "the answer to the request for TLS".to_owned(),
        )),
    }
}

/// Tries every address of a host, in the resolver's order.
async fn connect_any(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut last = None;
    for address in timeout(limit, lookup_host((host, port))).await.map_err(late)?? {
        match timeout(limit, TcpStream::connect(address))
            .await
            .map_err(late)
            .flatten()
        {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Resting(_) | Self::Turning => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Resting(_) | Self::Turning => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Resting(_) | Self::Turning => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Resting(_) | Self::Turning => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
