//! A recorded client: a socket that notes every frame.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::http;
use crate::transcript::{Answer, Ending, Incoming, Outgoing, Request};

/// Reference of the replay's own heartbeats, which no case uses.
const OWN_REFERENCE: &str = "golden:";

/// No close frame came (RFC 6455 7.1.5).
const NO_CLOSE_FRAME: u16 = 1006;

/// What a socket has received.
#[derive(Default)]
struct Received {
    frames: Vec<Incoming>,
    /// Number of the last own heartbeat that was answered.
    answered: u64,
    has_ended: bool,
}

enum Order {
    Frame(Message),
    Raw(Vec<u8>),
    End(Ending),
}

/// An upgraded socket.
pub(crate) struct Client {
    orders: mpsc::UnboundedSender<Order>,
    received: watch::Receiver<Received>,
    is_v1: bool,
    heartbeats: u64,
}

impl Client {
    /// Asks for the upgrade; the client is there if it is granted.
    /// Changes of the table `hidden` are not noted.
    pub(crate) async fn open(
        server: SocketAddr,
        request: &Request,
        hidden: Option<&'static str>,
    ) -> (Answer, Option<Self>) {
        let (answer, accepted) = http::upgrade(server, request).await;
        let Some((connection, tail)) = accepted else {
            return (answer, None);
        };
        let stream = WebSocketStream::from_partially_read(connection, tail, Role::Client, None).await;
        let (orders, incoming_orders) = mpsc::unbounded_channel();
        let (note, received) = watch::channel(Received::default());
        tokio::spawn(run(stream, incoming_orders, note, hidden));
        let client = Self {
            orders,
            received,
            is_v1: !request.target.contains("vsn=2"),
            heartbeats: 0,
        };
        (answer, Some(client))
    }

    pub(crate) fn send(&self, outgoing: &Outgoing) {
        match outgoing {
            Outgoing::Text(text) => self.order(Order::Frame(Message::text(text.as_str()))),
            Outgoing::Binary(bytes) => self.order(Order::Frame(Message::binary(bytes.clone()))),
            Outgoing::Ping(payload) => {
                self.order(Order::Frame(Message::Ping(payload.clone().into_bytes().into())));
            }
            Outgoing::Raw(bytes) => self.order(Order::Raw(bytes.clone())),
            Outgoing::Fragment {
                text,
                is_first,
                is_last,
            } => {
                let kind = if *is_first { Data::Text } else { Data::Continue };
                let frame = Frame::message(text.clone().into_bytes(), OpCode::Data(kind), *is_last);
                self.order(Order::Frame(Message::Frame(frame)));
            }
        }
    }

    /// Ends the socket and waits for its end.
    pub(crate) async fn end(&mut self, ending: Ending, patience: Duration) {
        self.order(Order::End(ending));
        let ended = self.received.wait_for(|received| received.has_ended);
        timeout(patience, ended).await.ok();
    }

    /// Waits until that many frames have come; false if they do not, or the socket ends before.
    pub(crate) async fn has_received(&mut self, frames: usize, patience: Duration) -> bool {
        let arrived = self
            .received
            .wait_for(|received| received.frames.len() >= frames || received.has_ended);
        match timeout(patience, arrived).await {
            Ok(Ok(received)) => received.frames.len() >= frames,
            _ => false,
        }
    }

    /// Waits until the server has dealt with all that was sent, so that what it says to that has come.
    pub(crate) async fn settle(&mut self, patience: Duration) {
        self.heartbeats += 1;
        let number = self.heartbeats;
        let reference = format!("{OWN_REFERENCE}{number}");
        let heartbeat = if self.is_v1 {
            format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":"{reference}"}}"#)
        } else {
            format!(r#"[null,"{reference}","phoenix","heartbeat",{{}}]"#)
        };
        self.order(Order::Frame(Message::text(heartbeat)));
        let answered = self
            .received
            .wait_for(|received| received.answered >= number || received.has_ended);
        timeout(patience, answered).await.ok();
    }

    /// Waits for a text that says both.
    pub(crate) async fn hear(&mut self, one: &str, other: &str, patience: Duration) -> bool {
        let heard = self.received.wait_for(|received| {
            received.frames.iter().rev().any(|frame| match frame {
                Incoming::Text(text) => text.contains(one) && text.contains(other),
                _ => false,
            })
        });
        matches!(timeout(patience, heard).await, Ok(Ok(_)))
    }

    pub(crate) fn frames(&self) -> Vec<Incoming> {
        self.received.borrow().frames.clone()
    }

    fn order(&self, order: Order) {
        // The task is gone when the socket has ended, which the frames show.
        self.orders.send(order).ok();
    }
}

async fn run(
    mut stream: WebSocketStream<TcpStream>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    note: watch::Sender<Received>,
    hidden: Option<&'static str>,
) {
    let mut is_ending = false;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                // What cannot be sent any more shows in what comes back.
                Some(Order::Frame(message)) => drop(stream.send(message).await),
                Some(Order::Raw(bytes)) => drop(stream.get_mut().write_all(&bytes).await),
                Some(Order::End(Ending::Handshake)) => {
                    is_ending = true;
                    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    stream.close(Some(frame)).await.ok();
                }
                Some(Order::End(Ending::Abort)) | None => break,
            },
            message = stream.next() => {
                let incoming = match message {
                    Some(Ok(Message::Text(text))) => Incoming::Text(text.as_str().to_owned()),
                    Some(Ok(Message::Binary(bytes))) => Incoming::Binary(bytes.to_vec()),
                    Some(Ok(Message::Pong(payload))) => Incoming::Pong(String::from_utf8_lossy(&payload).into_owned()),
                    Some(Ok(Message::Close(frame))) => {
                        if !is_ending {
                            is_ending = true;
                            let code = frame.map_or(NO_CLOSE_FRAME, |frame| frame.code.into());
                            note.send_modify(|received| received.frames.push(Incoming::Closed(code)));
                        }
                        continue;
                    }
                    Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
                    Some(Err(_)) | None => {
                        if !is_ending {
                            note.send_modify(|received| received.frames.push(Incoming::Closed(NO_CLOSE_FRAME)));
                        }
                        break;
                    }
                };
                note.send_modify(|received| received.take(incoming, hidden));
            }
        }
    }
    drop(stream);
    note.send_modify(|received| received.has_ended = true);
}

impl Received {
    fn take(&mut self, incoming: Incoming, hidden: Option<&str>) {
        if let Incoming::Text(text) = &incoming {
            if let Some((_, rest)) = text.split_once(&format!("\"{OWN_REFERENCE}")) {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                self.answered = digits.parse().unwrap();
                return;
            }
            let is_hidden = |table| text.contains(&format!("\"table\":\"{table}\""));
            if text.contains("\"postgres_changes\"") && hidden.is_some_and(is_hidden) {
                return;
            }
        }
        self.frames.push(incoming);
    }
}
