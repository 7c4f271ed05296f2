//! Clients: each on some node, on another when its socket is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use walcast_client::{Channel, Client, Event, Join, Options};

use crate::broadcasts::{Answered, Broadcasts};
use crate::log::Log;
use crate::node::SECRET;
use crate::presence::View;
use crate::rows::Rows;
use crate::town::{HEARD, Town, USERS};

/// A node that does not answer for so long is left; one that is halted accepts connections.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
const SPEAK_EVERY: Duration = Duration::from_millis(400);
/// Of those that end as present, by the number of the member.
const LAST_TRACKED: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Bad,
    /// Who tracks something does so until the end.
    Calm,
    Over,
}

/// What all share.
struct Shared {
    town: Arc<Town>,
    answered: Answered,
    phase: watch::Sender<Phase>,
    /// Changes with whatever a member learns.
    learned: watch::Sender<()>,
}

struct Member {
    number: usize,
    shared: Arc<Shared>,
    lost: Notify,
    view: Mutex<View>,
    rows: Mutex<Rows>,
    broadcasts: Mutex<Broadcasts>,
    sum: Mutex<Summary>,
}

pub(crate) struct Members {
    all: Vec<Arc<Member>>,
    running: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    rng: Mutex<StdRng>,
}

/// What was seen by all members together.
#[derive(Clone, Copy, Default)]
pub(crate) struct Summary {
    joins: u64,
    rows: u64,
    rows_missed: u64,
    words: u64,
    messages: u64,
    messages_missed: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} joins; {} rows told, {} missed after {} words; {} messages, {} missed and announced",
            self.joins, self.rows, self.rows_missed, self.words, self.messages, self.messages_missed
        )
    }
}

impl Summary {
    /// A run in which nothing was heard proves nothing.
    pub(crate) fn shows_something(&self, log: &Log) {
        if self.rows < 1000 || self.messages < 1000 {
            log.complain(format!("too little was heard: {self}"));
        }
    }
}

impl Members {
    /// Returns when all have joined.
    pub(crate) async fn join(town: &Arc<Town>, seed: u64, count: usize) -> Self {
        let shared = Arc::new(Shared {
            town: Arc::clone(town),
            answered: Answered::default(),
            phase: watch::Sender::new(Phase::Bad),
            learned: watch::Sender::new(()),
        });
        let all: Vec<Arc<Member>> = (0..count)
            .map(|number| {
                Arc::new(Member {
                    number,
                    shared: Arc::clone(&shared),
                    lost: Notify::new(),
                    view: Mutex::default(),
                    rows: Mutex::new(Rows::of(USERS[number % USERS.len()])),
                    broadcasts: Mutex::default(),
                    sum: Mutex::default(),
                })
            })
            .collect();
        let live = |member: &Arc<Member>| {
            let rng = StdRng::seed_from_u64(seed ^ member.number as u64);
            let member = Arc::clone(member);
            tokio::spawn(async move { Box::pin(member.live(rng)).await })
        };
        let members = Self {
            running: all.iter().map(live).collect(),
            all,
            shared,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        };
        members.until(|member| member.sum.lock().unwrap().joins > 0).await;
        members
    }

    /// Takes the sockets of a third of them away.
    pub(crate) fn lose_some(&self) {
        let mut rng = self.rng.lock().unwrap();
        for member in self.all.choose_multiple(&mut *rng, self.all.len() / 3) {
            member.lost.notify_one();
        }
    }

    async fn until(&self, is_so: impl Fn(&Member) -> bool) {
        let mut learned = self.shared.learned.subscribe();
        while !self.all.iter().all(|member| is_so(member)) {
            learned.changed().await.unwrap();
        }
    }

    /// Half of them track something for good, the others nothing; waits until each knows.
    pub(crate) async fn agree_on_who_is_present(&self) {
        self.shared.phase.send_replace(Phase::Calm);
        let truth = self.truth();
        self.until(|member| member.view.lock().unwrap().present() == truth)
            .await;
    }

    fn truth(&self) -> BTreeMap<String, Vec<u64>> {
        let last = |member: &Arc<Member>| Some((member.key(), vec![member.tracks_at_last()?]));
        self.all.iter().filter_map(last).collect()
    }

    /// Waits until each has been told the last row of each table.
    pub(crate) async fn have_heard(&self, written: &[u64]) {
        self.until(|member| member.rows.lock().unwrap().last() == written)
            .await;
    }

    /// Who does not know what it should, for a complaint.
    pub(crate) fn missing(&self) -> String {
        let truth = self.truth();
        let mut text = String::new();
        for member in &self.all {
            let present = member.view.lock().unwrap().present();
            let rows = member.rows.lock().unwrap().last();
            let sees = if present == truth {
                "all".to_owned()
            } else {
                format!("{present:?}")
            };
            text += &format!("\n  {} has rows {rows:?} and sees {sees}", member.key());
        }
        text
    }

    /// Ends all.
    pub(crate) async fn leave(self) -> Summary {
        self.shared.phase.send_replace(Phase::Over);
        for running in self.running {
            running.await.unwrap();
        }
        let mut all = Summary::default();
        for member in self.all {
            let sum = *member.sum.lock().unwrap();
            let rows = member.rows.lock().unwrap();
            all.joins += sum.joins;
            all.rows += rows.told;
            all.rows_missed += rows.missed;
            all.words += rows.words;
            all.messages += sum.messages;
            all.messages_missed += sum.messages_missed;
        }
        all
    }
}

#[derive(Deserialize)]
struct Broadcast {
    payload: Said,
}

#[derive(Deserialize)]
struct Said {
    from: usize,
    join: u32,
    n: u64,
}

impl Member {
    fn key(&self) -> String {
        format!("member-{}", self.number)
    }

    fn tracks_at_last(&self) -> Option<u64> {
        self.number
            .is_multiple_of(2)
            .then_some(LAST_TRACKED + self.number as u64)
    }

    fn check(&self, outcome: Result<(), String>) {
        if let Err(complaint) = outcome {
            self.shared
                .town
                .log
                .complain(format!("{}: {complaint}", self.key()));
        }
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        self.shared.town.log.note(format!("{}: {what}", self.key()));
    }

    async fn live(self: Arc<Self>, mut rng: StdRng) {
        let mut joins = 0;
        while *self.shared.phase.borrow() != Phase::Over {
            let node = rng.random_range(0..self.shared.town.nodes.len());
            let Some(url) = self.shared.town.nodes[node].url() else {
                sleep(PAUSE).await;
                continue;
            };
            joins += 1;
            match timeout(ANSWER_LIMIT, self.enter(&url)).await {
                Ok(Some(mut visit)) => {
                    self.sum.lock().unwrap().joins += 1;
                    visit.join = joins;
                    self.note(format_args!("is on node {node}"));
                    Box::pin(self.stay(visit, &mut rng)).await;
                    let heard = std::mem::take(&mut *self.broadcasts.lock().unwrap());
                    let mut sum = self.sum.lock().unwrap();
                    sum.messages += heard.heard;
                    sum.messages_missed += heard.missed;
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Joins both channels, if the node is there.
    async fn enter(&self, url: &str) -> Option<Visit> {
        let claims = json!({"role": "authenticated", "sub": USERS[self.number % USERS.len()], "exp": 4_000_000_000_u64});
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &secret).unwrap();
        let client = Client::connect(&Options::new(url, token)).await.ok()?;
        let mut bindings = Join::default();
        {
            let mut rows = self.rows.lock().unwrap();
            rows.begin();
            self.note(format_args!("asks for what came after {:?}", rows.since()));
            for table in HEARD {
                let mut binding = json!({"event": "*", "schema": "public", "table": table});
                if let Some(since) = rows.since() {
                    binding["since"] = Value::from(since);
                }
                bindings = bindings.binding(binding);
            }
        }
        let rows = client.join("realtime:rows", &bindings).await;
        let room = Join::default()
            .set("broadcast", json!({"ack": true}))
            .set("presence", json!({"enabled": true, "key": self.key()}));
        let room = client.join("realtime:room", &room).await;
        match (rows, room) {
            (Ok(rows), Ok(room)) => Some(Visit {
                rows,
                room,
                join: 0,
                said: 0,
            }),
            (rows, room) => {
                let refusal = rows.err().or(room.err());
                let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
                self.note(format_args!("is refused: {refusal}"));
                None
            }
        }
    }

    /// Returns when the socket is lost.
    async fn stay(&self, mut visit: Visit, rng: &mut StdRng) {
        let mut phase = self.shared.phase.subscribe();
        // Calm may have come while it joined.
        phase.mark_changed();
        let mut turn = interval(SPEAK_EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = visit.rows.next() => match event {
                    Some(Event::Change(change)) => {
                        let outcome = self.rows.lock().unwrap().hear(&change, &self.shared.town.sent);
                        self.check(outcome);
                    }
                    Some(Event::System(system)) => {
                        self.note(format_args!("is told: {} {}", system.status, system.message));
                        self.rows.lock().unwrap().learn(&system);
                    }
                    Some(Event::Other { .. }) => {}
                    Some(Event::Closed(_)) | None => return,
                },
                event = visit.room.next() => match event {
                    Some(Event::System(system)) => self.broadcasts.lock().unwrap().learn(&system),
                    Some(Event::Other { event, payload }) => {
                        let outcome = self.hear(&event, payload.get());
                        self.check(outcome);
                    }
                    Some(Event::Change(_)) => {}
                    Some(Event::Closed(_)) | None => return,
                },
                () = self.lost.notified() => return,
                _ = turn.tick() => {
                    self.speak(&mut visit);
                    if *phase.borrow() == Phase::Bad && rng.random_bool(0.3) {
                        self.track(&visit, rng.random_bool(0.7).then(|| rng.random_range(0..LAST_TRACKED)));
                    }
                    let outcome = self.broadcasts.lock().unwrap().judge(&self.shared.answered);
                    self.check(outcome);
                }
                _ = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Bad => {}
                    Phase::Calm => self.track(&visit, self.tracks_at_last()),
                    Phase::Over => return,
                },
            }
            self.shared.learned.send_replace(());
        }
    }

    fn hear(&self, event: &str, payload: &str) -> Result<(), String> {
        if event == "broadcast" {
            let said: Broadcast =
                serde_json::from_str(payload).map_err(|error| format!("{error}: {payload}"))?;
            let Said { from, join, n } = said.payload;
            return self.broadcasts.lock().unwrap().hear((from, join), n);
        }
        self.view.lock().unwrap().learn(event, payload)
    }

    fn speak(&self, visit: &mut Visit) {
        visit.said += 1;
        let (number, speaker) = (visit.said, (self.number, visit.join));
        let said = json!({"from": self.number, "join": visit.join, "n": number});
        let message = json!({"type": "broadcast", "event": "said", "payload": said});
        let answer = visit.room.push("broadcast", message);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            if answer.await.is_ok() {
                shared.answered.add(speaker, number);
            }
        });
    }

    fn track(&self, visit: &Visit, n: Option<u64>) {
        let call = match n {
            Some(n) => json!({"type": "presence", "event": "track", "payload": {"n": n}}),
            None => json!({"type": "presence", "event": "untrack"}),
        };
        let answer = visit.room.push("presence", call);
        let (shared, key) = (Arc::clone(&self.shared), self.key());
        tokio::spawn(async move {
            // Nothing is answered when the socket is lost first.
            if let Err(refusal) = answer.await
                && !refusal.is_null()
            {
                shared
                    .town
                    .log
                    .complain(format!("{key} may not track: {refusal}"));
            }
        });
    }
}

/// A member's time on one node.
struct Visit {
    rows: Channel,
    room: Channel,
    /// The how manieth it is.
    join: u32,
    /// Messages so far.
    said: u64,
}
