//! The connection: one task that owns the WebSocket, sends what channels ask for and hands out what arrives.

use crate::channel::{Channel, Join, JoinError};
use crate::event::{Closed, Event};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::Url;

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The endpoint as supabase-js is given it, e.g. `ws://localhost:4000/socket` or `…/realtime/v1`.
    pub url: String,
    /// The API key, a JWT.
    pub api_key: String,
    /// How often to send a heartbeat; the server ends sockets it hears nothing from for 60 s.
    pub heartbeat_ms: u64,
    /// Size of the read buffer; the largest part of what an idle connection costs.
    pub read_buffer_bytes: usize,
}

impl Options {
    /// Options with the usual heartbeat of 25 s.
    #[must_use]
    pub fn new(url: impl Into<String>, api_key: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: api_key.into(),
            heartbeat_ms: 25_000,
            read_buffer_bytes: 4_096,
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The endpoint is no URL.
    #[error("{0} is not a usable endpoint: {1}")]
    Url(String, url::ParseError),
    /// The server answered with an HTTP status and a body instead of an upgrade.
    #[error("the server refused the connection with status {status}: {body}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Body, as text.
        body: String,
    },
    /// Anything below.
    #[error(transparent)]
    WebSocket(Box<tungstenite::Error>),
}

pub(crate) enum Command {
    Join {
        topic: String,
        payload: Value,
        answer: oneshot::Sender<Result<Joined, JoinError>>,
    },
    Push {
        topic: String,
        event: String,
        payload: Value,
        reply: Option<oneshot::Sender<Result<Value, Value>>>,
    },
    Leave {
        topic: String,
    },
}

pub(crate) struct Joined {
    response: Value,
    events: mpsc::UnboundedReceiver<Event>,
}

/// A connection. Dropping it and all its channels closes the socket.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::UnboundedSender<Command>,
}

impl Client {
    /// Opens the socket.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(options: &Options) -> Result<Self, ConnectError> {
        let mut url =
            Url::parse(&options.url).map_err(|error| ConnectError::Url(options.url.clone(), error))?;
        let path = format!("{}/websocket", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.query_pairs_mut()
            .append_pair("apikey", &options.api_key)
            .append_pair("vsn", "2.0.0");
        let config = WebSocketConfig::default().read_buffer_size(options.read_buffer_bytes);
        let connected = tokio_tungstenite::connect_async_with_config(url.as_str(), Some(config), true).await;
        let socket = match connected {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                return Err(ConnectError::Refused {
                    status: response.status().as_u16(),
                    body: String::from_utf8_lossy(body).into_owned(),
                });
            }
            Err(error) => return Err(ConnectError::WebSocket(Box::new(error))),
        };
        let (commands, queue) = mpsc::unbounded_channel();
        let connection = Connection {
            socket,
            commands: commands.downgrade(),
            channels: HashMap::new(),
            replies: HashMap::new(),
            next_ref: 1,
        };
        tokio::spawn(connection.run(queue, Duration::from_millis(options.heartbeat_ms)));
        Ok(Self { commands })
    }

    /// Joins a topic (`realtime:…`) and waits for the answer.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(&self, topic: &str, join: &Join) -> Result<Channel, JoinError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Join {
            topic: topic.to_owned(),
            payload: join.payload(),
            answer,
        };
        self.commands.send(command).map_err(|_| JoinError::Closed)?;
        let joined = answered.await.map_err(|_| JoinError::Closed)??;
        Ok(Channel {
            topic: topic.to_owned(),
            response: joined.response,
            events: joined.events,
            commands: self.commands.clone(),
        })
    }
}

/// `[join_ref, ref, topic, event, payload]`
#[derive(Deserialize)]
struct ServerMessage<'a>(
    #[serde(borrow)] Option<Cow<'a, str>>,
    #[serde(borrow)] Option<Cow<'a, str>>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    Box<RawValue>,
);

#[derive(Deserialize)]
struct Reply {
    status: String,
    response: Value,
}

impl Reply {
    fn result(self) -> Result<Value, Value> {
        if self.status == "ok" {
            Ok(self.response)
        } else {
            Err(self.response)
        }
    }
}

enum Awaited {
    Join {
        topic: String,
        answer: oneshot::Sender<Result<Joined, JoinError>>,
    },
    Push(oneshot::Sender<Result<Value, Value>>),
}

struct Member {
    join_ref: String,
    events: mpsc::UnboundedSender<Event>,
}

struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    commands: mpsc::WeakUnboundedSender<Command>,
    channels: HashMap<String, Member>,
    replies: HashMap<String, Awaited>,
    next_ref: u64,
}

impl Connection {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>, heartbeat: Duration) {
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        let closed = loop {
            let sent = tokio::select! {
                command = queue.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => {
                        let _ = self.socket.close(None).await;
                        break None;
                    }
                },
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        self.receive(&text);
                        Ok(())
                    }
                    Some(Ok(Message::Close(frame))) => {
                        break frame.map(|frame| (u16::from(frame.code), frame.reason.to_string()));
                    }
                    Some(Ok(_)) => Ok(()),
                    Some(Err(_)) | None => break None,
                },
                _ = beat.tick() => {
                    let reference = self.reference();
                    self.send(json!([null, reference, "phoenix", "heartbeat", {}])).await
                }
            };
            if sent.is_err() {
                break None;
            }
        };
        for (_, member) in self.channels.drain() {
            let _ = member.events.send(Event::Closed(Closed::Socket(closed.clone())));
        }
    }

    fn reference(&mut self) -> String {
        self.next_ref += 1;
        self.next_ref.to_string()
    }

    async fn send(&mut self, message: Value) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(message.to_string())).await
    }

    async fn obey(&mut self, command: Command) -> Result<(), tungstenite::Error> {
        let reference = self.reference();
        match command {
            Command::Join {
                topic,
                payload,
                answer,
            } => {
                let message = json!([reference, reference, topic, "phx_join", payload]);
                self.replies.insert(reference, Awaited::Join { topic, answer });
                self.send(message).await
            }
            Command::Push {
                topic,
                event,
                payload,
                reply,
            } => {
                let join_ref = self.channels.get(&topic).map(|member| member.join_ref.clone());
                let message = json!([join_ref, reference, topic, event, payload]);
                if let Some(reply) = reply {
                    self.replies.insert(reference, Awaited::Push(reply));
                }
                self.send(message).await
            }
            Command::Leave { topic } => match self.channels.remove(&topic) {
                None => Ok(()),
                Some(member) => {
                    self.send(json!([member.join_ref, reference, topic, "phx_leave", {}]))
                        .await
                }
            },
        }
    }

    fn receive(&mut self, text: &str) {
        let Ok(ServerMessage(join_ref, reference, topic, event, payload)) = serde_json::from_str(text) else {
            tracing::warn!("a frame is not a message of serializer 2.0.0");
            return;
        };
        if event == "phx_reply" {
            let awaited =
                reference.and_then(|reference| Some((self.replies.remove(reference.as_ref())?, reference)));
            let (Some((awaited, reference)), Ok(reply)) =
                (awaited, serde_json::from_str::<Reply>(payload.get()))
            else {
                return;
            };
            self.answer(awaited, &reference, reply);
            return;
        }
        let Some(member) = self.channels.get(topic.as_ref()) else {
            return;
        };
        // Leftovers of an earlier join of the topic.
        if join_ref.is_some_and(|join_ref| join_ref != member.join_ref) {
            return;
        }
        let event = match event.as_ref() {
            "postgres_changes" => serde_json::from_str(payload.get()).map(Event::Change).ok(),
            "system" => serde_json::from_str(payload.get()).map(Event::System).ok(),
            "phx_close" => Some(Event::Closed(Closed::Channel)),
            "phx_error" => Some(Event::Closed(Closed::Crashed)),
            _ => None,
        }
        .unwrap_or_else(|| Event::Other {
            event: event.into_owned(),
            payload,
        });
        let ended = matches!(event, Event::Closed(_));
        let _ = member.events.send(event);
        if ended {
            self.channels.remove(topic.as_ref());
        }
    }

    fn answer(&mut self, awaited: Awaited, reference: &str, reply: Reply) {
        match awaited {
            Awaited::Push(waiting) => {
                let _ = waiting.send(reply.result());
            }
            Awaited::Join { topic, answer } => {
                let joined = reply.result().map(|response| {
                    let (events, receiver) = mpsc::unbounded_channel();
                    self.channels.insert(
                        topic.clone(),
                        Member {
                            join_ref: reference.to_owned(),
                            events,
                        },
                    );
                    Joined {
                        response,
                        events: receiver,
                    }
                });
                let joined = joined.map_err(|response| {
                    let reason = response.get("reason").and_then(Value::as_str).map(str::to_owned);
                    JoinError::Refused(reason.unwrap_or_else(|| response.to_string()))
                });
                // Nobody waits for the channel any more: the server must not think that somebody does.
                if answer.send(joined).is_err()
                    && let Some(commands) = self.commands.upgrade()
                {
                    let _ = commands.send(Command::Leave { topic });
                }
            }
        }
    }
}
