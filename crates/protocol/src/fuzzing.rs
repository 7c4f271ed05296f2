//! Bodies of the fuzz targets, shared by the fuzzer and by the tests that replay its corpus.

use crate::{
    JoinPayload, Message, Payload, UserBroadcast, Version, decode_binary, decode_text, decode_user_broadcast,
    encode_client_text, encode_user_broadcast, encode_user_broadcast_push, join_response, unmatched_topic,
};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Any text frame decodes or is refused. What decodes can be answered in JSON, and survives being written again.
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
        text_survives(version, &message);
    }
}

fn text_survives(version: Version, message: &Message) {
    let (Some(topic), Some(event)) = (message.topic.as_str(), message.event.as_str()) else {
        return;
    };
    let Payload::Json(payload) = &message.payload else {
        return;
    };
    let again = encode_client_text(
        version,
        &message.join_ref,
        &message.reference,
        topic,
        event,
        payload.get(),
    );
    let decoded = decode_text(version, &again).ok();
    let survived = decoded.is_some_and(|decoded| {
        decoded.join_ref == message.join_ref
            && decoded.reference == message.reference
            && decoded.topic.as_str() == Some(topic)
            && decoded.event.as_str() == Some(event)
            && matches!(&decoded.payload, Payload::Json(found) if found.get() == payload.get())
    });
    assert!(survived, "{again}");
}

/// Any binary frame decodes or is refused. A user broadcast that decodes is written as it came, but for encodings
/// other than 1 that say JSON, too.
pub fn frame_binary(data: &[u8]) {
    _ = decode_binary(Version::V1, data);
    if let Ok(message) = decode_binary(Version::V2, data) {
        push_survives(&message, data);
    }
    if let Ok(UserBroadcast {
        topic,
        event,
        metadata,
        encoding,
        payload,
    }) = decode_user_broadcast(data)
    {
        let again = encode_user_broadcast(&topic, &event, &metadata, encoding, &payload);
        assert!(again.is_ok_and(|again| same_but(&again, data, 4)), "{data:?}");
    }
}

fn push_survives(message: &Message, data: &[u8]) {
    let Payload::UserBroadcast(push) = &message.payload else {
        return;
    };
    let text = |json: &str| serde_json::from_str::<String>(json).unwrap_or_default();
    let (join_ref, reference) = (text(message.join_ref.json()), text(message.reference.json()));
    let topic = message.topic.as_str().unwrap_or_default();
    let again = encode_user_broadcast_push(&join_ref, &reference, topic, push);
    assert!(again.is_ok_and(|again| same_but(&again, data, 6)), "{data:?}");
}

/// Whether two frames are equal, but for the encoding byte.
fn same_but(one: &[u8], other: &[u8], encoding_at: usize) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .enumerate()
            .all(|(at, (a, b))| a == b || at == encoding_at)
}

/// Any join payload is understood or refused in a short sentence. The echo of its bindings is JSON, with equal ids
/// for equal entries only.
pub fn join_payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(raw) = RawValue::from_string(text.to_owned()) else {
        return;
    };
    let payload = match JoinPayload::parse(&raw) {
        Ok(payload) => payload,
        Err(error) => {
            let reason = error.to_string();
            assert!(
                reason.starts_with("UnknownErrorOnChannel: ") && reason.len() < 200,
                "{reason}"
            );
            return;
        }
    };
    assert!(payload.problems.len() <= 10, "{:?}", payload.problems);
    _ = payload.channel_token();
    let entries = payload
        .config
        .map(|config| config.postgres_changes)
        .unwrap_or_default();
    let echo = join_response(&entries);
    // Not as a `Value`: the echo is two levels deeper than an entry, which may be as deep as one parses.
    assert!(serde_json::from_str::<&RawValue>(&echo).is_ok(), "{echo}");
    let mut by_id: HashMap<u32, Value> = HashMap::new();
    for entry in &entries {
        let asked: Value = serde_json::from_str(entry.raw.get()).unwrap_or_default();
        let first = by_id.entry(entry.id).or_insert_with(|| asked.clone());
        assert_eq!(*first, asked, "two entries share id {}", entry.id);
    }
}
