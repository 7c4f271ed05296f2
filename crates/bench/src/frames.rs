//! WebSocket frames (RFC 6455 5.2) in a stream of bytes: no more of the protocol than counting takes.

use std::io::{self, Cursor};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// A frame longer than this is no answer to any load of ours.
const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;

/// Appends a frame as a server sends it.
pub(crate) fn append(stream: &mut Vec<u8>, kind: Data, payload: &[u8]) -> anyhow::Result<()> {
    append_with_mask(stream, kind, payload, None)
}

/// Appends a frame as a client sends it. The mask is zero: it protects proxies, and there is none here.
pub(crate) fn append_masked(stream: &mut Vec<u8>, kind: Data, payload: &[u8]) -> anyhow::Result<()> {
    append_with_mask(stream, kind, payload, Some([0; 4]))
}

fn append_with_mask(
    stream: &mut Vec<u8>,
    kind: Data,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> anyhow::Result<()> {
    let header = FrameHeader {
        opcode: OpCode::Data(kind),
        mask,
        ..FrameHeader::default()
    };
    header.format(payload.len() as u64, stream)?;
    stream.extend_from_slice(payload);
    Ok(())
}

/// Finds the frames in what is read from one connection. Keeps bytes only of a frame that is not whole yet.
#[derive(Default)]
pub(crate) struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Hands out the frames that are whole now; payloads as they are on the wire, masked or not.
    ///
    /// # Errors
    /// If the bytes are no frames.
    pub(crate) fn read(&mut self, bytes: &[u8], mut each: impl FnMut(OpCode, &[u8])) -> io::Result<()> {
        if self.partial.is_empty() {
            let used = split(bytes, &mut each)?;
            self.partial
                .extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            self.partial.extend_from_slice(bytes);
            let used = split(&self.partial, &mut each)?;
            self.partial.drain(..used);
        }
        Ok(())
    }
}

/// Returns how many bytes the whole frames take.
fn split(bytes: &[u8], each: &mut impl FnMut(OpCode, &[u8])) -> io::Result<usize> {
    let mut used = 0;
    while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
        let mut cursor = Cursor::new(rest);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(io::Error::other)? else {
            break;
        };
        if length > MAX_PAYLOAD_BYTES {
            return Err(io::Error::other(format!(
                "a frame of {length} bytes is announced"
            )));
        }
        let start = usize::try_from(cursor.position()).map_err(io::Error::other)?;
        let end = start + usize::try_from(length).map_err(io::Error::other)?;
        let Some(payload) = rest.get(start..end) else {
            break;
        };
        each(header.opcode, payload);
        used += end;
    }
    Ok(used)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let payloads: [&[u8]; 4] = [b"", b"short", &[7; 200], &[8; 70_000]];
        let mut stream = Vec::new();
        for payload in payloads {
            append(&mut stream, Data::Binary, payload).unwrap();
            append_masked(&mut stream, Data::Text, payload).unwrap();
        }
        for step in [1, 2, 7, 201, 65_536, stream.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(step) {
                frames
                    .read(bytes, |opcode, payload| found.push((opcode, payload.to_vec())))
                    .unwrap();
            }
            let expected: Vec<_> = payloads
                .iter()
                .flat_map(|payload| {
                    [Data::Binary, Data::Text].map(|kind| (OpCode::Data(kind), payload.to_vec()))
                })
                .collect();
            assert!(found == expected, "cut every {step} bytes");
            assert!(frames.partial.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_not_a_long_wait() {
        let endless = [0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(Frames::default().read(&endless, |_, _| ()).is_err());
    }
}
