//! A client of server-sent events that sees every line.

use std::collections::VecDeque;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::{PATIENCE, Response, Walcast};

/// A block of lines up to an empty one.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    /// None: the block was a comment.
    pub(crate) kind: Option<String>,
    pub(crate) data: Value,
}

impl Event {
    fn parse(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.trim_end().lines() {
            match line.split_once(": ") {
                Some(("", _)) => {}
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", kind)) => event.kind = Some(kind.to_owned()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ => panic!("no line of an event: {line:?}"),
            }
        }
        event
    }
}

/// A stream whose response has begun.
pub(crate) struct EventSource {
    stream: TcpStream,
    /// Bytes of the response that were not looked at.
    unread: Vec<u8>,
    /// Text of the body that is no whole event yet.
    text: Vec<u8>,
    events: VecDeque<Event>,
    is_over: bool,
    pub(crate) response: Response,
}

impl EventSource {
    /// Asks for a stream.
    pub(crate) async fn request(server: &Walcast, target: &str, headers: &[(&str, &str)]) -> TcpStream {
        let mut request =
            format!("GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Opens a stream with the parameters, as somebody.
    pub(crate) async fn open(server: &Walcast, query: &str, token: &str) -> Self {
        Self::open_at(server, &format!("/realtime/v1/sse?{query}&token={token}"), &[]).await
    }

    pub(crate) async fn open_at(server: &Walcast, target: &str, headers: &[(&str, &str)]) -> Self {
        Self::begin(Self::request(server, target, headers).await).await
    }

    /// Reads the head of the response; panics if it is no stream.
    pub(crate) async fn begin(stream: TcpStream) -> Self {
        let source = Self::answered(stream).await;
        assert_eq!(source.response.status, 200, "{}", source.response.head);
        source
    }

    /// Reads the head of the response, whatever it is.
    pub(crate) async fn answered(stream: TcpStream) -> Self {
        let mut source = Self {
            stream,
            unread: Vec::new(),
            text: Vec::new(),
            events: VecDeque::new(),
            is_over: false,
            response: Response::parse("HTTP/1.1 0 none\r\n\r\n"),
        };
        let head = loop {
            if let Some(end) = find(&source.unread, b"\r\n\r\n") {
                break source.unread.drain(..end + 4).collect::<Vec<u8>>();
            }
            assert!(source.read().await, "the connection ended before the response");
        };
        source.response = Response::parse(&String::from_utf8(head).unwrap());
        source
    }

    /// Reads more; false at the end of the connection.
    async fn read(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread));
        read.await.expect("nothing came").is_ok_and(|count| count > 0)
    }

    /// Takes whole chunks of the response apart (RFC 9112 7.1).
    fn take_chunks(&mut self) {
        while let Some(end) = find(&self.unread, b"\r\n") {
            let size = std::str::from_utf8(&self.unread[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if self.unread.len() < end + 2 + size + 2 {
                return;
            }
            self.is_over = size == 0;
            self.text.extend_from_slice(&self.unread[end + 2..end + 2 + size]);
            self.unread.drain(..end + 2 + size + 2);
        }
        while let Some(end) = find(&self.text, b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            self.events
                .push_back(Event::parse(std::str::from_utf8(&block).unwrap()));
        }
    }

    /// The next event or comment; none when the response is at its end.
    pub(crate) async fn next_or_end(&mut self) -> Option<Event> {
        loop {
            self.take_chunks();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            assert!(self.read().await, "the connection broke within the response");
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let event = self.next_or_end().await.expect("the stream ended");
            if event.kind.is_some() {
                return event;
            }
        }
    }

    /// The data of the next event, which is of this kind.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event.kind.as_deref(), Some(kind), "{event:?}");
        event.data
    }

    /// That a channel was joined; returns the answer to its join.
    pub(crate) async fn joined(&mut self, topic: &str) -> Value {
        let data = self.expect("system").await;
        assert_eq!(
            (&data["topic"], &data["payload"]["message"]),
            (&topic.into(), &"Joined".into())
        );
        data["payload"]["response"].clone()
    }

    /// Reads to the end of the response and returns the last event.
    pub(crate) async fn last(&mut self) -> Event {
        let mut last = None;
        while let Some(event) = self.next_or_end().await {
            last = Some(event);
        }
        last.expect("no event")
    }

    /// Waits until the connection is gone, without reading what it brings before that.
    pub(crate) async fn cut(self) {
        let error = timeout(PATIENCE, async {
            loop {
                if let Err(error) = self.stream.try_write(b"x") {
                    return error;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        error.await.expect("the connection lives on");
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
