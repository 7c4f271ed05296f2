//! The `data` object of a change message (`protocol.md 7.4`, `database.md 2.7` to `2.10`), built once per shape: the
//! columns a role may read, cut to a selection.

use crate::index::ActionKind;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use walcast_replication::json::{self, Digits, Type};
use walcast_replication::{Action, Change, OldTuple, Relation, ReplicaIdentity, Tuple, Value};

/// In a row over the size limit only values whose JSON is at most this long stay (`database.md 2.9`).
const SMALL_VALUE_BYTES: usize = 64;

/// Error rows (`protocol.md 7.5`).
pub(crate) const NO_PRIMARY_KEY: &str = "Error 400: Bad Request, no primary key";
pub(crate) const UNAUTHORIZED: &str = "Error 401: Unauthorized";
pub(crate) const TOO_LARGE: &str = "Error 413: Payload Too Large";

/// A column of the relation as messages show it.
pub(crate) struct ShownColumn {
    /// The name as a JSON string.
    name_json: String,
    kind: Arc<Type>,
    /// Part of the table's primary key.
    pub(crate) is_primary: bool,
}

/// A column in the list of columns.
struct Heading {
    /// `{"name":"id","type":"int8"}`
    plain: String,
    /// As it is where the column's numbers are strings; `None` for columns that are not of a number's type.
    exact: Option<String>,
}

/// What a relation looks like in messages; the parts that are the same for each change are made once.
pub(crate) struct Face {
    /// `"schema":"public","table":"todos",`
    names: String,
    headings: Vec<Heading>,
    pub(crate) columns: Vec<ShownColumn>,
    identity: ReplicaIdentity,
    is_key: Vec<bool>,
    /// Of a deleted row only the primary key is shown.
    cuts_deleted: bool,
    /// A value did not fit its type: the type was altered, which the stream does not announce.
    stale: AtomicBool,
}

/// A set of columns of one relation, and how their values are written.
pub(crate) struct Shape {
    shown: Vec<bool>,
    digits: Digits,
    /// The type of each column, shown or not.
    kinds: Vec<Arc<Type>>,
    /// `"columns":[…],`
    columns_json: String,
}

impl Shape {
    pub(crate) fn is_of(&self, shown: &[bool], digits: Digits) -> bool {
        self.shown == shown && self.digits == digits
    }
}

/// The values of a row.
#[derive(Clone, Copy)]
struct Values<'a> {
    tuple: &'a Tuple,
    /// Where values come from that an UPDATE left alone and did not send.
    whole_old: Option<&'a Tuple>,
}

impl<'a> Values<'a> {
    fn of(tuple: &'a Tuple) -> Self {
        Self {
            tuple,
            whole_old: None,
        }
    }

    fn get(self, at: usize) -> Option<Value<'a>> {
        match self.tuple.get(at) {
            Some(Value::UnchangedToast) => self.whole_old?.get(at),
            value => value,
        }
    }
}

impl Face {
    /// `kinds`: type and `pg_type.typname` of each column. `cuts_deleted`: of a deleted row only the primary key is shown.
    pub(crate) fn new(
        relation: &Relation,
        kinds: Vec<(Arc<Type>, String)>,
        primary_key: &[&str],
        cuts_deleted: bool,
    ) -> Self {
        let heading = |name: &str, kind: &str| json!({"name": name, "type": kind}).to_string();
        let headings = relation
            .columns
            .iter()
            .zip(&kinds)
            .map(|(column, (_, type_name))| Heading {
                plain: heading(&column.name, type_name),
                // The JavaScript client would turn a string of such a type into the number it is to be kept from.
                exact: matches!(type_name.as_str(), "int8" | "numeric")
                    .then(|| heading(&column.name, "text")),
            })
            .collect();
        let columns = relation
            .columns
            .iter()
            .zip(kinds)
            .map(|(column, (kind, _))| ShownColumn {
                name_json: serde_json::Value::from(column.name.as_str()).to_string(),
                kind,
                is_primary: primary_key.contains(&column.name.as_str()),
            })
            .collect();
        Self {
            names: format!(
                "\"schema\":{},\"table\":{},",
                serde_json::Value::from(relation.schema.as_str()),
                serde_json::Value::from(relation.name.as_str())
            ),
            headings,
            columns,
            identity: relation.replica_identity,
            is_key: relation.columns.iter().map(|column| column.is_key).collect(),
            cuts_deleted,
            stale: AtomicBool::new(false),
        }
    }

    /// Whether the types must be read again.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// The shape of these columns, given by position.
    pub(crate) fn shape(&self, shown: Vec<bool>, digits: Digits) -> Shape {
        let kinds: Vec<Arc<Type>> = self
            .columns
            .iter()
            .map(|column| digits.applied(&column.kind))
            .collect();
        let headings: Vec<&str> = self
            .headings
            .iter()
            .zip(&shown)
            .enumerate()
            .filter(|(_, (_, shown))| **shown)
            .map(|(at, (heading, _))| {
                let is_exact = kinds.get(at) != self.columns.get(at).map(|column| &column.kind);
                let exact = heading.exact.as_deref().filter(|_| is_exact);
                exact.unwrap_or(&heading.plain)
            })
            .collect();
        Shape {
            columns_json: format!("\"columns\":[{}],", headings.join(",")),
            shown,
            digits,
            kinds,
        }
    }

    /// The `data` of `change` for `shape`.
    pub(crate) fn render(&self, change: &Change, shape: &Shape, too_large: bool) -> String {
        let mut out = self.begin(kind_of(&change.action), change, shape);
        match &change.action {
            Action::Insert { new } => {
                self.write_record(
                    "record",
                    Values::of(new),
                    shape,
                    &shape.shown,
                    too_large,
                    &mut out,
                );
            }
            Action::Update { old, new } => {
                let values = Values {
                    tuple: new,
                    whole_old: match old {
                        Some(OldTuple::Full(tuple)) => Some(tuple),
                        _ => None,
                    },
                };
                self.write_record("record", values, shape, &shape.shown, too_large, &mut out);
                self.write_old_of_update(old.as_ref(), new, shape, too_large, &mut out);
            }
            Action::Delete { old } => {
                let shown = self.shown_of_deleted(old, &shape.shown);
                self.write_record(
                    "old_record",
                    Values::of(old.tuple()),
                    shape,
                    &shown,
                    too_large,
                    &mut out,
                );
            }
        }
        end(too_large, &mut out);
        out
    }

    /// The `data` of an UPDATE for those who are not shown its row any more: a DELETE of the row as it was, which they
    /// were shown (decision 19).
    pub(crate) fn render_left(&self, change: &Change, shape: &Shape, too_large: bool) -> String {
        let mut out = self.begin(ActionKind::Delete, change, shape);
        if let Action::Update { old, new } = &change.action {
            self.write_old_of_update(old.as_ref(), new, shape, too_large, &mut out);
        }
        out.push_str("\"left\":true,");
        end(too_large, &mut out);
        out
    }

    /// The fields before the row.
    fn begin(&self, action: ActionKind, change: &Change, shape: &Shape) -> String {
        let mut out = String::with_capacity(256 + shape.columns_json.len());
        out.push('{');
        out.push_str(&self.names);
        let _ = write!(out, "\"type\":\"{}\",\"commit_timestamp\":\"", action.as_str());
        write_timestamp(change.transaction.commit_timestamp_us, &mut out);
        out.push_str("\",");
        out.push_str(&shape.columns_json);
        out
    }

    /// The `data` of a change that the role can never be shown.
    pub(crate) fn render_refusal(&self, action: ActionKind, error: &str) -> String {
        let old = if action == ActionKind::Update {
            "\"old_record\":{},"
        } else {
            ""
        };
        format!(
            "{{{}\"type\":\"{}\",\"commit_timestamp\":null,\"columns\":[],\"record\":{{}},{old}\"errors\":[\"{error}\"]}}",
            self.names,
            action.as_str()
        )
    }

    /// `old_record` of an UPDATE: Postgres sends no old tuple when no identity column changed, and the values are
    /// then those of the new one (`database.md 9.1`, `9.4`).
    fn write_old_of_update(
        &self,
        old: Option<&OldTuple>,
        new: &Tuple,
        shape: &Shape,
        too_large: bool,
        out: &mut String,
    ) {
        let (tuple, whole) = match old {
            Some(OldTuple::Full(tuple)) => (tuple, true),
            Some(OldTuple::Key(tuple)) => (tuple, false),
            None => (new, false),
        };
        let shown: Vec<bool> = shape
            .shown
            .iter()
            .zip(&self.is_key)
            .map(|(shown, is_key)| *shown && (whole || *is_key))
            .collect();
        self.write_record("old_record", Values::of(tuple), shape, &shown, too_large, out);
    }

    /// What may be said about a deleted row: its identity, and under row security only the primary key.
    fn shown_of_deleted(&self, old: &OldTuple, shown: &[bool]) -> Vec<bool> {
        let whole = matches!(old, OldTuple::Full(_)) || self.identity == ReplicaIdentity::Full;
        shown
            .iter()
            .enumerate()
            .map(|(at, shown)| {
                *shown
                    && (whole || self.is_key.get(at) == Some(&true))
                    && (!self.cuts_deleted || self.columns.get(at).is_some_and(|column| column.is_primary))
            })
            .collect()
    }

    fn write_record(
        &self,
        key: &str,
        values: Values<'_>,
        shape: &Shape,
        shown: &[bool],
        too_large: bool,
        out: &mut String,
    ) {
        let _ = write!(out, "\"{key}\":{{");
        let mut first = true;
        for (at, column) in self.columns.iter().enumerate() {
            if shown.get(at) != Some(&true) {
                continue;
            }
            let kind = shape.kinds.get(at).unwrap_or(&column.kind);
            let start = out.len();
            if !first {
                out.push(',');
            }
            out.push_str(&column.name_json);
            out.push(':');
            let value_start = out.len();
            match values.get(at) {
                Some(Value::Text(text)) => {
                    if !json::write_or_text(kind, text, out) {
                        self.stale.store(true, Ordering::Relaxed);
                    }
                }
                Some(Value::Null) if !too_large => out.push_str("null"),
                // Not carried by the change, or a NULL in a row cut for its size: the key is left out.
                _ => {
                    out.truncate(start);
                    continue;
                }
            }
            if too_large && out.len() - value_start > SMALL_VALUE_BYTES {
                out.truncate(start);
                continue;
            }
            first = false;
        }
        out.push_str("},");
    }
}

fn end(too_large: bool, out: &mut String) {
    if too_large {
        let _ = write!(out, "\"errors\":[\"{TOO_LARGE}\"]}}");
    } else {
        out.push_str("\"errors\":null}");
    }
}

/// What `action` is called.
pub(crate) fn kind_of(action: &Action) -> ActionKind {
    match action {
        Action::Insert { .. } => ActionKind::Insert,
        Action::Update { .. } => ActionKind::Update,
        Action::Delete { .. } => ActionKind::Delete,
    }
}

/// `2025-10-13T07:50:28.066Z`, milliseconds truncated (`database.md 9.24`).
fn write_timestamp(unix_us: i64, out: &mut String) {
    let ms = unix_us.div_euclid(1_000);
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days to a civil date: years are counted from March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (
        ms_of_day / 3_600_000,
        ms_of_day / 60_000 % 60,
        ms_of_day / 1_000 % 60,
    );
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        ms_of_day % 1_000
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_timestamps_are_truncated_to_milliseconds_in_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_760_341_828_066_999, "2025-10-13T07:50:28.066Z"),
            (1_709_164_799_999_999, "2024-02-28T23:59:59.999Z"),
            (1_709_164_800_000_000, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (unix_us, expected) in cases {
            let mut out = String::new();
            write_timestamp(unix_us, &mut out);
            assert_eq!(out, expected);
        }
    }
}
