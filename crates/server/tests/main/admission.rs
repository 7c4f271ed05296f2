//! Which connections are let in, and what becomes of those that waste one.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::server::{PATIENCE, Walcast, anon};

/// A connection from another address of this machine.
async fn connect_from(address: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    socket.connect(server).await.unwrap()
}

/// Everything until the other side closes.
async fn rest(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut text))
        .await
        .expect("the server does not close the connection");
    String::from_utf8(text).unwrap()
}

/// Whether a connection is let in; it is open until the value is dropped.
async fn is_let_in(connection: &mut TcpStream, headers: &str) -> bool {
    let request = format!("GET /api/none HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(PATIENCE, connection.read_exact(&mut answer));
    read.await.expect("no answer").unwrap();
    match &answer {
        b"HTTP/1.1 404" => true,
        b"HTTP/1.1 429" => false,
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

#[tokio::test]
async fn a_full_server_says_so_and_still_tells_how_it_is() {
    let server = Walcast::start(&[("WALCAST_MAX_CONNECTIONS", "2")]).await;
    let first = server.socket().await;
    let _second = server.socket().await;
    let target = format!("/socket/websocket?vsn=2.0.0&apikey={}", anon());
    let refused = server.get(&target).await;
    assert_eq!(refused.status, 503);
    assert_eq!(
        serde_json::from_str::<Value>(&refused.body).unwrap(),
        json!({"error": "Too many connections"})
    );
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(server.get("/healthcheck").await.status, 200);
    let figures = server.get("/metrics").await.body;
    assert!(
        figures.contains(r#"walcast_connections_turned_away_total{cause="full"}"#),
        "{figures}"
    );

    drop(first);
    // Its place is free a moment after its end; who comes too early is told so and comes again.
    let free = async {
        while server.get("/api/none").await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, free)
        .await
        .expect("the place stays taken");
}

#[tokio::test]
async fn an_address_has_as_many_connections_as_the_settings_say() {
    let server = Walcast::start(&[("WALCAST_MAX_CONNECTIONS_PER_ADDRESS", "1")]).await;
    let mut first = connect_from("127.0.0.1", server.address).await;
    assert!(is_let_in(&mut first, "").await);
    let mut second = connect_from("127.0.0.1", server.address).await;
    assert!(!is_let_in(&mut second, "").await);
    let mut other = connect_from("127.0.0.2", server.address).await;
    assert!(is_let_in(&mut other, "").await, "others are not concerned");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_clients_are_counted() {
    let server = Walcast::start(&[
        ("WALCAST_MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("WALCAST_TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    let socket = |client: &'static str| async move {
        let mut connection = connect_from("127.0.0.1", server.address).await;
        let request = format!(
            "GET /socket/websocket?vsn=2.0.0&apikey={} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-forwarded-for: {client}\r\n\r\n",
            anon()
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, connection.read_exact(&mut answer))
            .await
            .expect("no answer")
            .unwrap();
        (String::from_utf8(answer.to_vec()).unwrap(), connection)
    };
    let (status, first) = socket("203.0.113.1").await;
    assert_eq!(status, "HTTP/1.1 101");
    assert_eq!(
        socket("203.0.113.1").await.0,
        "HTTP/1.1 429",
        "its socket is still open"
    );
    assert_eq!(socket("203.0.113.2").await.0, "HTTP/1.1 101");
    drop(first);
    let again = async { while socket("203.0.113.1").await.0 != "HTTP/1.1 101" {} };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("the place stays taken");
}

#[tokio::test]
async fn who_never_ends_a_request_loses_its_connection_and_harms_nobody() {
    let server = Walcast::start(&[("WALCAST_HEADER_TIMEOUT_MS", "1000")]).await;
    let mut slow = JoinSet::new();
    for _ in 0..50 {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        slow.spawn(async move {
            connection
                .write_all(b"GET /healthcheck HTTP/1.1\r\n")
                .await
                .unwrap();
            let mut drip = tokio::time::interval(Duration::from_millis(50));
            let mut closed = [0; 64];
            loop {
                tokio::select! {
                    _ = drip.tick() => if connection.write_all(b"x: y\r\n").await.is_err() { return },
                    read = connection.read(&mut closed) => if read.unwrap_or(0) == 0 { return },
                }
            }
        });
    }
    assert_eq!(server.get("/healthcheck").await.status, 200);
    let all_closed = async { while slow.join_next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, all_closed)
        .await
        .expect("they may go on for ever");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_more_is_closed() {
    let server = Walcast::start(&[("WALCAST_HEADER_TIMEOUT_MS", "200")]).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let said = rest(&mut idle).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("ok"), "{said}");
}
