//! Bounded streams.

use crate::fleet::{Fleet, join, soon};
use crate::{Case, cases};
use std::time::Duration;
use walcast_cluster::{
    Bound, Cluster, ClusterError, From, MAX_ENTRY_BYTES, Position, Read, Reader, RedisConfig,
};
use walcast_testkit::{Redis, until};

const WIDE: Bound = Bound {
    entries: 100_000,
    bytes: 1 << 30,
};

pub(crate) fn shared() -> Vec<Case<Fleet>> {
    cases![
        entries_are_read_in_order_from_the_oldest_the_newest_or_a_place,
        a_reader_that_waits_gets_what_is_appended_later,
        a_call_that_is_given_up_loses_nothing,
        a_reader_whose_place_was_dropped_is_told_of_the_gap_and_goes_on_with_the_oldest,
        a_stream_is_bounded_by_bytes_and_keeps_the_newest,
        who_lost_the_lease_cannot_append,
        streams_of_other_names_are_independent_and_long_entries_are_refused,
        a_reader_with_a_place_of_another_stream_is_told_of_the_gap,
    ]
}

pub(crate) fn of_redis() -> Vec<Case<()>> {
    cases![a_reader_outlives_redis_and_is_told_what_was_lost,]
}

async fn append(node: &Cluster, payload: &str) -> Position {
    node.streams()
        .append("changes", payload.as_bytes(), WIDE, 1)
        .await
        .unwrap()
}

async fn reader(node: &Cluster, from: From) -> Box<dyn Reader> {
    node.streams().read("changes", from).await.unwrap()
}

/// The payloads of the next so many entries.
async fn next(reader: &mut Box<dyn Reader>, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        match soon("an entry", reader.next()).await.unwrap() {
            Read::Entries(entries) => {
                assert_eq!(reader.position(), entries.last().map(|entry| entry.position));
                payloads.extend(
                    entries
                        .iter()
                        .map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()),
                );
            }
            Read::Gap { after } => panic!("a gap after {after}"),
        }
    }
    payloads
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn entries_are_read_in_order_from_the_oldest_the_newest_or_a_place(fleet: Fleet) {
    let (writer, other) = (fleet.node().await, fleet.node().await);
    let mut positions = Vec::new();
    for payload in numbers(0..600) {
        positions.push(append(&writer, &payload).await);
    }
    assert!(positions.is_sorted());
    let mut from_now = reader(&other, From::Now).await;
    assert_eq!(
        next(&mut reader(&other, From::Oldest).await, 600).await,
        numbers(0..600)
    );
    let mut from_place = reader(&other, From::After(positions[99])).await;
    assert_eq!(next(&mut from_place, 500).await, numbers(100..600));
    append(&writer, "later").await;
    assert_eq!(next(&mut from_now, 1).await, ["later"]);
    assert_eq!(next(&mut from_place, 1).await, ["later"]);
}

async fn a_reader_that_waits_gets_what_is_appended_later(fleet: Fleet) {
    let (writer, other) = (fleet.node().await, fleet.node().await);
    // The stream is not there yet.
    let mut first = reader(&other, From::Oldest).await;
    let mut second = reader(&other, From::Now).await;
    let waiting = tokio::spawn(async move {
        let found = [next(&mut first, 1).await, next(&mut second, 1).await];
        (found, first, second)
    });
    append(&writer, "0").await;
    let (found, mut first, mut second) = soon("an entry", waiting).await.unwrap();
    assert_eq!(found, [["0"], ["0"]]);
    append(&writer, "1").await;
    assert_eq!(next(&mut first, 1).await, ["1"]);
    assert_eq!(next(&mut second, 1).await, ["1"]);
}

async fn a_call_that_is_given_up_loses_nothing(fleet: Fleet) {
    let (writer, other) = (fleet.node().await, fleet.node().await);
    let mut reader = reader(&other, From::Oldest).await;
    for round in 0..5_u64 {
        // Given up at different moments, of which some are in the middle of a question.
        let given_up = tokio::time::timeout(Duration::from_millis(round * 3), reader.next()).await;
        assert!(given_up.is_err());
    }
    for number in numbers(0..5) {
        append(&writer, &number).await;
    }
    assert_eq!(next(&mut reader, 5).await, numbers(0..5));
}

async fn a_reader_whose_place_was_dropped_is_told_of_the_gap_and_goes_on_with_the_oldest(fleet: Fleet) {
    let (writer, other) = (fleet.node().await, fleet.node().await);
    let narrow = Bound {
        entries: 10,
        bytes: 1 << 20,
    };
    let mut slow = reader(&other, From::Oldest).await;
    let mut last = None;
    for number in numbers(0..5) {
        last = Some(append(&writer, &number).await);
    }
    assert_eq!(next(&mut slow, 5).await, numbers(0..5));
    for number in numbers(5..15) {
        let payload = number.as_bytes();
        writer
            .streams()
            .append("changes", payload, narrow, 1)
            .await
            .unwrap();
    }
    // Exactly what it has read is dropped: no gap.
    let mut behind = reader(&other, From::After(slow.position().unwrap())).await;
    assert_eq!(next(&mut slow, 10).await, numbers(5..15));
    writer
        .streams()
        .append("changes", b"15", narrow, 1)
        .await
        .unwrap();
    let read = soon("a gap", behind.next()).await.unwrap();
    assert_eq!(read, Read::Gap { after: last.unwrap() });
    assert_eq!(next(&mut behind, 10).await, numbers(6..16));
    assert_eq!(next(&mut slow, 1).await, ["15"]);
}

async fn a_stream_is_bounded_by_bytes_and_keeps_the_newest(fleet: Fleet) {
    let writer = fleet.node().await;
    let narrow = Bound {
        entries: 1000,
        bytes: 1000,
    };
    let mut all = reader(&writer, From::Oldest).await;
    for number in 0..50 {
        let payload = format!("{number:0100}");
        writer
            .streams()
            .append("changes", payload.as_bytes(), narrow, 1)
            .await
            .unwrap();
    }
    let kept = next(&mut all, 10).await;
    let expected: Vec<String> = (40..50).map(|number| format!("{number:0100}")).collect();
    assert_eq!(kept, expected);
    let long = "x".repeat(5000);
    writer
        .streams()
        .append("changes", long.as_bytes(), narrow, 1)
        .await
        .unwrap();
    assert_eq!(next(&mut reader(&writer, From::Oldest).await, 1).await, [long]);
}

async fn who_lost_the_lease_cannot_append(fleet: Fleet) {
    let (old, new) = (fleet.node().await, fleet.node().await);
    let append = |node: &Cluster, token| {
        let streams = std::sync::Arc::clone(node.streams());
        async move { streams.append("changes", b"x", WIDE, token).await }
    };
    append(&old, 7).await.unwrap();
    append(&new, 8).await.unwrap();
    assert_eq!(append(&old, 7).await, Err(ClusterError::Fenced { token: 7 }));
    append(&new, 8).await.unwrap();
    assert_eq!(next(&mut reader(&new, From::Oldest).await, 3).await.len(), 3);
}

async fn streams_of_other_names_are_independent_and_long_entries_are_refused(fleet: Fleet) {
    let node = fleet.node().await;
    append(&node, "here").await;
    let other = node.streams().append("other", b"there", WIDE, 9).await.unwrap();
    assert_eq!(other.number, 1);
    assert_eq!(next(&mut reader(&node, From::Oldest).await, 1).await, ["here"]);
    let bytes = MAX_ENTRY_BYTES + 1;
    let refused = node.streams().append("other", &vec![0; bytes], WIDE, 9).await;
    assert!(
        matches!(refused, Err(ClusterError::TooLong { .. })),
        "{refused:?}"
    );
}

async fn a_reader_with_a_place_of_another_stream_is_told_of_the_gap(fleet: Fleet) {
    let node = fleet.node().await;
    let position = append(&node, "0").await;
    for after in [
        Position {
            generation: position.generation - 1,
            number: 4,
        },
        Position {
            generation: position.generation + 1,
            number: 4,
        },
        Position {
            generation: position.generation,
            number: 400,
        },
    ] {
        let mut reader = reader(&node, From::After(after)).await;
        assert_eq!(soon("a gap", reader.next()).await, Ok(Read::Gap { after }));
        assert_eq!(next(&mut reader, 1).await, ["0"]);
    }
}

async fn a_reader_outlives_redis_and_is_told_what_was_lost((): ()) {
    let redis = Redis::start(&[]).await;
    let node = join(&RedisConfig::from_url(&redis.url()).unwrap()).await;
    let mut reader = reader(&node, From::Oldest).await;
    let last = append(&node, "0").await;
    assert_eq!(next(&mut reader, 1).await, ["0"]);
    redis.stop();
    let error = soon("an error", reader.next()).await.unwrap_err();
    assert!(matches!(error, ClusterError::Away(_)), "{error}");
    redis.restart().await;
    until("a stream to write to", || async {
        node.streams().append("changes", b"1", WIDE, 1).await.ok()
    })
    .await;
    let read = loop {
        match soon("a gap", reader.next()).await {
            Ok(read) => break read,
            Err(error) => assert!(matches!(error, ClusterError::Away(_)), "{error}"),
        }
    };
    assert_eq!(read, Read::Gap { after: last });
    assert_eq!(next(&mut reader, 1).await, ["1"]);
}
