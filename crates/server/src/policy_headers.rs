//! What policies see of a request's headers (`database.md 3.2`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;

/// The headers of the wanted names, which are lower-case, as the text of a JSON object; the last of equal ones counts.
pub(crate) fn policy_headers(headers: &HeaderMap, is_wanted: impl Fn(&str) -> bool) -> Arc<str> {
    let wanted: BTreeMap<&str, &str> = headers
        .iter()
        .filter(|(name, _)| is_wanted(name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    // A map of strings always serializes.
    serde_json::to_string(&wanted)
        .unwrap_or_else(|_| "{}".to_owned())
        .into()
}
