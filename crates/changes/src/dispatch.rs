//! Takes the stream's events in order and hands each change to the task of its table.

use crate::engine::{Context, Status};
use crate::notice;
use crate::table::Item;
use metrics::{counter, gauge};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use walcast_replication::{Change, Event, Relation, Stream};

/// Memory that changes waiting for or in decision may hold, all tables together.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// Shares of that memory are counted in this unit.
const SHARE_BYTES: usize = 1024;
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Runs until the stream ends.
pub(crate) async fn run(context: Arc<Context>, mut stream: Stream, status: watch::Sender<Status>) {
    let shares = Arc::new(Semaphore::new(IN_FLIGHT_BYTES / SHARE_BYTES));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut was_lost = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = sweep.tick() => {
                context.sweep();
                continue;
            }
        };
        match event {
            None => break,
            Some(Event::Streaming { start, attempt }) => {
                tracing::info!(%start, attempt, "streaming changes");
                context.relations_changed();
                status.send_replace(Status::Streaming);
                if std::mem::take(&mut was_lost) {
                    for subscriber in context.registry.subscribers() {
                        subscriber.deliver(notice::restored(&subscriber));
                    }
                }
            }
            Some(Event::Lost { reason, retry_in_ms }) => {
                let first_time = *status.borrow() == Status::Streaming;
                if first_time {
                    tracing::error!(%reason, retry_in_ms, "the replication stream was lost");
                    counter!("walcast_stream_losses_total").increment(1);
                    was_lost = true;
                    for subscriber in context.registry.subscribers() {
                        subscriber.deliver(notice::missed(
                            &subscriber,
                            "the connection to the database was lost",
                        ));
                    }
                } else {
                    tracing::warn!(%reason, retry_in_ms, "the replication stream could not be started");
                }
                status.send_replace(Status::Lost);
            }
            Some(Event::Change(change)) => dispatch(&context, &shares, change).await,
            // Truncates are never sent (`protocol.md 7.4`), and nothing waits for the end of a transaction.
            Some(Event::Truncate { .. } | Event::Commit { .. }) => {}
        }
    }
    status.send_replace(Status::Stopped);
}

async fn dispatch(context: &Arc<Context>, shares: &Arc<Semaphore>, change: Change) {
    let oid = change.relation.oid;
    let table = match context.registry.table(oid) {
        Some(table) => table,
        None => {
            attach_unknown(context, &change.relation).await;
            let Some(table) = context.registry.table(oid) else {
                return;
            };
            table
        }
    };
    let bytes = held_bytes(&change).min(IN_FLIGHT_BYTES);
    let units = u32::try_from(bytes.div_ceil(SHARE_BYTES)).unwrap_or(u32::MAX);
    // Waiting here stops the reading of the stream: memory stays bounded, Postgres keeps what we have not read.
    let share = Arc::clone(shares).acquire_many_owned(units).await.ok();
    gauge!("walcast_changes_in_flight_bytes")
        .set((IN_FLIGHT_BYTES - shares.available_permits() * SHARE_BYTES) as f64);
    let number = context.registry.next_change();
    let tickets = table.open_slots();
    // A table that nobody listens to any more has ended its task; its changes concern nobody.
    let _ = table
        .queue
        .send(Item {
            number,
            change,
            tickets,
            _share: share,
        })
        .await;
}

/// A relation nobody has looked at yet: created, renamed or published after its listeners joined. Those whose
/// bindings name it are attached; if there are none, it is not asked about again until a new binding comes.
async fn attach_unknown(context: &Arc<Context>, relation: &Relation) {
    context.registry.ignore(relation);
    for subscriber in context.registry.subscribers() {
        if !subscriber.names(&relation.schema, &relation.name) {
            continue;
        }
        match context.attachments(&subscriber, relation.oid).await {
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
}

fn held_bytes(change: &Change) -> usize {
    const OVERHEAD_BYTES: usize = 256;
    OVERHEAD_BYTES + change.action.wire_bytes()
}
