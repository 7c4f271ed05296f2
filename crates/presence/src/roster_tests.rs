//! What members compute from state and diffs, in the way clients do, is what is.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::merging::{Merging, reference};
use crate::meta::MetaRef;
use crate::report::Report;

const NO_LIMIT: usize = usize::MAX;
const OURS: NodeId = NodeId::from_bytes([0; 16]);

fn place(key: &str, member: u64) -> Place {
    Place {
        key: key.into(),
        owner: Owner {
            node: OURS,
            member: MemberId::from_number(member),
        },
    }
}

/// A member that is told the state now.
fn told(roster: &mut Roster) -> Merging {
    Merging::from_state(&roster.state())
}

fn diff(roster: &mut Roster) -> Value {
    roster
        .diff()
        .map_or(Value::Null, |diff| serde_json::from_str(&diff).unwrap())
}

fn metas<'v>(part: &'v Value, key: &str) -> &'v [Value] {
    part[key]["metas"].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn a_diff_holds_the_first_meta_an_update_names_the_one_before_and_an_end_holds_the_last() {
    let mut roster = Roster::default();
    let ada = place("ada", 1);
    assert!(roster.track(&ada, r#""n":1"#, NO_LIMIT).unwrap().is_some());
    let first = diff(&mut roster);
    let meta = &metas(&first["joins"], "ada")[0];
    assert_eq!(
        (reference(meta).len(), &meta["n"], &meta["phx_ref_prev"]),
        (16, &Value::from(1), &Value::Null)
    );
    assert_eq!(first["leaves"], serde_json::json!({}));

    assert!(roster.track(&ada, r#""n":1"#, NO_LIMIT).unwrap().is_none());
    assert_eq!(diff(&mut roster), Value::Null);

    assert!(roster.track(&ada, r#""n":2"#, NO_LIMIT).unwrap().is_some());
    let second = diff(&mut roster);
    let updated = &metas(&second["joins"], "ada")[0];
    assert_eq!(updated["phx_ref_prev"], meta["phx_ref"]);
    assert_eq!(second["leaves"], first["joins"]);

    assert!(roster.take(&ada));
    let third = diff(&mut roster);
    assert_eq!(
        (&third["joins"], &third["leaves"]),
        (&serde_json::json!({}), &second["joins"])
    );
    assert!(!roster.take(&ada));
    assert!(roster.is_empty());
    assert_eq!(roster.bytes, 0);
}

#[test]
fn what_comes_and_goes_within_a_window_is_not_told() {
    let mut roster = Roster::default();
    roster.track(&place("ada", 1), "", NO_LIMIT).unwrap();
    assert!(roster.take(&place("ada", 1)));
    assert_eq!(diff(&mut roster), Value::Null);
    assert_eq!((roster.is_empty(), roster.bytes), (true, 0));
}

#[test]
fn an_update_names_the_meta_that_members_saw_before() {
    let mut roster = Roster::default();
    let ada = place("ada", 1);
    roster.track(&ada, r#""n":1"#, NO_LIMIT).unwrap();
    roster.track(&ada, r#""n":2"#, NO_LIMIT).unwrap();
    let first = diff(&mut roster);
    assert_eq!(metas(&first["joins"], "ada")[0]["phx_ref_prev"], Value::Null);
    roster.track(&ada, r#""n":3"#, NO_LIMIT).unwrap();
    roster.track(&ada, r#""n":4"#, NO_LIMIT).unwrap();
    let second = diff(&mut roster);
    assert_eq!(second["leaves"], first["joins"]);
    let meta = &metas(&second["joins"], "ada")[0];
    assert_eq!(
        (&meta["n"], &meta["phx_ref_prev"]),
        (&Value::from(4), &metas(&first["joins"], "ada")[0]["phx_ref"])
    );
}

#[test]
fn who_left_and_came_back_within_a_window_is_new() {
    let mut roster = Roster::default();
    let ada = place("ada", 1);
    roster.track(&ada, r#""n":1"#, NO_LIMIT).unwrap();
    let first = diff(&mut roster);
    assert!(roster.take(&ada));
    roster.track(&ada, r#""n":1"#, NO_LIMIT).unwrap();
    roster.track(&ada, r#""n":2"#, NO_LIMIT).unwrap();
    let second = diff(&mut roster);
    assert_eq!(second["leaves"], first["joins"]);
    assert_eq!(metas(&second["joins"], "ada")[0]["phx_ref_prev"], Value::Null);
}

#[test]
fn channels_that_share_a_key_have_a_meta_each() {
    let mut roster = Roster::default();
    roster.track(&place("ada", 1), r#""n":1"#, NO_LIMIT).unwrap();
    roster.track(&place("ada", 2), r#""n":2"#, NO_LIMIT).unwrap();
    roster.track(&place("ben \"", 3), "", NO_LIMIT).unwrap();
    let told = diff(&mut roster);
    assert_eq!(metas(&told["joins"], "ada").len(), 2);
    assert_eq!(metas(&told["joins"], "ben \"").len(), 1);
    assert!(roster.take(&place("ada", 1)));
    let left = diff(&mut roster);
    assert_eq!(metas(&left["leaves"], "ada"), &metas(&told["joins"], "ada")[..1]);
}

#[test]
fn a_topic_holds_no_more_than_its_limit_and_an_untold_meta_gives_way_to_the_next() {
    let mut roster = Roster::default();
    let meta_bytes = Meta::new(None, &"x".repeat(100)).bytes();
    let limit = 2 * meta_bytes + 3;
    let fields = |letter: &str| letter.repeat(100);
    roster.track(&place("a", 1), &fields("x"), limit).unwrap();
    roster.track(&place("b", 2), &fields("x"), limit).unwrap();
    assert_eq!(
        roster.track(&place("c", 3), &fields("x"), limit).err(),
        Some(Full)
    );
    roster.track(&place("a", 1), &fields("y"), limit).unwrap();
    roster.diff().unwrap();
    assert_eq!(roster.bytes, limit - 1);
    // Both what members were told and what they will be are held until they are.
    assert_eq!(
        roster.track(&place("a", 1), &fields("z"), limit).err(),
        Some(Full)
    );
    assert!(roster.take(&place("b", 2)));
    roster.diff().unwrap();
    roster.track(&place("a", 1), &fields("z"), limit).unwrap();
}

const OLD_NAME: NodeId = NodeId::from_bytes([1; 16]);
const NEW_NAME: NodeId = NodeId::from_bytes([2; 16]);

/// What another node reports of one of its channels: the same meta for the same serial.
fn reported(serial: u8) -> Report {
    let owner = Owner {
        node: NodeId::from_bytes([9; 16]),
        member: MemberId::from_number(1),
    };
    Report {
        place: Place {
            key: "ada".into(),
            owner,
        },
        serial: serial.into(),
        meta: Meta {
            reference: MetaRef([serial; 12]),
            previous: (serial > 1).then_some(MetaRef([serial - 1; 12])),
            fields: format!(r#""n":{serial}"#).into(),
        },
    }
}

fn retract(roster: &mut Roster, name: NodeId, serial: u8) -> bool {
    roster.retract(&reported(serial).place, name, serial.into())
}

#[test]
fn what_another_node_reports_again_within_a_window_is_told_to_nobody() {
    let mut roster = Roster::default();
    assert!(roster.report(OLD_NAME, reported(1)));
    assert_eq!(metas(&diff(&mut roster)["joins"], "ada").len(), 1);
    let bytes = roster.bytes;
    assert!(retract(&mut roster, OLD_NAME, 1));
    assert!(!roster.report(NEW_NAME, reported(1)));
    assert_eq!((diff(&mut roster), roster.bytes), (Value::Null, bytes));
    // It is held under its new name now.
    assert!(!retract(&mut roster, OLD_NAME, 1));
    assert!(retract(&mut roster, NEW_NAME, 1));
    assert_eq!(metas(&diff(&mut roster)["leaves"], "ada").len(), 1);
    assert_eq!((roster.is_empty(), roster.bytes), (true, 0));
}

#[test]
fn what_is_reported_under_two_names_is_there_once_and_ends_with_the_last() {
    for (first, second) in [(OLD_NAME, NEW_NAME), (NEW_NAME, OLD_NAME)] {
        let mut roster = Roster::default();
        assert!(roster.report(first, reported(1)));
        assert!(!roster.report(second, reported(1)));
        assert_eq!(metas(&diff(&mut roster)["joins"], "ada").len(), 1);
        assert!(!retract(&mut roster, OLD_NAME, 1));
        assert_eq!(diff(&mut roster), Value::Null);
        assert!(retract(&mut roster, NEW_NAME, 1));
        assert!(!retract(&mut roster, NEW_NAME, 1));
    }
}

#[test]
fn an_old_report_neither_replaces_nor_ends_a_newer_one() {
    let mut roster = Roster::default();
    assert!(roster.report(NEW_NAME, reported(2)));
    assert!(!roster.report(OLD_NAME, reported(1)));
    assert!(!retract(&mut roster, OLD_NAME, 1));
    assert!(!retract(&mut roster, NEW_NAME, 1));
    assert_eq!(metas(&diff(&mut roster)["joins"], "ada")[0]["n"], 2);
}

#[test]
fn of_updates_that_were_missed_the_last_names_the_meta_that_members_here_saw() {
    let mut roster = Roster::default();
    roster.report(OLD_NAME, reported(1));
    let first = diff(&mut roster);
    roster.report(OLD_NAME, reported(3));
    roster.report(OLD_NAME, reported(4));
    let second = diff(&mut roster);
    assert_eq!(second["leaves"], first["joins"]);
    let meta = &metas(&second["joins"], "ada")[0];
    assert_eq!(
        (&meta["n"], &meta["phx_ref_prev"]),
        (&Value::from(4), &metas(&first["joins"], "ada")[0]["phx_ref"])
    );
}

#[test]
fn when_nobody_follows_only_the_presences_of_this_node_stay() {
    let mut roster = Roster::default();
    roster.track(&place("ben", 1), "", NO_LIMIT).unwrap();
    roster.report(OLD_NAME, reported(1));
    diff(&mut roster);
    assert!(roster.retract_all() && !roster.retract_all());
    let ended = diff(&mut roster);
    assert_eq!(
        (
            metas(&ended["leaves"], "ada").len(),
            metas(&ended["leaves"], "ben").len()
        ),
        (1, 0)
    );
    assert!(told(&mut roster).known().contains_key("ben"));
}

#[derive(Clone, Debug)]
enum Act {
    Track { member: u64, n: u8 },
    Untrack { member: u64 },
    Join,
    Tell,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..6_u64, 0..3_u8).prop_map(|(member, n)| Act::Track { member, n }),
        2 => (0..6_u64).prop_map(|member| Act::Untrack { member }),
        1 => Just(Act::Join),
        2 => Just(Act::Tell),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    #[test]
    fn whenever_it_joined_a_member_knows_after_each_diff_what_is(acts in acts()) {
        let mut roster = Roster::default();
        let mut members: Vec<Merging> = vec![told(&mut roster)];
        let mut truth: BTreeMap<u64, u8> = BTreeMap::new();
        for act in acts.into_iter().chain([Act::Tell]) {
            // Three keys for six members.
            let at = |member| place(&format!("key {}", member % 3), member);
            match act {
                Act::Track { member, n } => {
                    let is_new = roster.track(&at(member), &format!(r#""n":{n},"member":{member}"#), NO_LIMIT).unwrap();
                    prop_assert_eq!(is_new.is_some(), truth.insert(member, n) != Some(n));
                }
                Act::Untrack { member } => {
                    prop_assert_eq!(roster.take(&at(member)), truth.remove(&member).is_some());
                }
                Act::Join => members.push(told(&mut roster)),
                Act::Tell => {
                    if let Some(diff) = roster.diff() {
                        members.iter_mut().for_each(|member| member.merge(&diff));
                    }
                    let state = told(&mut roster).known();
                    let tracked = state.values().flat_map(|known| &known.metas).map(|meta| {
                        (meta["member"].as_u64().unwrap(), u8::try_from(meta["n"].as_u64().unwrap()).unwrap())
                    });
                    prop_assert_eq!(&tracked.collect::<BTreeMap<_, _>>(), &truth);
                    prop_assert!(members.iter().all(|member| member.known() == state));
                    let held: usize = roster.entries.iter().map(|(place, entry)| {
                        place.key.len() + entry.current.as_ref().unwrap().bytes()
                    }).sum();
                    prop_assert_eq!(roster.bytes, held);
                }
            }
        }
    }
}
