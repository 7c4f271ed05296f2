//! Which tenants have changed.
//!
//! A Walcast that writes a record says so with NOTIFY, in the transaction of the change. Others write without a word:
//! the reference server, a person with `psql`. Their changes are found by comparing, now and then, which transaction
//! wrote each record last: one statement, which reads no column.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sqlx::postgres::{PgListener, PgNotification};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::control::{Control, ControlError};

/// Its payload is an external id.
pub(crate) const CHANNEL: &str = "walcast_tenants";

const REVISIONS: &str = "select tenant.external_id, tenant.xmin::text || coalesce((
       select string_agg(',' || extension.xmin::text, '' order by extension.id)
       from extensions extension where extension.tenant_external_id = tenant.external_id), '')
     from tenants tenant where tenant.external_id is not null";

/// Who wrote what of a record last, by external id.
type Revisions = HashMap<String, String>;

type Notices = Pin<Box<dyn Stream<Item = Result<PgNotification, sqlx::Error>> + Send>>;

/// Tells which tenants have changed; see [`Control::changes`].
pub struct Changes {
    control: Control,
    notices: Notices,
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
            notices: Box::pin(listener.into_stream()),
            known,
            found: BTreeSet::new(),
            polls,
        })
    }

    /// The external id of a tenant that was made, changed or deleted. May tell of a change twice, and of one that its
    /// own process made. While the control database is away nothing is told; what changed meanwhile is told after.
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> String {
        loop {
            if let Some(external_id) = self.found.pop_first() {
                return external_id;
            }
            tokio::select! {
                Some(notice) = self.notices.next() => match notice {
                    Ok(notice) => return notice.payload().to_owned(),
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
