//! The list of all cases in which Walcast does not do what was recorded, each with its reason.
//!
//! A difference says what comes instead, so that the rest of the case is still compared. A case that is listed and no
//! longer differs fails: the list shrinks with every feature.

mod broadcasts;
mod changes;
mod http;
mod joins;
mod not_yet;
mod presence;
mod tenants;
mod tools;

use crate::transcript::{Answer, Case, Event, Incoming};

/// Why some cases differ.
pub(crate) struct Difference {
    pub(crate) cases: &'static [&'static str],
    /// A sentence.
    pub(crate) reason: &'static str,
    pub(crate) kind: Kind,
    /// What comes instead. Empty: not said, for what is not there yet.
    pub(crate) instead: &'static [Instead],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Both what was recorded and what comes instead is right, and either may come.
    EitherWay,
    /// Decided, in the design or in `docs/decisions`.
    Deliberate,
    /// Walcast cannot do it yet.
    NotYet,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EitherWay => "either way",
            Self::Deliberate => "deliberate",
            Self::NotYet => "not yet",
        }
    }
}

/// What comes instead of something recorded, which must be there. Frames are found by a text in them.
pub(crate) enum Instead {
    /// Wherever the first is recorded, in a frame or a body, the second is said.
    Says(&'static str, &'static str),
    /// The same, but to one client.
    SaysTo(&'static str, &'static str, &'static str),
    /// A client does not get the frames with this text.
    Without(&'static str, &'static str),
    /// Behind the first frame, answer or SQL with the text, a client gets another frame. `{topic}` in it is the topic
    /// that most cases have.
    Behind(&'static str, &'static str, &'static str),
    /// A client gets the first frame with the first text before the first with the second.
    Before(&'static str, &'static str, &'static str),
    /// The answer recorded at that many milliseconds is of another status and body. A body that is an object is JSON
    /// (`protocol.md 10`: an error without a message of its own is HTML).
    Status(u64, u16, &'static str),
    /// The answer recorded at that many milliseconds has this header.
    Header(u64, &'static str, &'static str),
}

type Names = &'static [&'static str];
type Replacements = &'static [Instead];

const fn deliberate(cases: Names, reason: &'static str, instead: Replacements) -> Difference {
    Difference {
        cases,
        reason,
        kind: Kind::Deliberate,
        instead,
    }
}

const fn either_way(cases: Names, reason: &'static str, instead: Replacements) -> Difference {
    Difference {
        cases,
        reason,
        kind: Kind::EitherWay,
        instead,
    }
}

const fn not_yet(cases: Names, reason: &'static str, instead: Replacements) -> Difference {
    Difference {
        cases,
        reason,
        kind: Kind::NotYet,
        instead,
    }
}

/// All differences.
pub(crate) fn all() -> impl Iterator<Item = &'static Difference> {
    [
        joins::JOINS,
        broadcasts::BROADCASTS,
        changes::CHANGES,
        http::HTTP,
        presence::PRESENCE,
        tenants::TENANTS,
        tools::TOOLS,
        not_yet::NOT_YET,
    ]
    .into_iter()
    .flatten()
}

/// The differences of a case.
pub(crate) fn of(name: &str) -> Vec<&'static Difference> {
    all()
        .filter(|difference| difference.cases.contains(&name))
        .collect()
}

impl Difference {
    /// Makes the case what it is here.
    ///
    /// # Errors
    /// Something it is about is not recorded.
    pub(crate) fn apply(&self, case: &mut Case) -> Result<(), String> {
        for instead in self.instead {
            if !instead.apply(case) {
                return Err(format!(
                    "listed as different ({}), but nothing recorded fits {instead:?}",
                    self.reason
                ));
            }
        }
        Ok(())
    }
}

impl Instead {
    /// Whether what it is about was there.
    fn apply(&self, case: &mut Case) -> bool {
        match *self {
            Self::Says(recorded, said) => {
                let in_frames = replace(frames(case, None), recorded, said);
                let bodies = answers(case).filter_map(|answer| answer.body.as_mut());
                replace(bodies, recorded, said) || in_frames
            }
            Self::SaysTo(client, recorded, said) => replace(frames(case, Some(client)), recorded, said),
            Self::Without(client, text) => {
                let steps = case.steps.len();
                case.steps.retain(|step| !is_frame(&step.event, client, text));
                case.steps.len() < steps
            }
            Self::Behind(text, client, frame) => {
                let holds_text = |event: &Event| match event {
                    Event::HttpDone(answer) => answer.body.as_ref().is_some_and(|body| body.contains(text)),
                    Event::Sql(recorded)
                    | Event::Receive {
                        incoming: Incoming::Text(recorded),
                        ..
                    } => recorded.contains(text),
                    _ => false,
                };
                let Some(at) = case.steps.iter().position(|step| holds_text(&step.event)) else {
                    return false;
                };
                let topic = format!("realtime:g2-{}", case.name.replace('.', "-"));
                let mut step = case.steps[at].clone();
                step.event = Event::Receive {
                    client: client.to_owned(),
                    incoming: Incoming::Text(frame.replace("{topic}", &topic)),
                };
                case.steps.insert(at + 1, step);
                true
            }
            Self::Before(client, text, than) => {
                match (position(case, client, text), position(case, client, than)) {
                    (Some(from), Some(to)) if to < from => {
                        let step = case.steps.remove(from);
                        case.steps.insert(to, step);
                        true
                    }
                    _ => false,
                }
            }
            Self::Status(at_ms, status, body) => answer(case, at_ms).is_some_and(|answer| {
                answer.status = status;
                answer.body = Some(body.to_owned());
                answer.headers.retain(|name, _| name.starts_with("x-"));
                let kind = match body.bytes().next() {
                    None => return true,
                    Some(b'{') => "application/json; charset=utf-8",
                    Some(_) => "text/html; charset=utf-8",
                };
                answer.headers.insert("content-type".to_owned(), kind.to_owned());
                true
            }),
            Self::Header(at_ms, name, value) => answer(case, at_ms).is_some_and(|answer| {
                answer.headers.insert(name.to_owned(), value.to_owned());
                true
            }),
        }
    }
}

impl std::fmt::Debug for Instead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Says(recorded, said) => write!(formatter, "`{recorded}` -> `{said}`"),
            Self::SaysTo(client, recorded, said) => write!(formatter, "`{recorded}` -> `{said}` to {client}"),
            Self::Without(client, text) => write!(formatter, "`{text}` to {client}"),
            Self::Behind(text, ..) => write!(formatter, "`{text}`"),
            Self::Before(client, text, than) => write!(formatter, "`{than}` before `{text}` to {client}"),
            Self::Status(at_ms, ..) | Self::Header(at_ms, ..) => write!(formatter, "an answer at {at_ms} ms"),
        }
    }
}

fn is_frame(event: &Event, wanted: &str, text: &str) -> bool {
    match event {
        Event::Receive { client, incoming } if client == wanted => match incoming {
            Incoming::Text(recorded) => recorded.contains(text),
            // In quotes, so that a text can be that of the end.
            Incoming::Binary(recorded) => format!("\"{}\"", recorded.escape_ascii()).contains(text),
            Incoming::Pong(_) | Incoming::Closed(_) => false,
        },
        _ => false,
    }
}

fn position(case: &Case, client: &str, text: &str) -> Option<usize> {
    case.steps
        .iter()
        .position(|step| is_frame(&step.event, client, text))
}

fn frames<'c>(case: &'c mut Case, wanted: Option<&'c str>) -> impl Iterator<Item = &'c mut String> {
    case.steps
        .iter_mut()
        .filter_map(move |step| match &mut step.event {
            Event::Receive {
                client,
                incoming: Incoming::Text(text),
            } if wanted.is_none_or(|wanted| client == wanted) => Some(text),
            _ => None,
        })
}

fn answers(case: &mut Case) -> impl Iterator<Item = &mut Answer> {
    case.steps.iter_mut().filter_map(|step| match &mut step.event {
        Event::Opened { answer, .. } | Event::HttpDone(answer) => Some(answer),
        _ => None,
    })
}

fn answer(case: &mut Case, at_ms: u64) -> Option<&mut Answer> {
    case.steps
        .iter_mut()
        .filter(|step| step.at_ms == at_ms)
        .find_map(|step| match &mut step.event {
            Event::Opened { answer, .. } | Event::HttpDone(answer) => Some(answer),
            _ => None,
        })
}

fn replace<'t>(texts: impl Iterator<Item = &'t mut String>, recorded: &str, said: &str) -> bool {
    let mut found = false;
    for text in texts {
        if text.contains(recorded) {
            *text = text.replace(recorded, said);
            found = true;
        }
    }
    found
}
