//! What the query of a stream asks for, and the joins that stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use walcast_changes::Position;
use walcast_protocol::{Message, Name, Payload, Ref, quoted};

/// Longest query in bytes, as sent.
const MAX_QUERY_BYTES: usize = 32 * 1024;

/// Topics of one stream.
const MAX_TOPICS: usize = 100;

/// Entries of `postgres_changes` of one stream.
const MAX_BINDINGS: usize = 100;

/// The parameters of a stream, read. Those of other names are left to others.
#[derive(Debug, Default)]
pub struct StreamRequest {
    /// `topic`: a name without `realtime:`.
    topic: String,
    /// More of them, each once.
    others: Vec<String>,
    /// `private=true`: all topics are private.
    is_private: bool,
    /// `presence=true`: who is present comes first, then who comes and goes.
    with_presence: bool,
    /// `postgres_changes`: an entry of a join, or a list of them, as often as wished.
    bindings: Vec<BTreeMap<String, Box<RawValue>>>,
    /// `token`
    pub(super) token: Option<String>,
    /// `apikey`, as gateways want it.
    pub(super) api_key: Option<String>,
    /// `last_event_id`
    last_event_id: Option<Position>,
}

/// The parameters, as they are described to those who ask.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the shape alone is of use")]
pub(super) struct StreamParams {
    /// A name without `realtime:`; as often as wished, up to 100.
    #[param(min_items = 1, max_items = 100)]
    topic: Vec<String>,
    /// Whether all topics are private.
    private: Option<bool>,
    /// Whether to tell who is present: first who is, then who comes and goes.
    presence: Option<bool>,
    /// An entry of a join as a JSON object, or a list of them; as often as wished.
    #[param(example = json!([r#"{"event":"*","schema":"public","table":"orders"}"#]))]
    postgres_changes: Option<Vec<String>>,
    /// The token; it wins over the headers.
    token: Option<String>,
    /// The token, where nothing else names one; gateways want it.
    apikey: Option<String>,
    /// The id of the last event that was heard; what came after it is told first. The header `Last-Event-ID` wins.
    #[param(example = "16/B374D848:3")]
    last_event_id: Option<String>,
}

/// Why a query means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// See `MAX_QUERY_BYTES`.
    #[error("the query is longer than {MAX_QUERY_BYTES} bytes; open several streams")]
    TooLong,
    /// No topic.
    #[error("`topic` is missing; name at least one, e.g. topic=room")]
    NoTopic,
    /// One without a name.
    #[error("`topic` can't be blank")]
    BlankTopic,
    /// See `MAX_TOPICS`.
    #[error("a stream has at most {MAX_TOPICS} topics; open several streams")]
    TooManyTopics,
    /// No JSON, or JSON of something else.
    #[error(
        "`postgres_changes` must be a JSON object or a list of them, e.g. {{\"event\":\"*\",\"schema\":\"public\",\"table\":\"orders\"}}"
    )]
    Bindings,
    /// See `MAX_BINDINGS`.
    #[error("a stream has at most {MAX_BINDINGS} entries in `postgres_changes`; open several streams")]
    TooManyBindings,
    /// Not `true` or `false`.
    #[error("`{0}` must be true or false")]
    Flag(&'static str),
    /// No id of an event of ours.
    #[error("`Last-Event-ID` must be the id of an event of such a stream, e.g. 16/B374D848:3")]
    LastEventId,
}

impl StreamRequest {
    /// Reads a query, form-encoded.
    ///
    /// # Errors
    /// A parameter that means nothing, or too much of one.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let mut request = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "topic" => request.add_topic(&value)?,
                "private" => request.is_private = flag("private", &value)?,
                "presence" => request.with_presence = flag("presence", &value)?,
                "postgres_changes" => request.add_bindings(&value)?,
                "token" => request.token = given(value),
                "apikey" => request.api_key = given(value),
                "last_event_id" => request.resume_after(&value)?,
                _ => {}
            }
        }
        if request.topic.is_empty() {
            return Err(QueryError::NoTopic);
        }
        Ok(request)
    }

    fn add_topic(&mut self, topic: &str) -> Result<(), QueryError> {
        if topic.trim().is_empty() {
            return Err(QueryError::BlankTopic);
        }
        if self.topic.is_empty() {
            topic.clone_into(&mut self.topic);
        } else if self.topic != topic && !self.others.iter().any(|known| known == topic) {
            if self.others.len() + 1 >= MAX_TOPICS {
                return Err(QueryError::TooManyTopics);
            }
            self.others.push(topic.to_owned());
        }
        Ok(())
    }

    fn add_bindings(&mut self, json: &str) -> Result<(), QueryError> {
        let bindings = if json.trim_start().starts_with('[') {
            serde_json::from_str(json)
        } else {
            serde_json::from_str(json).map(|binding| vec![binding])
        };
        self.bindings.extend(bindings.map_err(|_| QueryError::Bindings)?);
        if self.bindings.len() > MAX_BINDINGS {
            return Err(QueryError::TooManyBindings);
        }
        Ok(())
    }

    /// Where the client was; of several words the last counts. An empty one is none.
    ///
    /// # Errors
    /// An id that no event of ours has.
    pub fn resume_after(&mut self, id: &str) -> Result<(), QueryError> {
        if !id.is_empty() {
            self.last_event_id = Some(id.parse().map_err(|_| QueryError::LastEventId)?);
        }
        Ok(())
    }

    /// Whether the client has been here before, as far as changes go.
    pub(super) fn is_resumed(&self) -> bool {
        self.last_event_id.is_some()
    }

    /// The joins that make the stream. All changes are the first topic's: one channel hears them in commit order, so that
    /// one position tells what a client has of them.
    pub fn joins(&self, wait: Duration) -> (Message, Vec<Message>) {
        let since = self.last_event_id.map(|position| quoted(&position.to_string()));
        let mut bindings = self.bindings.clone();
        if let Some(since) = since.and_then(|since| RawValue::from_string(since).ok()) {
            for binding in &mut bindings {
                binding.insert("since".to_owned(), since.clone());
            }
        }
        let join = |at: usize, topic: &str| {
            let config = Config {
                private: self.is_private,
                presence: Presence {
                    enabled: self.with_presence,
                },
                postgres_changes: if at == 0 { &bindings } else { &[] },
                postgres_changes_options: Options {
                    wait: true,
                    timeout: wait.as_millis(),
                },
            };
            let reference = Ref::from_text(&(at + 1).to_string());
            Message {
                join_ref: reference.clone(),
                reference,
                topic: Name::Text(format!("realtime:{topic}")),
                event: Name::Text("phx_join".to_owned()),
                // Strings, flags and JSON that was read are JSON.
                payload: Payload::Json(serde_json::value::to_raw_value(&Join { config }).unwrap_or_default()),
            }
        };
        let others = self.others.iter().enumerate();
        (
            join(0, &self.topic),
            others.map(|(at, topic)| join(at + 1, topic)).collect(),
        )
    }
}

/// The payload of a join (`protocol.md 3.1`), as far as streams have a use for it.
#[derive(Serialize)]
struct Join<'a> {
    config: Config<'a>,
}

#[derive(Serialize)]
struct Config<'a> {
    private: bool,
    presence: Presence,
    postgres_changes: &'a [BTreeMap<String, Box<RawValue>>],
    postgres_changes_options: Options,
}

#[derive(Serialize)]
struct Presence {
    enabled: bool,
}

/// What cannot be subscribed to is an answer to the request (`protocol.md 15.1`).
#[derive(Serialize)]
struct Options {
    wait: bool,
    timeout: u128,
}

fn flag(name: &'static str, value: &str) -> Result<bool, QueryError> {
    match value {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        _ => Err(QueryError::Flag(name)),
    }
}

fn given(value: Cow<'_, str>) -> Option<String> {
    (!value.is_empty()).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn payloads(query: &str) -> Result<Vec<(String, Value)>, QueryError> {
        let (first, later) = StreamRequest::parse(query)?.joins(Duration::from_secs(8));
        let read = std::iter::once(first)
            .chain(later)
            .map(|join| match (join.topic, join.payload) {
                (Name::Text(topic), Payload::Json(payload)) => {
                    (topic, serde_json::from_str(payload.get()).unwrap())
                }
                other => panic!("{other:?}"),
            });
        Ok(read.collect())
    }

    fn join(topic: &str, private: bool, presence: bool, bindings: &Value) -> (String, Value) {
        let config = json!({
            "private": private,
            "presence": {"enabled": presence},
            "postgres_changes": bindings,
            "postgres_changes_options": {"wait": true, "timeout": 8_000},
        });
        (topic.to_owned(), json!({"config": config}))
    }

    #[test]
    fn a_query_is_a_join_for_each_topic_the_first_with_all_bindings() {
        let none = json!([]);
        for (query, expected) in [
            ("topic=a", vec![join("realtime:a", false, false, &none)]),
            (
                "topic=a&topic=b%20c&topic=a&private=true&presence=true&apikey=k&other=1",
                vec![
                    join("realtime:a", true, true, &none),
                    join("realtime:b c", true, true, &none),
                ],
            ),
            (
                r#"topic=a&topic=b&postgres_changes={"table":"t"}&postgres_changes=[{"table":"u","filter":"a%3Deq.1"},{}]"#,
                vec![
                    join(
                        "realtime:a",
                        false,
                        false,
                        &json!([{"table": "t"}, {"table": "u", "filter": "a=eq.1"}, {}]),
                    ),
                    join("realtime:b", false, false, &none),
                ],
            ),
            (
                r#"topic=a&last_event_id=0/1:1&postgres_changes=[{"table":"t","since":5},{}]&last_event_id=0/10:2"#,
                vec![join(
                    "realtime:a",
                    false,
                    false,
                    &json!([{"table": "t", "since": "0/10:2"}, {"since": "0/10:2"}]),
                )],
            ),
        ] {
            assert_eq!(payloads(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn a_query_that_means_nothing_is_refused() {
        let many = |parameter: &str, count: usize| {
            (0..count)
                .map(|number| parameter.replace('#', &number.to_string()))
                .collect::<String>()
        };
        let cases = [
            (String::new(), QueryError::NoTopic),
            ("topics=a".to_owned(), QueryError::NoTopic),
            ("topic=".to_owned(), QueryError::BlankTopic),
            ("topic=a&topic=+".to_owned(), QueryError::BlankTopic),
            (many("topic=t#&", MAX_TOPICS + 1), QueryError::TooManyTopics),
            ("topic=a&private=yes".to_owned(), QueryError::Flag("private")),
            ("topic=a&presence=1".to_owned(), QueryError::Flag("presence")),
            (
                "topic=a&last_event_id=yesterday".to_owned(),
                QueryError::LastEventId,
            ),
            (
                format!("topic=a&postgres_changes=[{}{{}}]", many("{},", MAX_BINDINGS)),
                QueryError::TooManyBindings,
            ),
            (
                format!("topic=a&x={}", "x".repeat(MAX_QUERY_BYTES)),
                QueryError::TooLong,
            ),
        ];
        let no_bindings = ["", "orders", "[1]", "[[]]", "{", "null", "{}{}", "[{}"]
            .map(|json| (format!("topic=a&postgres_changes={json}"), QueryError::Bindings));
        for (query, error) in cases.into_iter().chain(no_bindings) {
            assert_eq!(payloads(&query), Err(error), "{query:.80}");
        }
    }

    #[test]
    fn as_many_topics_and_bindings_as_are_allowed_are_allowed() {
        let topics: String = (0..MAX_TOPICS).map(|number| format!("topic={number}&")).collect();
        let bindings = vec!["{}"; MAX_BINDINGS].join(",");
        let joins = payloads(&format!("{topics}postgres_changes=[{bindings}]")).unwrap();
        assert_eq!(joins.len(), MAX_TOPICS);
    }
}
