//! Prints JSON the way the reference server prints terms inside its error texts (`protocol.md 7.1`), since clients
//! and people search for those texts.

use serde_json::Value;
use std::fmt::Write;

/// `value` as an Elixir term: `%{"event" => "*", "table" => nil}`, maps sorted by key.
pub(crate) fn inspect(value: &Value) -> String {
    let mut out = String::new();
    write_term(value, &mut out);
    out
}

/// A quoted string: quotes, backslashes and control characters escaped, and `#{` as Elixir prints it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_quoted(text, &mut out);
    out
}

/// `["a", "b"]`.
pub(crate) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let mut out = String::from("[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_quoted(item.as_ref(), &mut out);
    }
    out.push(']');
    out
}

fn write_term(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("nil"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => write_quoted(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_term(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            out.push_str("%{");
            for (at, (key, item)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_quoted(key, out);
                out.push_str(" => ");
                write_term(item, out);
            }
            out.push('}');
        }
    }
}

fn write_quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '#' if characters.peek() == Some(&'{') => out.push_str("\\#"),
            control if control.is_control() => {
                let _ = write!(out, "\\x{:02X}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_print_as_the_reference_prints_them() {
        let cases = [
            (json!({}), "%{}"),
            (
                json!({"table": 5, "event": "*"}),
                r#"%{"event" => "*", "table" => 5}"#,
            ),
            (
                json!({"table": null, "a": [true, 1.5]}),
                r#"%{"a" => [true, 1.5], "table" => nil}"#,
            ),
            (json!({"q": "a\"b\\c\n#{x}"}), r#"%{"q" => "a\"b\\c\n\#{x}"}"#),
        ];
        for (value, expected) in cases {
            assert_eq!(inspect(&value), expected);
        }
        assert_eq!(list(&["foo", "hey"]), r#"["foo", "hey"]"#);
    }
}
