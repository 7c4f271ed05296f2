//! Subscribes, and checks each change that arrives: is it for this subscription, and after those before it?

use super::audience::Audience;
use super::stamp::{self, Reader, Stamp};
use super::table::TABLE;
use crate::crowd::{Count, Crowd, Entrant};
use crate::tally::Tally;
use crate::{Server, token};
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::ops::Range;
use std::rc::Rc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

/// Sockets that subscribe at a time.
const PARALLEL: usize = 32;

/// What was wrong with changes that arrived, and how long their frames were.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Before a change that the same connection inserted earlier.
    pub(super) out_of_order: u64,
    /// Twice in succession.
    pub(super) repeated: u64,
    /// Not for this subscription.
    pub(super) foreign: u64,
    /// Changes, with those that are counted above.
    pub(super) changes: u64,
    /// Bytes of their messages.
    pub(super) bytes: u64,
}

impl Seen {
    /// Mean length of a message.
    pub(super) fn frame_bytes(&self) -> usize {
        usize::try_from(self.bytes.checked_div(self.changes).unwrap_or_default()).unwrap_or(usize::MAX)
    }
}

/// The subscriptions of a run, at work.
pub(super) struct Watchers {
    crowd: Crowd,
    seen: Rc<RefCell<Seen>>,
}

impl Watchers {
    /// Opens `subscriptions_per_socket` channels on each of as many sockets as it takes, one subscription a channel, each
    /// with the token of its own user.
    ///
    /// # Errors
    /// If a subscription is not confirmed.
    pub(super) async fn subscribe(
        server: &Server,
        audience: &Rc<Audience>,
        subscriptions_per_socket: usize,
        filter_own: bool,
        writers: usize,
    ) -> anyhow::Result<Self> {
        let sockets = sockets(audience.subscriptions(), subscriptions_per_socket);
        let entrants = stream::iter(&sockets)
            .map(|socket| enter(server, audience, socket.clone(), filter_own))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let seen = Rc::new(RefCell::new(Seen::default()));
        let reader = Rc::new(Reader::new());
        let crowd = Crowd::gather_counting(entrants, &Rc::new(Tally::new()), |socket| {
            let subscriptions = sockets.get(socket).cloned().unwrap_or_default();
            Watcher {
                last: vec![None; subscriptions.len() * writers],
                subscriptions,
                writers,
                audience: Rc::clone(audience),
                reader: Rc::clone(&reader),
                seen: Rc::clone(&seen),
            }
        });
        Ok(Self { crowd, seen })
    }

    pub(super) fn tally(&self) -> &Tally {
        self.crowd.tally()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

/// The subscriptions of each socket.
fn sockets(subscriptions: usize, each: usize) -> Vec<Range<usize>> {
    (0..subscriptions)
        .step_by(each.max(1))
        .map(|first| first..subscriptions.min(first + each))
        .collect()
}

async fn enter(
    server: &Server,
    audience: &Audience,
    subscriptions: Range<usize>,
    filter_own: bool,
) -> anyhow::Result<Entrant> {
    let keys = subscriptions.map(|subscription| {
        let identity = audience.identity(subscription);
        let subject = token::subject(identity);
        let claims = json!({ "role": "authenticated", "sub": subject, "org_id": audience.org(identity) });
        anyhow::Ok((subject, token::sign(&server.secret, claims)?))
    });
    let keys: Vec<(String, String)> = keys.collect::<anyhow::Result<_>>()?;
    let (_, first) = keys.first().context("a socket has a subscription")?;
    let mut entrant = Entrant::connect(&server.endpoint(first)?).await?;
    for (channel, (subject, key)) in keys.iter().enumerate() {
        let mut binding = json!({ "event": "INSERT", "schema": "public", "table": TABLE });
        if filter_own {
            binding["filter"] = format!("user_id=eq.{subject}").into();
        }
        entrant
            .subscribe(
                &stamp::topic(channel),
                &format!("{}", channel + 1),
                &json!([binding]),
                key,
            )
            .await
            .with_context(|| format!("user {subject}"))?;
    }
    Ok(entrant)
}

/// One socket.
struct Watcher {
    subscriptions: Range<usize>,
    writers: usize,
    /// By channel and writer: the last row.
    last: Vec<Option<u64>>,
    audience: Rc<Audience>,
    reader: Rc<Reader>,
    seen: Rc<RefCell<Seen>>,
}

impl Count for Watcher {
    fn count(&mut self, kind: Data, payload: &[u8], now_us: u64, tally: &Tally) -> bool {
        if kind != Data::Text {
            return false;
        }
        let Some((channel, stamp)) = self.reader.read(payload) else {
            return false;
        };
        let seen = Rc::clone(&self.seen);
        let mut seen = seen.borrow_mut();
        seen.changes += 1;
        seen.bytes += payload.len() as u64;
        let subscription = self.subscriptions.start + channel;
        if !self.subscriptions.contains(&subscription) || !self.audience.includes(subscription, stamp.number)
        {
            seen.foreign += 1;
            return true;
        }
        match self.place(channel, stamp) {
            Ordering::Less => seen.out_of_order += 1,
            Ordering::Equal => {
                seen.repeated += 1;
                return true;
            }
            Ordering::Greater => {}
        }
        tally.arrive(stamp.number, now_us);
        true
    }
}

impl Watcher {
    /// Where a row stands to the one that came before it from the same writer; rows of several are committed in an
    /// order of their own.
    fn place(&mut self, channel: usize, Stamp { writer, number }: Stamp) -> Ordering {
        let Some(last) = self.last.get_mut(channel * self.writers + writer) else {
            return Ordering::Greater;
        };
        let before = last.replace(number);
        before.map_or(Ordering::Greater, |before| number.cmp(&before))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::table::RowSecurity;
    use super::*;

    #[test]
    fn each_subscription_has_one_socket() {
        assert_eq!(sockets(5, 2), [0..2, 2..4, 4..5]);
        assert_eq!(sockets(2, 1), [0..1, 1..2]);
    }

    #[test]
    fn what_is_wrong_with_a_change_is_noticed() {
        let audience = Audience::new(2, 2, 1, RowSecurity::Own, false).unwrap();
        let seen = Rc::new(RefCell::new(Seen::default()));
        let mut watcher = Watcher {
            subscriptions: 0..2,
            writers: 2,
            last: vec![None; 4],
            audience: Rc::new(audience),
            reader: Rc::new(Reader::new()),
            seen: Rc::clone(&seen),
        };
        let tally = Tally::new();
        (0..6).for_each(|_| {
            tally.send(1);
        });
        let mut arrive = |channel, writer, number| {
            let stamp = Stamp { writer, number }.text();
            let frame = format!(
                r#"["1",null,"{}","x",{{"body":"{stamp}"}}]"#,
                stamp::topic(channel)
            );
            assert!(watcher.count(Data::Text, frame.as_bytes(), tally.now_us(), &tally));
            let seen = seen.borrow();
            [seen.out_of_order, seen.repeated, seen.foreign]
        };
        assert_eq!(arrive(0, 0, 2), [0, 0, 0]);
        assert_eq!(
            arrive(0, 1, 0),
            [0, 0, 0],
            "another connection's order is its own"
        );
        assert_eq!(arrive(1, 0, 1), [0, 0, 0], "and so is another channel's");
        assert_eq!(arrive(0, 0, 2), [0, 1, 0]);
        assert_eq!(arrive(1, 0, 3), [0, 1, 0]);
        assert_eq!(arrive(1, 0, 4), [0, 1, 1], "a row of somebody else");
        assert_eq!(arrive(9, 0, 5), [0, 1, 2], "a channel that was not joined");
        assert_eq!(tally.deliveries(), 4);
        assert!(!tally.is_faulty());
        assert_eq!(arrive(0, 0, 0), [1, 1, 2]);
    }
}
