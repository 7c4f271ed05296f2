//! What a visitor does: comes to a room, listens, says something, is seen, and goes.

use anyhow::{Context, bail};
use futures_util::SinkExt;
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use url::Url;
use walcast_client::{Channel, Client, Event, Join, Options};

/// More faults than this say nothing new.
const FAULTS: usize = 20;
/// A visitor is answered by then.
const ANSWER: Duration = Duration::from_secs(20);

/// Where visitors go.
pub(super) struct Place {
    pub(super) options: Options,
    pub(super) rooms: u32,
    pub(super) table: &'static str,
    pub(super) visit_ms: u64,
}

/// What became of all visits.
#[derive(Default)]
pub(super) struct Visits {
    pub(super) made: AtomicU64,
    pub(super) broadcasts: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) presences: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Visits {
    pub(super) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self, fault: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS {
            faults.push(fault);
        }
    }

    fn count(&self, event: &Event) -> anyhow::Result<()> {
        let counter = match event {
            Event::Change(_) => &self.changes,
            Event::Other { event, .. } if event == "broadcast" => &self.broadcasts,
            Event::Other { .. } => &self.presences,
            Event::System(system) if system.status == "ok" => return Ok(()),
            Event::System(system) => bail!("told: {}", system.message),
            Event::Closed(closed) => bail!("closed: {closed:?}"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// How a visitor goes.
#[derive(Clone, Copy)]
enum Exit {
    /// Leaves the channel, then closes the socket.
    Leave,
    /// Closes the socket.
    Close,
    /// Is gone.
    Vanish,
}

/// Visits, one after the other, until the token is cancelled.
pub(super) async fn keep_visiting(
    place: Arc<Place>,
    visits: Arc<Visits>,
    number: u32,
    mut choices: SmallRng,
    stop: CancellationToken,
) {
    // All at once at the beginning would be another measurement.
    let first = Duration::from_millis(choices.random_range(0..=place.visit_ms));
    if stop
        .run_until_cancelled(tokio::time::sleep(first))
        .await
        .is_none()
    {
        return;
    }
    while !stop.is_cancelled() {
        if let Err(error) = visit(&place, &visits, number, &mut choices, &stop).await {
            visits.fault(format!("visitor {number}: {error:#}"));
            return;
        }
        visits.made.fetch_add(1, Ordering::Relaxed);
    }
}

async fn visit(
    place: &Place,
    visits: &Visits,
    number: u32,
    choices: &mut SmallRng,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let exit = match choices.random_range(0..4) {
        0 => Exit::Vanish,
        1 => Exit::Close,
        _ => Exit::Leave,
    };
    if matches!(exit, Exit::Vanish) {
        let room = choices.random_range(0..place.rooms);
        return vanish(place, room, choices.random_bool(0.5)).await;
    }
    let client = tokio::time::timeout(ANSWER, Client::connect(&place.options))
        .await
        .context("not connected in time")??;
    let rooms = choices.random_range(1..=3);
    for _ in 0..rooms {
        let room = choices.random_range(0..place.rooms);
        let length = Duration::from_millis(choices.random_range(0..=place.visit_ms * 2 / rooms));
        let channel = enter(place, &client, number, room, choices.random_bool(0.7)).await?;
        let said = channel.push(
            "broadcast",
            json!({"type": "broadcast", "event": "hello", "payload": {"from": number}}),
        );
        let said = tokio::time::timeout(ANSWER, said).await;
        said.context("the broadcast was not acknowledged in time")?
            .map_err(|response| anyhow::anyhow!("the broadcast was refused: {response}"))?;
        stay(channel, visits, length, stop).await?;
        if stop.is_cancelled() || matches!(exit, Exit::Close) {
            break;
        }
    }
    Ok(())
}

async fn enter(
    place: &Place,
    client: &Client,
    number: u32,
    room: u32,
    tracks: bool,
) -> anyhow::Result<Channel> {
    let binding = json!({"event": "*", "schema": "public", "table": place.table});
    let join = Join::default()
        .binding(binding)
        .set("broadcast", json!({"self": true, "ack": true}))
        .set(
            "presence",
            json!({"enabled": tracks, "key": format!("visitor {number}")}),
        );
    // Two visits to one room on a socket are one channel after the other, which the client tells apart.
    let topic = format!("realtime:soak-{room}");
    let channel = tokio::time::timeout(ANSWER, client.join(&topic, &join))
        .await
        .context("the join was not answered in time")??;
    if tracks {
        let track = json!({"type": "presence", "event": "track", "payload": {"at": room}});
        channel
            .push("presence", track)
            .await
            .map_err(|response| anyhow::anyhow!("presence was refused: {response}"))?;
    }
    Ok(channel)
}

/// Listens for a time.
async fn stay(
    mut channel: Channel,
    visits: &Visits,
    length: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let leaving = tokio::time::sleep(length);
    tokio::pin!(leaving);
    loop {
        tokio::select! {
            () = &mut leaving => return Ok(()),
            () = stop.cancelled() => return Ok(()),
            event = channel.next() => match event {
                Some(event) => visits.count(&event)?,
                None => bail!("the channel ended"),
            },
        }
    }
}

/// Goes away without a word, as a phone in a tunnel does: in the middle of its request, or of its channel.
async fn vanish(place: &Place, room: u32, in_request: bool) -> anyhow::Result<()> {
    let mut url: Url = place.options.url.parse()?;
    url.set_path(&format!("{}/websocket", url.path().trim_end_matches('/')));
    url.query_pairs_mut()
        .append_pair("apikey", &place.options.api_key)
        .append_pair("vsn", "2.0.0");
    let host = url.host_str().context("the URL has no host")?;
    let port = url.port_or_known_default().context("the URL has no port")?;
    let mut tcp = TcpStream::connect((host, port)).await?;
    // Nothing is said at the end, not even that it is one.
    tcp.set_zero_linger()?;
    if in_request {
        tcp.write_all(b"GET /socket/websocket?vsn=2.0.0&apikey=").await?;
        return Ok(());
    }
    let (mut socket, _) = tokio_tungstenite::client_async(url.as_str(), tcp).await?;
    let config = json!({
        "broadcast": {"self": true},
        "postgres_changes": [{"event": "*", "schema": "public", "table": place.table}],
    });
    let join = json!(["1", "1", format!("realtime:soak-{room}"), "phx_join", {"config": config}]);
    socket.send(Message::text(join.to_string())).await?;
    Ok(())
}
