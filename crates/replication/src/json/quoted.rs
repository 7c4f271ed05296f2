//! The quoted parts inside the text of arrays, composites and hstore.

use super::ValueError;
use memchr::memchr2;

/// Reads the quoted part whose opening quote is at `open`: its meaning, and the position after the closing quote.
///
/// Inside, a backslash protects the next character, and two quotes are one; composites use both ways, the others the
/// backslash. The meaning is a slice of `text` if nothing was escaped, else it is put together in `scratch`.
pub(super) fn read<'a>(
    text: &'a str,
    open: usize,
    scratch: &'a mut String,
) -> Result<(&'a str, usize), ValueError> {
    let bytes = text.as_bytes();
    let mut copied = open + 1;
    let mut from = copied;
    scratch.clear();
    while let Some(found) = memchr2(b'"', b'\\', &bytes[from..]) {
        let at = from + found;
        let escaping = bytes[at] == b'\\' || bytes.get(at + 1) == Some(&b'"');
        if !escaping {
            if copied == open + 1 {
                return Ok((&text[copied..at], at + 1));
            }
            scratch.push_str(&text[copied..at]);
            return Ok((scratch, at + 1));
        }
        scratch.push_str(&text[copied..at]);
        // The next character stands for itself: it is copied with what follows it, and not looked at.
        copied = at + 1;
        from = at + 2;
        if from > bytes.len() {
            break;
        }
    }
    ValueError::expected("closing quote", text.len())
}
