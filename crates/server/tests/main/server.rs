//! A running server and a client that sees every frame.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_util::sync::CancellationToken;
use walcast::config::Config;
use walcast::options::Options;
use walcast::serve::{self, ServeError};

pub(crate) const SECRET: &str = "a-secret-of-at-least-thirty-two-characters";

/// Longer than anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Nothing listens on port 1.
const NO_DATABASE: &str = "postgres://nobody@127.0.0.1:1/none";

pub(crate) struct Walcast {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Walcast {
    /// A server without a database.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_on(NO_DATABASE, settings).await
    }

    /// A server on a database. Refusals come without delay unless `settings` say otherwise.
    pub(crate) async fn start_on(url: &str, settings: &[(&str, &str)]) -> Self {
        let given = [
            ("API_JWT_SECRET", SECRET),
            ("DATABASE_URL", url),
            ("CONNECT_ERROR_BACKOFF_MS", "0"),
        ];
        let options = Options::from_environment(given.into_iter().chain(settings.iter().copied())).unwrap();
        let config = Config::from_options(&options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Box::pin(serve::run(listener, config, shutdown.clone())));
        Self {
            address,
            shutdown,
            running,
        }
    }

    /// Waits until it ends by itself; how it did.
    pub(crate) async fn ended(mut self) -> Result<(), ServeError> {
        let running = &mut self.running;
        tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap()
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let running = &mut self.running;
        tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    /// A socket of serializer 2.0.0 with an anon key.
    pub(crate) async fn socket(&self) -> Client {
        self.socket_as("2.0.0", &anon()).await
    }

    pub(crate) async fn socket_as(&self, vsn: &str, key: &str) -> Client {
        Client::connect(self.address, vsn, key).await
    }

    /// One HTTP request on a connection of its own.
    pub(crate) async fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        request(self.address, method, target, headers).await
    }

    pub(crate) async fn post(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        request_with_body(self.address, "POST", target, headers, Some(body)).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[]).await
    }
}

impl Drop for Walcast {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// One HTTP request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Response {
    request_with_body(address, method, target, headers, None).await
}

/// As [`request`], with a body; its chunks, if the headers say that it comes in some.
pub(crate) async fn request_with_body(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    let mut request = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += "host: localhost\r\n";
    }
    if !headers.iter().any(|(name, _)| *name == "connection") {
        request += "connection: close\r\n";
    }
    let is_chunked = headers.iter().any(|(name, _)| *name == "transfer-encoding");
    if let (Some(body), false) = (body, is_chunked) {
        request += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    let (mut from_server, mut to_server) = TcpStream::connect(address).await.unwrap().into_split();
    let mut answer = Vec::new();
    let (sent, received) = tokio::time::timeout(PATIENCE, async {
        tokio::join!(to_server.write_all(&bytes), from_server.read_to_end(&mut answer))
    })
    .await
    .unwrap();
    sent.unwrap();
    received.unwrap();
    Response::parse(&String::from_utf8_lossy(&answer))
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn parse(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

pub(crate) struct Client {
    pub(crate) stream: WebSocketStream<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, vsn: &str, key: &str) -> Self {
        Self::connect_to(address, "realtime-dev.localhost", vsn, key).await
    }

    pub(crate) async fn connect_to(address: SocketAddr, host: &str, vsn: &str, key: &str) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{host}/socket/websocket?apikey={key}&vsn={vsn}");
        let (stream, _) = tokio_tungstenite::client_async(url, tcp).await.unwrap();
        Self { stream }
    }

    /// Through a gateway that says this `Host`, and this `x-api-key` if any.
    pub(crate) async fn connect_with(
        address: SocketAddr,
        host: &str,
        key: &str,
        key_header: Option<&str>,
    ) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{host}/socket/websocket?apikey={key}&vsn=2.0.0");
        let mut request = url.into_client_request().unwrap();
        if let Some(key) = key_header {
            let key = key.parse().unwrap();
            request.headers_mut().insert("x-api-key", key);
        }
        let (stream, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        Self { stream }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_json(&mut self, message: Value) {
        self.send(&message.to_string()).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next message that is no ping or pong.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next())
                .await
                .expect("no frame came");
            match message.expect("the socket ended").expect("the socket broke") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next text frame, as JSON.
    pub(crate) async fn receive(&mut self) -> Value {
        match self.next().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("expected a text frame, got {other:?}"),
        }
    }

    /// The next binary frame.
    pub(crate) async fn receive_bytes(&mut self) -> Vec<u8> {
        match self.next().await {
            Message::Binary(bytes) => bytes.to_vec(),
            other => panic!("expected a binary frame, got {other:?}"),
        }
    }

    pub(crate) async fn expect(&mut self, expected: Value) {
        assert_eq!(self.receive().await, expected);
    }

    /// That nothing but the answer to a heartbeat comes: everything sent before has been dealt with by then.
    pub(crate) async fn expect_silence(&mut self) {
        self.send(r#"[null,"silence","phoenix","heartbeat",{}]"#).await;
        self.expect(json!([null, "silence", "phoenix", "phx_reply", {"status": "ok", "response": {}}]))
            .await;
    }

    /// Joins and returns the reply's `[status, response]`.
    pub(crate) async fn join(&mut self, topic: &str, reference: &str, payload: Value) -> (String, Value) {
        self.send_json(json!([reference, reference, topic, "phx_join", payload]))
            .await;
        self.joined(topic, reference).await
    }

    pub(crate) async fn joined(&mut self, topic: &str, reference: &str) -> (String, Value) {
        let reply = self.receive().await;
        assert_eq!(
            (&reply[0], &reply[1], &reply[2], &reply[3]),
            (
                &json!(reference),
                &json!(reference),
                &json!(topic),
                &json!("phx_reply")
            )
        );
        (
            reply[4]["status"].as_str().unwrap().to_owned(),
            reply[4]["response"].clone(),
        )
    }

    /// Joins a channel without options.
    pub(crate) async fn join_ok(&mut self, topic: &str, reference: &str) {
        let joined = self.join(topic, reference, json!({"config": {}})).await;
        assert_eq!(joined, ("ok".to_owned(), json!({"postgres_changes": []})));
    }

    /// Reads to the end and returns the close frame, if there was one.
    pub(crate) async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.next())
                .await
                .expect("the socket lives on")
            {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        self.closed().await.map(|frame| frame.code.into())
    }
}

pub(crate) fn now_s() -> i64 {
    walcast::token::now_s()
}

pub(crate) fn sign(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

pub(crate) fn anon() -> String {
    sign(&json!({"role": "anon", "exp": now_s() + 3600}))
}

pub(crate) fn user(sub: &str, lifetime_s: i64) -> String {
    sign(&json!({"role": "authenticated", "sub": sub, "exp": now_s() + lifetime_s}))
}

/// A good token with the signature of nobody.
pub(crate) fn forged() -> String {
    let token = anon();
    format!("{}.AAAA", token.rsplit_once('.').unwrap().0)
}

/// A token from parts, signed with HS256 whatever its header says.
pub(crate) fn sign_raw(header: &str, claims: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}
