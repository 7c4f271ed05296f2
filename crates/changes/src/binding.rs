//! One entry of `config.postgres_changes`: what a channel wants to hear (`protocol.md 7.1`, `database.md 2.1`).

use crate::clause::Clause;
use crate::elixir;
use crate::filter::{self, Condition, FilterError, Grammar};
use crate::position::Since;
use serde_json::{Map, Value};
use std::fmt;
use thiserror::Error;

/// Which actions a binding hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventFilter {
    /// `*`, anything unknown, or absent.
    All,
    /// `INSERT`
    Insert,
    /// `UPDATE`
    Update,
    /// `DELETE`
    Delete,
}

impl EventFilter {
    fn parse(event: Option<&Value>) -> Self {
        let Some(Value::String(event)) = event else {
            return Self::All;
        };
        match event.to_uppercase().as_str() {
            "INSERT" => Self::Insert,
            "UPDATE" => Self::Update,
            "DELETE" => Self::Delete,
            _ => Self::All,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A schema or table name: exact, or all. Only `*` is a wildcard here; the reference's `LIKE` treats `_` and `%` as
/// such by accident (`database.md 12`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`
    Any,
    /// A name as in the catalog.
    Exact(String),
}

impl Pattern {
    fn parse(name: &str) -> Self {
        if name == "*" {
            Self::Any
        } else {
            Self::Exact(name.to_owned())
        }
    }

    /// Whether `name` is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == name,
        }
    }

    /// The exact name, if it is one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::Exact(exact) => Some(exact),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.exact().unwrap_or("*"))
    }
}

/// Keys of an entry that the reference does not know (decision 19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingOptions {
    /// `"int8": "string"` or `"number"`: whether int8 values are strings; `None` = as the server's settings say.
    pub int8_as_string: Option<bool>,
    /// `"numeric"`, likewise.
    pub numeric_as_string: Option<bool>,
    /// `"leave": true`: whether it is told that a row has left what it is shown.
    pub leave: bool,
}

impl BindingOptions {
    /// What means nothing is ignored, as a key that is not known.
    fn parse(entry: &Map<String, Value>) -> Self {
        let as_string = |key: &str| match entry.get(key)?.as_str()? {
            "string" => Some(true),
            "number" => Some(false),
            _ => None,
        };
        Self {
            int8_as_string: as_string("int8"),
            numeric_as_string: as_string("numeric"),
            leave: entry.get("leave") == Some(&Value::Bool(true)),
        }
    }
}

/// A parsed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Actions wanted.
    pub event: EventFilter,
    /// Schema wanted.
    pub schema: Pattern,
    /// Table wanted.
    pub table: Pattern,
    /// The filter: all must hold.
    pub clauses: Vec<Clause<Condition>>,
    /// Columns wanted besides the primary key, as sent; `None` = all.
    pub select: Option<Vec<String>>,
    /// What else it asks for.
    pub options: BindingOptions,
    /// Where what was missed begins; `None` = nothing was.
    pub since: Option<Since>,
}

/// Why an entry cannot be read. The texts are those of `protocol.md 7.1` and `7.2`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BindingError {
    /// Neither schema nor table in a usable combination; holds the dump of the entry.
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}"
    )]
    NoParams(String),
    /// `select` is a string.
    #[error(
        "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]"
    )]
    SelectNotAList,
    /// `select` together with a wildcard.
    #[error(
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    )]
    SelectWithWildcard,
    /// `since` is neither a position nor a time.
    #[error(
        "Error parsing `since` params: expected the `position` of a change, e.g. \"16/B374D848:3\", or its `commit_timestamp`"
    )]
    Since,
    /// The filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl Binding {
    /// Reads one entry, with its filter in the grammar given.
    ///
    /// # Errors
    /// The first rule of `database.md 2.1` the entry breaks.
    pub fn parse(entry: &Map<String, Value>, grammar: Grammar) -> Result<Self, BindingError> {
        let event = EventFilter::parse(entry.get("event"));
        let select = match entry.get("select") {
            Some(Value::Array(items)) => {
                let names: Vec<String> = items
                    .iter()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect();
                (!names.is_empty()).then_some(names)
            }
            Some(Value::String(_)) => return Err(BindingError::SelectNotAList),
            _ => None,
        };
        let since = match entry.get("since") {
            None | Some(Value::Null) => None,
            Some(value) => Some(Since::parse(value).ok_or(BindingError::Since)?),
        };
        let (schema, table, clauses) = match (entry.get("schema"), entry.get("table"), entry.get("filter")) {
            (Some(Value::String(schema)), Some(Value::String(table)), Some(Value::String(filter))) => {
                (schema.as_str(), table.as_str(), filter::parse(filter, grammar)?)
            }
            (Some(Value::String(schema)), Some(Value::String(table)), None) => {
                (schema.as_str(), table.as_str(), vec![])
            }
            (Some(Value::String(schema)), None, None) => (schema.as_str(), "*", vec![]),
            (None, Some(Value::String(table)), None) => ("public", table.as_str(), vec![]),
            _ => return Err(BindingError::NoParams(dump(entry))),
        };
        let (schema, table) = (Pattern::parse(schema), Pattern::parse(table));
        if select.is_some() && (schema == Pattern::Any || table == Pattern::Any) {
            return Err(BindingError::SelectWithWildcard);
        }
        Ok(Self {
            event,
            schema,
            table,
            clauses,
            select,
            options: BindingOptions::parse(entry),
            since,
        })
    }
}

/// The entry as the error shows it; an entry that carries a token is not shown.
fn dump(entry: &Map<String, Value>) -> String {
    if entry.contains_key("user_token") || entry.contains_key("auth_token") {
        return "<redacted>".to_owned();
    }
    elixir::inspect(&Value::Object(entry.clone()))
}

/// As the reference shows connect parameters:
/// `[event: *, schema: public, table: x, filters: [{"id", "eq", "1", false}], select: nil]`.
impl fmt::Display for Binding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "[event: {}, schema: {}, table: {}, filters: [",
            self.event.as_str(),
            self.schema,
            self.table
        )?;
        for (at, clause) in self.clauses.iter().enumerate() {
            write!(formatter, "{}{clause}", if at > 0 { ", " } else { "" })?;
        }
        match &self.select {
            None => formatter.write_str("], select: nil]"),
            Some(select) => write!(formatter, "], select: {}]", elixir::list(select)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(entry: Value) -> Result<Binding, BindingError> {
        let Value::Object(entry) = entry else {
            panic!("an entry is an object")
        };
        Binding::parse(&entry, Grammar::Reference)
    }

    #[test]
    fn entries_print_as_connect_parameters() {
        let cases = [
            (
                json!({"schema": "public"}),
                "[event: *, schema: public, table: *, filters: [], select: nil]",
            ),
            (
                json!({"table": "t"}),
                "[event: *, schema: public, table: t, filters: [], select: nil]",
            ),
            (
                json!({"event": "insert", "schema": "public", "table": "todos", "filter": "nope=not.in.(1,2)", "select": ["id", "n"]}),
                r#"[event: INSERT, schema: public, table: todos, filters: [{"nope", "in", "{1,2}", true}], select: ["id", "n"]]"#,
            ),
            (
                json!({"event": 5, "schema": "*", "table": "*", "filter": "  ", "select": {"a": 1}, "more": null}),
                "[event: *, schema: *, table: *, filters: [], select: nil]",
            ),
            (
                json!({"event": "nonsense", "schema": "a", "table": "b", "select": [1, null]}),
                "[event: *, schema: a, table: b, filters: [], select: nil]",
            ),
        ];
        for (entry, expected) in cases {
            assert_eq!(parse(entry.clone()).unwrap().to_string(), expected, "{entry}");
        }
    }

    #[test]
    fn entries_that_say_too_little_are_refused() {
        let prefix = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        let cases = [
            (json!({}), "%{}"),
            (
                json!({"event": "*", "filter": "id=eq.1"}),
                r#"%{"event" => "*", "filter" => "id=eq.1"}"#,
            ),
            (
                json!({"event": "*", "schema": "public", "table": null}),
                r#"%{"event" => "*", "schema" => "public", "table" => nil}"#,
            ),
            (
                json!({"schema": "public", "filter": "id=eq.1"}),
                r#"%{"filter" => "id=eq.1", "schema" => "public"}"#,
            ),
            (
                json!({"schema": "s", "table": "t", "filter": null}),
                r#"%{"filter" => nil, "schema" => "s", "table" => "t"}"#,
            ),
            (json!({"event": "*", "user_token": "secret"}), "<redacted>"),
        ];
        for (entry, dump) in cases {
            assert_eq!(
                parse(entry.clone()).unwrap_err().to_string(),
                format!("{prefix}{dump}"),
                "{entry}"
            );
        }
    }

    #[test]
    fn select_needs_a_list_and_an_exact_table() {
        assert_eq!(
            parse(json!({"schema": "s", "table": "t", "select": "a"})).unwrap_err(),
            BindingError::SelectNotAList
        );
        for entry in [
            json!({"schema": "s", "select": ["a"]}),
            json!({"schema": "*", "table": "t", "select": ["a"]}),
            json!({"schema": "s", "table": "*", "select": ["a"]}),
        ] {
            assert_eq!(parse(entry).unwrap_err(), BindingError::SelectWithWildcard);
        }
    }
}
