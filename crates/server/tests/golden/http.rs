//! Requests by hand, so that they go out as recorded and refused upgrades can be read to the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::TcpStream;

use crate::transcript::{Answer, Request};

/// A request and what it is answered.
pub(crate) async fn exchange(server: SocketAddr, request: &Request) -> Answer {
    let (mut from_server, mut to_server) = tokio::io::split(TcpStream::connect(server).await.unwrap());
    let head = head(
        request,
        &format!("connection: close\r\ncontent-length: {}\r\n", request.body.len()),
    );
    // A server may answer before it has read everything, and read no further.
    let write = async {
        if to_server.write_all(head.as_bytes()).await.is_ok() {
            to_server.write_all(&request.body).await.ok();
        }
    };
    let ((), (answer, _)) = tokio::join!(write, read_answer(&mut from_server));
    answer
}

/// An upgrade request; the connection and what came with the answer if it was accepted.
pub(crate) async fn upgrade(server: SocketAddr, request: &Request) -> (Answer, Option<(TcpStream, Vec<u8>)>) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let key = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    stream.write_all(head(request, key).as_bytes()).await.unwrap();
    let (mut from_server, to_server) = tokio::io::split(stream);
    let (answer, tail) = read_answer(&mut from_server).await;
    let accepted = answer.status == 101;
    let stream = from_server.unsplit(to_server);
    (answer, accepted.then_some((stream, tail)))
}

fn head(request: &Request, more: &str) -> String {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head + more + "\r\n"
}

/// The answer, and the bytes after it if it has no body.
async fn read_answer(from_server: &mut ReadHalf<TcpStream>) -> (Answer, Vec<u8>) {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    let head_length = loop {
        if let Some(at) = bytes
            .windows(END_OF_HEAD.len())
            .position(|window| window == END_OF_HEAD)
        {
            break at;
        }
        if from_server.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            panic!("no answer, but {:?}", String::from_utf8_lossy(&bytes));
        }
    };
    let head = String::from_utf8(bytes[..head_length].to_vec()).unwrap();
    let mut rest = bytes.split_off(head_length + END_OF_HEAD.len());
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    if status == 101 {
        return (answer(status, headers, &[]), rest);
    }
    let length: Option<usize> = headers
        .get("content-length")
        .map(|length| length.parse().unwrap());
    while length.is_none_or(|length| rest.len() < length) {
        if from_server.read_buf(&mut rest).await.unwrap_or(0) == 0 {
            break;
        }
    }
    let body = if headers.contains_key("transfer-encoding") {
        joined(&rest)
    } else {
        rest
    };
    (answer(status, headers, &body), Vec::new())
}

fn answer(status: u16, headers: BTreeMap<String, String>, body: &[u8]) -> Answer {
    Answer {
        status,
        headers,
        body: Some(String::from_utf8_lossy(body).into_owned()),
    }
}

/// The body that came in chunks.
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = chunks.windows(2).position(|window| window == b"\r\n") {
        let digits = std::str::from_utf8(&chunks[..at]).unwrap();
        let length = usize::from_str_radix(digits, 16).unwrap();
        chunks = &chunks[at + 2..];
        if length == 0 {
            break;
        }
        body.extend_from_slice(&chunks[..length]);
        chunks = &chunks[length + 2..];
    }
    body
}
