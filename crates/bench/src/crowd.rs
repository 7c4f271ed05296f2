//! Many sockets in one place, as cheap as they can be: the load shares its cores with the server it measures.
//!
//! Joins are spoken as the protocol has them. Once a socket is in the crowd, its frames are counted where they lie in
//! the read buffer, which all sockets share, and not decoded.

use crate::frames::{Frames, append_masked};
use crate::numbered;
use crate::tally::Tally;
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::ready;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use url::Url;
use walcast_protocol::{Ref, Version, decode_server_text};

/// Servers end sockets they hear nothing from for 60 s.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A join is answered by then.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Shared by all sockets of a crowd.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// First byte of a broadcast's binary frame (`protocol.md 2.3`, kind 4).
const BROADCAST: u8 = 4;

/// A socket on its way into the crowd.
pub(crate) struct Entrant {
    tcp: TcpStream,
    frames: Frames,
}

impl Entrant {
    /// Opens a WebSocket. `endpoint` is a `ws:` URL with everything.
    pub(crate) async fn connect(endpoint: &Url) -> anyhow::Result<Self> {
        ensure!(
            endpoint.scheme() == "ws",
            "{endpoint}: this scenario counts bytes and needs a ws: URL"
        );
        let host = endpoint.host_str().context("the URL has no host")?;
        let port = endpoint.port_or_known_default().context("the URL has no port")?;
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let (socket, _) = tokio_tungstenite::client_async(endpoint.as_str(), tcp).await?;
        // Nothing is lost with the library's buffer: the server speaks when it is spoken to.
        Ok(Self {
            tcp: socket.into_inner(),
            frames: Frames::default(),
        })
    }

    /// Joins a topic; `reference` is the join's `ref` and the channel's `join_ref`.
    pub(crate) async fn join(&mut self, topic: &str, reference: &str, config: &Value) -> anyhow::Result<()> {
        let join = json!([reference, reference, topic, "phx_join", { "config": config }]);
        let mut frame = Vec::new();
        append_masked(&mut frame, Data::Text, join.to_string().as_bytes())?;
        self.tcp.write_all(&frame).await?;
        tokio::time::timeout(JOIN_TIMEOUT, self.await_reply(reference))
            .await
            .with_context(|| format!("the join of {topic} was not answered"))?
    }

    async fn await_reply(&mut self, reference: &str) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let count = self.tcp.read(&mut buffer).await?;
            ensure!(count > 0, "the server closed the socket");
            let mut reply = None;
            self.frames
                .read(buffer.get(..count).unwrap_or_default(), |opcode, payload| {
                    reply = reply.take().or_else(|| reply_to(reference, opcode, payload));
                })?;
            match reply {
                None => {}
                Some(reply) if reply["status"] == "ok" => return Ok(()),
                Some(reply) => bail!("the join was refused: {}", reply["response"]),
            }
        }
    }
}

/// The payload of the reply with this reference, if the frame is one.
fn reply_to(reference: &str, opcode: OpCode, payload: &[u8]) -> Option<Value> {
    if opcode != OpCode::Data(Data::Text) {
        return None;
    }
    let message = decode_server_text(Version::V2, std::str::from_utf8(payload).ok()?).ok()?;
    let is_reply = message.event == "phx_reply" && message.reference == Ref::from_text(reference);
    is_reply.then(|| serde_json::from_str(message.payload.get()).ok())?
}

/// What crowds check of the order in which messages arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Senders {
    /// Numbers only grow.
    One,
    /// They need not.
    Many,
}

/// Sockets that count what they receive. Their tasks end with it.
pub(crate) struct Crowd {
    members: Vec<Rc<Mutex<OwnedWriteHalf>>>,
    tally: Rc<Tally>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Lets sockets in; they are members by their position.
    pub(crate) fn gather(entrants: Vec<Entrant>, tally: &Rc<Tally>, senders: Senders) -> Self {
        let buffer = Rc::new(RefCell::new(vec![0; READ_BUFFER_BYTES]));
        let mut tasks = JoinSet::new();
        let mut members = Vec::with_capacity(entrants.len());
        for (number, entrant) in entrants.into_iter().enumerate() {
            let (reading, writing) = entrant.tcp.into_split();
            members.push(Rc::new(Mutex::new(writing)));
            let listener = Listener {
                reading,
                frames: entrant.frames,
                senders,
                last: None,
                tally: Rc::clone(tally),
                buffer: Rc::clone(&buffer),
            };
            let tally = Rc::clone(tally);
            tasks.spawn_local(async move {
                let Err(error) = listener.listen().await;
                tally.fault(format!("socket {number}: {error}"));
            });
        }
        tasks.spawn_local(keep_alive(members.clone()));
        Self {
            members,
            tally: Rc::clone(tally),
            _tasks: tasks,
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Writes bytes to a member's socket.
    pub(crate) async fn write(&self, member: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let member = self.members.get(member).context("no such member")?;
        Ok(member.lock().await.write_all(bytes).await?)
    }
}

async fn keep_alive(members: Vec<Rc<Mutex<OwnedWriteHalf>>>) {
    let beat = json!([null, "beat", "phoenix", "heartbeat", {}]).to_string();
    let mut frame = Vec::new();
    if append_masked(&mut frame, Data::Text, beat.as_bytes()).is_err() {
        return;
    }
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        for member in &members {
            // A socket that is gone has said so where it is read.
            let _ = member.lock().await.write_all(&frame).await;
        }
    }
}

struct Listener {
    reading: OwnedReadHalf,
    frames: Frames,
    senders: Senders,
    last: Option<u64>,
    tally: Rc<Tally>,
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl Listener {
    async fn listen(mut self) -> io::Result<std::convert::Infallible> {
        loop {
            poll_fn(|context| {
                let buffer = Rc::clone(&self.buffer);
                let mut buffer = buffer.borrow_mut();
                let mut read = ReadBuf::new(&mut buffer);
                ready!(Pin::new(&mut self.reading).poll_read(context, &mut read))?;
                self.take(read.filled()).into()
            })
            .await?;
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Self {
            frames,
            senders,
            last,
            tally,
            ..
        } = self;
        let now_us = tally.now_us();
        let mut closed = None;
        frames.read(bytes, |opcode, payload| match opcode {
            OpCode::Data(Data::Binary) if payload.first() == Some(&BROADCAST) => {
                let Some(number) = numbered::number(payload) else {
                    return tally.fault("a broadcast of somebody else arrived".to_owned());
                };
                if *senders == Senders::One && last.is_some_and(|last| last >= number) {
                    tally.fault(format!("message {number} arrived after {last:?}"));
                }
                *last = Some(number);
                tally.arrive(number, now_us);
            }
            OpCode::Control(Control::Close) => {
                let reason = payload.get(2..).map(String::from_utf8_lossy).unwrap_or_default();
                closed = Some(format!("the server closed it: {reason}"));
            }
            OpCode::Data(Data::Text) if is_end(payload) => {
                closed = Some(String::from_utf8_lossy(payload).into_owned());
            }
            _ => {}
        })?;
        closed.map_or(Ok(()), |closed| Err(io::Error::other(closed)))
    }
}

/// Whether a channel ended.
fn is_end(text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| decode_server_text(Version::V2, text).ok())
        .is_some_and(|message| matches!(message.event.as_str(), "phx_close" | "phx_error"))
}
