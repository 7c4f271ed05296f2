//! What Postgres prints for a value, as JSON.
//!
//! A change carries its columns as the text that the type's output function made. Clients expect the JSON that
//! `to_jsonb` would have made of the value (`database.md 2.10`), so the text is rewritten, knowing the type: digits stay
//! digits, `t` becomes `true`, `{1,2}` becomes `[1,2]`, `(Main,1)` becomes `{"street":"Main","zip":1}`.
//!
//! [`Type`] says how a column's text is to be read, [`TypeCatalog`] finds the [`Type`] of an oid, and [`write()`] rewrites.
//! The text must have been printed under the settings of `database.md 9.12`: DateStyle ISO, bytea_output hex,
//! extra_float_digits at least 1.
//!
//! What this is not: a client's decoder. No value is computed, so nothing is rounded, overflows or depends on this
//! machine's locale or clock. Nor can it call casts: a type whose cast to `json` lives in SQL (PostGIS' geometry) is
//! written as the string of its text, except hstore, whose cast is known here.

mod array;
mod built_in;
mod catalog;
mod composite;
mod digits;
mod document;
#[doc(hidden)]
pub mod fuzzing;
mod hstore;
mod number;
mod quoted;
mod string;
mod timestamp;

pub use catalog::{MAX_LEVELS, TYPE_QUERY, TypeCatalog, TypeRow};
pub use digits::Digits;
pub use string::write_string;

use std::sync::Arc;

/// How the text of a value becomes JSON.
///
/// A domain has no variant: it is written as its base type is. A type that is not named here (enum, range, date, uuid,
/// oid, geometry, ...) is [`Type::Text`], a string of exactly what Postgres prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `t` or `f`, a JSON boolean.
    Bool,
    /// int2, int4: a JSON number.
    Integer,
    /// int8: a JSON number.
    BigInteger,
    /// numeric: a JSON number of the same scale; NaN and the infinities see [`Type::Float`].
    Numeric,
    /// float4, float8: a JSON number, with an exponent where Postgres prints one. NaN and the infinities, which JSON
    /// has no numbers for, are `null` as a column's value and strings inside an array or composite.
    Float,
    /// A JSON string of the text.
    Text,
    /// Hex digits: a JSON string, without the leading `\x` as a column's value and with it inside an array or composite.
    Bytea,
    /// json and jsonb: the document, without the blanks between its tokens.
    Json,
    /// timestamp: a JSON string with a `T` between date and time.
    Timestamp,
    /// timestamptz: likewise, and the offset always with its minutes, `+00:00`.
    TimestampTz,
    /// An array: JSON arrays, nested as deep as there are dimensions. Lower bounds are not represented.
    Array {
        /// What the elements are.
        element: Arc<Type>,
        /// The character between two elements: `;` for box, `,` for every other type of Postgres' own.
        delimiter: u8,
    },
    /// int2vector and oidvector, which print their elements with blanks between: a JSON array.
    Vector {
        /// What the elements are.
        element: Arc<Type>,
    },
    /// A composite type or a table's row type: a JSON object with a key for every attribute, in their order.
    Composite {
        /// The attributes that are not dropped.
        fields: Box<[Field]>,
    },
    /// The extension type hstore: a JSON object whose values are strings or `null`.
    Hstore,
}

/// One attribute of a [`Type::Composite`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as it appears in the object: quoted, escaped, and with its colon.
    key: Box<str>,
    kind: Arc<Type>,
}

impl Field {
    /// The attribute `name`, of the type `kind`.
    #[must_use]
    pub fn new(name: &str, kind: Arc<Type>) -> Self {
        let mut key = String::with_capacity(name.len() + 3);
        write_string(name, &mut key);
        key.push(':');
        Self {
            key: key.into_boxed_str(),
            kind,
        }
    }
}

/// Why a text is not a value of its [`Type`].
///
/// The usual cause is that the type was altered after it was looked up, or that the session prints in another format
/// than `database.md 9.12` asks for. Neither variant repeats the value: it may be one that its reader must not log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The text breaks the type's grammar.
    #[error(
        "the value has no {expected} at byte {at}; look the column's type up again, and check the session's DateStyle and bytea_output"
    )]
    Expected {
        /// What the grammar asks for there.
        expected: &'static str,
        /// Where in the innermost quoted part, in bytes from its start.
        at: usize,
    },
    /// A composite value has another number of attributes than its type.
    #[error("the composite value does not have the {fields} attributes of its type; look the type up again")]
    Attributes {
        /// How many attributes the type has.
        fields: usize,
    },
}

impl ValueError {
    /// The error of every parser here, for `Option::ok_or`-like use.
    fn expected<T>(expected: &'static str, at: usize) -> Result<T, Self> {
        Err(Self::Expected { expected, at })
    }
}

/// Appends the JSON of a column's value, whose type is `kind` and which Postgres printed as `text`.
///
/// `out` grows by valid JSON on one line, at most six bytes for each of `text`, plus a composite's keys. SQL
/// NULL has no text: the caller writes `null`.
///
/// # Errors
///
/// [`ValueError`] when `text` is not what Postgres prints for this type; `out` is then as it was.
pub fn write(kind: &Type, text: &str, out: &mut String) -> Result<(), ValueError> {
    let start = out.len();
    let written = write_value(kind, text, Place::Column, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// [`write()`], falling back to the text itself as a JSON string.
///
/// For a value that has to be delivered although its type is not (or no longer) understood: what a client then gets is
/// what Postgres printed, `"{1,2}"` instead of `[1,2]`. Returns whether the value was written as its type.
#[allow(clippy::must_use_candidate)] // The JSON is complete either way; only a caller that can look types up cares.
pub fn write_or_text(kind: &Type, text: &str, out: &mut String) -> bool {
    let written = write(kind, text, out).is_ok();
    if !written {
        write_string(text, out);
    }
    written
}

/// Where a value stands, which decides over the forms of bytea, NaN and the infinities (`database.md 2.10`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Column,
    Inside,
}

/// Recurses once for each level that `kind` nests, which [`TypeCatalog`] bounds.
fn write_value(kind: &Type, text: &str, place: Place, out: &mut String) -> Result<(), ValueError> {
    match kind {
        Type::Text => write_string(text, out),
        Type::Integer | Type::BigInteger => return number::write_integer(text, out),
        Type::Numeric | Type::Float => return number::write(text, place, out),
        Type::Bool => out.push_str(match text {
            "t" => "true",
            "f" => "false",
            _ => return ValueError::expected("t or f", 0),
        }),
        Type::Bytea => return write_bytea(text, place, out),
        Type::Json => return document::write(text, out),
        Type::Timestamp => return timestamp::write(text, timestamp::Offset::Absent, out),
        Type::TimestampTz => return timestamp::write(text, timestamp::Offset::Present, out),
        Type::Array { element, delimiter } => return array::write(element, *delimiter, text, out),
        Type::Vector { element } => return array::write_vector(element, text, out),
        Type::Composite { fields } => return composite::write(fields, text, out),
        Type::Hstore => return hstore::write(text, out),
    }
    Ok(())
}

fn write_bytea(text: &str, place: Place, out: &mut String) -> Result<(), ValueError> {
    let Some(digits) = text.strip_prefix("\\x") else {
        return ValueError::expected("\\x", 0);
    };
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return ValueError::expected("hex digits only", 2);
    }
    out.reserve(digits.len() + 5);
    out.push_str(if place == Place::Column { "\"" } else { "\"\\\\x" });
    out.push_str(digits);
    out.push('"');
    Ok(())
}
