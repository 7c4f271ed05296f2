//! Many sockets in one place, as cheap as they can be: the load shares its cores with the server it measures.
//!
//! Joins are spoken as the protocol has them. Once a socket is in the crowd, its frames are counted where they lie in
//! the read buffer, which all sockets share, and not decoded.

use crate::bare;
use crate::frames::{Frames, append_masked};
use crate::numbered;
use crate::tally::Tally;
use anyhow::{Context, ensure};
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
use walcast_protocol::{Ref, ServerMessage, Version, decode_server_text};

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
        self.push_join(topic, reference, json!({ "config": config }))
            .await?;
        let reference = Ref::from_text(reference);
        let answered = self.find(|message| {
            (message.event == "phx_reply" && message.reference == reference).then(|| joined(message))
        });
        tokio::time::timeout(JOIN_TIMEOUT, answered)
            .await
            .with_context(|| format!("the join of {topic} was not answered"))?
    }

    /// Waits until the bare program says that the socket gets what is sent from now on.
    pub(crate) async fn be_seated(&mut self) -> anyhow::Result<()> {
        let mut frame = Vec::new();
        append_masked(&mut frame, Data::Text, b"[]")?;
        self.tcp.write_all(&frame).await?;
        let seated = self.find(|message| (message.event == bare::SEATED).then_some(Ok(())));
        tokio::time::timeout(JOIN_TIMEOUT, seated)
            .await
            .context("the bare program did not take a socket in")?
    }

    /// Joins a topic with a token of the channel's own, and waits until the server says that its subscription to row
    /// changes works, which other servers do some time after they answer the join (`protocol.md 7.3`).
    pub(crate) async fn subscribe(
        &mut self,
        topic: &str,
        reference: &str,
        bindings: &Value,
        access_token: &str,
    ) -> anyhow::Result<()> {
        let config = json!({ "postgres_changes": bindings });
        let payload = json!({ "config": config, "access_token": access_token });
        self.push_join(topic, reference, payload).await?;
        let reference = Ref::from_text(reference);
        let confirmed = self.find(|message| match message.event.as_str() {
            "phx_reply" if message.reference == reference => joined(message).err().map(Err),
            "system" if message.topic == topic => Some(confirmed(message)),
            _ => None,
        });
        tokio::time::timeout(JOIN_TIMEOUT, confirmed)
            .await
            .with_context(|| format!("the subscription of {topic} was not confirmed"))?
    }

    async fn push_join(&mut self, topic: &str, reference: &str, payload: Value) -> anyhow::Result<()> {
        let join = json!([reference, reference, topic, "phx_join", payload]);
        let mut frame = Vec::new();
        append_masked(&mut frame, Data::Text, join.to_string().as_bytes())?;
        Ok(self.tcp.write_all(&frame).await?)
    }

    /// Reads until a message is what is looked for.
    async fn find(
        &mut self,
        mut judge: impl FnMut(&ServerMessage) -> Option<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let count = self.tcp.read(&mut buffer).await?;
            ensure!(count > 0, "the server closed the socket");
            let mut found = None;
            self.frames
                .read(buffer.get(..count).unwrap_or_default(), |opcode, payload| {
                    if opcode == OpCode::Data(Data::Text) && found.is_none() {
                        found = decode(payload).and_then(|message| judge(&message));
                    }
                })?;
            if let Some(found) = found {
                return found;
            }
        }
    }
}

fn decode(text: &[u8]) -> Option<ServerMessage> {
    decode_server_text(Version::V2, std::str::from_utf8(text).ok()?).ok()
}

/// What the reply to a join says.
fn joined(reply: &ServerMessage) -> anyhow::Result<()> {
    let reply: Value = serde_json::from_str(reply.payload.get())?;
    ensure!(
        reply["status"] == "ok",
        "the join was refused: {}",
        reply["response"]
    );
    Ok(())
}

/// What a `system` message says of a subscription.
fn confirmed(system: &ServerMessage) -> anyhow::Result<()> {
    let system: Value = serde_json::from_str(system.payload.get())?;
    ensure!(
        system["status"] == "ok",
        "the subscription failed: {}",
        system["message"]
    );
    Ok(())
}

/// What a socket of a crowd counts.
pub(crate) trait Count: 'static {
    /// Takes a message that is the load's and says so; others are looked at for the end of a channel.
    fn count(&mut self, kind: Data, payload: &[u8], now_us: u64, tally: &Tally) -> bool;
}

/// What crowds check of the order in which messages arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Senders {
    /// Numbers only grow.
    One,
    /// They need not.
    Many,
}

/// Counts numbered broadcasts.
struct Broadcasts {
    senders: Senders,
    last: Option<u64>,
}

impl Count for Broadcasts {
    fn count(&mut self, kind: Data, payload: &[u8], now_us: u64, tally: &Tally) -> bool {
        if kind != Data::Binary || payload.first() != Some(&BROADCAST) {
            return false;
        }
        let Some(number) = numbered::number(payload) else {
            tally.fault("a broadcast of somebody else arrived".to_owned());
            return true;
        };
        if self.senders == Senders::One && self.last.is_some_and(|last| last >= number) {
            tally.fault(format!("message {number} arrived after {:?}", self.last));
        }
        self.last = Some(number);
        tally.arrive(number, now_us);
        true
    }
}

/// Sockets that count what they receive. Their tasks end with it.
pub(crate) struct Crowd {
    members: Vec<Rc<Mutex<OwnedWriteHalf>>>,
    tally: Rc<Tally>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Lets sockets in, to count broadcasts; they are members by their position.
    pub(crate) fn gather(entrants: Vec<Entrant>, tally: &Rc<Tally>, senders: Senders) -> Self {
        Self::gather_counting(entrants, tally, |_| Broadcasts { senders, last: None })
    }

    /// Lets sockets in, each with what it counts; they are members by their position.
    pub(crate) fn gather_counting<C: Count>(
        entrants: Vec<Entrant>,
        tally: &Rc<Tally>,
        counter: impl Fn(usize) -> C,
    ) -> Self {
        let buffer = Rc::new(RefCell::new(vec![0; READ_BUFFER_BYTES]));
        let mut tasks = JoinSet::new();
        let mut members = Vec::with_capacity(entrants.len());
        for (number, entrant) in entrants.into_iter().enumerate() {
            let (reading, writing) = entrant.tcp.into_split();
            members.push(Rc::new(Mutex::new(writing)));
            let listener = Listener {
                reading,
                frames: entrant.frames,
                counter: counter(number),
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

struct Listener<C> {
    reading: OwnedReadHalf,
    frames: Frames,
    counter: C,
    tally: Rc<Tally>,
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl<C: Count> Listener<C> {
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
            counter,
            tally,
            ..
        } = self;
        let now_us = tally.now_us();
        let mut closed = None;
        frames.read(bytes, |opcode, payload| match opcode {
            OpCode::Data(kind) if counter.count(kind, payload, now_us, tally) => {}
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

/// Whether a channel ended, or its subscription did.
fn is_end(text: &[u8]) -> bool {
    decode(text).is_some_and(|message| match message.event.as_str() {
        "phx_close" | "phx_error" => true,
        "system" => confirmed(&message).is_err(),
        _ => false,
    })
}
