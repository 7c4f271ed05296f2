//! Bodies of the fuzz targets, shared by the fuzzer and by the test that replays its corpora.

use crate::binding::Binding;
use crate::filter::{self, Grammar};
use crate::policy;

/// Any text is a filter or is refused, and what is understood prints.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let plain = filter::parse(text, Grammar::Reference);
    let grouped = filter::parse(text, Grammar::Groups);
    // Groups add to what the reference understands and change nothing of it.
    assert!(plain.is_err() || plain == grouped);
    for clause in grouped.unwrap_or_default() {
        assert!(!clause.to_string().is_empty());
    }
}

/// Any JSON object is a binding or is refused, and either way there is a text for people.
pub fn binding(data: &[u8]) {
    let Ok(entry) = serde_json::from_slice(data) else {
        return;
    };
    match Binding::parse(&entry, Grammar::Groups) {
        Ok(binding) => assert!(binding.to_string().starts_with("[event: ")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Any text is a policy's expression, a function's body, or neither.
pub fn policy_expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    policy::read_any(text);
}
