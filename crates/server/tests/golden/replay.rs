//! Plays a case: sends what the recorded clients sent, when what they had waited for has come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::SimpleQueryMessage;

use crate::client::Client;
use crate::http;
use crate::scene::{PASSED, Scene, Witness};
use crate::transcript::{Answer, Case, Event, Incoming, Outgoing, SqlOutcome, Statement};

/// What came back.
#[derive(Default)]
pub(crate) struct Replayed {
    /// By client: what its upgrade request was answered, and what it received.
    pub(crate) opened: BTreeMap<String, Answer>,
    pub(crate) received: BTreeMap<String, Vec<Incoming>>,
    /// In the order of the requests.
    pub(crate) answers: Vec<Answer>,
    pub(crate) outcomes: Vec<SqlOutcome>,
}

/// Rights are checked beside the socket, and where they are missing nothing is said: what is not allowed has this long
/// to come all the same.
const QUIET: Duration = Duration::from_millis(100);

/// The cases whose end is their point; in others what comes after the first client has closed is incidental.
const ENDINGS: [&str; 5] = [
    "presence-leave",
    "presence-disconnect",
    "presence-disconnect.v1",
    "presence-abort",
    "presence-same-key",
];

/// Whether what follows step `at` is the end of the recording and not of the case.
pub(crate) fn is_over(case: &Case, at: usize) -> bool {
    matches!(case.steps[at].event, Event::Close { .. }) && !ENDINGS.contains(&&*case.name)
}

/// Plays a case; gives up where something does not come in time.
pub(crate) async fn replay(
    case: &Case,
    scene: &Scene,
    server: SocketAddr,
    witness: Option<&mut Witness>,
    patience: Duration,
) -> Replayed {
    let mut player = Player {
        scene,
        server,
        witness,
        patience,
        clients: BTreeMap::new(),
        expected: BTreeMap::new(),
        replayed: Replayed::default(),
        session: None,
    };
    for statement in &case.setup_sql {
        scene.database.execute(statement).await;
    }
    player.let_the_stream_pass().await;
    player.play(case).await;
    player.replayed
}

struct Player<'s> {
    scene: &'s Scene,
    server: SocketAddr,
    witness: Option<&'s mut Witness>,
    patience: Duration,
    clients: BTreeMap<String, Client>,
    /// Frames that each client has been promised so far.
    expected: BTreeMap<String, usize>,
    replayed: Replayed,
    session: Option<tokio_postgres::Client>,
}

impl Player<'_> {
    async fn play(&mut self, case: &Case) {
        let start = Instant::now();
        let mut has_ended = false;
        // What was done last, while nothing has been awaited since.
        let mut unanswered: Option<&Event> = None;
        for (index, step) in case.steps.iter().enumerate() {
            if is_over(case, index) {
                break;
            }
            if let Event::Receive { client, .. } = &step.event {
                *self.expected.entry(client.clone()).or_default() += 1;
            }
            if step.is_awaited() {
                unanswered = None;
                continue;
            }
            if !self.all_arrived().await {
                has_ended = true;
                break;
            }
            if let Some(event) = unanswered {
                self.settle(event).await;
            }
            if case.is_timed {
                sleep_until(start + Duration::from_millis(step.at_ms)).await;
            }
            self.perform(&step.event).await;
            unanswered = Some(&step.event);
        }
        if !has_ended && self.all_arrived().await {
            self.await_silence(case).await;
        }
        for (name, client) in std::mem::take(&mut self.clients) {
            self.replayed.received.insert(name, client.frames());
        }
    }

    async fn perform(&mut self, event: &Event) {
        match event {
            Event::Open { client, request } => {
                let (answer, opened) = Client::open(self.server, request, Some(PASSED)).await;
                self.replayed.opened.insert(client.clone(), answer);
                if let Some(opened) = opened {
                    self.clients.insert(client.clone(), opened);
                }
            }
            Event::Send { client, outgoing } => {
                if let Some(client) = self.clients.get(client) {
                    client.send(outgoing);
                }
            }
            Event::Close { client, ending } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.end(*ending, self.patience).await;
                }
            }
            Event::Sql(text) => {
                let outcome = self.query(text).await;
                self.replayed.outcomes.push(outcome);
            }
            Event::Http(request) => {
                let answer = http::exchange(self.server, request).await;
                self.replayed.answers.push(answer);
            }
            Event::Opened { .. } | Event::Receive { .. } | Event::SqlDone(_) | Event::HttpDone(_) => {}
        }
    }

    async fn query(&mut self, text: &str) -> SqlOutcome {
        if self.session.is_none() {
            self.session = Some(self.scene.database.client().await);
        }
        let session = self.session.as_ref().unwrap();
        let messages = session.simple_query(text).await.map_err(|error| {
            error
                .code()
                .map_or_else(|| error.to_string(), |code| code.code().to_owned())
        })?;
        let mut statements = Vec::new();
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(
                    row.columns()
                        .iter()
                        .enumerate()
                        .map(|(index, column)| (column.name().to_owned(), row.get(index).map(str::to_owned)))
                        .collect(),
                ),
                SimpleQueryMessage::CommandComplete(count) => statements.push(Statement {
                    count,
                    rows: std::mem::take(&mut rows),
                }),
                _ => {}
            }
        }
        Ok(statements)
    }

    async fn all_arrived(&mut self) -> bool {
        for (name, frames) in &self.expected {
            let Some(client) = self.clients.get_mut(name) else {
                return false;
            };
            if !client.has_received(*frames, self.patience).await {
                return false;
            }
        }
        true
    }

    /// Waits until the server has dealt with something that it says nothing about.
    async fn settle(&mut self, event: &Event) {
        match event {
            // Within a fragmented message only pings may be sent.
            Event::Send {
                outgoing: Outgoing::Fragment { .. } | Outgoing::Ping(_),
                ..
            } => {}
            Event::Send { client, .. } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.settle(self.patience).await;
                }
            }
            Event::Sql(_) => self.let_the_stream_pass().await,
            _ => {}
        }
    }

    async fn let_the_stream_pass(&mut self) {
        if let Some(witness) = &mut self.witness {
            witness.all_passed(&self.scene.database).await;
        }
    }

    /// What comes now comes too much.
    async fn await_silence(&mut self, case: &Case) {
        self.let_the_stream_pass().await;
        if case.sent.contains("\"private\":true") || case.sent.contains("access_token") {
            sleep(QUIET).await;
        }
        for client in self.clients.values_mut() {
            client.settle(self.patience).await;
        }
    }
}
