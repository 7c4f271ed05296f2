//! Body of the fuzz target `presence_report`, shared by the fuzzer and by the test that replays its corpus.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::meta::render_keys;
use crate::report::{Report, encode};

/// Any bytes are a presence or are refused. What is understood survives being written again, and is JSON for clients
/// with one reference. Says whether they are a presence.
///
/// # Panics
/// It does not survive, or is no JSON.
pub fn presence_report(data: &[u8]) -> bool {
    let Ok(report) = Report::decode(data) else {
        return false;
    };
    let again = Report::decode(&encode(&report.place, report.serial, &report.meta));
    let is_same = again.is_ok_and(|again| {
        again.place == report.place && again.serial == report.serial && again.meta == report.meta
    });
    assert!(is_same, "{report:?}");
    let mut text = String::new();
    render_keys([(&*report.place.key, &report.meta)].into_iter(), &mut text);
    let state: Option<Value> = serde_json::from_str(&text).ok();
    // The parser of values bounds how deep they are nested, as those of clients do not.
    if let Some(state) = state {
        let reference = &state[&*report.place.key]["metas"][0]["phx_ref"];
        assert_eq!(reference.as_str(), Some(&*report.meta.reference.text()), "{text}");
    } else {
        let raw = serde_json::from_str::<&RawValue>(&text);
        assert!(raw.is_ok(), "{text}");
    }
    true
}
