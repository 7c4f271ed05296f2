//! Holds what came back against what was recorded.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::agree::{Counterparts, Mismatch, short};
use crate::replay::{Replayed, is_over};
use crate::transcript::{Answer, Case, Event, Incoming};

/// Where the replay is different, in sentences; none if it is not.
///
/// The order of one client's frames counts, that of different clients' does not. A `track` may be answered before or
/// after its `presence_diff`.
pub(crate) fn compare(case: &Case, replayed: &Replayed) -> Vec<String> {
    let mut counterparts = Counterparts::new(&case.sent);
    let mut differences = Vec::new();
    let mut received: BTreeMap<&str, Vec<&Incoming>> = BTreeMap::new();
    let mut answers = replayed.answers.iter();
    let mut outcomes = replayed.outcomes.iter();
    for (index, step) in case.steps.iter().enumerate() {
        if is_over(case, index) {
            break;
        }
        match &step.event {
            Event::Opened { client, answer } => {
                let place = format!("{client}'s upgrade");
                let replayed = replayed.opened.get(client);
                differences.extend(different_answers(&mut counterparts, &place, answer, replayed));
                if answer.status == 101 {
                    received.entry(client).or_default();
                }
            }
            Event::Receive { client, incoming } => received.entry(client).or_default().push(incoming),
            Event::HttpDone(answer) => {
                let place = format!("answer at {} ms", step.at_ms);
                let replayed = answers.next();
                differences.extend(different_answers(&mut counterparts, &place, answer, replayed));
            }
            Event::SqlDone(outcome) => {
                let replayed = outcomes.next();
                if replayed != Some(outcome) {
                    differences.push(format!(
                        "SQL at {} ms: {outcome:?} became {replayed:?}",
                        step.at_ms
                    ));
                }
            }
            Event::Open { .. }
            | Event::Send { .. }
            | Event::Close { .. }
            | Event::Sql(_)
            | Event::Http(_) => {}
        }
    }
    for (client, recorded) in received {
        let none = Vec::new();
        let replayed = replayed.received.get(client).unwrap_or(&none);
        differences.extend(different_frames(&mut counterparts, client, &recorded, replayed));
    }
    differences
}

/// The first difference between two sequences of frames.
fn different_frames(
    counterparts: &mut Counterparts<'_>,
    client: &str,
    recorded: &[&Incoming],
    replayed: &[Incoming],
) -> Option<String> {
    let mut at = 0;
    while let (Some(theirs), Some(ours)) = (recorded.get(at), replayed.get(at)) {
        let mismatch = match frames(counterparts, theirs, ours) {
            Ok(()) => {
                at += 1;
                continue;
            }
            Err(mismatch) => mismatch,
        };
        if let (Some(theirs_next), Some(ours_next)) = (recorded.get(at + 1), replayed.get(at + 1))
            && are_of_a_track(theirs, theirs_next)
            && frames(counterparts, theirs, ours_next).is_ok()
            && frames(counterparts, theirs_next, ours).is_ok()
        {
            at += 2;
            continue;
        }
        return Some(format!(
            "{client}, frame {at}, at `{}`: {}\n    recorded {}\n    replayed {}",
            mismatch.place,
            mismatch.reason,
            shown(theirs),
            shown(ours)
        ));
    }
    match (recorded.get(at), replayed.get(at)) {
        (Some(theirs), _) => Some(format!(
            "{client}, frame {at} never came\n    recorded {}",
            shown(theirs)
        )),
        (None, Some(ours)) => Some(format!(
            "{client}, frame {at} comes too much\n    replayed {}",
            shown(ours)
        )),
        (None, None) => None,
    }
}

fn frames(counterparts: &mut Counterparts<'_>, theirs: &Incoming, ours: &Incoming) -> Result<(), Mismatch> {
    // What a comparison that failed has noted says nothing.
    let mut noted = counterparts.clone();
    match (theirs, ours) {
        (Incoming::Text(theirs), Incoming::Text(ours)) => noted.texts(theirs, &without_position(ours)?)?,
        (Incoming::Binary(theirs), Incoming::Binary(ours)) => noted.binaries(theirs, ours)?,
        (theirs, ours) if theirs == ours => {}
        _ => {
            return Err(Mismatch {
                place: String::new(),
                reason: "another kind of frame".to_owned(),
            });
        }
    }
    *counterparts = noted;
    Ok(())
}

/// A change as the recorded server sends it: without its position, which every change of ours must carry (decision 24).
fn without_position(frame: &str) -> Result<Cow<'_, str>, Mismatch> {
    const POSITION: &str = r#","position":""#;
    if !frame.contains(r#""postgres_changes""#) || !frame.contains(r#"{"ids":["#) {
        return Ok(Cow::Borrowed(frame));
    }
    let found = frame
        .rsplit_once(POSITION)
        .and_then(|(before, after)| Some((before, after.split_once('"')?)))
        .filter(|(_, (position, _))| position.parse::<walcast_changes::Position>().is_ok());
    let (before, (_, after)) = found.ok_or_else(|| Mismatch {
        place: "payload".to_owned(),
        reason: "a change without its position".to_owned(),
    })?;
    Ok(Cow::Owned([before, after].concat()))
}

fn are_of_a_track(one: &Incoming, next: &Incoming) -> bool {
    let says = |incoming: &Incoming, event: &str| match incoming {
        Incoming::Text(text) => text.contains(&format!("\"{event}\"")),
        _ => false,
    };
    (says(one, "phx_reply") && says(next, "presence_diff"))
        || (says(one, "presence_diff") && says(next, "phx_reply"))
}

/// Headers that say something to a client of the protocol.
const COMPARED: [&str; 4] = [
    "content-type",
    "location",
    "access-control-allow-origin",
    "www-authenticate",
];

/// Headers whose values differ in every run, but which are there (`protocol.md 5.6`).
const PRESENT: [&str; 4] = [
    REQUEST_ID,
    "x-rate-rolling",
    "x-rate-limit",
    "x-rate-limit-remaining",
];

const REQUEST_ID: &str = "x-request-id";

fn different_answers(
    counterparts: &mut Counterparts<'_>,
    place: &str,
    theirs: &Answer,
    ours: Option<&Answer>,
) -> Option<String> {
    let difference = match ours {
        None => "there is none".to_owned(),
        Some(ours) => answers(counterparts, theirs, ours).err()?,
    };
    Some(format!(
        "{place}: {difference}\n    recorded {}\n    replayed {}",
        shown_answer(theirs),
        ours.map_or_else(|| "nothing".to_owned(), shown_answer)
    ))
}

fn answers(counterparts: &mut Counterparts<'_>, theirs: &Answer, ours: &Answer) -> Result<(), String> {
    if theirs.status != ours.status {
        return Err(format!("status {} became {}", theirs.status, ours.status));
    }
    for name in COMPARED {
        match (theirs.headers.get(name), ours.headers.get(name)) {
            (Some(theirs), Some(ours)) => counterparts
                .texts(theirs, ours)
                .map_err(|mismatch| format!("header {name}: {}", mismatch.reason))?,
            (None, None) => {}
            // An upgrade's answer is recorded with its content type alone, and an empty one without.
            (None, Some(_)) if theirs.body.as_deref() == Some("") => {}
            (theirs, ours) => return Err(format!("header {name}: {theirs:?} became {ours:?}")),
        }
    }
    for name in PRESENT {
        let Some(recorded) = theirs.headers.get(name) else {
            continue;
        };
        let Some(replayed) = ours.headers.get(name) else {
            return Err(format!("header {name} is missing"));
        };
        if name == REQUEST_ID && counterparts.is_sent(recorded) && recorded != replayed {
            return Err(format!("header {name}: {recorded} became {replayed}"));
        }
    }
    match (&theirs.body, &ours.body) {
        (Some(theirs), Some(ours)) => counterparts
            .texts(theirs, ours)
            .map_err(|mismatch| format!("body, at `{}`: {}", mismatch.place, mismatch.reason)),
        _ => Ok(()),
    }
}

fn shown(incoming: &Incoming) -> String {
    match incoming {
        Incoming::Text(text) => short(text),
        Incoming::Binary(bytes) => format!("binary {}", short(&bytes.escape_ascii().to_string())),
        Incoming::Pong(payload) => format!("pong {payload}"),
        Incoming::Closed(code) => format!("close {code}"),
    }
}

fn shown_answer(answer: &Answer) -> String {
    let mut told = answer.status.to_string();
    for name in COMPARED.iter().chain(&PRESENT) {
        if let Some(value) = answer.headers.get(*name) {
            told += &format!(" {name}: {value};");
        }
    }
    format!("{told} {}", short(answer.body.as_deref().unwrap_or("(any body)")))
}
