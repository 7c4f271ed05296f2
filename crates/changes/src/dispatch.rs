//! Takes the stream's events in order and hands each change to the task of its table.

use crate::engine::{Context, Status};
use crate::notice;
use crate::source::Source;
use crate::subscription::Subscriber;
use crate::table::Item;
use crate::visibility::VisibilityError;
use metrics::{counter, gauge};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use walcast_replication::{Change, Event, Relation, StreamError};

/// Memory that changes waiting for or in decision may hold, all tables together.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// Shares of that memory are counted in this unit.
const SHARE_BYTES: usize = 1024;
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Runs until the stream ends.
pub(crate) async fn run(context: Arc<Context>, mut source: Source, status: watch::Sender<Status>) {
    let shares = Arc::new(Semaphore::new(IN_FLIGHT_BYTES / SHARE_BYTES));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut loss = None;
    loop {
        let event = tokio::select! {
            event = source.next() => event,
            _ = sweep.tick() => {
                context.sweep();
                continue;
            }
        };
        match event {
            None => break,
            Some(Event::Streaming {
                start,
                attempt,
                is_resumed,
            }) => {
                tracing::info!(%start, attempt, is_resumed, "streaming changes");
                context.relations_changed();
                let is_first = *status.borrow() == Status::Starting;
                if is_first || !is_resumed {
                    context.begin_at(start).await;
                    if !(is_first && source.has_joined()) {
                        context.tapped.interrupted();
                    }
                }
                status.send_replace(Status::Streaming);
                match loss.take() {
                    Some(Loss::Told) => restored(&context),
                    Some(Loss::Kept(cause)) if !is_resumed => {
                        missed(&context, cause);
                        restored(&context);
                    }
                    Some(Loss::Kept(_)) | None => {}
                }
            }
            Some(Event::Lost {
                reason,
                retry_in_ms,
                is_kept,
            }) => {
                let was_streaming = status.send_replace(Status::Lost) == Status::Streaming;
                // After the status: whoever saw it run and finds another count knows that it was lost since.
                context.losses.fetch_add(1, Ordering::AcqRel);
                if was_streaming {
                    tracing::error!(%reason, retry_in_ms, is_kept, "the replication stream was lost");
                    counter!("walcast_stream_losses_total").increment(1);
                    let cause = cause(&reason);
                    loss = Some(if is_kept {
                        Loss::Kept(cause)
                    } else {
                        context.tapped.interrupted();
                        missed(&context, cause);
                        Loss::Told
                    });
                } else {
                    tracing::warn!(%reason, retry_in_ms, "the replication stream could not be started");
                }
            }
            Some(Event::Change(change)) => dispatch(&context, &shares, change).await,
            // Truncates are never sent (`protocol.md 7.4`), and nothing waits for the end of a transaction.
            Some(Event::Truncate { .. } | Event::Commit { .. }) => {}
        }
    }
    status.send_replace(Status::Stopped);
}

/// The stream that ran was lost, and has not come back.
enum Loss {
    /// Everybody was told that changes may be missing.
    Told,
    /// Perhaps nothing is; the cause if it is.
    Kept(&'static str),
}

fn cause(reason: &StreamError) -> &'static str {
    match reason {
        StreamError::Switched(cause) => cause,
        _ => "the connection to the database was lost",
    }
}

fn missed(context: &Context, cause: &str) {
    for subscriber in context.registry.subscribers() {
        subscriber.deliver(notice::missed(&subscriber, cause));
    }
}

fn restored(context: &Context) {
    for subscriber in context.registry.subscribers() {
        subscriber.deliver(notice::restored(&subscriber));
    }
}

async fn dispatch(context: &Arc<Context>, shares: &Arc<Semaphore>, change: Change) {
    context.tapped.offer(&change);
    let oid = change.relation.oid;
    if !context.registry.is_matched(&change.relation) {
        context.registry.begin_match(&change.relation);
        match match_names(context, &change.relation, change.transaction.xid).await {
            Matched::Done => context.registry.end_match(oid, true),
            Matched::NotOffered => context.registry.end_match(oid, false),
            Matched::Failed => {}
        }
    }
    let number = context.window.keep(&change, || context.registry.next_change());
    let Some(table) = context.registry.table(oid) else {
        return;
    };
    let bytes = held_bytes(&change).min(IN_FLIGHT_BYTES);
    let units = u32::try_from(bytes.div_ceil(SHARE_BYTES)).unwrap_or(u32::MAX);
    // Waiting here stops the reading of the stream: memory stays bounded, Postgres keeps what we have not read.
    let share = Arc::clone(shares).acquire_many_owned(units).await.ok();
    gauge!("walcast_changes_in_flight_bytes")
        .set((IN_FLIGHT_BYTES - shares.available_permits() * SHARE_BYTES) as f64);
    let tickets = table.open_slots();
    // A table that nobody listens to any more has ended its task; its changes concern nobody.
    let _ = table
        .queue
        .send(Item {
            number,
            change,
            is_superseded: false,
            tickets,
            _share: share,
        })
        .await;
}

/// What became of a comparison of a relation's name with bindings.
enum Matched {
    Done,
    /// It is streamed for other reasons than the publication that people subscribe to.
    NotOffered,
    /// It has to be tried again.
    Failed,
}

/// A relation whose name is new to us: created, renamed or published after its listeners joined, or listened to by
/// others only. Everybody whose bindings name it is attached to it.
async fn match_names(context: &Arc<Context>, relation: &Relation, xid: u32) -> Matched {
    let named: Vec<(Arc<Subscriber>, Vec<usize>)> = context
        .registry
        .subscribers()
        .into_iter()
        .map(|subscriber| {
            let bindings = context.registry.unattached(&subscriber, relation);
            (subscriber, bindings)
        })
        .filter(|(_, bindings)| !bindings.is_empty())
        .collect();
    if named.is_empty() {
        return Matched::Done;
    }
    // The catalog must show what the transaction did that this change is part of; what was read before it is old.
    let is_published = async {
        context.asker.settled(xid).await?;
        Ok::<_, VisibilityError>(context.is_published(relation).await?)
    };
    match is_published.await {
        Ok(true) => {}
        Ok(false) => return Matched::NotOffered,
        Err(error) => {
            tracing::error!(
                schema = %relation.schema, table = %relation.name, %error,
                "changes of a table that appeared were not delivered"
            );
            for (subscriber, _) in named {
                subscriber.deliver(notice::missed(
                    &subscriber,
                    "the database could not be asked about a table that appeared",
                ));
            }
            return Matched::Failed;
        }
    }
    context.forget_table(relation.oid);
    for (subscriber, bindings) in named {
        match context.attachments(&subscriber, &bindings, relation.oid).await {
            Ok(attachments) => context.registry.attach(context, &subscriber, attachments),
            Err(error) => {
                tracing::warn!(
                    schema = %relation.schema, table = %relation.name, channel = subscriber.channel(), %error,
                    "a table that appeared does not fit a subscription"
                );
                subscriber.deliver(notice::refused(&subscriber, &error.to_string()));
            }
        }
    }
    Matched::Done
}

fn held_bytes(change: &Change) -> usize {
    const OVERHEAD_BYTES: usize = 256;
    OVERHEAD_BYTES + change.action.wire_bytes()
}
