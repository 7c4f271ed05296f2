//! The harness itself, checked: that it sees what it should and forgives only what it may.

use std::collections::BTreeMap;

use libtest_mimic::Failed;

use crate::agree::Counterparts;
use crate::compare::compare;
use crate::differences;
use crate::replay::Replayed;
use crate::transcript::{Answer, Case, Event, Incoming, Index, Step};

/// Every name in the list of differences is that of a case.
pub(crate) fn the_list_names_cases(index: &Index) -> Result<(), Failed> {
    for name in differences::all().flat_map(|difference| difference.cases) {
        if !index.cases.iter().any(|listed| listed.case == *name) {
            return Err(Failed::from(format!("there is no case {name}")));
        }
    }
    Ok(())
}

/// Two texts agree if they are equal but for what is different in every run.
pub(crate) fn texts_agree_or_not() -> Result<(), Failed> {
    const ONE: &str = "1ca3fcaa-83bc-40fa-9103-a8c07e239eb0";
    const OTHER: &str = "39aa59ee-949f-4d59-b366-bd3b74050f72";
    let sent = "11111111-1111-4111-8111-111111111111 mine";
    let meta = |id: &str| format!(r#"{{"meta":{{"id":"{id}"}},"payload":{{"id":"{id}"}}}}"#);
    let two = |one: &str, other: &str| format!(r#"["{one}","{other}"]"#);
    let join = |id: u32| {
        format!(r#"["1","1","t","phx_reply",{{"response":{{"postgres_changes":[{{"id":{id}}}]}}}}]"#)
    };
    let key = |key: &str| format!(r#"{{"joins":{{"{key}":{{"metas":[{{"phx_ref":"a"}}]}}}}}}"#);
    let cases: [(String, String, bool); 22] = [
        (r#"{"a":1,"b":2}"#.into(), r#"{"b":2,"a":1}"#.into(), true),
        (r#"{"a":1}"#.into(), r#"{"a":1,"b":2}"#.into(), false),
        (r#"{"a":1,"b":2}"#.into(), r#"{"a":1}"#.into(), false),
        ("[1,2]".into(), "[2,1]".into(), false),
        ("[1e2]".into(), "[100.0]".into(), true),
        ("[0.10]".into(), "[1e-1]".into(), true),
        (
            "[12345678901234567890123]".into(),
            "[12345678901234567890124]".into(),
            false,
        ),
        ("[1]".into(), r#"["1"]"#.into(), false),
        ("[null]".into(), "[false]".into(), false),
        (meta(ONE), meta(OTHER), true),
        (meta(ONE), meta(ONE).replacen(ONE, OTHER, 1), false),
        (two(ONE, OTHER), two(OTHER, ONE), true),
        (two(ONE, OTHER), two(ONE, ONE), false),
        (two(ONE, "mine"), two("no id", "mine"), false),
        (two(&sent[..36], ""), two(ONE, ""), false),
        (join(5), join(7), true),
        (
            r#"{"record":{"id":5}}"#.into(),
            r#"{"record":{"id":7}}"#.into(),
            false,
        ),
        (key(ONE), key(OTHER), true),
        (key(ONE), key("k1"), false),
        (
            "Token has expired 95238352 seconds ago".into(),
            "Token has expired 0 seconds ago".into(),
            false,
        ),
        (
            r#"["Token has expired 95238352 seconds ago"]"#.into(),
            r#"["Token has expired 0 seconds ago"]"#.into(),
            true,
        ),
        (
            r#"{"commit_timestamp":"2026-11-21T05:23:42.463Z"}"#.into(),
            r#"{"commit_timestamp":"2026-11-21 05:23:42"}"#.into(),
            false,
        ),
    ];
    for (recorded, replayed, agree) in cases {
        let found = Counterparts::new(sent).texts(&recorded, &replayed);
        if found.is_ok() != agree {
            return Err(Failed::from(format!("{recorded} and {replayed}: {found:?}")));
        }
    }
    Ok(())
}

/// Binary frames agree to the byte, but for the order of the metadata's keys and ids of the server's making.
pub(crate) fn binaries_agree_or_not() -> Result<(), Failed> {
    let frame = |metadata: &str, payload: &str| {
        let mut frame = vec![4, 1, 1, u8::try_from(metadata.len()).unwrap(), 1];
        frame.extend(format!("te{metadata}{payload}").into_bytes());
        frame
    };
    let replayed = |id: &str| format!(r#"{{"id":"{id}","replayed":true}}"#);
    let other_order = |id: &str| format!(r#"{{"replayed":true,"id":"{id}"}}"#);
    let one = "1ca3fcaa-83bc-40fa-9103-a8c07e239eb0";
    let other = "39aa59ee-949f-4d59-b366-bd3b74050f72";
    let cases = [
        (frame("", "{}"), frame("", "{}"), true),
        (frame("", "{}"), frame("", "{ }"), false),
        (frame("", r#"{"a": 1}"#), frame("", r#"{"a":1 }"#), false),
        (frame(&replayed(one), "x"), frame(&other_order(other), "x"), true),
        (frame(&replayed(one), one), frame(&replayed(other), other), true),
        (frame(&replayed(one), one), frame(&replayed(other), one), false),
        (vec![2, 1, 1], vec![2, 1, 2], false),
        (vec![4, 255], vec![4, 255], true),
    ];
    for (recorded, replayed, agree) in cases {
        let found = Counterparts::new("").binaries(&recorded, &replayed);
        if found.is_ok() != agree {
            return Err(Failed::from(format!("{recorded:?} and {replayed:?}: {found:?}")));
        }
    }
    Ok(())
}

/// A frame that is missing, too much, changed or in another place is a difference; the order of a track's two is not.
pub(crate) fn frames_are_compared_in_order() -> Result<(), Failed> {
    let reply = r#"["1","2","t","phx_reply",{}]"#;
    let diff = r#"[null,null,"t","presence_diff",{}]"#;
    let other = r#"[null,null,"t","broadcast",{}]"#;
    let cases: [(&[&str], &[&str], bool); 7] = [
        (&[reply, other], &[reply, other], true),
        (&[reply, other], &[other, reply], false),
        (&[reply, diff], &[diff, reply], true),
        (&[reply, diff, other], &[diff, reply, other], true),
        (&[reply], &[], false),
        (&[], &[reply], false),
        (&[reply], &[diff], false),
    ];
    for (recorded, replayed, agree) in cases {
        let found = compare(&case_of(recorded), &replayed_of(replayed));
        if found.is_empty() != agree {
            return Err(Failed::from(format!("{recorded:?} and {replayed:?}: {found:?}")));
        }
    }
    Ok(())
}

const CLIENT: &str = "client-1";

fn upgraded() -> Answer {
    Answer {
        status: 101,
        headers: BTreeMap::new(),
        body: None,
    }
}

fn text(text: &&str) -> Incoming {
    Incoming::Text((*text).to_owned())
}

fn case_of(frames: &[&str]) -> Case {
    let opened = Event::Opened {
        client: CLIENT.to_owned(),
        answer: upgraded(),
    };
    let received = frames.iter().map(|frame| Event::Receive {
        client: CLIENT.to_owned(),
        incoming: text(frame),
    });
    Case {
        name: "made-up".to_owned(),
        about: String::new(),
        setup_sql: Vec::new(),
        steps: std::iter::once(opened)
            .chain(received)
            .map(|event| Step { at_ms: 0, event })
            .collect(),
        is_timed: false,
        tenant: None,
        sent: String::new(),
    }
}

fn replayed_of(frames: &[&str]) -> Replayed {
    Replayed {
        opened: BTreeMap::from([(CLIENT.to_owned(), upgraded())]),
        received: BTreeMap::from([(CLIENT.to_owned(), frames.iter().map(text).collect())]),
        ..Replayed::default()
    }
}
