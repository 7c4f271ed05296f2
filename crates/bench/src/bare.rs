//! What fan-out cannot cost less than: a program that writes every frame it receives to all other sockets, and knows
//! neither topics, nor members, nor rights, nor slow readers.
//!
//! It runs as a process of its own, so that its CPU time can be told from the load's. Its sockets are dealt out to as
//! many writing tasks as there are cores; each writes all that has arrived meanwhile with one call a socket.

use crate::frames::{Frames, append};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::process::Stdio;
use std::thread;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use url::Url;

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Where to listen.
#[derive(Args)]
pub(crate) struct Options {
    /// Port on 127.0.0.1; 0 chooses a free one, which is printed.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// The event of the answer to a text message, by which a socket knows that it gets what is sent from now on.
pub(crate) const SEATED: &str = "seated";

enum Order {
    Seat { socket: usize, writing: OwnedWriteHalf },
    Answer { socket: usize },
    Write { except: usize, bytes: bytes::Bytes },
}

/// Serves until standard input ends, and with it whoever started it.
pub(crate) async fn serve(options: &Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    let writers: Vec<mpsc::Sender<Order>> = (0..thread::available_parallelism()?.get())
        .map(|_| {
            let (orders, queue) = mpsc::channel(1_024);
            tokio::spawn(write(queue));
            orders
        })
        .collect();
    let mut until = tokio::io::stdin();
    let mut ignored = [0; 64];
    let mut socket = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(converse(accepted?.0, socket, writers.clone()));
                socket += 1;
            }
            read = until.read(&mut ignored) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn converse(tcp: TcpStream, socket: usize, writers: Vec<mpsc::Sender<Order>>) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let upgraded = tokio_tungstenite::accept_async(tcp).await?;
    let (reading, writing) = upgraded.into_inner().into_split();
    let writer = writers.get(socket % writers.len()).context("no writer")?;
    writer.send(Order::Seat { socket, writing }).await?;
    relay(reading, socket, writer, &writers).await
}

async fn relay(
    mut reading: OwnedReadHalf,
    socket: usize,
    writer: &mpsc::Sender<Order>,
    writers: &[mpsc::Sender<Order>],
) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    let mut frames = Frames::default();
    loop {
        // An idle socket has no buffer.
        reading.readable().await?;
        buffer.resize(READ_BUFFER_BYTES, 0);
        let count = reading.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let (mut bytes, mut appended, mut is_asked) = (Vec::new(), Ok(()), false);
        frames.read(buffer.get(..count).unwrap_or_default(), |opcode, payload| {
            is_asked |= opcode == OpCode::Data(Data::Text);
            // The load's mask is zero, so the payload is as it is.
            if opcode == OpCode::Data(Data::Binary) && appended.is_ok() {
                appended = append(&mut bytes, Data::Binary, payload);
            }
        })?;
        appended?;
        if is_asked {
            writer.send(Order::Answer { socket }).await?;
        }
        if bytes.is_empty() {
            buffer = Vec::new();
            continue;
        }
        let bytes = bytes::Bytes::from(bytes);
        for writer in writers {
            let bytes = bytes.clone();
            writer
                .send(Order::Write {
                    except: socket,
                    bytes,
                })
                .await?;
        }
    }
}

async fn write(mut queue: mpsc::Receiver<Order>) {
    let mut sockets: Vec<(usize, OwnedWriteHalf)> = Vec::new();
    let mut orders = Vec::new();
    let message = json!([null, null, "bare", SEATED, {}]).to_string();
    let mut answer = Vec::new();
    if append(&mut answer, Data::Text, message.as_bytes()).is_err() {
        return;
    }
    while queue.recv_many(&mut orders, 1_024).await > 0 {
        let (mut batch, mut from) = (Vec::new(), None);
        for order in orders.drain(..) {
            match order {
                Order::Seat { socket, writing } => sockets.push((socket, writing)),
                Order::Answer { socket } => {
                    for (_, writing) in sockets.iter_mut().filter(|(other, _)| *other == socket) {
                        // A socket that is gone is missed where it was opened.
                        let _ = writing.write_all(&answer).await;
                    }
                }
                // There is one sender.
                Order::Write { except, bytes } => {
                    from = Some(except);
                    batch.extend_from_slice(&bytes);
                }
            }
        }
        for (socket, writing) in &mut sockets {
            if from.is_some() && Some(*socket) != from {
                // A socket that is gone costs nothing more.
                let _ = writing.write_all(&batch).await;
            }
        }
    }
}

/// The program, running. It ends when this is dropped.
pub(crate) struct Bare {
    /// Its process.
    pub(crate) pid: u32,
    /// Where it listens.
    pub(crate) endpoint: Url,
    _child: Child,
}

impl Bare {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the bare program could not be started")?;
        let stdout = child.stdout.take().context("the bare program has no output")?;
        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port).await?;
        Ok(Self {
            pid: child.id().context("the bare program ended at once")?,
            endpoint: format!("ws://127.0.0.1:{}/", port.trim()).parse()?,
            _child: child,
        })
    }
}
