//! Tells a channel that asked for it when database broadcasts flow (`config.broadcast.replication_ready`,
//! `protocol.md 3.5`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use walcast_changes::Status;
use walcast_protocol::System;

use crate::join::sub_topic;
use crate::metrics;
use crate::route::Done;
use crate::shutdown::within;
use crate::socket::Socket;
use crate::tenant::Tenant;

/// A channel that waits longer is closed.
const PATIENCE: Duration = Duration::from_secs(60);

impl Socket {
    /// Says so now, or once it is so.
    pub(crate) fn await_replication(&mut self, topic: &Arc<str>, generation: u64) {
        let is_streaming = self
            .tenant
            .changes()
            .is_some_and(|changes| *changes.status().borrow() == Status::Streaming);
        if is_streaming {
            return self.announce_replication(topic, generation, true);
        }
        let waiting = wait(Arc::clone(&self.tenant), Arc::clone(topic), generation);
        self.work.push(waiting);
    }

    /// The wait is over.
    pub(crate) fn announce_replication(&mut self, topic: &Arc<str>, generation: u64, is_streaming: bool) {
        let Some(channel) = self.channel_of(topic, generation) else {
            return;
        };
        if !is_streaming {
            tracing::warn!(
                code = "ReplicationConnectionTimeout",
                topic = &**topic,
                remedy = "look for the cause in the server's log; GET /readyz tells when it is over",
                "channel closed"
            );
            metrics::channel_closed("ReplicationConnectionTimeout");
            return self.close_channel(topic, "Replication connection was not established in time");
        }
        let reference = channel.reference.clone();
        let system = System {
            extension: "system",
            status: "ok",
            message: "Replication connection established",
            channel: Some(sub_topic(topic)),
            warnings: &[],
        };
        self.push(walcast_protocol::system(self.version, &reference, topic, &system));
    }
}

fn wait(tenant: Arc<Tenant>, topic: Arc<str>, generation: u64) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let streaming = Box::pin(tenant.streaming());
        let is_streaming = within(PATIENCE, streaming).await.is_some();
        Done::ReplicationReady {
            topic,
            generation,
            is_streaming,
        }
    })
}
