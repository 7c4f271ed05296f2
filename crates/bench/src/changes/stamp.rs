//! What tells a row and a channel apart in a frame, to be read without decoding it.

use memchr::memmem;

const ROW: &[u8] = b"walcast-row-";
const WRITER_DIGITS: usize = 4;
const NUMBER_DIGITS: usize = 16;
const TOPIC: &[u8] = b"realtime:bench-changes-";
const CHANNEL_DIGITS: usize = 6;

/// A row, by who inserted it and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) writer: usize,
    pub(super) number: u64,
}

impl Stamp {
    /// The text that the row holds.
    pub(super) fn text(self) -> String {
        let Self { writer, number } = self;
        format!("walcast-row-{writer:0WRITER_DIGITS$}-{number:0NUMBER_DIGITS$}")
    }
}

/// The topic of a socket's channel.
pub(super) fn topic(channel: usize) -> String {
    format!("realtime:bench-changes-{channel:0CHANNEL_DIGITS$}")
}

/// Finds topics and stamps.
pub(super) struct Reader {
    topic: memmem::Finder<'static>,
    row: memmem::Finder<'static>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            topic: memmem::Finder::new(TOPIC),
            row: memmem::Finder::new(ROW),
        }
    }

    /// The channel of a frame, counted on its socket, and the row that it is about. `None` without either.
    pub(super) fn read(&self, frame: &[u8]) -> Option<(usize, Stamp)> {
        let topic = self.topic.find(frame)?;
        let (channel, rest) = digits(frame.get(topic + TOPIC.len()..)?, CHANNEL_DIGITS)?;
        let row = self.row.find(rest)?;
        let (writer, rest) = digits(rest.get(row + ROW.len()..)?, WRITER_DIGITS)?;
        let (number, _) = digits(rest.strip_prefix(b"-")?, NUMBER_DIGITS)?;
        let stamp = Stamp {
            writer: usize::try_from(writer).ok()?,
            number,
        };
        Some((usize::try_from(channel).ok()?, stamp))
    }
}

fn digits(text: &[u8], count: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let number = digits.iter().try_fold(0, |number: u64, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_back_its_channel_and_row() {
        let reader = Reader::new();
        for (channel, writer, number) in [
            (0, 0, 0),
            (42, 7, 9_876_543_210),
            (999_999, 9_999, 10_u64.pow(16) - 1),
        ] {
            let stamp = Stamp { writer, number };
            let frame = format!(
                r#"["1",null,"{}","postgres_changes",{{"data":{{"record":{{"body":"{}","id":1}}}}}}]"#,
                topic(channel),
                stamp.text()
            );
            assert_eq!(reader.read(frame.as_bytes()), Some((channel, stamp)));
        }
    }

    #[test]
    fn other_frames_have_no_row() {
        let reader = Reader::new();
        for other in [
            "",
            r#"[null,"beat","phoenix","phx_reply",{}]"#,
            r#"["1",null,"realtime:bench-changes-000000","system",{}]"#,
            r#"["1",null,"realtime:bench-changes-00","x",{"body":"walcast-row-0000-0000000000000000"}]"#,
            r#"["1",null,"realtime:bench-changes-000000","x",{"body":"walcast-row-0000-12"}]"#,
        ] {
            assert_eq!(reader.read(other.as_bytes()), None, "{other}");
        }
    }
}
