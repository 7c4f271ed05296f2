//! The settings of the second tenant.
//!
//! Its transcripts begin by making them through the API of tenants. Here such a case has a server of its own that was
//! started with them.

use serde_json::{Map, Value};

use crate::transcript::{Event, Step};

/// Environment variables and their values.
pub(crate) type Settings = Vec<(&'static str, String)>;

/// Fields of a tenant, and the variables that say the same.
const VARIABLES: [(&str, &str); 10] = [
    ("max_concurrent_users", "TENANT_MAX_CONCURRENT_USERS"),
    ("max_channels_per_client", "TENANT_MAX_CHANNELS_PER_CLIENT"),
    ("max_joins_per_second", "TENANT_MAX_JOINS_PER_SECOND"),
    ("max_events_per_second", "TENANT_MAX_EVENTS_PER_SECOND"),
    ("max_payload_size_in_kb", "WALCAST_MAX_PAYLOAD_KB"),
    ("private_only", "WALCAST_PRIVATE_ONLY"),
    ("presence_enabled", "WALCAST_PRESENCE_ENABLED"),
    (
        "max_presence_events_per_second",
        "WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND",
    ),
    (
        "max_client_presence_events_per_window",
        "CLIENT_PRESENCE_MAX_CALLS",
    ),
    ("client_presence_window_ms", "CLIENT_PRESENCE_WINDOW_MS"),
];

/// Takes the requests that make the settings out of the beginning of a case.
pub(crate) fn settings(steps: &mut Vec<Step>) -> Settings {
    let mut fields = Map::new();
    while let Some(made) = steps.first().and_then(|step| made_by(&step.event)) {
        fields.extend(made);
        // The request, and its answer.
        steps.drain(..2);
    }
    if let Some(start_ms) = steps.first().map(|step| step.at_ms) {
        steps.iter_mut().for_each(|step| step.at_ms -= start_ms);
    }
    VARIABLES
        .iter()
        .filter_map(|(field, variable)| {
            let value = fields.get(*field).filter(|value| !value.is_null())?;
            Some((*variable, value.to_string()))
        })
        .collect()
}

/// The fields that a request sets.
fn made_by(event: &Event) -> Option<Map<String, Value>> {
    let Event::Http(request) = event else {
        return None;
    };
    if request.method != "PUT" || !request.target.starts_with("/api/tenants/") {
        return None;
    }
    let mut body: Value = serde_json::from_slice(&request.body).ok()?;
    match body.get_mut("tenant")?.take() {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}
