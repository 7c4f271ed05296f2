//! Row literals, `(a,"b, c",)`.

use super::{Field, Place, ValueError, quoted, write_value};

pub(super) fn write(fields: &[Field], text: &str, out: &mut String) -> Result<(), ValueError> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'(') {
        return ValueError::expected("opening parenthesis", 0);
    }
    let wrong_count = Err(ValueError::Attributes { fields: fields.len() });
    let mut at = 1;
    let mut scratch = String::new();
    out.push('{');
    for (position, field) in fields.iter().enumerate() {
        if position > 0 {
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(b')') => return wrong_count,
                _ => return ValueError::expected("comma", at),
            }
            out.push(',');
        }
        out.push_str(&field.key);
        match bytes.get(at) {
            // Nothing at all is NULL; an empty text is printed as "".
            Some(b',' | b')') => out.push_str("null"),
            Some(b'"') => {
                let (value, next) = quoted::read(text, at, &mut scratch)?;
                write_value(&field.kind, value, Place::Inside, out)?;
                at = next;
            }
            _ => {
                let value = unquoted(text, at)?;
                write_value(&field.kind, value, Place::Inside, out)?;
                at += value.len();
            }
        }
    }
    match bytes.get(at) {
        Some(b',') => return wrong_count,
        Some(b')') if at + 1 == bytes.len() => out.push('}'),
        _ => return ValueError::expected("closing parenthesis at the end", at),
    }
    Ok(())
}

/// The attribute at `at` up to the comma or parenthesis after it.
fn unquoted(text: &str, at: usize) -> Result<&str, ValueError> {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    match rest
        .iter()
        .position(|byte| matches!(byte, b',' | b')' | b'(' | b'"' | b'\\'))
    {
        Some(length) if matches!(rest[length], b',' | b')') => Ok(&text[at..at + length]),
        _ => ValueError::expected("attribute", at),
    }
}
