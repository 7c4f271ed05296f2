//! `docs/errors.md`: that it explains every code there is, and none that is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use walcast_protocol::ErrorCode;

const PAGE: &str = include_str!("../../../../docs/errors.md");

/// Codes are words put together, which tells them from names such as `INSERT`.
fn is_code(literal: &str) -> bool {
    let capitals = literal.chars().filter(char::is_ascii_uppercase).count();
    literal.starts_with(|first: char| first.is_ascii_uppercase())
        && literal.chars().all(|letter| letter.is_ascii_alphabetic())
        && literal.chars().any(|letter| letter.is_ascii_lowercase())
        && (capitals > 1)
}

/// The codes that a source writes as text, where a code is given.
fn written(source: &str, into: &mut BTreeSet<String>) {
    for place in ["code = \"", "code: \"", "=> \""] {
        for (at, _) in source.match_indices(place) {
            let literal = source[at + place.len()..].split('"').next().unwrap();
            if is_code(literal) {
                into.insert(literal.to_owned());
            }
        }
    }
    for (at, prefix) in source.match_indices("ErrorCode::") {
        let name: String = source[at + prefix.len()..]
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        if ErrorCode::ALL.iter().any(|code| code.as_str() == name) {
            into.insert(name);
        }
    }
}

fn walk(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            // It only lists them.
            && !path.ends_with("protocol/src/error_code.rs")
        {
            written(&fs::read_to_string(&path).unwrap(), into);
        }
    }
}

/// The codes that the code gives.
fn given() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut given = BTreeSet::new();
    for name in [
        "protocol",
        "changes",
        "messages",
        "presence",
        "broadcast",
        "server",
    ] {
        walk(&crates.join(name).join("src"), &mut given);
    }
    given
}

/// The codes with a section, which has meaning, cause and remedy.
fn explained() -> BTreeSet<&'static str> {
    PAGE.split("\n### `")
        .skip(1)
        .map(|section| {
            let (code, text) = section.split_once("`\n\n").unwrap();
            for part in ["* **Cause**: ", "* **Remedy**: "] {
                assert!(text.contains(part), "{code} lacks {part}");
            }
            code
        })
        .collect()
}

/// The codes of the reference that are not used here.
fn unused() -> BTreeSet<&'static str> {
    let (_, section) = PAGE.split_once("\n## Codes of the reference server").unwrap();
    section.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_code_that_is_given_is_explained() {
    let explained = explained();
    let given = given();
    assert!(given.len() > 40, "{given:?}");
    let missing: Vec<_> = given
        .iter()
        .filter(|code| !explained.contains(code.as_str()))
        .collect();
    assert!(missing.is_empty(), "no section in docs/errors.md for {missing:?}");
}

#[test]
fn every_code_that_is_explained_is_one() {
    let given = given();
    let known: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    for code in explained() {
        assert!(
            given.contains(code) || known.contains(code),
            "{code} is given nowhere"
        );
    }
}

#[test]
fn the_codes_of_the_reference_are_explained_or_named_as_unused() {
    let (explained, unused, given) = (explained(), unused(), given());
    for code in ErrorCode::ALL {
        let code = code.as_str();
        assert_ne!(explained.contains(code), unused.contains(code), "{code}");
    }
    for code in unused {
        assert!(!given.contains(code), "{code} is used, and needs a section");
    }
}

#[test]
fn every_close_code_is_explained() {
    let outbox = include_str!("../../src/outbox.rs");
    let mut codes = 0;
    for line in outbox.lines().filter(|line| line.contains(": u16 = ")) {
        let code = line.rsplit("= ").next().unwrap().trim_end_matches(';');
        assert!(PAGE.contains(&format!("\n| `{code}` |")), "{code}");
        codes += 1;
    }
    assert_eq!(PAGE.matches("\n| `1").count(), codes);
}
