//! INSERT, UPDATE and DELETE: first whose, then what.

use super::reader::{Malformed, Reader};
use crate::change::{Action, OldTuple, Span, Tuple};
use bytes::Bytes;

/// How much of a row message [`row_relation`] looks at.
pub const ROW_HEADER_BYTES: usize = 5;

/// The table whose row an INSERT, UPDATE or DELETE message is about; `None` for other messages and while too little
/// of it is there. Nothing else of the message is looked at.
#[must_use]
pub fn row_relation(message: &[u8]) -> Option<u32> {
    match message.first_chunk::<ROW_HEADER_BYTES>()? {
        [b'I' | b'U' | b'D', oid @ ..] => Some(u32::from_be_bytes(*oid)),
        _ => None,
    }
}

/// The content of a row message. The values are copied once, all together, so that the buffer they were read into
/// is not kept alive by a row that waits.
///
/// # Errors
/// If the message is malformed or a value is not UTF-8.
pub fn decode_row(message: &[u8]) -> Result<Action, Malformed> {
    let mut reader = Reader::new(message);
    let kind = reader.u8()?;
    let _relation = reader.u32()?;
    match kind {
        b'I' => {
            expect_new(reader.u8()?)?;
            Ok(Action::Insert {
                new: tuple(&mut reader, message)?,
            })
        }
        b'U' => {
            let mut marker = reader.u8()?;
            let mut old = None;
            if marker != b'N' {
                old = Some(old_tuple(marker, &mut reader, message)?);
                marker = reader.u8()?;
            }
            expect_new(marker)?;
            Ok(Action::Update {
                old,
                new: tuple(&mut reader, message)?,
            })
        }
        b'D' => {
            let marker = reader.u8()?;
            Ok(Action::Delete {
                old: old_tuple(marker, &mut reader, message)?,
            })
        }
        _ => Err(Malformed("it is no row message")),
    }
}

fn expect_new(marker: u8) -> Result<(), Malformed> {
    if marker == b'N' {
        Ok(())
    } else {
        Err(Malformed("a new tuple was expected"))
    }
}

fn old_tuple(marker: u8, reader: &mut Reader<'_>, message: &[u8]) -> Result<OldTuple, Malformed> {
    match marker {
        b'K' => Ok(OldTuple::Key(tuple(reader, message)?)),
        b'O' => Ok(OldTuple::Full(tuple(reader, message)?)),
        _ => Err(Malformed("an old tuple was expected")),
    }
}

fn tuple(reader: &mut Reader<'_>, message: &[u8]) -> Result<Tuple, Malformed> {
    let count = reader.u16()?;
    let base = reader.position();
    let offset = |at: usize| u32::try_from(at - base).map_err(|_| Malformed("a row is larger than 4 GiB"));
    // Each column takes a byte at least: what is allocated is bounded by what is there, not by what is announced.
    let mut spans = Vec::with_capacity(usize::from(count).min(reader.remaining()));
    for _ in 0..count {
        spans.push(match reader.u8()? {
            b'n' => Span::Null,
            b'u' => Span::UnchangedToast,
            b't' => {
                let length = usize::try_from(reader.u32()?).map_err(|_| Malformed("a value is too large"))?;
                let start = offset(reader.position())?;
                let value = reader.take(length)?;
                if std::str::from_utf8(value).is_err() {
                    return Err(Malformed("a value is not UTF-8"));
                }
                Span::Text {
                    start,
                    end: offset(reader.position())?,
                }
            }
            _ => return Err(Malformed("an unknown kind of value")),
        });
    }
    let bytes = message
        .get(base..reader.position())
        .ok_or(Malformed("it ends too early"))?;
    Ok(Tuple {
        bytes: Bytes::copy_from_slice(bytes),
        spans: spans.into_boxed_slice(),
        left_out_bytes: 0,
    })
}
