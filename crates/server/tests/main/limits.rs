//! Idle sockets, slow readers, shutdown: how a socket ends.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::server::{Client, PATIENCE, Walcast, anon};

#[tokio::test]
async fn section_1_5_a_client_that_sends_nothing_is_closed_with_1000() {
    let server = Walcast::start(&[("WALCAST_IDLE_TIMEOUT_MS", "400")]).await;
    // Read as bytes, so that no ping is answered.
    let mut connection = server.socket().await.stream.into_inner();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut bytes))
        .await
        .expect("the socket lives on")
        .unwrap();
    let ping = [0x89, 0];
    let close = bytes.strip_prefix(&ping).expect("no ping came before the close");
    assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1000));
}

#[tokio::test]
async fn a_client_that_answers_pings_lives_on() {
    let server = Walcast::start(&[("WALCAST_IDLE_TIMEOUT_MS", "300")]).await;
    let mut socket = server.socket().await;
    let mut pings = 0;
    while pings < 5 {
        match socket.stream.next().await.unwrap().unwrap() {
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_1_6_a_socket_that_left_its_last_channel_is_closed() {
    let server = Walcast::start(&[("NO_CHANNEL_TIMEOUT_IN_MS", "300")]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket
        .send_json(json!(["1", "2", "realtime:a", "phx_leave", {}]))
        .await;
    let frame = socket.closed().await.unwrap();
    assert_eq!(
        (u16::from(frame.code), &*frame.reason),
        (1000, "no channel joined for too long")
    );
}

/// A client whose kernel takes little that it does not read.
async fn narrow_socket(server: &Walcast) -> Client {
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(65_536).unwrap();
    let tcp = tcp.connect(server.address).await.unwrap();
    let url = format!("ws://localhost/socket/websocket?apikey={}&vsn=2.0.0", anon());
    let (stream, _) = tokio_tungstenite::client_async(url, tcp).await.unwrap();
    Client { stream }
}

#[tokio::test]
async fn a_slow_reader_is_closed_with_1013_and_loses_no_single_message() {
    let server = Walcast::start(&[("WALCAST_QUEUE_BYTES", "1000000")]).await;
    let mut socket = narrow_socket(&server).await;
    let filler = "f".repeat(100_000);
    let mut sent = 0;
    for number in 0..200 {
        let heartbeat = json!([null, [number, filler], "phoenix", "heartbeat", {}]).to_string();
        if socket.stream.send(Message::text(heartbeat)).await.is_err() {
            break;
        }
        sent += 1;
    }
    let mut received = 0;
    let code = loop {
        match socket.next().await {
            Message::Text(text) => {
                let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(reply[1][0], received, "a message is missing in between");
                received += 1;
            }
            Message::Close(frame) => break frame.map(|frame| u16::from(frame.code)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, Some(1013));
    assert!(received < sent, "{received} of {sent}: nothing was slow here");
}

#[tokio::test]
async fn a_peer_that_takes_no_byte_is_given_up() {
    let settings = [
        ("WALCAST_WRITE_TIMEOUT_MS", "300"),
        ("WALCAST_QUEUE_BYTES", "1000000000"),
    ];
    let server = Walcast::start(&settings).await;
    let mut socket = narrow_socket(&server).await;
    let heartbeat = json!([null, "f".repeat(1_000_000), "phoenix", "heartbeat", {}]).to_string();
    // The answers are never read. The server leaves, and then nothing can be sent either.
    let sending = async { while socket.stream.send(Message::text(heartbeat.clone())).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, sending)
        .await
        .expect("the socket lives on");
}

#[tokio::test]
async fn section_1_6_a_shutdown_closes_sockets_with_1012_and_ends() {
    let server = Walcast::start(&[]).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let mut socket = server.socket().await;
        socket.join_ok("realtime:a", "1").await;
        sockets.push(socket);
    }
    let address = server.address;
    let clients = tokio::spawn(async move {
        let mut codes = Vec::new();
        for mut socket in sockets {
            codes.push(socket.close_code().await);
        }
        codes
    });
    server.stop().await;
    assert_eq!(clients.await.unwrap(), [Some(1012); 5]);
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "the port is free again"
    );
}

#[tokio::test]
async fn a_shutdown_spreads_the_closes_so_that_not_all_reconnect_at_once() {
    const SPREAD: Duration = Duration::from_secs(2);
    let spread_ms = SPREAD.as_millis().to_string();
    let server = Walcast::start(&[("WALCAST_DRAIN_SPREAD_MS", &spread_ms)]).await;
    let mut closes = JoinSet::new();
    for _ in 0..20 {
        let mut socket = server.socket().await;
        closes.spawn(async move {
            assert_eq!(socket.close_code().await, Some(1012));
            Instant::now()
        });
    }
    server.stop().await;
    let mut closed = closes.join_all().await;
    closed.sort();
    let lasted = closed[19] - closed[0];
    assert!(lasted >= SPREAD / 2, "all were closed within {lasted:?}");
}

#[tokio::test]
async fn section_3_3_a_join_during_shutdown_is_told_to_wait() {
    let server = Walcast::start(&[("WALCAST_DRAIN_SPREAD_MS", "30000")]).await;
    let (mut one, mut other) = (server.socket().await, server.socket().await);
    server.shutdown.cancel();
    // Sockets close one after the other, so one of them is open a while longer.
    let left = tokio::select! {
        _ = one.closed() => &mut other,
        _ = other.closed() => &mut one,
    };
    let (_, response) = left.join("realtime:a", "1", json!({"config": {}})).await;
    assert_eq!(
        response["reason"],
        "RealtimeRestarting: Realtime is restarting, please standby"
    );
}
