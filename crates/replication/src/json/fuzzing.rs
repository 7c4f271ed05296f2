//! Body of the fuzz target `json_value`, shared with the test that replays its corpus.

use super::{Field, Type, document, write, write_or_text};
use std::sync::Arc;

/// Whatever the type and the text, the outcome is valid JSON on one line in proportion to the text, or nothing at all.
///
/// The first byte of `data` chooses the type, from `a`; the rest is the text.
pub fn json_value(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let types = types();
    let kind = &types[usize::from(choice.wrapping_sub(b'a')) % types.len()];

    let mut out = String::new();
    match write(kind, text, &mut out) {
        Ok(()) => assert!(
            out.len() <= 64 * (text.len() + 1),
            "{} bytes of {}",
            out.len(),
            text.len()
        ),
        Err(_) => assert!(out.is_empty(), "{kind:?}: {out}"),
    }
    out.clear();
    write_or_text(kind, text, &mut out);
    // Held against another parser in the tests, the document's grammar is the judge here.
    let mut again = String::new();
    assert!(document::write(&out, &mut again).is_ok(), "{kind:?}: {out}");
    assert!(!again.contains('\n') && again == out, "{out}");
}

fn types() -> Vec<Type> {
    let array = |element: Type| Type::Array {
        element: Arc::new(element),
        delimiter: b',',
    };
    let composite = |kinds: [Type; 3]| Type::Composite {
        fields: ["a", "b", "\"c\""]
            .into_iter()
            .zip(kinds)
            .map(|(name, kind)| Field::new(name, kind.into()))
            .collect(),
    };
    let pair = composite([Type::Text, Type::Float, Type::Bytea]);
    vec![
        Type::Bool,
        Type::Integer,
        Type::BigInteger,
        Type::Float,
        Type::Text,
        Type::Bytea,
        Type::Json,
        Type::Timestamp,
        Type::TimestampTz,
        Type::Hstore,
        Type::Vector {
            element: Arc::new(Type::Integer),
        },
        array(Type::Integer),
        array(Type::Text),
        array(Type::Json),
        Type::Array {
            element: Arc::new(Type::Text),
            delimiter: b';',
        },
        pair.clone(),
        array(pair.clone()),
        composite([pair.clone(), array(pair), Type::Hstore]),
        array(array(Type::TimestampTz)),
    ]
}
