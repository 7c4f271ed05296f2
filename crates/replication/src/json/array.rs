//! Array literals, `{1,NULL,"a b"}`, and the two vector types.

use super::{Place, Type, ValueError, quoted, write_value};

/// Postgres' own limit (MAXDIM).
const MAX_DIMENSIONS: usize = 6;

pub(super) fn write(element: &Type, delimiter: u8, text: &str, out: &mut String) -> Result<(), ValueError> {
    let bytes = text.as_bytes();
    let mut at = skip_bounds(bytes)?;
    let mut open = 0;
    let mut scratch = String::new();
    out.reserve(text.len() - at);
    loop {
        // An element, or a dimension's opening brace.
        match bytes.get(at) {
            Some(b'{') => {
                open += 1;
                if open > MAX_DIMENSIONS {
                    return ValueError::expected("element: an array has at most six dimensions", at);
                }
                out.push('[');
                at += 1;
                if bytes.get(at) != Some(&b'}') {
                    continue;
                }
            }
            Some(b'"') if open > 0 => {
                let (value, next) = quoted::read(text, at, &mut scratch)?;
                write_value(element, value, Place::Inside, out)?;
                at = next;
            }
            Some(_) if open > 0 => {
                let value = unquoted(text, at, delimiter)?;
                if value == "NULL" {
                    out.push_str("null");
                } else {
                    write_value(element, value, Place::Inside, out)?;
                }
                at += value.len();
            }
            _ => return ValueError::expected("opening brace", at),
        }
        // What may follow it: closing braces, then the end or the next element.
        loop {
            match bytes.get(at) {
                Some(b'}') => {
                    out.push(']');
                    open -= 1;
                    at += 1;
                    if open == 0 {
                        return if at == bytes.len() {
                            Ok(())
                        } else {
                            ValueError::expected("end of the array", at)
                        };
                    }
                }
                Some(byte) if *byte == delimiter => {
                    out.push(',');
                    at += 1;
                    break;
                }
                _ => return ValueError::expected("delimiter or closing brace", at),
            }
        }
    }
}

/// int2vector and oidvector: `1 2 3`.
pub(super) fn write_vector(element: &Type, text: &str, out: &mut String) -> Result<(), ValueError> {
    out.push('[');
    for (position, value) in text.split_ascii_whitespace().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_value(element, value, Place::Inside, out)?;
    }
    out.push(']');
    Ok(())
}

/// The position after `[0:1][-2:3]=`, which Postgres prints when a lower bound is not 1. JSON arrays have no bounds.
fn skip_bounds(bytes: &[u8]) -> Result<usize, ValueError> {
    if bytes.first() != Some(&b'[') {
        return Ok(0);
    }
    match bytes
        .iter()
        .position(|byte| !matches!(byte, b'[' | b']' | b':' | b'-' | b'0'..=b'9'))
    {
        Some(at) if bytes[..=at].ends_with(b"]=") => Ok(at + 1),
        at => ValueError::expected("equals sign after the bounds", at.unwrap_or(bytes.len())),
    }
}

/// The element at `at` up to the delimiter or brace after it. Postgres quotes whatever would be ambiguous here.
fn unquoted(text: &str, at: usize, delimiter: u8) -> Result<&str, ValueError> {
    let rest = &text.as_bytes()[at..];
    let end = rest
        .iter()
        .position(|byte| *byte == delimiter || matches!(byte, b'}' | b'{' | b'"' | b'\\'));
    match end {
        Some(length) if length > 0 && (rest[length] == delimiter || rest[length] == b'}') => {
            Ok(&text[at..at + length])
        }
        _ => ValueError::expected("element", at),
    }
}
