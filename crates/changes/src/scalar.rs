//! A column's value as something that can be compared without Postgres: read from the text the stream carries, equal
//! and ordered as Postgres has it (`database.md 2.6`).

use crate::decimal::Decimal;
use crate::moment;
use serde::Deserialize;
use std::borrow::Cow;

/// How the text of a type is read. A domain is of its base type's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    /// `t` or `f`.
    Bool,
    /// `int2`, `int4`, `int8`, `oid`.
    Whole,
    Float4,
    Float8,
    Numeric,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    /// Equal values have equal text: `text` under a deterministic collation, `uuid`, an enum's label…
    Text,
    /// `char(n)`: trailing blanks do not count.
    Padded,
    /// Only Postgres knows.
    Unknown,
}

/// A value. Those of one family compare; equal ones are one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scalar<'a> {
    /// Whole numbers, floats (see [`float`]), booleans, dates and times.
    Number(i64),
    Decimal(Decimal<'a>),
    Text(Cow<'a, str>),
}

/// What a column's text turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading<'a> {
    Null,
    Value(Scalar<'a>),
    /// Not the text of this family: the type is another by now, or it is none we know.
    Unclear,
}

impl Scalar<'_> {
    pub(crate) fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Number(number) => Scalar::Number(number),
            Self::Decimal(decimal) => Scalar::Decimal(decimal.into_owned()),
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
        }
    }
}

impl Family {
    /// Reads a column's text; `None` is NULL.
    pub(crate) fn read(self, text: Option<&str>) -> Reading<'_> {
        let Some(text) = text else { return Reading::Null };
        // NaN and the infinities of numbers count as NULL in a column (`database.md 2.6`).
        if matches!(self, Self::Float4 | Self::Float8 | Self::Numeric)
            && matches!(text, "NaN" | "Infinity" | "-Infinity")
        {
            return Reading::Null;
        }
        self.scalar(text).map_or(Reading::Unclear, Reading::Value)
    }

    /// Reads what the type's output function prints.
    pub(crate) fn scalar(self, text: &str) -> Option<Scalar<'_>> {
        match self {
            Self::Bool => match text {
                "t" => Some(Scalar::Number(1)),
                "f" => Some(Scalar::Number(0)),
                _ => None,
            },
            Self::Whole => text.parse().ok().map(Scalar::Number),
            // A column and its filter are of one type, and widening keeps order and equality.
            Self::Float4 => text.parse::<f32>().ok().map(|value| float(value.into())),
            Self::Float8 => text.parse().ok().map(float),
            Self::Numeric => Decimal::read(text).map(Scalar::Decimal),
            Self::Date => moment::date(text).map(Scalar::Number),
            Self::Time => moment::time(text).map(Scalar::Number),
            Self::Timestamp => moment::timestamp(text).map(Scalar::Number),
            Self::Timestamptz => moment::timestamptz(text).map(Scalar::Number),
            Self::Text => Some(Scalar::Text(Cow::Borrowed(text))),
            Self::Padded => Some(Scalar::Text(Cow::Borrowed(text.trim_end_matches(' ')))),
            Self::Unknown => None,
        }
    }

    /// Whether a literal of this family may mean another value tomorrow: `now`, `today`, `tomorrow`, `yesterday`
    /// (`database.md 2.6`). Says so of some that do not, too.
    pub(crate) fn may_move(self, literal: &str) -> bool {
        let is_moment = matches!(
            self,
            Self::Date | Self::Time | Self::Timestamp | Self::Timestamptz
        );
        let literal = literal.to_ascii_lowercase();
        is_moment
            && ["now", "tod", "tom", "yes"]
                .iter()
                .any(|word| literal.contains(word))
    }
}

/// A float as a whole number of the same order: negative ones count backwards in their bits. Both zeros are one, and
/// NaN is greater than everything, as in Postgres.
fn float(value: f64) -> Scalar<'static> {
    // Adding nothing makes the negative zero positive.
    let value = if value.is_nan() {
        f64::NAN.abs()
    } else {
        value + 0.0
    };
    let bits = value.to_bits().cast_signed();
    Scalar::Number(if bits < 0 { bits ^ i64::MAX } else { bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order() {
        let ascending = [
            "-Infinity",
            "-1e+300",
            "-1.5",
            "-1",
            "-5e-324",
            "0",
            "5e-324",
            "0.1",
            "1",
            "1e+300",
            "Infinity",
            "NaN",
        ];
        for (a, left) in ascending.iter().enumerate() {
            for (b, right) in ascending.iter().enumerate() {
                let (x, y) = (Family::Float8.scalar(left), Family::Float8.scalar(right));
                assert_eq!(x.cmp(&y), a.cmp(&b), "{left} and {right}");
            }
        }
        assert_eq!(Family::Float8.scalar("-0"), Family::Float8.scalar("0"));
        assert_eq!(Family::Float4.scalar("-0"), Family::Float4.scalar("0"));
    }

    #[test]
    fn words_that_move_with_time_are_noticed() {
        for literal in ["now", "TODAY", "Yesterday noon", " tomorrow "] {
            assert!(Family::Timestamptz.may_move(literal), "{literal}");
        }
        for literal in [
            "2024-02-03",
            "Nov 5 2024 10:00 PM",
            "infinity",
            "epoch",
            "20:00 allballs",
        ] {
            assert!(!Family::Date.may_move(literal), "{literal}");
        }
        assert!(!Family::Text.may_move("now"));
    }
}
