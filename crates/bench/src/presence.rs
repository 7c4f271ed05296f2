//! Members of one topic who come all at once and track something, and half of whom then leave at once.

use crate::crowd::{Count, Crowd, Entrant};
use crate::frames::append_masked;
use crate::latency::Latencies;
use crate::report::Report;
use crate::tally::Tally;
use crate::{Server, process, token};
use anyhow::ensure;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use walcast_protocol::{Version, decode_server_text};

const TOPIC: &str = "realtime:bench-presence";
const PARALLEL: usize = 32;

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Members, each on a socket and with a key of its own.
    #[arg(long, default_value_t = 500)]
    members: usize,
    /// Bytes of what each tracks, a JSON object, about.
    #[arg(long, default_value_t = 60)]
    payload_bytes: usize,
    /// Give up when members do not know of each other after so long.
    #[arg(long, default_value_t = 60)]
    patience_s: u64,
}

/// What all members found out.
#[derive(Default)]
struct Found {
    /// How many presences a member has to know of.
    wanted: usize,
    /// When each member that knew of as many did so.
    known_us: HashMap<usize, u64>,
    states: u64,
    diffs: u64,
    bytes: u64,
    hasher: RandomState,
}

/// What one member knows.
struct Knowing {
    member: usize,
    references: HashSet<u64>,
    found: Rc<RefCell<Found>>,
    moved: Rc<Notify>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    phx_ref: &'a str,
}

#[derive(Deserialize)]
struct Metas<'a> {
    #[serde(borrow)]
    metas: Vec<Meta<'a>>,
}

type Keys<'a> = HashMap<&'a str, Metas<'a>>;

#[derive(Deserialize)]
struct Diff<'a> {
    #[serde(borrow)]
    joins: Keys<'a>,
    #[serde(borrow)]
    leaves: Keys<'a>,
}

impl Knowing {
    fn merge(&mut self, joins: &Keys<'_>, leaves: &Keys<'_>, tally: &Tally) {
        let found = self.found.borrow();
        let numbers = |keys: &Keys<'_>| -> Vec<u64> {
            let metas = keys.values().flat_map(|metas| &metas.metas);
            metas.map(|meta| found.hasher.hash_one(meta.phx_ref)).collect()
        };
        for number in numbers(joins) {
            if !self.references.insert(number) {
                tally.fault(format!("member {} was told of a presence twice", self.member));
            }
        }
        for number in numbers(leaves) {
            if !self.references.remove(&number) {
                tally.fault(format!("member {} was told of an end of nothing", self.member));
            }
        }
    }

    /// Whether the message is about presence.
    fn take(&mut self, payload: &[u8], tally: &Tally) -> bool {
        let Some(message) = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| decode_server_text(Version::V2, text).ok())
        else {
            return false;
        };
        let json = message.payload.get();
        match message.event.as_str() {
            "presence_state" => match serde_json::from_str(json) {
                Ok(state) => {
                    self.merge(&state, &Keys::new(), tally);
                    self.found.borrow_mut().states += 1;
                }
                Err(error) => tally.fault(format!("a state was not understood: {error}")),
            },
            "presence_diff" => match serde_json::from_str::<Diff<'_>>(json) {
                Ok(diff) => {
                    self.merge(&diff.joins, &diff.leaves, tally);
                    self.found.borrow_mut().diffs += 1;
                }
                Err(error) => tally.fault(format!("a diff was not understood: {error}")),
            },
            "phx_reply" => {
                if !json.contains(r#""status":"ok""#) {
                    tally.fault(format!("member {} was refused: {json}", self.member));
                }
                return true;
            }
            _ => return false,
        }
        true
    }
}

impl Count for Knowing {
    fn count(&mut self, kind: Data, payload: &[u8], now_us: u64, tally: &Tally) -> bool {
        if kind != Data::Text || !self.take(payload, tally) {
            return false;
        }
        let mut found = self.found.borrow_mut();
        found.bytes += payload.len() as u64;
        if self.references.len() == found.wanted {
            found.known_us.entry(self.member).or_insert(now_us);
            self.moved.notify_one();
        }
        true
    }
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(options.members > 1, "there are at least two members");
    let key = token::mint(&server.secret, "anon", None)?;
    let endpoints = server.endpoints(&key)?;
    let entrants: Vec<Entrant> = stream::iter((0..options.members).zip(endpoints.iter().cycle()))
        .map(|(_, endpoint)| Entrant::connect(endpoint))
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let tally = Rc::new(Tally::new());
    let found = Rc::new(RefCell::new(Found::default()));
    let moved = Rc::new(Notify::new());
    let crowd = Crowd::gather_counting(entrants, &tally, |member| Knowing {
        member,
        references: HashSet::new(),
        found: Rc::clone(&found),
        moved: Rc::clone(&moved),
    });
    let patience = Duration::from_secs(options.patience_s);
    let mut report = Report::new("presence");
    report.add("members", options.members);

    let came = Phase::begin(server, &found, &tally, options.members);
    let text = "x".repeat(options.payload_bytes.saturating_sub(r#"{"about":""}"#.len()));
    for member in 0..options.members {
        let config = json!({"presence": {"key": format!("member {member}"), "enabled": true}});
        let track = json!({"type": "presence", "event": "track", "payload": {"about": text}});
        let mut bytes = Vec::new();
        for message in [
            json!(["1", "1", TOPIC, "phx_join", {"config": config}]),
            json!(["1", "2", TOPIC, "presence", track]),
        ] {
            append_masked(&mut bytes, Data::Text, message.to_string().as_bytes())?;
        }
        crowd.write(member, &bytes).await?;
    }
    came.end(&mut report, "join", &moved, options.members, patience)
        .await;

    let leaving = options.members / 2;
    let went = Phase::begin(server, &found, &tally, options.members - leaving);
    for member in 0..leaving {
        let mut bytes = Vec::new();
        let leave = json!(["1", "3", TOPIC, "presence", {"type": "presence", "event": "untrack"}]);
        append_masked(&mut bytes, Data::Text, leave.to_string().as_bytes())?;
        crowd.write(member, &bytes).await?;
    }
    went.end(&mut report, "leave", &moved, options.members, patience)
        .await;
    for fault in tally.take_faults() {
        report.fault(fault);
    }
    Ok(report)
}

/// From when something begins until all members know of it.
struct Phase<'a> {
    server: &'a Server,
    found: &'a RefCell<Found>,
    tally: &'a Tally,
    started_us: u64,
    cpu_before_ms: Option<u64>,
}

impl<'a> Phase<'a> {
    fn begin(server: &'a Server, found: &'a RefCell<Found>, tally: &'a Tally, wanted: usize) -> Self {
        let hasher = found.borrow().hasher.clone();
        *found.borrow_mut() = Found {
            wanted,
            hasher,
            ..Found::default()
        };
        Self {
            server,
            found,
            tally,
            started_us: tally.now_us(),
            cpu_before_ms: server.server_pid.and_then(process::cpu_ms),
        }
    }

    async fn end(self, report: &mut Report, name: &str, moved: &Notify, members: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.found.borrow().known_us.len() < members && !self.tally.is_faulty() {
            if tokio::time::timeout_at(deadline.into(), moved.notified())
                .await
                .is_err()
            {
                let known = self.found.borrow().known_us.len();
                report.fault(format!("{name}: {known} of {members} members know of all"));
                break;
            }
        }
        let cpu_after_ms = self.server.server_pid.and_then(process::cpu_ms);
        let found = self.found.borrow();
        let mut latencies = Latencies::default();
        for known_us in found.known_us.values() {
            latencies.record(known_us.saturating_sub(self.started_us));
        }
        let [median, last] = latencies.quantiles_ms([500, 1_000]);
        let each = |count: u64| Some(count as f64 / members as f64);
        report.add_rounded(&format!("{name}_known_median_ms"), Some(median));
        report.add_rounded(&format!("{name}_known_by_all_ms"), Some(last));
        report.add_rounded(&format!("{name}_diffs_per_member"), each(found.diffs));
        report.add_rounded(&format!("{name}_bytes_per_member"), each(found.bytes));
        let cpu_ms = cpu_after_ms
            .zip(self.cpu_before_ms)
            .map(|(after, before)| after.saturating_sub(before) as f64);
        report.add_rounded(&format!("{name}_server_cpu_ms"), cpu_ms);
    }
}
