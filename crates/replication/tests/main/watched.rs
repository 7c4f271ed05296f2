//! A stream under observation.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use walcast_replication::{
    Action, Change, Config, Event, Interest, OldTuple, Relation, Stats, Stream, StreamError, StreamOptions,
    Tuple, Value, spawn,
};

/// Nothing here takes this long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

/// Wants every table.
pub(crate) struct Everything;

impl Interest for Everything {
    fn wants(&self, _relation_oid: u32) -> bool {
        true
    }
}

/// Wants one table.
pub(crate) struct Only(pub(crate) u32);

impl Interest for Only {
    fn wants(&self, relation_oid: u32) -> bool {
        relation_oid == self.0
    }
}

/// Retries at once, so that tests of losses are quick.
pub(crate) fn eager() -> StreamOptions {
    StreamOptions {
        backoff_min_ms: 1,
        backoff_max_ms: 50,
        ..StreamOptions::default()
    }
}

pub(crate) struct Watched {
    stream: Stream,
    cancel: CancellationToken,
    _end: DropGuard,
}

impl Watched {
    pub(crate) fn spawn(config: Config, options: StreamOptions, interest: impl Interest + 'static) -> Self {
        let cancel = CancellationToken::new();
        let stream = spawn(config, options, Arc::new(interest), cancel.clone());
        Self {
            stream,
            cancel: cancel.clone(),
            _end: cancel.drop_guard(),
        }
    }

    /// A stream of everything that runs.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(url, eager(), Everything).await
    }

    pub(crate) async fn start_with(
        url: &str,
        options: StreamOptions,
        interest: impl Interest + 'static,
    ) -> Self {
        let mut watched = Self::spawn(Config::from_url(url).unwrap(), options, interest);
        watched.streaming().await;
        watched
    }

    /// The next event, whatever it is; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        soon("an event", self.stream.next()).await
    }

    /// The stream must start now, without a loss before.
    pub(crate) async fn streaming(&mut self) {
        match self.next().await {
            Some(Event::Streaming { .. }) => {}
            other => panic!("{other:?} instead of a running stream"),
        }
    }

    /// Waits until the stream runs, over any number of failures to start.
    pub(crate) async fn streaming_at_last(&mut self) {
        loop {
            match self.next().await {
                Some(Event::Streaming { .. }) => return,
                Some(Event::Lost { .. }) => {}
                other => panic!("{other:?} instead of a running stream"),
            }
        }
    }

    /// The stream must be lost now.
    pub(crate) async fn lost(&mut self) -> Arc<StreamError> {
        match self.next().await {
            Some(Event::Lost { reason, .. }) => reason,
            other => panic!("{other:?} instead of a loss"),
        }
    }

    /// The next event but the ends of transactions must be a change.
    pub(crate) async fn change(&mut self) -> Change {
        loop {
            match self.next().await {
                Some(Event::Change(change)) => return change,
                Some(Event::Commit { .. }) => {}
                other => panic!("{other:?} instead of a change"),
            }
        }
    }

    /// The changed rows as text, in order, of as many changes.
    pub(crate) async fn rows(&mut self, count: usize) -> Vec<String> {
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            rows.push(described(&self.change().await));
        }
        rows
    }

    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stream.stats()
    }

    /// Ends the stream and waits for its end.
    pub(crate) async fn cancel(mut self) {
        self.cancel.cancel();
        while self.next().await.is_some() {}
    }
}

/// A change on one line: `INSERT t (1, -, ~)`, where `-` is NULL and `~` an unchanged out-of-line value; an old tuple
/// stands before an arrow, in brackets if it holds the key only.
pub(crate) fn described(change: &Change) -> String {
    let name = &change.relation.name;
    match &change.action {
        Action::Insert { new } => format!("INSERT {name} ({})", listed(new)),
        Action::Update { old: None, new } => format!("UPDATE {name} ({})", listed(new)),
        Action::Update { old: Some(old), new } => {
            format!(
                "UPDATE {name} {} -> ({})",
                old_listed(old, &change.relation),
                listed(new)
            )
        }
        Action::Delete { old } => format!("DELETE {name} {}", old_listed(old, &change.relation)),
    }
}

fn old_listed(old: &OldTuple, relation: &Relation) -> String {
    match old {
        OldTuple::Full(tuple) => format!("({})", listed(tuple)),
        OldTuple::Key(tuple) => {
            let keys = relation
                .columns
                .iter()
                .enumerate()
                .filter(|(_, column)| column.is_key);
            let keys: Vec<_> = keys.map(|(at, _)| written(tuple.get(at).unwrap())).collect();
            format!("[{}]", keys.join(", "))
        }
    }
}

fn listed(tuple: &Tuple) -> String {
    (0..tuple.len())
        .map(|at| written(tuple.get(at).unwrap()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn written(value: Value<'_>) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::UnchangedToast => "~".to_owned(),
        Value::Text(text) => text.to_owned(),
    }
}
