//! `system` messages of Postgres Changes (`protocol.md 7.3`).

use crate::subscription::Subscriber;
use walcast_protocol::{self as protocol, Frame, System};

/// The message that says a subscription is active.
pub const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

/// Changes did not reach this channel; `cause` completes the sentence "Changes may have been missed: …".
pub(crate) fn missed(subscriber: &Subscriber, cause: &str) -> Frame {
    notice(
        subscriber,
        "error",
        &format!("Changes may have been missed: {cause}"),
    )
}

/// The stream is back: what is committed from now on is delivered.
pub(crate) fn restored(subscriber: &Subscriber) -> Frame {
    notice(subscriber, "ok", SUBSCRIBED)
}

/// Something a binding asked for is not to be had any more, e.g. the table it would now mean lacks a column; `text`
/// says why.
pub(crate) fn refused(subscriber: &Subscriber, text: &str) -> Frame {
    notice(subscriber, "error", text)
}

fn notice(subscriber: &Subscriber, status: &str, message: &str) -> Frame {
    let system = System {
        extension: "postgres_changes",
        status,
        message,
        channel: Some(subscriber.channel()),
        warnings: &[],
    };
    Frame::from(protocol::system(
        subscriber.version,
        &subscriber.join_ref,
        &subscriber.topic,
        &system,
    ))
}
