//! Checked reading of big-endian fields.

use thiserror::Error;

/// A message that cannot be read; says what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed pgoutput message: {0}")]
pub struct Malformed(pub(crate) &'static str);

const TOO_SHORT: Malformed = Malformed("it ends too early");

pub(crate) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(TOO_SHORT)?;
        let taken = self.all.get(self.at..end).ok_or(TOO_SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| TOO_SHORT)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Bytes that are left.
    pub(crate) fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    /// A text that ends with a zero byte. A name that is not UTF-8, as a database with the encoding SQL_ASCII can
    /// have, is shown as well as can be: it must not end the stream.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let rest = self.all.get(self.at..).ok_or(TOO_SHORT)?;
        let length = memchr::memchr(0, rest).ok_or(TOO_SHORT)?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Ok(text)
    }
}
