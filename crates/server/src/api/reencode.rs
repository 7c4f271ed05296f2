//! JSON text in the one form the reference would give it (`protocol.md 5.7`): compact, keys sorted, the last of equal
//! keys, characters unescaped where they may be, floats as Erlang prints them. Integers keep all their digits, which is
//! why this works on text and not on parsed numbers.

use std::ops::Range;

use serde::de::IgnoredAny;
use thiserror::Error;

/// As deep as parsers of this kind go; it bounds the stack, and how often an inner value can be moved.
const DEEPEST: usize = 128;

/// Integers from here on are not all representable, so they are not printed as if they were.
const EXACT_INTEGERS_BELOW: f64 = 9_007_199_254_740_992.0;

/// Why a text has no other form.
#[derive(Debug, Error)]
pub(super) enum Unreadable {
    #[error("the body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the JSON of the body is nested more than {DEEPEST} levels deep")]
    TooDeep,
    #[error("a number of the body does not fit into 64 bits of floating point")]
    Overflow,
}

/// The text in the reference's form.
pub(super) fn reencode(json: &str) -> Result<String, Unreadable> {
    // After this the grammar is known to hold: only numbers and escapes are left to be judged.
    serde_json::from_str::<IgnoredAny>(json)?;
    let mut writer = Writer {
        rest: json,
        out: String::with_capacity(json.len()),
    };
    writer.value(0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    rest: &'a str,
    out: String,
}

/// One `"key":value` in the output.
struct Entry {
    key: String,
    place: Range<usize>,
}

impl<'a> Writer<'a> {
    fn value(&mut self, depth: usize) -> Result<(), Unreadable> {
        if depth > DEEPEST {
            return Err(Unreadable::TooDeep);
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let token = self.string();
                self.push_string(token)
            }
            _ => {
                let end = self
                    .rest
                    .find(|next: char| matches!(next, ',' | ']' | '}') || next.is_ascii_whitespace());
                let token = self.take(end.unwrap_or(self.rest.len()));
                self.push_scalar(token)
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Unreadable> {
        self.take(1);
        self.out.push('[');
        let mut is_first = true;
        while !matches!(self.peek(), Some(b']') | None) {
            if !is_first {
                self.take(1);
                self.out.push(',');
            }
            is_first = false;
            self.value(depth + 1)?;
        }
        self.take(1);
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Unreadable> {
        self.take(1);
        self.out.push('{');
        let start = self.out.len();
        let mut entries: Vec<Entry> = Vec::new();
        while !matches!(self.peek(), Some(b'}') | None) {
            if !entries.is_empty() {
                self.take(1);
                self.peek();
                self.out.push(',');
            }
            let begin = self.out.len();
            let token = self.string();
            let key = unescaped(token)?;
            self.push_string(token)?;
            self.peek();
            self.take(1);
            self.out.push(':');
            self.value(depth + 1)?;
            entries.push(Entry {
                key,
                place: begin..self.out.len(),
            });
        }
        self.take(1);
        if !entries.is_sorted_by(|one, next| one.key < next.key) {
            self.sort(start, entries);
        }
        self.out.push('}');
        Ok(())
    }

    /// Puts the entries, which begin at `start` of the output, into the order of their keys.
    fn sort(&mut self, start: usize, mut entries: Vec<Entry>) {
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        let mut sorted = String::with_capacity(self.out.len() - start);
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            if entries.peek().is_some_and(|next| next.key == entry.key) {
                continue;
            }
            if !sorted.is_empty() {
                sorted.push(',');
            }
            sorted.push_str(self.out.get(entry.place).unwrap_or_default());
        }
        self.out.truncate(start);
        self.out.push_str(&sorted);
    }

    fn push_string(&mut self, token: &str) -> Result<(), Unreadable> {
        if token.contains('\\') {
            let text: String = serde_json::from_str(token)?;
            self.out.push_str(&serde_json::to_string(&text)?);
        } else {
            self.out.push_str(token);
        }
        Ok(())
    }

    fn push_scalar(&mut self, token: &str) -> Result<(), Unreadable> {
        if token == "-0" {
            self.out.push('0');
        } else if token.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && token.contains(['.', 'e', 'E'])
        {
            let number: f64 = token.parse().map_err(|_| Unreadable::Overflow)?;
            if !number.is_finite() {
                return Err(Unreadable::Overflow);
            }
            push_float(&mut self.out, number);
        } else {
            self.out.push_str(token);
        }
        Ok(())
    }

    /// The next character that counts.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self
            .rest
            .trim_start_matches(|next: char| next.is_ascii_whitespace());
        self.rest.bytes().next()
    }

    /// The string token that begins here, with its quotes.
    fn string(&mut self) -> &'a str {
        let mut is_escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        self.take(end.map_or(self.rest.len(), |end| end + 2))
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (token, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        token
    }
}

fn unescaped(token: &str) -> Result<String, Unreadable> {
    Ok(serde_json::from_str(token)?)
}

/// The fewest digits that name the number, in the shorter of the two notations.
fn push_float(out: &mut String, number: f64) {
    let shortest = format!("{:e}", number.abs());
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let fraction = digits.split_once('.').map_or("0", |(_, fraction)| fraction);
    let whole = digits.get(..1).unwrap_or("0");
    let scientific = format!("{whole}.{fraction}e{exponent}");
    let decimal = format!("{:?}", Decimal(number.abs()));
    if number.is_sign_negative() {
        out.push('-');
    }
    if number.abs() < EXACT_INTEGERS_BELOW && decimal.len() <= scientific.len() {
        out.push_str(&decimal);
    } else {
        out.push_str(&scientific);
    }
}

/// Never in scientific notation, always with a decimal point.
struct Decimal(f64);

impl std::fmt::Debug for Decimal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.to_string();
        formatter.write_str(&text)?;
        if !text.contains('.') {
            formatter.write_str(".0")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn every_value_has_one_form() {
        for (given, expected) in [
            (" { } ", "{}"),
            ("[ ]", "[]"),
            ("[1 , 2,\n[ 3 ] ]", "[1,2,[3]]"),
            (
                r#"{"b":1, "a" : {"d":[ true,null ],"c":false}}"#,
                r#"{"a":{"c":false,"d":[true,null]},"b":1}"#,
            ),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (r#"{"a":1,"\u0061":2}"#, r#"{"a":2}"#),
            (r#""\u00fc\/\"\\\n\u0001 ü""#, r#""ü/\"\\\n\u0001 ü""#),
            (r#"{"}":"]","]":"{,"}"#, r#"{"]":"{,","}":"]"}"#),
            ("-0", "0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1e3", "1.0e3"),
            ("1000.0", "1.0e3"),
            ("100.0", "100.0"),
            ("1e2", "100.0"),
            ("123456789.0", "123456789.0"),
            ("-1.50", "-1.5"),
            ("-0.0", "-0.0"),
            ("0e5", "0.0"),
            ("0.1", "0.1"),
            ("0.001", "0.001"),
            ("0.00001", "1.0e-5"),
            ("1.25e-7", "1.25e-7"),
            ("9007199254740991.0", "9007199254740991.0"),
            ("9007199254740992.0", "9.007199254740992e15"),
            ("1E+22", "1.0e22"),
        ] {
            assert_eq!(reencode(given).unwrap(), expected, "{given}");
        }
    }

    #[test]
    fn what_has_no_form_is_refused() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(reencode(&deep(DEEPEST)).is_ok());
        for given in [
            "",
            "{",
            "{} x",
            "1e400",
            r#""\ud800""#,
            "nul",
            "[1,]",
            &deep(DEEPEST + 2),
            &"[".repeat(1_000_000),
        ] {
            assert!(reencode(given).is_err(), "{}", &given[..given.len().min(20)]);
        }
    }

    proptest! {
        #[test]
        fn the_value_stays_the_same(value in any_json(), pretty in any::<bool>()) {
            let given = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let once = reencode(&given).unwrap();
            let after: Value = serde_json::from_str(&once).unwrap();
            prop_assert!(is_alike(&value, &after), "{} became {}", given, once);
            prop_assert_eq!(reencode(&once).unwrap(), once);
        }

        #[test]
        fn a_float_keeps_every_digit(float in any_float()) {
            let once = reencode(&serde_json::to_string(&float).unwrap()).unwrap();
            prop_assert_eq!(once.parse::<f64>().unwrap(), float);
        }

        #[test]
        fn no_text_is_too_much_for_it(text in r#"[\[\]{}":,\\u0-9aeE+. \-]{0,40}"#) {
            let is_json = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(reencode(&text).is_ok(), is_json, "{}", text);
        }
    }

    /// Whether two values are the same, but for the last digits of floats: reading one costs serde_json that now and then.
    fn is_alike(left: &Value, right: &Value) -> bool {
        match (left, right) {
            (Value::Array(left), Value::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_alike(left, right))
            }
            (Value::Object(left), Value::Object(right)) => {
                left.len() == right.len()
                    && left
                        .iter()
                        .all(|(key, left)| right.get(key).is_some_and(|right| is_alike(left, right)))
            }
            (Value::Number(left), Value::Number(right)) if left.is_f64() && right.is_f64() => {
                let (left, right) = (left.as_f64().unwrap(), right.as_f64().unwrap());
                left == right || (left - right).abs() <= left.abs() * 4.0 * f64::EPSILON
            }
            (left, right) => left == right,
        }
    }

    fn any_float() -> impl Strategy<Value = f64> {
        any::<f64>().prop_filter("finite", |float| float.is_finite())
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any_float().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
