//! Where in the stream a change is, and from where on somebody wants to hear.

use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use walcast_replication::{Change, Lsn};

/// The place of a change in commit order: the position of its transaction's commit record, and its number among the
/// row changes of that transaction. Written `16/B374D848:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The commit record's.
    pub commit: Lsn,
    /// From 0.
    pub index: u32,
}

impl Position {
    pub(crate) fn of(change: &Change) -> Self {
        Self {
            commit: change.transaction.commit,
            index: change.index,
        }
    }

    /// Behind the last change of the transaction that was committed here.
    pub(crate) fn after(commit: Lsn) -> Self {
        Self {
            commit,
            index: u32::MAX,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.commit, self.index)
    }
}

/// Text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a position is written like 16/B374D848:3")]
pub struct PositionError;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (commit, index) = text.split_once(':').ok_or(PositionError)?;
        Ok(Self {
            commit: commit.parse().map_err(|_| PositionError)?,
            index: index.parse().map_err(|_| PositionError)?,
        })
    }
}

/// From where on a binding wants what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// What was committed in this millisecond since 1970-01-01 UTC or later. A `commit_timestamp` tells no more, so
    /// the change it was taken from comes again: better twice than never.
    Timestamp(i64),
    /// What comes after this change.
    Position(Position),
}

impl Since {
    /// Reads the `since` of a binding: a position, a `commit_timestamp` or milliseconds.
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().map(Self::Timestamp),
            Value::String(text) => text.parse().map(Self::Position).ok().or_else(|| {
                let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
                i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000))
                    .ok()
                    .map(Self::Timestamp)
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn positions_print_and_read_alike_and_are_in_commit_order() {
        let position = |commit, index| Position {
            commit: Lsn(commit),
            index,
        };
        for (position, text) in [
            (position(0x16_B374_D848, 3), "16/B374D848:3"),
            (position(0, 0), "0/0:0"),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
        }
        for text in ["", "16/B374D848", "16/B374D848:", ":3", "16/B374D848:-1", "1:2:3"] {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text}");
        }
        assert!(position(1, 9) < position(2, 0) && position(2, 0) < position(2, 1));
        assert!(position(2, 7) < Position::after(Lsn(2)));
    }

    #[test]
    fn since_is_a_position_a_commit_timestamp_or_milliseconds() {
        let cases = [
            (json!("0/10:2"), Some(Since::Position("0/10:2".parse().unwrap()))),
            (json!("1970-01-01T00:00:01.234Z"), Some(Since::Timestamp(1_234))),
            (
                json!("1970-01-01T01:00:01.234567+01:00"),
                Some(Since::Timestamp(1_234)),
            ),
            (json!(1_234), Some(Since::Timestamp(1_234))),
            (json!("yesterday"), None),
            (json!(1.5), None),
            (json!(true), None),
            (json!(["0/10:2"]), None),
        ];
        for (value, since) in cases {
            assert_eq!(Since::parse(&value), since, "{value}");
        }
    }
}
