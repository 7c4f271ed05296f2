//! The corpora of the fuzz targets `pgoutput`, messages taken from a real stream, and `parcel`, what nodes hand to each
//! other; and bad ones of both, made by hand.

#![allow(clippy::unwrap_used, reason = "a broken fact may stop a test")]

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use walcast_replication::parcel::{self, Parcel, Unpacker};
use walcast_replication::pgoutput::{Message, decode, decode_row, fuzz};
use walcast_replication::{Interest, Stats};

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

struct Everything;

impl Interest for Everything {
    fn wants(&self, _relation_oid: u32) -> bool {
        true
    }
}

fn unpacks(bytes: &[u8]) -> bool {
    let Ok(parcel) = Parcel::open(Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    let mut unpacker = Unpacker::new(Arc::new(Everything), Arc::<Stats>::default());
    unpacker.begin(parcel);
    loop {
        match unpacker.unpack() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[test]
fn parcels_unpack_and_bad_ones_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/parcel");
    let (mut good, mut bad) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            parcel::fuzz(&bytes[..length]);
        }
        let is_bad = name.starts_with("bad-");
        assert_eq!(unpacks(&bytes), !is_bad, "{name}");
        if is_bad {
            bad += 1;
        } else {
            good += 1;
        }
    }
    assert!(good >= 10 && bad >= 7, "{good} good and {bad} bad parcels");
}
