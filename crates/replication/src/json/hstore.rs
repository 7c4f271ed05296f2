//! hstore, `"a"=>"1", "b"=>NULL`: as its cast to json writes it.

use super::{ValueError, quoted, write_string};

pub(super) fn write(text: &str, out: &mut String) -> Result<(), ValueError> {
    let mut at = 0;
    let mut scratch = String::new();
    out.push('{');
    while at < text.len() {
        if at > 0 {
            at = after(text, at, ", ")?;
            out.push(',');
        }
        at = write_part(text, at, &mut scratch, out)?;
        at = after(text, at, "=>")?;
        out.push(':');
        if text.as_bytes()[at..].starts_with(b"NULL") {
            out.push_str("null");
            at += 4;
        } else {
            at = write_part(text, at, &mut scratch, out)?;
        }
    }
    out.push('}');
    Ok(())
}

/// Writes the key or value at `at`, which is always quoted; returns where it ends.
fn write_part(text: &str, at: usize, scratch: &mut String, out: &mut String) -> Result<usize, ValueError> {
    let at = after(text, at, "\"")?;
    let (part, next) = quoted::read(text, at - 1, scratch)?;
    write_string(part, out);
    Ok(next)
}

/// The position after `token`, which has to stand at `at`.
fn after(text: &str, at: usize, token: &'static str) -> Result<usize, ValueError> {
    if text.as_bytes()[at..].starts_with(token.as_bytes()) {
        Ok(at + token.len())
    } else {
        ValueError::expected(token, at)
    }
}
