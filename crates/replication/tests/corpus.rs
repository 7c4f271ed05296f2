//! The corpus of the fuzz target `pgoutput`: messages taken from a real stream, and bad ones made by hand.

#![allow(clippy::unwrap_used, reason = "a broken fact may stop a test")]

use std::path::Path;
use walcast_replication::pgoutput::{Message, decode, decode_row, fuzz};

fn is_understood(message: &[u8]) -> bool {
    match decode(message) {
        Ok(Message::Row(row)) => decode_row(row).is_ok(),
        Ok(_) => true,
        Err(_) => false,
    }
}

#[test]
fn captured_messages_are_understood_and_bad_ones_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/pgoutput");
    let (mut captured, mut bad) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let message = std::fs::read(&path).unwrap();
        fuzz(&message);
        if name.starts_with("bad-") {
            bad += 1;
            assert!(!is_understood(&message), "{name}");
            continue;
        }
        captured += 1;
        assert!(is_understood(&message), "{name}");
        // Cut anywhere, it is refused, or else a shorter message.
        for length in 0..message.len() {
            fuzz(&message[..length]);
        }
    }
    assert!(
        captured >= 20 && bad >= 5,
        "{captured} captured and {bad} bad messages"
    );
}
