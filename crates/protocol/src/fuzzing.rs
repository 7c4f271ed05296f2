//! Bodies of the fuzz targets, shared by the fuzzer and by the tests that replay its corpus.

use crate::{
    JoinPayload, Payload, Version, decode_binary, decode_text, decode_user_broadcast, unmatched_topic,
};
use serde_json::value::RawValue;

/// Any text frame decodes or is refused, and the answers to what decodes are JSON.
pub fn frame_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for version in [Version::V1, Version::V2] {
        let Ok(message) = decode_text(version, text) else {
            continue;
        };
        let answer = unmatched_topic(version, &message.reference, &message.topic);
        assert!(serde_json::from_str::<&RawValue>(&answer).is_ok(), "{answer}");
        if let Payload::Json(payload) = &message.payload {
            let _ = JoinPayload::parse(payload);
        }
    }
}

/// Any binary frame decodes or is refused.
pub fn frame_binary(data: &[u8]) {
    for version in [Version::V1, Version::V2] {
        let _ = decode_binary(version, data);
    }
    let _ = decode_user_broadcast(data);
}

/// Any join payload is understood or refused, and its echo is JSON.
pub fn join_payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(raw) = RawValue::from_string(text.to_owned()) else {
        return;
    };
    let Ok(payload) = JoinPayload::parse(&raw) else {
        return;
    };
    let _ = payload.channel_token();
    let entries = payload
        .config
        .map(|config| config.postgres_changes)
        .unwrap_or_default();
    let echo = crate::join_response(&entries);
    assert!(serde_json::from_str::<serde_json::Value>(&echo).is_ok(), "{echo}");
}
