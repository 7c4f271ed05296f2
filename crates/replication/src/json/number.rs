//! Numbers: Postgres' own digits are valid JSON once they are known to be digits.

use super::{Place, ValueError};

/// Writes an int2, int4 or int8.
pub(super) fn write_integer(text: &str, out: &mut String) -> Result<(), ValueError> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    // JSON has no leading zeros, and Postgres prints none.
    let leading_zero = digits.len() > 1 && digits[0] == b'0';
    if digits.is_empty() || leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return ValueError::expected("integer", 0);
    }
    out.push_str(text);
    Ok(())
}

/// Writes a float or numeric. The exponent that Postgres prints for large and small floats is kept: the value is the
/// same to every JSON parser (`database.md 9.15`).
pub(super) fn write(text: &str, place: Place, out: &mut String) -> Result<(), ValueError> {
    match text {
        "NaN" | "Infinity" | "-Infinity" if place == Place::Column => out.push_str("null"),
        "NaN" => out.push_str("\"NaN\""),
        "Infinity" => out.push_str("\"Infinity\""),
        "-Infinity" => out.push_str("\"-Infinity\""),
        // to_jsonb goes through numeric, which has no negative zero.
        "-0" => out.push('0'),
        digits if end(digits.as_bytes(), 0) == Some(digits.len()) => out.push_str(digits),
        _ => return ValueError::expected("number", 0),
    }
    Ok(())
}

/// Where the JSON number that starts at `at` ends; `None` if none starts there.
pub(super) fn end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if bytes.get(at) == Some(&b'0') {
        at + 1
    } else {
        digits(bytes, at)?
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    Some(at)
}

/// The end of the run of digits at `at`, which has at least one.
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let count = bytes
        .get(at..)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    (count > 0).then_some(at + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_json_grammar_calls_a_number_is_one() {
        for good in [
            "0",
            "-0",
            "10",
            "-1.50",
            "0.00000000000000000001",
            "1e+100",
            "1e-05",
            "1E5",
            "2.5e10",
        ] {
            assert_eq!(end(good.as_bytes(), 0), Some(good.len()), "{good}");
        }
        for bad in ["", "-", "01", "+1", ".5", "1.", "1e", "1e+", "NaN", "0x1", "1 "] {
            assert_ne!(end(bad.as_bytes(), 0), Some(bad.len()), "{bad}");
        }
    }

    #[test]
    fn an_integer_is_refused_unless_json_can_carry_its_digits() {
        for bad in ["", "-", "01", "-01", "1.0", "1e3", "abc", "1 ", "١"] {
            assert!(write_integer(bad, &mut String::new()).is_err(), "{bad}");
        }
    }
}
