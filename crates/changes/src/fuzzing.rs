//! Bodies of the fuzz targets, shared by the fuzzer and by the test that replays its corpora.

use crate::binding::Binding;
use crate::{filter, policy};

/// Any text is a filter or is refused, and what is understood prints.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for condition in filter::parse(text).unwrap_or_default() {
        assert!(!condition.to_string().is_empty());
    }
}

/// Any JSON object is a binding or is refused, and either way there is a text for people.
pub fn binding(data: &[u8]) {
    let Ok(entry) = serde_json::from_slice(data) else {
        return;
    };
    match Binding::parse(&entry) {
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
