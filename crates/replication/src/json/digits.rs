//! Numbers as strings, for clients whose numbers have fewer digits.

use super::{Field, Type};
use std::sync::Arc;

/// Which numbers are written as JSON strings of exactly the digits that Postgres prints, wherever they stand: as a
/// column's value, in an array, in a composite. A JavaScript number keeps some 15 digits, an int8 has up to 19 and a
/// numeric any number of them. Values inside json and jsonb are documents and stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digits {
    /// int8 values.
    pub int8: bool,
    /// numeric values, NaN and the infinities included.
    pub numeric: bool,
}

impl Digits {
    /// `kind`, its numbers written as asked.
    #[must_use]
    pub fn applied(self, kind: &Arc<Type>) -> Arc<Type> {
        if self == Self::default() {
            return Arc::clone(kind);
        }
        // As deep as the type nests, which [`super::MAX_LEVELS`] bounds.
        match &**kind {
            Type::BigInteger if self.int8 => Arc::new(Type::Text),
            Type::Numeric if self.numeric => Arc::new(Type::Text),
            Type::Array { element, delimiter } => Arc::new(Type::Array {
                element: self.applied(element),
                delimiter: *delimiter,
            }),
            Type::Composite { fields } => Arc::new(Type::Composite {
                fields: fields
                    .iter()
                    .map(|field| Field {
                        key: field.key.clone(),
                        kind: self.applied(&field.kind),
                    })
                    .collect(),
            }),
            _ => Arc::clone(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TypeCatalog, write};
    use super::*;

    #[test]
    fn digits_are_kept_at_every_depth_and_nothing_else_changes() {
        const INT8: u32 = 20;
        let types = TypeCatalog::new();
        let kind = |oid| types.get(oid).unwrap();
        let composite = Arc::new(Type::Composite {
            fields: Box::new([
                Field::new("big", kind(INT8)),
                Field::new("exact", kind(1231)),
                Field::new("n", kind(23)),
            ]),
        });
        let pair = "(9007199254740993,\"{1.10,NaN}\",4)";
        let cases = [
            (
                kind(INT8),
                "9007199254740993",
                "9007199254740993",
                "\"9007199254740993\"",
            ),
            (kind(1016), "{1,NULL,-2}", "[1,null,-2]", "[\"1\",null,\"-2\"]"),
            (kind(23), "5", "5", "5"),
            (kind(701), "1.5", "1.5", "1.5"),
            (
                kind(3802),
                "{\"a\": 9007199254740993}",
                "{\"a\":9007199254740993}",
                "{\"a\":9007199254740993}",
            ),
            (kind(1700), "NaN", "null", "\"NaN\""),
            (
                composite,
                pair,
                r#"{"big":9007199254740993,"exact":[1.10,"NaN"],"n":4}"#,
                r#"{"big":"9007199254740993","exact":["1.10","NaN"],"n":4}"#,
            ),
        ];
        let all = Digits {
            int8: true,
            numeric: true,
        };
        for (kind, text, plain, exact) in cases {
            for (digits, expected) in [(Digits::default(), plain), (all, exact)] {
                let mut out = String::new();
                write(&digits.applied(&kind), text, &mut out).unwrap();
                assert_eq!(out, expected, "{text}");
            }
        }
        let int8_alone = Digits {
            int8: true,
            numeric: false,
        };
        assert_eq!(*int8_alone.applied(&kind(1700)), Type::Numeric);
    }
}
