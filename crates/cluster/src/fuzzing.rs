//! Body of the fuzz target `envelope`, shared by the fuzzer and by the test that replays its corpus.

use crate::counts;
use crate::envelope::{open, seal};
use crate::presence::news::{News, restored};
use bytes::Bytes;

/// Any bytes are an envelope or are refused, and so is what they carry. What is understood survives being written
/// again. Says whether they are an envelope.
///
/// # Panics
/// It does not survive.
pub fn envelope(data: &[u8]) -> bool {
    let sealed = Bytes::copy_from_slice(data);
    let Ok((origin, payload)) = open(&sealed) else {
        return false;
    };
    assert_eq!(seal(origin, &payload), data);
    if let Ok(news) = News::decode(&payload) {
        assert_eq!(news.encode(), payload);
    }
    _ = restored(payload.clone());
    if let Some(counts) = counts::decode(&payload) {
        let again = counts::decode(&counts::encode(&counts).into());
        assert_eq!(again, Some(counts));
    }
    true
}
