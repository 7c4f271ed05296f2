//! From a TCP listener to HTTP requests: what a connection may cost before it is a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

use crate::admission::{Admission, Place, TurnedAway};
use crate::config::Listen;
use crate::metrics;

/// Request line and header together; the key of a connect is in the request line.
const MAX_REQUEST_HEAD_BYTES: usize = 64 * 1024;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// Between two log lines about connections that are turned away.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

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
///
/// A request whose header is not complete after `header_timeout` loses its connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    admission: Arc<Admission>,
    header_timeout: Duration,
    shutdown: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(MAX_REQUEST_HEAD_BYTES)
        .max_buf_size(MAX_REQUEST_HEAD_BYTES + 8192);
    let mut complaint = Complaint::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                back_off(&error).await;
                continue;
            }
        };
        let (place, turned_away) = match admission.enter(peer.ip()) {
            Ok(place) => (place, None),
            Err(reason) => {
                complaint.of(reason, peer, admission.most());
                match admission.answer() {
                    Some(place) => (place, Some(reason)),
                    None => continue,
                }
            }
        };
        let mut builder = builder.clone();
        // One request is answered, and another would be answered the same.
        builder.keep_alive(turned_away.is_none());
        let arrival = Arrival {
            peer: Peer(peer),
            seat: Seat(Arc::new(place)),
            turned_away,
            hangup: Hangup::default(),
        };
        tokio::spawn(converse(
            builder,
            connection,
            arrival,
            router.clone(),
            shutdown.clone(),
        ));
    }
}

async fn converse(
    builder: http1::Builder,
    connection: TcpStream,
    arrival: Arrival,
    router: Router,
    shutdown: CancellationToken,
) {
    let peer = arrival.peer.0;
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection gone before its first request");
        return;
    }
    let hangup = arrival.hangup.clone();
    let service = TowerToHyperService::new(Arriving { router, arrival });
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

/// What is known of a connection before its first request.
#[derive(Clone)]
struct Arrival {
    peer: Peer,
    seat: Seat,
    turned_away: Option<TurnedAway>,
    hangup: Hangup,
}

/// The address a request came from, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Cuts the connection a request came on, as an extension of the request: for a response whose reader takes nothing.
#[derive(Debug, Clone, Default)]
pub struct Hangup(pub Arc<Notify>);

/// The place of the connection a request came on, as an extension of the request: whatever outlives HTTP holds it.
#[derive(Clone)]
pub struct Seat(pub Arc<Place>);

#[derive(Clone)]
struct Arriving {
    router: Router,
    arrival: Arrival,
}

impl Service<hyper::Request<hyper::body::Incoming>> for Arriving {
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
        let extensions = request.extensions_mut();
        extensions.insert(self.arrival.peer);
        extensions.insert(self.arrival.seat.clone());
        extensions.insert(self.arrival.hangup.clone());
        if let Some(turned_away) = self.arrival.turned_away {
            extensions.insert(turned_away);
        }
        self.router.call(request)
    }
}

/// Says that connections are turned away, once in a while and not once each.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    since_then: u64,
}

impl Complaint {
    fn of(&mut self, reason: TurnedAway, peer: SocketAddr, most: usize) {
        metrics::connection_turned_away(reason.cause());
        self.since_then += 1;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PAUSE) {
            return;
        }
        tracing::warn!(
            code = "ConnectionTurnedAway",
            cause = reason.sentence(),
            remedy = reason.remedy(),
            %peer,
            most,
            connections = self.since_then,
            "connections are turned away"
        );
        self.last = Some(Instant::now());
        self.since_then = 0;
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
