//! The one connection that everything is published and asked over.

use crate::error::ClusterError;
use crate::redis::backoff::Backoff;
use crate::redis::dial::{ConnectError, Connection, Dial, Pushed, is_broken, told};
use crate::redis::health::{Health, Line};
use redis::{Cmd, FromRedisValue, PushInfo, PushKind, RedisError, Script};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How often a connection that may be idle is asked whether it lives.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A connection, and which one it is.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    number: u64,
}

/// Keeps a connection to Redis, making a new one whenever it breaks.
pub(crate) struct Link {
    current: watch::Receiver<Option<Live>>,
    /// The number of the latest connection that was found broken, and why.
    broken: watch::Sender<(u64, String)>,
    keeper: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Starts to connect, once Redis was found fit.
    pub(crate) fn start(dial: Dial, is_probed: bool, health: Arc<Health>) -> Self {
        let (tell, current) = watch::channel(None);
        let (broken, watched) = watch::channel((0, String::new()));
        let keeping = async move {
            if !is_probed {
                until_fit(&dial).await;
            }
            keep(dial, health, tell, watched).await;
        };
        let keeper = tokio::spawn(keeping).abort_handle();
        Self {
            current,
            broken,
            keeper,
        }
    }

    /// The connection, if there is one.
    pub(crate) fn live(&self) -> Result<Live, ClusterError> {
        self.current
            .borrow()
            .clone()
            .ok_or_else(|| ClusterError::Away("not connected".to_owned()))
    }

    /// Waits for a connection.
    pub(crate) async fn wait(&self) -> Option<Live> {
        let mut current = self.current.clone();
        let live = current.wait_for(Option::is_some).await.ok()?;
        live.clone()
    }

    /// Judges an answer: a connection that failed is replaced.
    pub(crate) fn judge<T>(&self, live: &Live, answer: Result<T, RedisError>) -> Result<T, ClusterError> {
        answer.map_err(|error| {
            if is_broken(&error) {
                self.broken.send_if_modified(|(number, reason)| {
                    let is_news = *number < live.number;
                    if is_news {
                        *number = live.number;
                        *reason = error.to_string();
                    }
                    is_news
                });
            }
            told(&error)
        })
    }

    /// Asks Redis.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, ClusterError> {
        let mut live = self.live()?;
        let answer = command.query_async(&mut live.connection).await;
        self.judge(&live, answer)
    }

    /// Runs a script. Its keys are of one slot.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<T, ClusterError> {
        let mut live = self.live()?;
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(*key);
        }
        for argument in arguments {
            invocation.arg(*argument);
        }
        let answer = invocation.invoke_async(&mut live.connection).await;
        self.judge(&live, answer)
    }
}

/// Looks at Redis until it can be used; says each reason why not once.
async fn until_fit(dial: &Dial) {
    let mut backoff = Backoff::new();
    let mut said = None;
    while let Err(error) = dial.probe().await {
        let is_away = matches!(error, ConnectError::Unreachable { .. });
        if !is_away && said.as_ref() != Some(&error) {
            tracing::error!(%error, "out of touch with the other nodes until this is mended");
            said = Some(error);
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn keep(
    dial: Dial,
    health: Arc<Health>,
    tell: watch::Sender<Option<Live>>,
    mut broken: watch::Receiver<(u64, String)>,
) {
    let mut backoff = Backoff::new();
    let mut number = 0;
    loop {
        let closed = Arc::new(Notify::new());
        let mut connection = match dial.connect(Some(tells_end(&closed)), Duration::ZERO).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "no connection to Redis yet");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        };
        backoff.reset();
        number += 1;
        tell.send_replace(Some(Live {
            connection: connection.clone(),
            number,
        }));
        health.up(Line::Commands);
        let mut served = Instant::now();
        let reason = loop {
            tokio::select! {
                found = told_broken(&mut broken, number) => match found {
                    Some(reason) => break reason,
                    // Nobody holds the link any more.
                    None => return,
                },
                () = closed.notified() => break "the connection was closed".to_owned(),
                () = tokio::time::sleep(PING_INTERVAL) => {
                    match redis::cmd("PING").exec_async(&mut connection).await {
                        Ok(()) => served = Instant::now(),
                        Err(error) if is_broken(&error) => break error.to_string(),
                        Err(error) => tracing::debug!(%error, "Redis refuses to be asked whether it lives"),
                    }
                }
            }
        };
        tell.send_replace(None);
        health.down(Line::Commands, served, &reason);
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Waits until the connection of a number is found broken; says why.
async fn told_broken(broken: &mut watch::Receiver<(u64, String)>, number: u64) -> Option<String> {
    let found = broken.wait_for(|(which, _)| *which >= number).await.ok()?;
    Some(found.1.clone())
}

/// Notifies of the end of a connection.
fn tells_end(closed: &Arc<Notify>) -> Pushed {
    let closed = Arc::clone(closed);
    Arc::new(move |PushInfo { kind, .. }: PushInfo| {
        if kind == PushKind::Disconnection {
            closed.notify_one();
        }
    })
}
