//! Values that are not of their type: after DDL (`database.md 9.31`), or under other session settings.

use crate::{built_in, written};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use walcast_replication::json::{self, Field, Type};

#[test]
fn a_text_that_is_not_of_its_type_is_refused_and_leaves_no_trace() {
    for (type_name, text) in [
        ("bool", "true"),
        ("bool", ""),
        ("int4", ""),
        ("int4", "1.0"),
        ("int4", "a"),
        ("int8", "007"),
        ("numeric", "1,5"),
        ("float8", "inf"),
        ("float8", ".5"),
        ("bytea", "abc"),
        ("bytea", "\\001\\002"),
        ("bytea", "\\x0\""),
        ("json", ""),
        ("json", "{"),
        ("json", "[1,]"),
        ("json", "[1}"),
        ("json", "{\"a\":1,}"),
        ("json", "{\"a\" 1}"),
        ("json", "{1:1}"),
        ("json", "1 2"),
        ("json", "1,2"),
        ("json", "tru"),
        ("json", "'a'"),
        ("json", "\"a\nb\""),
        ("json", "\"\\u12\""),
        ("json", "\"\\x\""),
        ("json", "\"a"),
        ("timestamp", "2024-02-03"),
        ("timestamp", "Sat 03 Feb 04:05:06 2024"),
        ("timestamp", "02/03/2024 04:05:06"),
        ("timestamp", "2024-02-03 04:05:06+00"),
        ("timestamptz", "2024-02-03 04:05:06"),
        ("timestamptz", "2024-02-03 04:05:06 CET"),
        ("timestamptz", "2024-02-03 04:05:06+"),
        ("timestamptz", "2024-02-03 04:05:06+0\""),
        ("_int4", ""),
        ("_int4", "1"),
        ("_int4", "{"),
        ("_int4", "{1"),
        ("_int4", "{1,"),
        ("_int4", "{1,}"),
        ("_int4", "{,1}"),
        ("_int4", "{1}}"),
        ("_int4", "{1}{2}"),
        ("_int4", "{1},"),
        ("_int4", "{a}"),
        ("_int4", "[0:1={1}"),
        ("_int4", "[0:1]"),
        ("_int4", "{{{{{{{1}}}}}}}"),
        ("_text", "{\"a}"),
        ("_text", "{\"a\\"),
        ("_text", "{\"a\"b}"),
        ("_text", "{a\"b\"}"),
        ("_int2vector", "{\"1 x\"}"),
    ] {
        let kind = built_in(type_name);
        let mut out = "before".to_owned();
        assert!(
            json::write(&kind, text, &mut out).is_err(),
            "{type_name} {text} gave {out}"
        );
        assert_eq!(out, "before", "{type_name} {text}");
        assert!(!json::write_or_text(&kind, text, &mut out));
        assert_eq!(
            serde_json::from_str::<String>(&out["before".len()..]).unwrap(),
            text
        );
    }
}

#[test]
fn a_composite_with_more_or_fewer_attributes_than_its_type_says_so() {
    let fields = ["a", "b"].map(|name| Field::new(name, Arc::new(Type::Text)));
    let pair = Type::Composite {
        fields: Box::new(fields),
    };
    for text in ["(1)", "(1,2,3)", "()", "(1,2,)"] {
        assert_eq!(
            written(&pair, text),
            Err(json::ValueError::Attributes { fields: 2 }),
            "{text}"
        );
    }
    for text in [
        "",
        "(",
        "(1,2",
        "(1,2)x",
        "(1,\"2)",
        "1,2",
        "(1,2(3)",
        "(a\"b\",2)",
    ] {
        assert!(
            matches!(written(&pair, text), Err(json::ValueError::Expected { .. })),
            "{text}"
        );
    }
}

#[test]
fn a_broken_hstore_is_refused() {
    for text in [
        "a",
        "\"a\"",
        "\"a\"=>",
        "\"a\"=>b",
        "\"a\"=>\"b\",",
        "\"a\"=>\"b\", ",
        "\"a\"=>\"b\"\"c\"=>\"d\"",
    ] {
        assert!(written(&Type::Hstore, text).is_err(), "{text}");
    }
}

#[test]
fn an_error_never_repeats_the_value() {
    let error = written(&Type::Integer, "hunter2").unwrap_err();
    assert!(!error.to_string().contains("hunter2"));
}

#[test]
fn no_seed_of_the_fuzz_corpus_breaks_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/json_value");
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // Shown only if the target stops the test.
        println!("{}", path.display());
        json::fuzzing::json_value(&std::fs::read(&path).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", folder.display());
}

proptest! {
    /// Also true of texts that no Postgres prints: neither a panic nor broken JSON comes of any.
    #[test]
    fn whatever_the_text_the_json_is_valid(
        kind in any_type(),
        text in r#"([{}()\[\]",;:=\\+tfxT 0-9.eN-]|NULL|NaN|=>|""|\\u|\\\\|BC|ü|☃){0,24}"#,
    ) {
        let mut out = String::new();
        match json::write(&kind, &text, &mut out) {
            Ok(()) => {
                // That a number is beyond f64 is serde_json's limit, not JSON's.
                let broken = matches!(serde_json::from_str::<serde_json::Value>(&out), Err(error) if !error.to_string().contains("out of range"));
                prop_assert!(!broken, "{:?} {:?} became {}", kind, text, out);
            }
            Err(_) => prop_assert!(out.is_empty()),
        }
        prop_assert!(!out.contains('\n'));
    }
}

fn any_type() -> impl Strategy<Value = Arc<Type>> {
    let leaf = prop::sample::select(vec![
        Type::Bool,
        Type::Integer,
        Type::Numeric,
        Type::Float,
        Type::Text,
        Type::Bytea,
        Type::Json,
        Type::Timestamp,
        Type::TimestampTz,
        Type::Hstore,
    ]);
    leaf.prop_map(Arc::new).prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec![b',', b';']))
                .prop_map(|(element, delimiter)| Type::Array { element, delimiter }),
            inner.clone().prop_map(|element| Type::Vector { element }),
            prop::collection::vec(inner, 0..3).prop_map(|kinds| Type::Composite {
                fields: kinds.into_iter().map(|kind| Field::new("a", kind)).collect()
            }),
        ]
        .prop_map(Arc::new)
    })
}
