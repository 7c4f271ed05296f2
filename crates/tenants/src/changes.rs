//! Which tenants have changed, or are to be stopped.
//!
//! A Walcast that writes a record says so with NOTIFY, in the transaction of the change; and so it passes on to all
//! nodes that a tenant shall be reloaded or shut down. Others write without a word: the reference server, a person with
//! `psql`. Their changes are found by comparing, now and then, which transaction wrote each record last: one statement,
//! which reads no column.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sqlx::postgres::{PgConnection, PgListener, PgNotification};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::control::{Control, ControlError};

/// Its payload is a word of [`Happening`], a space, and an external id.
const CHANNEL: &str = "walcast_tenants";

const REVISIONS: &str = "select tenant.external_id, tenant.xmin::text || coalesce((
       select string_agg(',' || extension.xmin::text, '' order by extension.id)
       from extensions extension where extension.tenant_external_id = tenant.external_id), '')
     from tenants tenant where tenant.external_id is not null";

/// Who wrote what of a record last, by external id.
type Revisions = HashMap<String, String>;

type Notifications = Pin<Box<dyn Stream<Item = Result<PgNotification, sqlx::Error>> + Send>>;

/// What happens to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Its record was made, changed or deleted.
    Changed,
    /// Its sockets are to be closed, and its work on the database begun anew (`protocol.md 10`).
    Reload,
    /// Its work on the database is to end; its sockets stay (`protocol.md 10`).
    Shutdown,
}

impl Happening {
    const ALL: [(Self, &str); 3] = [
        (Self::Changed, "changed"),
        (Self::Reload, "reload"),
        (Self::Shutdown, "shutdown"),
    ];

    fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(happening, _)| *happening == self);
        found.map_or("", |(_, word)| *word)
    }
}

/// That something happens to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// To whom.
    pub external_id: String,
    /// What.
    pub happening: Happening,
}

impl Notice {
    /// None: of a newer Walcast, or somebody else's.
    fn parse(payload: &str) -> Option<Self> {
        let (word, external_id) = payload.split_once(' ')?;
        let (happening, _) = Happening::ALL.iter().find(|(_, known)| *known == word)?;
        Some(Self {
            external_id: external_id.to_owned(),
            happening: *happening,
        })
    }
}

/// Told when the transaction is committed, and only then.
pub(crate) async fn notify(
    connection: &mut PgConnection,
    happening: Happening,
    external_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(format!("{} {external_id}", happening.word()))
        .execute(connection)
        .await?;
    Ok(())
}

/// Tells what happens to tenants; see [`Control::changes`].
pub struct Changes {
    control: Control,
    notifications: Notifications,
    known: Revisions,
    /// Found to have changed, and not told yet.
    found: BTreeSet<String>,
    polls: Interval,
}

impl Changes {
    pub(crate) async fn begin(control: Control, poll_every: Duration) -> Result<Self, ControlError> {
        let mut listener = PgListener::connect_with(control.pool()).await?;
        listener.listen(CHANNEL).await?;
        let known = revisions(&control).await?;
        let mut polls = interval_at(tokio::time::Instant::now() + poll_every, poll_every);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            control,
            notifications: Box::pin(listener.into_stream()),
            known,
            found: BTreeSet::new(),
            polls,
        })
    }

    /// What happened next. May tell of a change twice, and of what its own process did. While the control database is
    /// away nothing is told; what changed meanwhile is told after. Cancelling loses nothing.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(external_id) = self.found.pop_first() {
                return Notice {
                    external_id,
                    happening: Happening::Changed,
                };
            }
            tokio::select! {
                Some(notification) = self.notifications.next() => match notification {
                    Ok(notification) => match Notice::parse(notification.payload()) {
                        Some(notice) => return notice,
                        None => tracing::debug!(payload = notification.payload(), "a notice that says nothing"),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "changes of tenants cannot be listened for; they are found by comparing");
                        // It connects anew when asked again, at once and again and again.
                        self.polls.tick().await;
                        self.compare().await;
                    }
                },
                _ = self.polls.tick() => self.compare().await,
            }
        }
    }

    async fn compare(&mut self) {
        let found = match revisions(&self.control).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "records of tenants cannot be compared; trying again");
                return;
            }
        };
        let changed = found
            .iter()
            .filter(|(id, revision)| self.known.get(*id) != Some(*revision));
        let gone = self.known.iter().filter(|(id, _)| !found.contains_key(*id));
        self.found
            .extend(changed.chain(gone).map(|(external_id, _)| external_id.clone()));
        self.known = found;
    }
}

async fn revisions(control: &Control) -> Result<Revisions, ControlError> {
    let rows: Vec<(String, String)> = sqlx::query_as(REVISIONS).fetch_all(control.pool()).await?;
    Ok(rows.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_read_as_it_is_written_and_nothing_else_is_one() {
        for (happening, word) in Happening::ALL {
            let notice = Notice::parse(&format!("{} a b", happening.word())).unwrap();
            assert_eq!(
                (notice.external_id.as_str(), notice.happening),
                ("a b", happening)
            );
            assert_eq!(Notice::parse(word), None);
        }
        assert_eq!(Notice::parse("renamed a"), None);
        assert_eq!(Notice::parse(""), None);
    }
}
