//! A case as it is recorded in `tests/golden/cases`: what was sent, and what came back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::records;
use crate::stand_ins::StandIns;
use crate::tenant::{self, Settings};

/// Where the transcripts are.
pub(crate) fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "golden"]
        .iter()
        .collect()
}

/// The list of cases, and the tokens they use.
#[derive(Deserialize)]
pub(crate) struct Index {
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) cases: Vec<Listed>,
}

#[derive(Deserialize)]
pub(crate) struct Token {
    pub(crate) claims: Value,
}

#[derive(Deserialize)]
pub(crate) struct Listed {
    pub(crate) case: String,
}

impl Index {
    pub(crate) fn read() -> Self {
        let text = std::fs::read(folder().join("index.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// A case with its placeholders filled in.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) setup_sql: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// Whether a token expires or a rate is averaged in it, so that its pauses are part of it.
    pub(crate) is_timed: bool,
    /// The settings of the server it is played against, if it is about those.
    pub(crate) tenant: Option<Settings>,
    /// All that is sent, in one text: a value that occurs in it is none of the server's making.
    pub(crate) sent: String,
}

#[derive(Clone)]
pub(crate) struct Step {
    /// Milliseconds since the case began.
    pub(crate) at_ms: u64,
    pub(crate) event: Event,
}

#[derive(Clone)]
pub(crate) enum Event {
    /// A client sends an upgrade request.
    Open { client: String, request: Request },
    /// What the upgrade request is answered.
    Opened { client: String, answer: Answer },
    /// A client sends on its socket.
    Send { client: String, outgoing: Outgoing },
    /// A client receives on its socket.
    Receive { client: String, incoming: Incoming },
    /// A client ends its socket.
    Close { client: String, ending: Ending },
    /// A superuser sends SQL, as one simple query.
    Sql(String),
    /// What it is answered.
    SqlDone(SqlOutcome),
    /// An HTTP request on a connection of its own.
    Http(Request),
    /// What it is answered.
    HttpDone(Answer),
}

#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Among them `host`.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// None if the recording leaves it out.
    pub(crate) body: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Outgoing {
    Text(String),
    Binary(Vec<u8>),
    /// A part of a text message.
    Fragment {
        text: String,
        is_first: bool,
        is_last: bool,
    },
    Ping(String),
    /// Bytes on the TCP connection.
    Raw(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Text(String),
    Binary(Vec<u8>),
    Pong(String),
    /// The server ends the socket; 1006 is an end without a close frame.
    Closed(u16),
}

#[derive(Clone, Copy)]
pub(crate) enum Ending {
    Handshake,
    /// The TCP connection just ends.
    Abort,
}

/// SQLSTATE, or the number of rows of each statement and the rows themselves.
pub(crate) type SqlOutcome = Result<Vec<Statement>, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) count: u64,
    pub(crate) rows: Vec<BTreeMap<String, Option<String>>>,
}

const DEFAULT_HOST: &str = "realtime-dev.localhost";

/// A file, as it is.
#[derive(Deserialize)]
struct Recorded {
    case: String,
    about: String,
    setup_sql: Vec<String>,
    steps: Vec<RecordedStep>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Send,
    Recv,
    Close,
}

#[derive(Clone, Deserialize)]
struct RecordedStep {
    at_ms: u64,
    who: String,
    dir: Direction,
    open: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    text: Option<String>,
    hex: Option<String>,
    fragments: Option<Vec<String>>,
    /// One of `fragments`: its index, their number.
    #[serde(skip)]
    fragment: Option<(usize, usize, String)>,
    ping: Option<String>,
    pong: Option<String>,
    raw_hex: Option<String>,
    by: Option<String>,
    code: Option<u16>,
    status: Option<u16>,
    content_type: Option<String>,
    method: Option<String>,
    path: Option<String>,
    body: Option<String>,
    body_hex: Option<String>,
    results: Option<Vec<RecordedStatement>>,
    error: Option<RecordedError>,
}

#[derive(Clone, Deserialize)]
struct RecordedStatement {
    count: Option<u64>,
    #[serde(default)]
    rows: Vec<BTreeMap<String, Value>>,
}

#[derive(Clone, Deserialize)]
struct RecordedError {
    code: String,
}

impl Case {
    /// Reads a case and fills in its placeholders.
    pub(crate) fn read(name: &str, stand_ins: &StandIns) -> Self {
        let path = folder().join("cases").join(format!("{name}.json"));
        let file =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let recorded: Recorded = serde_json::from_str(&file).unwrap();
        assert_eq!(recorded.case, name);
        let mut steps: Vec<Step> = interleaved(recorded.steps)
            .into_iter()
            .map(|step| step.filled(stand_ins))
            .collect();
        let is_limited = name.starts_with("limits-");
        let tenant = (is_limited && !records::are_needed(name)).then(|| tenant::settings(&mut steps));
        let sent = steps.iter().filter_map(Step::sent).collect::<Vec<_>>().join("\n");
        Self {
            name: recorded.case,
            about: recorded.about,
            setup_sql: recorded.setup_sql,
            steps,
            is_timed: file.contains("{{short4}}") || is_limited,
            tenant,
            sent,
        }
    }

    /// Whether it writes to tables, or waits for changes of some that others write to.
    pub(crate) fn needs_the_tables(&self) -> bool {
        self.name.starts_with("pg-") || self.steps.iter().any(|step| matches!(step.event, Event::Sql(_)))
    }

    /// Whether it changes tables themselves, so that others find them changed.
    pub(crate) fn alters_tables(&self) -> bool {
        self.steps.iter().any(|step| match &step.event {
            Event::Sql(text) => text.contains("drop table") || text.contains("alter table"),
            _ => false,
        })
    }
}

impl Step {
    /// Whose answer has to be waited for.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(
            self.event,
            Event::Opened { .. } | Event::Receive { .. } | Event::SqlDone(_) | Event::HttpDone(_)
        )
    }

    fn sent(&self) -> Option<String> {
        match &self.event {
            Event::Open { request, .. } | Event::Http(request) => Some(format!(
                "{} {:?} {}",
                request.target,
                request.headers,
                String::from_utf8_lossy(&request.body)
            )),
            Event::Send { outgoing, .. } => match outgoing {
                Outgoing::Text(text) => Some(text.clone()),
                Outgoing::Binary(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                Outgoing::Fragment { text, .. } => Some(text.clone()),
                Outgoing::Ping(_) | Outgoing::Raw(_) => None,
            },
            Event::Sql(text) => Some(text.clone()),
            Event::Opened { .. }
            | Event::Receive { .. }
            | Event::Close { .. }
            | Event::SqlDone(_)
            | Event::HttpDone(_) => None,
        }
    }
}

/// The steps with the frames of a fragmented message as steps of their own, and the ping that is recorded after them in
/// its place: behind the first.
fn interleaved(steps: Vec<RecordedStep>) -> Vec<RecordedStep> {
    let mut interleaved: Vec<RecordedStep> = Vec::with_capacity(steps.len());
    let mut rest: Vec<RecordedStep> = Vec::new();
    for mut step in steps {
        if let Some(fragments) = step.fragments.take() {
            let count = fragments.len();
            for (index, text) in fragments.into_iter().enumerate() {
                let mut part = step.clone();
                part.fragment = Some((index, count, text));
                if index == 0 {
                    interleaved.push(part);
                } else {
                    rest.push(part);
                }
            }
            continue;
        }
        let is_ping = step.ping.is_some();
        if !is_ping {
            interleaved.append(&mut rest);
        }
        interleaved.push(step);
        interleaved.append(&mut rest);
    }
    interleaved
}

impl RecordedStep {
    fn filled(self, stand_ins: &StandIns) -> Step {
        let at_ms = self.at_ms;
        let event = match (self.who.as_str(), &self.dir) {
            ("sql", Direction::Send) => Event::Sql(stand_ins.fill(&self.text.unwrap())),
            ("sql", _) => Event::SqlDone(self.error.map_or_else(
                || Ok(self.results.into_iter().flatten().map(Into::into).collect()),
                |error| Err(error.code),
            )),
            ("http", Direction::Send) => Event::Http(self.request(stand_ins)),
            ("http", _) => Event::HttpDone(self.answer(stand_ins)),
            (_, Direction::Close) if self.by.as_deref() == Some("server") => Event::Receive {
                client: self.who,
                incoming: Incoming::Closed(self.code.unwrap()),
            },
            (_, Direction::Close) => Event::Close {
                client: self.who,
                ending: if self.code == Some(1006) {
                    Ending::Abort
                } else {
                    Ending::Handshake
                },
            },
            (_, Direction::Send) if self.open.is_some() => Event::Open {
                client: self.who.clone(),
                request: self.request(stand_ins),
            },
            (_, Direction::Recv) if self.status.is_some() => Event::Opened {
                client: self.who.clone(),
                answer: self.answer(stand_ins),
            },
            (_, Direction::Send) => Event::Send {
                client: self.who.clone(),
                outgoing: self.outgoing(stand_ins),
            },
            (_, Direction::Recv) => Event::Receive {
                client: self.who.clone(),
                incoming: self.incoming(stand_ins),
            },
        };
        Step { at_ms, event }
    }

    fn request(self, stand_ins: &StandIns) -> Request {
        let mut headers: Vec<(String, String)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), stand_ins.fill(value)))
            .collect();
        if !headers.iter().any(|(name, _)| name == "host") {
            let host = self.host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
            headers.insert(0, ("host".to_owned(), host));
        }
        let body = match (self.body, self.body_hex) {
            (_, Some(hex)) => stand_ins.fill_bytes(&hex),
            (body, None) => stand_ins.fill(&body.unwrap_or_default()).into_bytes(),
        };
        let target = self.open.or(self.path).unwrap();
        Request {
            method: self.method.unwrap_or_else(|| "GET".to_owned()),
            target: stand_ins.fill(&target),
            headers,
            body,
        }
    }

    fn answer(self, stand_ins: &StandIns) -> Answer {
        let mut headers = self.headers;
        headers.extend(self.content_type.map(|kind| ("content-type".to_owned(), kind)));
        Answer {
            status: self.status.unwrap(),
            headers,
            body: self.body.map(|body| stand_ins.fill(&body)),
        }
    }

    fn outgoing(self, stand_ins: &StandIns) -> Outgoing {
        if let Some(text) = self.text {
            return Outgoing::Text(stand_ins.fill(&text));
        }
        if let Some(hex) = self.hex {
            return Outgoing::Binary(stand_ins.fill_bytes(&hex));
        }
        if let Some(hex) = self.raw_hex {
            return Outgoing::Raw(stand_ins.fill_bytes(&hex));
        }
        if let Some(payload) = self.ping {
            return Outgoing::Ping(payload);
        }
        let (index, count, text) = self.fragment.expect("a step sends something");
        Outgoing::Fragment {
            text,
            is_first: index == 0,
            is_last: index + 1 == count,
        }
    }

    fn incoming(self, stand_ins: &StandIns) -> Incoming {
        if let Some(text) = self.text {
            return Incoming::Text(stand_ins.fill(&text));
        }
        if let Some(hex) = self.hex {
            return Incoming::Binary(stand_ins.fill_bytes(&hex));
        }
        Incoming::Pong(self.pong.expect("a step receives something"))
    }
}

impl From<RecordedStatement> for Statement {
    fn from(recorded: RecordedStatement) -> Self {
        let column = |value: Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        Self {
            count: recorded.count.unwrap_or(0),
            rows: recorded
                .rows
                .into_iter()
                .map(|row| {
                    row.into_iter()
                        .map(|(name, value)| (name, column(value)))
                        .collect()
                })
                .collect(),
        }
    }
}
