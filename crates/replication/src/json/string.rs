//! JSON strings.

/// How many bytes are looked at together: wide enough for the vector units, short enough for the usual value.
const CHUNK_BYTES: usize = 32;

/// Appends `text` as a JSON string, quotes included.
///
/// Only what RFC 8259 requires is escaped: the quote, the backslash, and the control characters below U+0020.
pub fn write_string(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut copied = 0;
    let mut from = 0;
    while let Some(at) = next_escape(text.as_bytes(), from) {
        out.push_str(&text[copied..at]);
        write_escape(text.as_bytes()[at], out);
        copied = at + 1;
        from = copied;
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

/// The position of the first byte at or after `from` that cannot stand in a JSON string as it is. It is always ASCII,
/// so it never lies inside a character.
pub(super) fn next_escape(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    for chunk in bytes[from..].chunks(CHUNK_BYTES) {
        // A fold has no early exit, so that the compiler can look at all bytes of the chunk at once.
        if chunk.iter().fold(false, |any, byte| any | needs_escape(*byte)) {
            return chunk
                .iter()
                .position(|byte| needs_escape(*byte))
                .map(|within| at + within);
        }
        at += chunk.len();
    }
    None
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escape(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        0x08 => out.push_str("\\b"),
        0x0c => out.push_str("\\f"),
        control => {
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(control >> 4)]));
            out.push(char::from(HEX[usize::from(control & 0xf)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_quotes_and_backslashes_are_escaped() {
        let mut out = String::new();
        write_string("a\"b\\c\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}ü☃😀", &mut out);
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}ü☃😀\"");
    }

    proptest! {
        #[test]
        fn any_text_reads_back_unchanged(text in "(?s)[\\x00-\\x24\"\\\\a-zü☃😀]{0,100}") {
            let mut out = String::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
