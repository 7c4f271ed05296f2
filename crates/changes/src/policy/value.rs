//! Values policies compute with, and the conversions between them, as Postgres does them. Where Postgres' rule is
//! not certain to be ours, the conversion is [`Trouble::Unsure`].

use serde_json::Value as Json;
use std::borrow::Cow;

/// A claims object, parsed once for each identity.
#[derive(Clone, Debug)]
pub struct ClaimsView {
    claims: Option<Json>,
}

impl ClaimsView {
    /// Claims nothing is known of.
    pub(super) const NONE: Self = Self { claims: None };

    /// Parses the claims' JSON text.
    #[must_use]
    pub fn new(json: &str) -> Self {
        // What Postgres refuses to read as jsonb is nothing we can read for it.
        let has_nul = json.contains("\\u0000");
        Self {
            claims: serde_json::from_str(json).ok().filter(|_| !has_nul),
        }
    }

    pub(super) fn json(&self) -> Option<&Json> {
        self.claims.as_ref()
    }
}

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Uuid,
    /// `text`, or `varchar` after its cast.
    Text,
    /// The claims' JSON as text: only to be read as JSON.
    ClaimsText,
    Json,
    /// Anything else: only NULL or not.
    Other,
}

impl Kind {
    pub(super) fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// The kind of a built-in type; `json` and `jsonb` agree on all that is used here.
    pub(super) fn of_type(name: &str) -> Self {
        match name {
            "bool" => Self::Bool,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "uuid" => Self::Uuid,
            "text" | "varchar" => Self::Text,
            "json" | "jsonb" => Self::Json,
            _ => Self::Other,
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uuid(u128),
    Text(Cow<'a, str>),
    Json(&'a Json),
    /// Of a kind that is not looked into.
    Opaque,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Postgres raises an error for certain.
    Raises,
    /// Only Postgres knows.
    Unsure,
}

/// A value's text, as the stream carries it or as a literal says it.
pub(super) fn read<'a>(text: &'a str, kind: Kind) -> Result<Value<'a>, Trouble> {
    match kind {
        Kind::Text => Ok(Value::Text(Cow::Borrowed(text))),
        Kind::Bool => match text {
            "t" | "true" => Ok(Value::Bool(true)),
            "f" | "false" => Ok(Value::Bool(false)),
            // yes, no, on, off, 1, 0, their beginnings, blanks around and other letter cases are read, too.
            _ => Err(Trouble::Unsure),
        },
        Kind::Int2 | Kind::Int4 | Kind::Int8 => integer(text, kind),
        Kind::Uuid => uuid(text),
        Kind::Other => Ok(Value::Opaque),
        Kind::Json | Kind::ClaimsText => Err(Trouble::Unsure),
    }
}

fn integer<'a>(text: &str, kind: Kind) -> Result<Value<'a>, Trouble> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        // Blanks, a plus sign, and in newer versions underscores, hexadecimal and more are read, too. A text with
        // none of the characters those are made of is no number in any version.
        let possible = |c: char| c.is_ascii_hexdigit() || c.is_whitespace() || "+-_xXoO".contains(c);
        return Err(if text.is_empty() || !text.chars().all(possible) {
            Trouble::Raises
        } else {
            Trouble::Unsure
        });
    }
    let number: i64 = text.parse().map_err(|_| Trouble::Raises)?;
    in_range(number, kind)
}

fn in_range<'a>(number: i64, kind: Kind) -> Result<Value<'a>, Trouble> {
    let fits = match kind {
        Kind::Int2 => i16::try_from(number).is_ok(),
        Kind::Int4 => i32::try_from(number).is_ok(),
        _ => true,
    };
    if fits {
        Ok(Value::Int(number))
    } else {
        Err(Trouble::Raises)
    }
}

fn uuid<'a>(text: &str) -> Result<Value<'a>, Trouble> {
    let canonical = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if canonical {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        return u128::from_str_radix(&digits, 16)
            .map(Value::Uuid)
            .map_err(|_| Trouble::Unsure);
    }
    // Braces, other groupings of hyphens and none at all are read, too.
    let possible = |c: char| c.is_ascii_hexdigit() || "-{}".contains(c);
    let digits = text.chars().filter(char::is_ascii_hexdigit).count();
    Err(if digits != 32 || !text.chars().all(possible) {
        Trouble::Raises
    } else {
        Trouble::Unsure
    })
}

/// An explicit cast.
pub(super) fn cast(value: Value<'_>, to: Kind) -> Result<Value<'_>, Trouble> {
    match (value, to) {
        (Value::Null, _) => Ok(Value::Null),
        (Value::Text(text), Kind::Text) => Ok(Value::Text(text)),
        (Value::Text(text), to) => match read(&text, to)? {
            Value::Bool(flag) => Ok(Value::Bool(flag)),
            Value::Int(number) => Ok(Value::Int(number)),
            Value::Uuid(uuid) => Ok(Value::Uuid(uuid)),
            _ => Err(Trouble::Unsure),
        },
        (Value::Int(number), to) if to.is_integer() => in_range(number, to),
        (Value::Int(number), Kind::Text) => Ok(Value::Text(number.to_string().into())),
        (Value::Bool(flag), Kind::Bool) => Ok(Value::Bool(flag)),
        (Value::Int(number), Kind::Bool) => Ok(Value::Bool(number != 0)),
        (Value::Bool(flag), Kind::Int4) => Ok(Value::Int(flag.into())),
        (Value::Bool(flag), Kind::Text) => Ok(Value::Text(if flag { "true" } else { "false" }.into())),
        (Value::Uuid(uuid), Kind::Uuid) => Ok(Value::Uuid(uuid)),
        (Value::Uuid(uuid), Kind::Text) => {
            let digits = format!("{uuid:032x}");
            let groups =
                [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default());
            Ok(Value::Text(groups.join("-").into()))
        }
        (Value::Json(json), Kind::Json) => Ok(Value::Json(json)),
        _ => Err(Trouble::Unsure),
    }
}

/// `json -> key` and `json ->> key`.
pub(super) fn member<'a>(value: &Value<'a>, key: &str, as_text: bool) -> Result<Value<'a>, Trouble> {
    let json = match value {
        Value::Null => return Ok(Value::Null),
        Value::Json(json) => *json,
        _ => return Err(Trouble::Unsure),
    };
    // A text key finds nothing in anything but an object.
    let Some(found) = json.as_object().and_then(|fields| fields.get(key)) else {
        return Ok(Value::Null);
    };
    if !as_text {
        return Ok(Value::Json(found));
    }
    match found {
        Json::Null => Ok(Value::Null),
        Json::String(text) => Ok(Value::Text(Cow::Borrowed(text))),
        Json::Bool(flag) => Ok(Value::Text(if *flag { "true" } else { "false" }.into())),
        // Whole numbers print alike everywhere; how others do, -0 among them, depends on json or jsonb.
        Json::Number(number) if number.is_i64() => Ok(Value::Text(number.to_string().into())),
        Json::Number(_) | Json::Array(_) | Json::Object(_) => Err(Trouble::Unsure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_values_or_certain_or_uncertain_trouble() {
        use Trouble::{Raises, Unsure};
        let id = "11111111-1111-4111-8111-11111111111A";
        let cases = [
            (
                id,
                Kind::Uuid,
                Ok(Value::Uuid(0x1111_1111_1111_4111_8111_1111_1111_111A)),
            ),
            ("{11111111-1111-4111-8111-11111111111a}", Kind::Uuid, Err(Unsure)),
            ("zz", Kind::Uuid, Err(Raises)),
            ("", Kind::Uuid, Err(Raises)),
            ("-12", Kind::Int2, Ok(Value::Int(-12))),
            ("40000", Kind::Int2, Err(Raises)),
            ("99999999999999999999", Kind::Int8, Err(Raises)),
            (" 5", Kind::Int4, Err(Unsure)),
            ("5!", Kind::Int4, Err(Raises)),
            ("t", Kind::Bool, Ok(Value::Bool(true))),
            ("yes", Kind::Bool, Err(Unsure)),
        ];
        for (text, kind, expected) in cases {
            assert_eq!(read(text, kind), expected, "{text}");
        }
        assert_eq!(
            cast(Value::Uuid(0x1111_1111_1111_4111_8111_1111_1111_111A), Kind::Text),
            Ok(Value::Text("11111111-1111-4111-8111-11111111111a".into()))
        );
    }
}
