//! Whether two values agree: equal, but for what is different in every run.
//!
//! What differs in every run is compared by its identity: where the recording says one id twice, the replay must say
//! one id twice, and where it says two, two. That is how `ids` of a change are held against the reply of the join,
//! and a `phx_ref_prev` against the `phx_ref` before it.

use std::collections::BTreeMap;

use crate::json::Json;

/// Why two values do not agree.
#[derive(Debug)]
pub(crate) struct Mismatch {
    /// Where in the frame, such as `[4].response.reason`.
    pub(crate) place: String,
    pub(crate) reason: String,
}

/// The values of one replay that stand for values of the recording.
#[derive(Clone)]
pub(crate) struct Counterparts<'c> {
    /// What the case sends itself is not different in every run.
    sent: &'c str,
    of_recorded: BTreeMap<String, String>,
    of_replayed: BTreeMap<String, String>,
}

const UUID_LENGTH: usize = 36;

impl<'c> Counterparts<'c> {
    pub(crate) fn new(sent: &'c str) -> Self {
        Self {
            sent,
            of_recorded: BTreeMap::new(),
            of_replayed: BTreeMap::new(),
        }
    }

    /// Two text frames, or two HTTP bodies: as JSON if they are JSON, else to the byte.
    pub(crate) fn texts(&mut self, recorded: &str, replayed: &str) -> Result<(), Mismatch> {
        match (Json::parse(recorded), Json::parse(replayed)) {
            (Some(recorded), Some(replayed)) => self.values(&mut Vec::new(), &recorded, &replayed),
            // Recorded in part.
            (None, Some(_)) if recorded.starts_with("{\"data\":[{") => self.beginnings(recorded, replayed),
            _ => self.plain_texts(recorded, replayed).map_err(|reason| Mismatch {
                place: String::new(),
                reason,
            }),
        }
    }

    /// Two lists of tenants, of which one breaks off: character by character, so that the order of keys counts, up to the
    /// last key that is whole.
    fn beginnings(&mut self, recorded: &str, replayed: &str) -> Result<(), Mismatch> {
        let whole = recorded.rsplit_once(',').map_or("", |(whole, _)| whole);
        let (theirs, ours) = (without_values(whole), without_values(replayed));
        let ours = ours.get(..theirs.len()).unwrap_or(&ours);
        self.plain_texts(&theirs, ours).map_err(|reason| Mismatch {
            place: "data".to_owned(),
            reason,
        })
    }

    /// Two binary frames: to the byte, but for the order of the metadata's keys.
    pub(crate) fn binaries(&mut self, recorded: &[u8], replayed: &[u8]) -> Result<(), Mismatch> {
        let at = |place: &str, reason: String| Mismatch {
            place: place.to_owned(),
            reason,
        };
        let (Some(ours), Some(theirs)) = (UserBroadcast::read(replayed), UserBroadcast::read(recorded))
        else {
            return if recorded == replayed {
                Ok(())
            } else {
                Err(at("", "bytes differ".to_owned()))
            };
        };
        if theirs.head != ours.head {
            return Err(at(
                "head",
                format!("{:02x?} became {:02x?}", theirs.head, ours.head),
            ));
        }
        self.byte_texts(theirs.names, ours.names)
            .map_err(|reason| at("topic, event", reason))?;
        match (Json::from_bytes(theirs.metadata), Json::from_bytes(ours.metadata)) {
            (Some(theirs), Some(ours)) => self.values(&mut vec!["metadata".to_owned()], &theirs, &ours)?,
            _ => self
                .byte_texts(theirs.metadata, ours.metadata)
                .map_err(|reason| at("metadata", reason))?,
        }
        self.byte_texts(theirs.payload, ours.payload)
            .map_err(|reason| at("payload", reason))
    }

    /// Whether the case sends this text.
    pub(crate) fn is_sent(&self, text: &str) -> bool {
        self.sent.contains(text)
    }

    fn values(&mut self, place: &mut Vec<String>, recorded: &Json, replayed: &Json) -> Result<(), Mismatch> {
        match (recorded, replayed) {
            (Json::Object(theirs), Json::Object(ours)) => self.objects(place, theirs, ours),
            (Json::Array(theirs), Json::Array(ours)) => {
                if theirs.len() != ours.len() {
                    let reason = format!("{} elements became {}", theirs.len(), ours.len());
                    return Err(mismatch(place, reason));
                }
                for (index, (recorded, replayed)) in theirs.iter().zip(ours).enumerate() {
                    place.push(index.to_string());
                    self.values(place, recorded, replayed)?;
                    place.pop();
                }
                Ok(())
            }
            (Json::Text(theirs), Json::Text(ours)) => self
                .strings(place.last().map_or("", String::as_str), theirs, ours)
                .map_err(|reason| mismatch(place, reason)),
            (Json::Literal(theirs), Json::Literal(ours)) if is_binding_id(place) => {
                self.same(theirs, ours).map_err(|reason| mismatch(place, reason))
            }
            (theirs, ours) if theirs == ours => Ok(()),
            (theirs, ours) => Err(mismatch(place, format!("{theirs:?} became {ours:?}"))),
        }
    }

    fn objects(
        &mut self,
        place: &mut Vec<String>,
        recorded: &BTreeMap<String, Json>,
        replayed: &BTreeMap<String, Json>,
    ) -> Result<(), Mismatch> {
        let mut unclaimed: Vec<&String> = replayed
            .keys()
            .filter(|key| !recorded.contains_key(*key))
            .collect();
        for (key, value) in recorded {
            let counterpart = if replayed.contains_key(key) {
                Some(key)
            } else {
                // A presence key of the server's making.
                let position = unclaimed
                    .iter()
                    .position(|ours| self.is_made(key) && is_uuid(ours) && self.same(key, ours).is_ok());
                position.map(|position| unclaimed.remove(position))
            };
            let Some(counterpart) = counterpart else {
                return Err(mismatch(place, format!("the key {key:?} is missing")));
            };
            place.push(key.clone());
            self.values(place, value, &replayed[counterpart])?;
            place.pop();
        }
        match unclaimed.first() {
            Some(key) => Err(mismatch(place, format!("there is a key {key:?}"))),
            None => Ok(()),
        }
    }

    fn strings(&mut self, key: &str, recorded: &str, replayed: &str) -> Result<(), String> {
        match key {
            "phx_ref" | "phx_ref_prev" if !self.sent.contains(recorded) => self.same(recorded, replayed),
            "commit_timestamp" if is_timestamp(recorded) && is_timestamp(replayed) => Ok(()),
            "inserted_at" | "updated_at" if is_second(recorded) && is_second(replayed) => Ok(()),
            "node" | "db_name" | "db_port" if !self.sent.contains(recorded) => self.same(recorded, replayed),
            _ => self.plain_texts(&without_seconds(recorded), &without_seconds(replayed)),
        }
    }

    fn byte_texts(&mut self, recorded: &[u8], replayed: &[u8]) -> Result<(), String> {
        match (std::str::from_utf8(recorded), std::str::from_utf8(replayed)) {
            (Ok(recorded), Ok(replayed)) => self.plain_texts(recorded, replayed),
            _ if recorded == replayed => Ok(()),
            _ => Err("bytes differ".to_owned()),
        }
    }

    /// Character by character, but for UUIDs of the server's making.
    fn plain_texts(&mut self, recorded: &str, replayed: &str) -> Result<(), String> {
        // One with a hyphen may hold an id, which is noted even if it is the same.
        if recorded == replayed && !recorded.contains('-') {
            return Ok(());
        }
        let differ = || format!("{:?} became {:?}", short(recorded), short(replayed));
        if recorded.len() != replayed.len() {
            return Err(differ());
        }
        let mut at = 0;
        while at < recorded.len() {
            let window = recorded.get(at..at + UUID_LENGTH).filter(|id| self.is_made(id));
            match (window, replayed.get(at..at + UUID_LENGTH)) {
                (Some(theirs), Some(ours)) if is_uuid(ours) => {
                    self.same(theirs, ours)?;
                    at += UUID_LENGTH;
                }
                _ if recorded.as_bytes()[at] == replayed.as_bytes()[at] => at += 1,
                _ => return Err(differ()),
            }
        }
        Ok(())
    }

    /// A UUID that the case does not send.
    fn is_made(&self, text: &str) -> bool {
        is_uuid(text) && !self.sent.contains(text)
    }

    /// Notes that one stands for the other, or finds that another does.
    fn same(&mut self, recorded: &str, replayed: &str) -> Result<(), String> {
        let known = self
            .of_recorded
            .entry(recorded.to_owned())
            .or_insert_with(|| replayed.to_owned());
        if known != replayed {
            return Err(format!("{recorded} was {known} before and is {replayed} now"));
        }
        let known = self
            .of_replayed
            .entry(replayed.to_owned())
            .or_insert_with(|| recorded.to_owned());
        if known != recorded {
            return Err(format!("{replayed} stands for {known} and for {recorded}"));
        }
        Ok(())
    }
}

impl Json {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(bytes).ok()?)
    }
}

/// A frame of kind 4, taken apart (`protocol.md 2.3`).
struct UserBroadcast<'f> {
    head: &'f [u8],
    names: &'f [u8],
    metadata: &'f [u8],
    payload: &'f [u8],
}

impl<'f> UserBroadcast<'f> {
    fn read(frame: &'f [u8]) -> Option<Self> {
        let (head, rest) = frame.split_at_checked(5)?;
        let &[4, topic, event, metadata, _encoding] = head else {
            return None;
        };
        let (names, rest) = rest.split_at_checked(usize::from(topic) + usize::from(event))?;
        let (metadata, payload) = rest.split_at_checked(usize::from(metadata))?;
        Some(Self {
            head,
            names,
            metadata,
            payload,
        })
    }
}

fn mismatch(place: &[String], reason: String) -> Mismatch {
    Mismatch {
        place: place.join("."),
        reason,
    }
}

/// The integer id of a `postgres_changes` entry: in the reply of the join, or in `ids` of a change.
fn is_binding_id(place: &[String]) -> bool {
    let last = |count: usize| &place[place.len().saturating_sub(count)..];
    matches!(last(4), [.., response, list, _, id] if response == "response" && list == "postgres_changes" && id == "id")
        || matches!(last(3), [payload, ids, _] if (payload == "payload" || payload == "4") && ids == "ids")
}

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_LENGTH
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
        })
}

/// `2026-11-21T05:23:42.463Z`.
fn is_timestamp(text: &str) -> bool {
    has_shape(text, b"0000-00-00T00:00:00.000Z")
}

/// `2026-11-21T05:23:42`.
fn is_second(text: &str) -> bool {
    has_shape(text, b"0000-00-00T00:00:00")
}

fn has_shape(text: &str, shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *shape,
        })
}

/// The JSON of a tenant without what is different in every run or with every database.
fn without_values(text: &str) -> String {
    const DIFFERENT: [&str; 5] = ["inserted_at", "updated_at", "db_name", "db_port", "db_user"];
    DIFFERENT.iter().fold(text.to_owned(), |text, name| {
        let key = format!("\"{name}\":\"");
        let mut parts = text.split(&key);
        let mut without = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            without += &key;
            without += part.find('"').map_or("", |end| &part[end..]);
        }
        without
    })
}

/// `Token has expired 17 seconds ago` with another number.
fn without_seconds(text: &str) -> String {
    const BEFORE: &str = "Token has expired ";
    const AFTER: &str = " seconds ago";
    match text.split_once(BEFORE) {
        Some((before, rest)) => match rest.split_once(AFTER) {
            Some((seconds, after)) if seconds.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{before}{BEFORE}n{AFTER}{after}")
            }
            _ => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

/// A long text is shown in part.
pub(crate) fn short(text: &str) -> String {
    const SHOWN: usize = 600;
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let shown: String = text.chars().take(SHOWN).collect();
    format!("{shown}… ({} bytes)", text.len())
}
