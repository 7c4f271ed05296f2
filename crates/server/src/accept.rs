//! From a TCP listener to HTTP requests: what a connection may cost before it is a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::config::Listen;

/// A request whose header is not complete by then loses its connection.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Request line and header together; the key of a connect is in the request line.
const MAX_REQUEST_HEAD_BYTES: usize = 64 * 1024;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// Opens the listener: on one address, or on every IPv6 and IPv4 address, or on IPv4 alone where there is no IPv6.
///
/// # Errors
/// The port is taken, or may not be used.
pub fn bind(listen: &Listen) -> io::Result<TcpListener> {
    let Some(address) = listen.address else {
        return bind_one(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), listen.port)).or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Err(error);
            }
            tracing::info!(%error, "no IPv6 here, listening on IPv4 alone");
            bind_one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port))
        });
    };
    bind_one(SocketAddr::new(address, listen.port))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves requests until the token is cancelled, then lets those under way finish in the background.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_header_size(MAX_REQUEST_HEAD_BYTES)
        .max_buf_size(MAX_REQUEST_HEAD_BYTES + 8192);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((connection, peer)) => {
                tokio::spawn(converse(
                    builder.clone(),
                    connection,
                    peer,
                    router.clone(),
                    shutdown.clone(),
                ));
            }
            Err(error) => back_off(&error).await,
        }
    }
}

async fn converse(
    builder: http1::Builder,
    connection: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection gone before its first request");
        return;
    }
    let hangup = Hangup::default();
    let service = TowerToHyperService::new(WithPeer {
        router,
        peer,
        hangup: hangup.clone(),
    });
    let conversation = builder
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    let mut conversation = std::pin::pin!(conversation);
    let ended = tokio::select! {
        ended = conversation.as_mut() => ended,
        () = shutdown.cancelled() => {
            conversation.as_mut().graceful_shutdown();
            tokio::select! {
                ended = conversation.as_mut() => ended,
                () = hangup.0.notified() => return,
            }
        }
        () = hangup.0.notified() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "HTTP connection ended early");
    }
}

/// The address a request came from, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Cuts the connection a request came on, as an extension of the request: for a response whose reader takes nothing.
#[derive(Debug, Clone, Default)]
pub struct Hangup(pub Arc<Notify>);

#[derive(Clone)]
struct WithPeer {
    router: Router,
    peer: SocketAddr,
    hangup: Hangup,
}

impl Service<hyper::Request<hyper::body::Incoming>> for WithPeer {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <Router as Service<hyper::Request<Body>>>::Future;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        Service::<hyper::Request<Body>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(self.peer));
        request.extensions_mut().insert(self.hangup.clone());
        self.router.call(request)
    }
}

/// Waits after an error that the next accept would meet again; returns at once after one of a single connection.
async fn back_off(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    ) {
        return;
    }
    tracing::warn!(%error, "no connection can be accepted for now; if files are short, raise `ulimit -Hn`");
    // Nothing tells when a file becomes free again.
    tokio::time::sleep(Duration::from_millis(250)).await;
}
