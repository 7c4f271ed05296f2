//! What is packed on one node is what another unpacks.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use walcast_replication::parcel::{MAX_CHANGE_BYTES, Packer, Parcel, ParcelError, Unpacker};
use walcast_replication::{
    Action, Change, Column, Event, Lsn, OldTuple, Relation, ReplicaIdentity, Stats, StreamError, Transaction,
    Tuple, Value,
};

use crate::watched::{Everything, Only, described};

fn unpacker() -> Unpacker {
    Unpacker::new(Arc::new(Everything), Arc::default())
}

fn opened(packer: &mut Packer) -> Parcel {
    Parcel::open(packer.seal(&Stats::default())).unwrap()
}

fn unpacked(unpacker: &mut Unpacker, parcel: Parcel) -> Vec<Event> {
    unpacker.begin(parcel);
    std::iter::from_fn(|| unpacker.unpack().unwrap()).collect()
}

/// Everything that can be told of an event. Versions of tables are given anew where they are unpacked.
fn told(event: &Event) -> String {
    match event {
        Event::Change(change) => {
            let Relation {
                oid,
                schema,
                name,
                replica_identity,
                columns,
                ..
            } = &*change.relation;
            let old_kind = match &change.action {
                Action::Update { old, .. } => old.as_ref().map(std::mem::discriminant),
                Action::Delete { old } => Some(std::mem::discriminant(old)),
                Action::Insert { .. } => None,
            };
            format!(
                "{:?} {} {oid} {schema} {name} {replica_identity:?} {columns:?} {old_kind:?} {} {}",
                change.transaction,
                change.index,
                described(change),
                change.action.wire_bytes(),
            )
        }
        Event::Truncate {
            relations,
            transaction,
        } => {
            let oids: Vec<u32> = relations.iter().map(|relation| relation.oid).collect();
            format!("{transaction:?} TRUNCATE {oids:?}")
        }
        Event::Lost {
            reason,
            retry_in_ms,
            is_kept,
        } => format!("lost {retry_in_ms} {is_kept} {reason}"),
        other => format!("{other:?}"),
    }
}

fn relation(oid: u32, columns: usize, version: u64) -> Arc<Relation> {
    let columns = (0..columns).map(|at| Column {
        name: format!("column {at} é"),
        type_oid: 25,
        type_modifier: -1,
        is_key: at == 0,
    });
    Arc::new(Relation {
        oid,
        schema: "public".to_owned(),
        name: format!("t{oid}"),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
        version,
    })
}

fn transaction(commit: u64) -> Transaction {
    Transaction {
        xid: 7,
        commit: Lsn(commit),
        commit_timestamp_us: 1_700_000_000_000_000,
    }
}

fn insert(commit: u64, index: u32, relation: &Arc<Relation>, values: &[Value<'_>]) -> Event {
    Event::Change(Change {
        transaction: transaction(commit),
        index,
        relation: Arc::clone(relation),
        action: Action::Insert {
            new: Tuple::of(values.iter().copied()).unwrap(),
        },
    })
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(None),
        Just(Some(None)),
        any::<String>().prop_map(|text| Some(Some(text)))
    ];
    vec(value, 3).prop_map(|values| {
        let values = values.iter().map(|value| match value {
            None => Value::Null,
            Some(None) => Value::UnchangedToast,
            Some(Some(text)) => Value::Text(text),
        });
        Tuple::of(values).unwrap()
    })
}

fn action() -> impl Strategy<Value = Action> {
    let old = || prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)];
    prop_oneof![
        tuple().prop_map(|new| Action::Insert { new }),
        (prop::option::of(old()), tuple()).prop_map(|(old, new)| Action::Update { old, new }),
        old().prop_map(|old| Action::Delete { old }),
    ]
}

/// A transaction of some rows, in up to three tables, and whether a parcel ends after each.
fn transactions() -> impl Strategy<Value = Vec<Vec<(u32, Action, bool)>>> {
    vec(vec((0..3_u32, action(), any::<bool>()), 1..6), 0..5)
}

proptest! {
    #[test]
    fn what_is_packed_comes_out_however_it_is_cut(transactions in transactions(), late: usize) {
        let mut packer = Packer::new(5);
        let mut events = vec![Event::Streaming { start: Lsn(1), attempt: 1, is_resumed: true }];
        packer.add(&events[0]);
        let mut parcels = Vec::new();
        for (number, rows) in transactions.into_iter().enumerate() {
            let transaction = transaction(10 + 10 * number as u64);
            for (index, (oid, action, is_last)) in rows.into_iter().enumerate() {
                let change = Event::Change(Change {
                    transaction,
                    index: u32::try_from(index).unwrap(),
                    relation: relation(oid, 3, 1),
                    action,
                });
                packer.add(&change);
                events.push(change);
                if is_last {
                    parcels.push((events.len(), opened(&mut packer)));
                }
            }
            let commit = Event::Commit { transaction, end: Lsn(transaction.commit.0 + 5) };
            packer.add(&commit);
            events.push(commit);
        }
        let lost = Event::Lost {
            reason: Arc::new(StreamError::Ended),
            retry_in_ms: 3,
            is_kept: true,
        };
        packer.add(&lost);
        parcels.push((events.len() + 1, opened(&mut packer)));
        let mut expected: Vec<String> = events.iter().map(told).collect();
        expected.push(format!("lost 3 true {}", StreamError::Elsewhere(StreamError::Ended.to_string())));

        for (number, (_, parcel)) in parcels.iter().enumerate() {
            prop_assert_eq!(parcel.number, number as u64 + 1);
        }
        // From the first parcel on, and from any other.
        for first in [0, late % parcels.len()] {
            let begin = if first == 0 { 0 } else { parcels[first - 1].0 };
            let mut unpacker = unpacker();
            let found: Vec<String> = parcels[first..]
                .iter()
                .flat_map(|(_, parcel)| unpacked(&mut unpacker, parcel.clone()))
                .map(|event| told(&event))
                .collect();
            prop_assert_eq!(&found, &expected[begin..]);
        }
    }

    #[test]
    fn no_bytes_are_too_odd(data: Vec<u8>) {
        walcast_replication::parcel::fuzz(&data);
        let mut with_header = vec![1; 42];
        with_header.extend(data);
        walcast_replication::parcel::fuzz(&with_header);
    }
}

#[test]
fn a_table_is_a_new_one_when_it_was_announced_anew_or_by_another_packer() {
    let mut unpacker = unpacker();
    let mut seen = Vec::new();
    for (tenure, version) in [(1, 1), (1, 1), (1, 2), (2, 2)] {
        let mut packer = Packer::new(tenure);
        packer.add(&insert(10, 0, &relation(1, 1, version), &[Value::Null]));
        let parcel = opened(&mut packer);
        match unpacked(&mut unpacker, parcel).as_slice() {
            [Event::Change(change)] => seen.push(change.relation.version),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        seen[0] == seen[1] && seen[1] < seen[2] && seen[2] < seen[3],
        "{seen:?}"
    );
}

#[test]
fn rows_nobody_wants_are_not_decoded_and_figures_tell_how_far_it_is() {
    let stats = Arc::new(Stats::default());
    let mut unpacker = Unpacker::new(Arc::new(Only(2)), Arc::clone(&stats));
    let mut packer = Packer::new(1);
    packer.add(&Event::Streaming {
        start: Lsn(5),
        attempt: 1,
        is_resumed: false,
    });
    packer.add(&insert(10, 0, &relation(1, 1, 1), &[Value::Text("a")]));
    packer.add(&insert(10, 1, &relation(2, 1, 1), &[Value::Text("b")]));
    packer.add(&Event::Commit {
        transaction: transaction(10),
        end: Lsn(15),
    });
    let parcel = opened(&mut packer);
    assert_eq!((parcel.packed_to, parcel.is_streaming), (Lsn(15), true));
    let events = unpacked(&mut unpacker, parcel);
    assert!(
        matches!(events.as_slice(), [Event::Streaming { .. }, Event::Change(change), Event::Commit { .. }]
            if described(change) == "INSERT t2 (b)"),
        "{events:?}"
    );
    assert_eq!(stats.begun().unwrap().0, Lsn(10));
    assert_eq!(stats.confirmed(), Lsn(15));
}

#[test]
fn a_row_that_is_too_large_travels_without_its_long_values_and_keeps_its_size() {
    let long = "x".repeat(MAX_CHANGE_BYTES);
    let values = [Value::Text("1"), Value::Text(&long), Value::Null];
    let mut packer = Packer::new(1);
    let change = insert(10, 0, &relation(1, 3, 1), &values);
    packer.add(&change);
    assert!(packer.waiting_bytes() < 4096);
    let parcel = opened(&mut packer);
    let unpacked = unpacked(&mut unpacker(), parcel);
    let (Event::Change(before), [Event::Change(after)]) = (&change, unpacked.as_slice()) else {
        panic!("not a change");
    };
    assert_eq!(described(after), "INSERT t1 (1, ~, -)");
    assert_eq!(after.action.wire_bytes(), before.action.wire_bytes());
}

#[test]
fn bytes_that_are_none_are_refused() {
    assert!(matches!(Parcel::open(Bytes::new()), Err(ParcelError::Content(_))));
    assert!(matches!(
        Parcel::open(Bytes::from_static(&[1; 41])),
        Err(ParcelError::Content(_))
    ));
    assert!(matches!(
        Parcel::open(Bytes::from_static(&[2; 42])),
        Err(ParcelError::Version(2))
    ));
    let mut packer = Packer::new(1);
    packer.add(&insert(10, 0, &relation(1, 1, 1), &[Value::Text("a")]));
    let whole = packer.seal(&Stats::default());
    for length in 43..whole.len() {
        let mut unpacker = unpacker();
        unpacker.begin(Parcel::open(whole.slice(..length)).unwrap());
        let mut events = 0;
        while let Ok(Some(_)) = unpacker.unpack() {
            events += 1;
        }
        assert_eq!(events, 0, "cut at {length}");
    }
}
