//! One broadcast: `POST /api/broadcast/{topic}/events/{event}` (`protocol.md 5.7`).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use walcast_broadcast::{Body, Message, PayloadCost, Room, payload_cost};
use walcast_messages::{Body as StoredBody, Keep, NewMessage};

use super::media_type::{MediaType, is_multipart};
use super::reencode::reencode;
use super::refusal::Refusal;
use super::upload::Upload;
use super::{BLANK, INVALID, OVERSIZED, Sender, finish, is_blank, json_text, rated};
use crate::crossing::CastError;
use crate::http::plain_error;
use crate::openapi::{Failed, Told, WrongOrTold};
use crate::persist::store;
use crate::tenant::Tenant;
use crate::tenants::{NoTenant, OfHost};

/// What the reference adds to the length of raw bytes (`protocol.md 5.5`).
const BYTES_OVERHEAD: usize = 6;

/// What has a length of one byte in a binary frame (`protocol.md 2.3`).
const LONGEST_FRAMED_BYTES: usize = 255;

/// Broadcasts one message.
///
/// Without a content-type the body is not looked at, and the payload is `{}`.
#[utoipa::path(
    post,
    path = "/api/broadcast/{topic}/events/{event}",
    operation_id = "broadcast",
    tag = "broadcast",
    params(
        ("topic" = String, Path, description = "Without `realtime:`", min_length = 1),
        ("event" = String, Path, description = "What receivers listen for", min_length = 1),
        ("private" = Option<bool>, Query, description = "Whether the topic is private; `private` in a JSON body counts before it"),
        ("persist" = Option<bool>, Query, description = "Store it in `realtime.messages`; private topics only"),
        ("persist[ttl]" = Option<u32>, Query, description = "Store it, for so many seconds at most"),
    ),
    request_body(
        content((Object = "application/json"), (Vec<u8> = "application/octet-stream")),
        description = "The payload: an object as JSON (another value is put under `_json`), or bytes",
    ),
    security(("bearer" = []), ("apikey" = [])),
    responses(
        (status = 202, description = "Accepted; no body"),
        (status = 401, description = "There is no token, or none that counts", body = Told),
        (status = 403, description = "The sender may not write to the private topic, or the token is bound to others", body = Told),
        (status = 415, description = "The body is neither JSON nor bytes", body = Failed),
        (status = 422, description = "A part of it is not what it should be; or the policies cannot be asked, which a `message` says", body = WrongOrTold),
        (status = 429, description = "More requests, or more messages, a second than are allowed; or the database has no connection left", body = Told),
        (status = 500, description = "Members on this node have it, and those on others may not", body = Told),
        (status = 503, description = "It was to be stored, and the database cannot be asked", body = Told),
    ),
)]
pub(super) async fn broadcast(tenant: Result<OfHost, NoTenant>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let response = if segments(&parts.uri).contains(&"") {
        // Such a path has one name too few.
        plain_error(StatusCode::NOT_FOUND, &parts.headers)
    } else {
        match accept_media_type(&parts, &mut upload).await {
            Ok(kind) => match tenant {
                Ok(OfHost(tenant)) => {
                    let handling = Box::pin(relay(&tenant, &parts, kind, &mut upload));
                    rated(&tenant, &parts.headers, handling).await
                }
                Err(error) => error.into_response(),
            },
            Err(refusal) => refusal.respond(&parts.headers),
        }
    };
    finish(upload, response).await
}

/// A kind of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Bytes,
    /// Without a content-type the body is not looked at.
    Nothing,
}

/// Before anything else, even before the token: a body that is malformed by the rules of its kind is that before it is
/// of the wrong kind.
async fn accept_media_type(parts: &Parts, upload: &mut Upload) -> Result<Kind, Refusal> {
    match MediaType::of(&parts.headers) {
        MediaType::Absent => return Ok(Kind::Nothing),
        MediaType::Json => return Ok(Kind::Json),
        MediaType::Bytes => return Ok(Kind::Bytes),
        MediaType::JsonSuffix => _ = json_text(&upload.read().await?)?,
        MediaType::Multipart(boundary) => {
            if !is_multipart(&upload.read().await?, &boundary) {
                return Err(Refusal::Malformed("the body is not multipart".to_owned()));
            }
        }
        MediaType::Form | MediaType::Other => {}
    }
    Err(Refusal::MediaType)
}

async fn relay(
    tenant: &Tenant,
    parts: &Parts,
    kind: Kind,
    upload: &mut Upload,
) -> Result<StatusCode, Refusal> {
    let sender = Sender::of(tenant, &parts.headers)?;
    let payload = match kind {
        Kind::Json => Payload::of_json(&upload.read().await?)?,
        Kind::Bytes => Payload::Bytes(upload.read().await?),
        Kind::Nothing => Payload::Json {
            text: "{}".to_owned(),
            is_private: None,
        },
    };
    // None for what is not UTF-8.
    let [topic, event] = segments(&parts.uri).map(|name| percent_decode_str(name).decode_utf8().ok());
    let limit_bytes = tenant.settings().limits.max_payload_bytes;
    let errors: BTreeMap<&str, [&str; 1]> = [
        (
            "topic",
            judge_name(topic.as_deref(), payload.longest_topic_bytes()),
        ),
        (
            "event",
            judge_name(event.as_deref(), payload.longest_event_bytes()),
        ),
        ("payload", payload.judge(limit_bytes)),
    ]
    .into_iter()
    .filter_map(|(name, judged)| Some((name, [judged.err()?])))
    .collect();
    let (Some(topic), Some(event), true) = (&topic, &event, errors.is_empty()) else {
        return Err(Refusal::Invalid(json!(errors)));
    };
    if tenant.rates.events.is_exceeded() {
        return Err(Refusal::TooManyEvents);
    }

    let room = Room {
        topic,
        is_private: payload
            .is_private()
            .unwrap_or_else(|| asks_for_private(&parts.uri)),
    };
    let keep = asks_to_persist(&parts.uri).map_err(|wrong| Refusal::Invalid(json!({"persist": [wrong]})))?;
    if keep.is_some() && !room.is_private {
        return Err(Refusal::Invalid(
            json!({"persist": ["is for private channels only"]}),
        ));
    }
    sender.check_grant(topic)?;
    if room.is_private {
        sender.check_write(topic).await?;
    }
    if let Some(keep) = keep {
        let message = NewMessage {
            id: &uuid::Uuid::new_v4().to_string(),
            topic,
            event,
            body: &payload.stored(),
            keep,
        };
        store(tenant, message).await?;
        return Ok(StatusCode::ACCEPTED);
    }
    let message = Message::Event {
        event,
        body: payload.body(),
        id: None,
    };
    tenant.cast(room, &message).map_err(|error| match error {
        CastError::Unframeable(_) => Refusal::Invalid(json!({"event": [INVALID]})),
        CastError::Unpublished(error) => Refusal::NotPublished(error),
    })?;
    Ok(StatusCode::ACCEPTED)
}

enum Payload {
    Json {
        text: String,
        /// What the payload itself says, above the query.
        is_private: Option<bool>,
    },
    Bytes(Bytes),
}

impl Payload {
    fn of_json(body: &[u8]) -> Result<Self, Refusal> {
        let malformed = |error: &dyn std::error::Error| Refusal::Malformed(error.to_string());
        if body.is_empty() {
            return Ok(Self::Json {
                text: "{}".to_owned(),
                is_private: None,
            });
        }
        let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
        let text = reencode(text).map_err(|error| malformed(&error))?;
        if !text.starts_with('{') {
            return Ok(Self::Json {
                text: format!(r#"{{"_json":{text}}}"#),
                is_private: None,
            });
        }
        let quirk: Quirk<'_> = serde_json::from_str(&text).map_err(|error| malformed(&error))?;
        let is_private = quirk.private.map(|private| private.get() == "true");
        Ok(Self::Json { text, is_private })
    }

    fn judge(&self, limit_bytes: usize) -> Result<(), &'static str> {
        let fits = match self {
            Self::Json { text, .. } => {
                payload_cost(text, limit_bytes).map_err(|_| INVALID)? == PayloadCost::Fits
            }
            Self::Bytes(bytes) => bytes.len() + BYTES_OVERHEAD <= limit_bytes,
        };
        if fits { Ok(()) } else { Err(OVERSIZED) }
    }

    /// The topic that still has room in a frame, with its prefix. JSON can go out without one.
    fn longest_topic_bytes(&self) -> usize {
        match self {
            Self::Json { .. } => usize::MAX,
            Self::Bytes(_) => LONGEST_FRAMED_BYTES - "realtime:".len(),
        }
    }

    fn longest_event_bytes(&self) -> usize {
        match self {
            Self::Json { .. } => usize::MAX,
            Self::Bytes(_) => LONGEST_FRAMED_BYTES,
        }
    }

    fn is_private(&self) -> Option<bool> {
        match self {
            Self::Json { is_private, .. } => *is_private,
            Self::Bytes(_) => None,
        }
    }

    fn stored(&self) -> StoredBody {
        match self {
            Self::Json { text, .. } => StoredBody::Json(text.as_str().into()),
            Self::Bytes(bytes) => StoredBody::Binary(bytes.as_ref().into()),
        }
    }

    fn body(&self) -> Body<'_> {
        match self {
            Self::Json { text, .. } => Body::Json(text),
            Self::Bytes(bytes) => Body::Binary(bytes),
        }
    }
}

/// A key of the payload that means something here too, and stays in the payload.
#[derive(Deserialize)]
struct Quirk<'a> {
    #[serde(borrow, default, deserialize_with = "super::present")]
    private: Option<&'a RawValue>,
}

/// Topic and event as the path has them.
fn segments(uri: &Uri) -> [&str; 2] {
    let mut segments = uri.path().rsplit('/');
    let mut next = || segments.next().unwrap_or_default();
    let (event, _events, topic) = (next(), next(), next());
    [topic, event]
}

fn judge_name(name: Option<&str>, longest_bytes: usize) -> Result<(), &'static str> {
    match name {
        Some(name) if is_blank(name) => Err(BLANK),
        Some(name) if name.len() <= longest_bytes => Ok(()),
        Some(_) | None => Err(INVALID),
    }
}

fn asks_for_private(uri: &Uri) -> bool {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == "private")
        .last()
        .is_some_and(|(_, value)| value == "true")
}

/// For how long the query asks to keep the message, if it does (`protocol.md 15.2`).
fn asks_to_persist(uri: &Uri) -> Result<Option<Keep>, &'static str> {
    let mut keep = None;
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match (&*name, &*value) {
            ("persist", "true") => keep = Some(Keep::Retention),
            ("persist", "false") => keep = None,
            ("persist", _) => return Err(INVALID),
            ("persist[ttl]", seconds) => {
                let seconds = seconds.parse().map_err(|_| INVALID)?;
                keep = Some(Keep::AtMost(Duration::from_secs(seconds)));
            }
            _ => {}
        }
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_decides_whether_it_is_private_and_only_true_does_so() {
        for (body, is_private) in [
            ("{}", None),
            (r#"{"private":true}"#, Some(true)),
            (r#"{"priv\u0061te" : true}"#, Some(true)),
            (r#"{"private":true,"private":false}"#, Some(false)),
            (r#"{"private":null}"#, Some(false)),
            (r#"{"private":"true"}"#, Some(false)),
            (r#"{"a":{"private":true}}"#, None),
            (r#"[{"private":true}]"#, None),
            ("", None),
        ] {
            let payload = Payload::of_json(body.as_bytes()).unwrap();
            assert_eq!(payload.is_private(), is_private, "{body}");
        }
    }

    #[test]
    fn a_query_says_whether_and_for_how_long_to_keep() {
        let minute = Some(Keep::AtMost(Duration::from_secs(60)));
        for (query, keep) in [
            ("", Ok(None)),
            ("?persist=true", Ok(Some(Keep::Retention))),
            ("?persist=false", Ok(None)),
            ("?persist=yes", Err(INVALID)),
            ("?private=true&persist%5Bttl%5D=60", Ok(minute)),
            ("?persist[ttl]=60", Ok(minute)),
            ("?persist%5Bttl%5D=-1", Err(INVALID)),
            ("?persist%5Bttl%5D=", Err(INVALID)),
        ] {
            let uri: Uri = format!("/api/broadcast/t/events/e{query}").parse().unwrap();
            assert_eq!(asks_to_persist(&uri), keep, "{query}");
        }
    }

    #[test]
    fn a_query_is_private_if_its_last_word_is_true() {
        for (query, is_private) in [
            ("", false),
            ("?private=true", true),
            ("?private=1", false),
            ("?private=TRUE", false),
            ("?private", false),
            ("?private=true&private=x", false),
            ("?x=1&private=tru%65", true),
        ] {
            let uri: Uri = format!("/api/broadcast/t/events/e{query}").parse().unwrap();
            assert_eq!(asks_for_private(&uri), is_private, "{query}");
        }
    }
}
