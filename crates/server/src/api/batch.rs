//! Many broadcasts at once: `POST /api/broadcast` (`protocol.md 5.6`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::consume_budget;
use utoipa::ToSchema;
use walcast_broadcast::{Message, PayloadCost, Room, payload_cost};
use walcast_cluster::PublishError;
use walcast_messages::RightsError;
use walcast_protocol::quoted;

use super::media_type::{MediaType, is_multipart};
use super::refusal::Refusal;
use super::upload::Upload;
use super::{BLANK, INVALID, OVERSIZED, Sender, finish, is_blank, json_text, rated};
use crate::crossing::CastError;
use crate::metrics;
use crate::openapi::{Told, Wrong};
use crate::tenant::Tenant;
use crate::tenants::OfHost;

/// What is wrong is said of so many messages at most: the answer must not be many times the question.
const MAX_JUDGED: usize = 10_000;

/// So many private topics of one batch are checked at once.
const CHECKS_AT_ONCE: usize = 64;

/// Broadcasts many messages: the public ones in order, then the private ones by topic.
///
/// Nothing is sent if one of them is invalid. Those to private topics the sender may not write to are left out, and the
/// answer does not say so.
#[utoipa::path(
    post,
    path = "/api/broadcast",
    operation_id = "broadcast_batch",
    tag = "broadcast",
    request_body = Batch,
    security(("bearer" = []), ("apikey" = [])),
    responses(
        (status = 202, description = "Accepted; no body"),
        (status = 401, description = "There is no token, or none that counts", body = Told),
        (status = 403, description = "The token is bound to topics, and does not grant `write` on one of these", body = Told),
        (status = 422, description = "Some of the messages are not what they should be", body = Wrong),
        (status = 429, description = "More requests, or more messages, a second than are allowed", body = Told),
        (status = 500, description = "Members on this node have it, and those on others may not", body = Told),
    ),
)]
pub(super) async fn broadcast(OfHost(tenant): OfHost, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let handling = Box::pin(relay(&tenant, &parts, &mut upload));
    let response = rated(&tenant, &parts.headers, handling).await;
    finish(upload, response).await
}

async fn relay(tenant: &Tenant, parts: &Parts, upload: &mut Upload) -> Result<StatusCode, Refusal> {
    let sender = Sender::of(tenant, &parts.headers)?;
    let errors = |text: &str| Refusal::Invalid(json!({"messages": [text]}));
    let body = match MediaType::of(&parts.headers) {
        MediaType::Json | MediaType::JsonSuffix => upload.read().await?,
        MediaType::Form => {
            let body = upload.read().await?;
            let is_given = url::form_urlencoded::parse(&body).any(|(name, _)| name == "messages");
            return Err(errors(if is_given { INVALID } else { BLANK }));
        }
        MediaType::Multipart(boundary) => {
            if !is_multipart(&upload.read().await?, &boundary) {
                return Err(Refusal::Malformed("the body is not multipart".to_owned()));
            }
            return Err(errors(BLANK));
        }
        MediaType::Absent | MediaType::Bytes | MediaType::Other => return Err(errors(BLANK)),
    };
    let outgoing = messages(json_text(&body)?, tenant.settings().limits.max_payload_bytes)?;
    for message in &outgoing {
        sender.check_grant(&message.topic)?;
    }
    if tenant.rates.events.would_exceed(0) {
        return Err(Refusal::TooManyEvents);
    }
    if tenant.rates.events.would_exceed(outgoing.len()) {
        return Err(Refusal::BatchTooLarge(outgoing.len()));
    }

    let (private, public): (Vec<_>, Vec<_>) = outgoing.into_iter().partition(|message| message.is_private);
    // The rest is sent all the same: it reaches those who are here.
    let mut published = Ok(());
    for message in &public {
        published = published.and(message.cast(tenant));
        consume_budget().await;
    }
    let mut by_topic: BTreeMap<&str, Vec<&Outgoing<'_>>> = BTreeMap::new();
    for message in &private {
        by_topic.entry(&message.topic).or_default().push(message);
    }
    let topics: Vec<_> = by_topic.into_iter().collect();
    published = published.and(relay_private(&sender, &topics).await);
    published?;
    Ok(StatusCode::ACCEPTED)
}

/// Sends to the topics that allow it, one check each; the sender is not told about the others.
async fn relay_private(
    sender: &Sender<'_>,
    topics: &[(&str, Vec<&Outgoing<'_>>)],
) -> Result<(), PublishError> {
    let mut published = Ok(());
    for some in topics.chunks(CHECKS_AT_ONCE) {
        let checks: Vec<BoxFuture<'_, Result<(), RightsError>>> = some
            .iter()
            .map(|(topic, _)| sender.check_write(topic).boxed())
            .collect();
        for ((_, messages), checked) in some.iter().zip(join_all(checks).await) {
            let Err(error) = checked else {
                for message in messages {
                    published = published.and(message.cast(sender.tenant));
                    consume_budget().await;
                }
                continue;
            };
            metrics::broadcast_refused(error.code().as_str());
            tracing::info!(code = error.code().as_str(), cause = %error, "private messages of a batch were dropped");
            // The next ones would wait as long, for the same.
            if matches!(error, RightsError::Unavailable(_)) {
                return published;
            }
        }
    }
    published
}

/// The messages under `messages`, if they are all as they should be.
fn messages(body: &str, limit_bytes: usize) -> Result<Vec<Outgoing<'_>>, Refusal> {
    let errors = |text: &str| Refusal::Invalid(json!({"messages": [text]}));
    let malformed =
        |error: serde_json::Error| Refusal::Malformed(format!("the body is not readable: {error}"));
    if !body.trim_start().starts_with('{') {
        return Err(errors(BLANK));
    }
    let batch: Batch<'_> = serde_json::from_str(body).map_err(malformed)?;
    let list = batch.messages.ok_or_else(|| errors(BLANK))?.get();
    if !list.starts_with('[') {
        return Err(errors(INVALID));
    }
    let mut list = serde_json::Deserializer::from_str(list);
    let judged = Judge { limit_bytes }.deserialize(&mut list).map_err(malformed)?;
    if !judged.are_objects {
        Err(errors(INVALID))
    } else if !judged.is_valid {
        Err(Refusal::Invalid(json!({"messages": judged.errors})))
    } else if judged.outgoing.is_empty() {
        Err(errors(BLANK))
    } else {
        Ok(judged.outgoing)
    }
}

#[derive(Deserialize, ToSchema)]
struct Batch<'a> {
    /// At least one.
    #[serde(borrow, default, deserialize_with = "super::present")]
    #[schema(value_type = Vec<Fields>, required = true, min_items = 1)]
    messages: Option<&'a RawValue>,
}

/// Judges messages as they are read: a list of nothings is many times longer in memory than in the body.
struct Judge {
    limit_bytes: usize,
}

struct Judged<'a> {
    outgoing: Vec<Outgoing<'a>>,
    /// One for each message, up to the most there may be.
    errors: Vec<Errors>,
    is_valid: bool,
    are_objects: bool,
}

impl<'de> DeserializeSeed<'de> for Judge {
    type Value = Judged<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Judged<'de>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Judge {
    type Value = Judged<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Judged<'de>, A::Error> {
        let mut judged = Judged {
            outgoing: Vec::new(),
            errors: Vec::new(),
            is_valid: true,
            are_objects: true,
        };
        while let Some(element) = elements.next_element::<&'de RawValue>()? {
            if !element.get().starts_with('{') {
                judged.are_objects = false;
                continue;
            }
            let fields: Fields<'de> = serde_json::from_str(element.get()).map_err(A::Error::custom)?;
            let error = match Outgoing::judge(&fields, self.limit_bytes) {
                Ok(message) => {
                    judged.outgoing.push(message);
                    Errors::new()
                }
                Err(error) => {
                    judged.is_valid = false;
                    error
                }
            };
            if judged.errors.len() < MAX_JUDGED {
                judged.errors.push(error);
            }
        }
        Ok(judged)
    }
}

/// A message as it came; `null` is as good as nothing.
#[derive(Deserialize, ToSchema)]
#[schema(as = Message)]
struct Fields<'a> {
    /// Without `realtime:`.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, pattern = "\\S", example = "room-1")]
    topic: Option<&'a RawValue>,
    /// What receivers listen for.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, pattern = "\\S", example = "greeting")]
    event: Option<&'a RawValue>,
    /// An object; up to WALCAST_MAX_PAYLOAD_KB.
    #[serde(borrow, default)]
    #[schema(value_type = Object, required = true, example = json!({"text": "hello"}))]
    payload: Option<&'a RawValue>,
    /// Whether the topic is private.
    #[serde(borrow, default)]
    #[schema(value_type = Option<bool>, default = false)]
    private: Option<&'a RawValue>,
    /// What receivers get as `meta.id`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    id: Option<&'a RawValue>,
}

/// What is wrong with a message, by field.
type Errors = BTreeMap<&'static str, [&'static str; 1]>;

/// A message that may be sent.
struct Outgoing<'a> {
    topic: Cow<'a, str>,
    event: Cow<'a, str>,
    /// A JSON object, as it came: the frames it goes into are text, where its form makes no difference.
    payload: &'a str,
    is_private: bool,
    id: Option<Cow<'a, str>>,
}

impl<'a> Outgoing<'a> {
    fn judge(fields: &Fields<'a>, limit_bytes: usize) -> Result<Self, Errors> {
        let judged = (
            required(text(fields.topic)),
            required(text(fields.event)),
            required(payload(fields.payload, limit_bytes)),
            flag(fields.private),
            text(fields.id),
        );
        match judged {
            (Ok(topic), Ok(event), Ok(payload), Ok(is_private), Ok(id)) => Ok(Self {
                topic,
                event,
                payload,
                is_private,
                id,
            }),
            (topic, event, payload, private, id) => Err([
                ("topic", topic.err()),
                ("event", event.err()),
                ("payload", payload.err()),
                ("private", private.err()),
                ("id", id.err()),
            ]
            .into_iter()
            .filter_map(|(field, error)| Some((field, [error?])))
            .collect()),
        }
    }

    fn cast(&self, tenant: &Tenant) -> Result<(), PublishError> {
        let meta = self
            .id
            .as_ref()
            .map(|id| format!(r#","meta":{{"id":{}}}"#, quoted(id)));
        let payload = format!(
            r#"{{"event":{},"payload":{},"type":"broadcast"{}}}"#,
            quoted(&self.event),
            self.payload,
            meta.unwrap_or_default()
        );
        let room = Room {
            topic: &self.topic,
            is_private: self.is_private,
        };
        match tenant.cast(room, &Message::Verbatim { payload: &payload }) {
            Ok(()) => Ok(()),
            Err(CastError::Unpublished(error)) => Err(error),
            // Only binary payloads can be unfit for a frame.
            Err(CastError::Unframeable(error)) => {
                tracing::error!(%error, "a message of a batch was not sent");
                Ok(())
            }
        }
    }
}

fn required<T>(judged: Result<Option<T>, &'static str>) -> Result<T, &'static str> {
    judged.and_then(|value| value.ok_or(BLANK))
}

/// A string; one of nothing but blanks is none.
fn text(value: Option<&RawValue>) -> Result<Option<Cow<'_, str>>, &'static str> {
    let Some(json) = value.map(RawValue::get) else {
        return Ok(None);
    };
    let text = match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => return Err(INVALID),
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        Some(_) => Cow::Owned(serde_json::from_str(json).map_err(|_| INVALID)?),
    };
    Ok(Some(text).filter(|text| !is_blank(text)))
}

fn payload(value: Option<&RawValue>, limit_bytes: usize) -> Result<Option<&str>, &'static str> {
    match value.map(RawValue::get) {
        None => Ok(None),
        Some(object) if object.starts_with('{') => match payload_cost(object, limit_bytes) {
            Ok(PayloadCost::Fits) => Ok(Some(object)),
            Ok(PayloadCost::Exceeds) => Err(OVERSIZED),
            Err(_) => Err(INVALID),
        },
        Some(_) => Err(INVALID),
    }
}

/// A boolean, or its name.
fn flag(value: Option<&RawValue>) -> Result<bool, &'static str> {
    match value.map(RawValue::get) {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => match text(value)?.as_deref() {
            Some("true" | "1") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(_) => Err(INVALID),
        },
    }
}
