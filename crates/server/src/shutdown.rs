//! From a signal to an end that leaves nothing behind.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::DrainConfig;
use crate::sockets::Sockets;

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once.
///
/// # Errors
/// The signals cannot be listened to.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("shutting down; a second signal ends at once");
        cancelled.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("ended by a second signal");
        std::process::exit(1);
    });
    Ok(token)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Closes every socket and waits until their tasks have ended, at most as long as configured.
pub async fn drain(sockets: &Sockets, config: &DrainConfig) {
    let open = sockets.len();
    sockets.begin_drain();
    sockets.close_all(config.spread).await;
    if within(config.timeout, sockets.tasks().wait()).await.is_none() {
        tracing::warn!(
            left = sockets.len(),
            "sockets did not close in time and are dropped; see WALCAST_DRAIN_TIMEOUT_MS"
        );
    } else {
        tracing::info!(closed = open, "all sockets are closed");
    }
}

/// The output of a future, if it is there in time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}
