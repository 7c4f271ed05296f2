//! The mode `verify`: what was decided in process is compared with what Postgres answers, and Postgres is believed.
//!
//! Postgres judges the row, and by the policies and rights, that are there when it is asked. So a difference means
//! something only if all of that is still what was judged here: after a difference the row is read again, with the
//! connection's own rights, and the policies are. Neither values nor claims are logged.

use crate::asking;
use crate::catalog::{KeyColumn, Source};
use crate::claims::IdentityRef;
use crate::engine::Context;
use crate::policy::{self, Access, Row};
use crate::row::NewRow;
use crate::view::View;
use crate::visibility::{self, Answer};
use metrics::counter;
use sqlx::Row as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use walcast_replication::Change;

/// Why the two answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// The row and the policies are what was judged: the fault is ours.
    Policy,
    /// The row was changed or deleted meanwhile.
    Row,
    /// Policies or rights are others by now.
    Rights,
    /// The row could not be read with the rights of our connection.
    Unknown,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Row => "row",
            Self::Rights => "rights",
            Self::Unknown => "unknown",
        }
    }
}

/// The part of a row that was judged.
struct Judged {
    key: Vec<String>,
    xid: u32,
    /// Of the columns that policies read; a column the change did not carry is `None`.
    values: Vec<Option<Option<String>>>,
}

/// What was decided about the changes of a batch, to be compared.
pub(crate) struct Verification {
    schema: String,
    table: String,
    oid: u32,
    source: Source,
    primary_key: Vec<KeyColumn>,
    accesses: HashMap<String, Access>,
    columns: BTreeSet<String>,
    rows: BTreeMap<usize, Judged>,
    /// By identity: positions in the batch, and whether the row is visible.
    decided: HashMap<IdentityRef, Vec<(usize, bool)>>,
}

impl Verification {
    /// `None` where no rows are hidden from anybody.
    pub(crate) fn new(view: &View) -> Option<Self> {
        let source = view.facts.row_security.clone()?;
        let accesses: HashMap<String, Access> = view
            .roles()
            .map(|(role, known)| (role.to_owned(), known.access.clone()))
            .collect();
        let columns = accesses.values().flat_map(Access::columns).collect();
        Some(Self {
            schema: view.relation.schema.clone(),
            table: view.relation.name.clone(),
            oid: view.facts.oid,
            source,
            primary_key: view.facts.primary_key.clone(),
            accesses,
            columns,
            rows: BTreeMap::new(),
            decided: HashMap::new(),
        })
    }

    /// Notes a verdict of ours about the change at a position of the batch.
    pub(crate) fn note(&mut self, identity: &IdentityRef, at: usize, is_visible: bool) {
        self.decided
            .entry(identity.clone())
            .or_default()
            .push((at, is_visible));
    }

    /// Notes what a verdict was about.
    pub(crate) fn judge(&mut self, view: &View, at: usize, change: &Change) {
        // A row whose key is not known is nothing that can be asked about.
        let Some(key) = asking::key(view, change) else {
            return;
        };
        let row = NewRow { view, change };
        let values = self
            .columns
            .iter()
            .map(|column| row.value(column).map(|value| value.map(str::to_owned)))
            .collect();
        let xid = change.transaction.xid;
        self.rows.insert(at, Judged { key, xid, values });
    }

    /// Compares, and reports what differs.
    pub(crate) async fn compare(self, context: &Context, answer: &Answer) {
        let mut compared = 0_u64;
        let mut differing: BTreeMap<(String, bool), Vec<usize>> = BTreeMap::new();
        for (identity, verdicts) in &self.decided {
            for (at, is_visible) in verdicts.iter().filter(|(at, _)| self.rows.contains_key(at)) {
                compared += 1;
                if answer.sees(identity, *at) != *is_visible {
                    let role = identity.0.claims.role.clone();
                    differing.entry((role, *is_visible)).or_default().push(*at);
                }
            }
        }
        context.figures.verified.fetch_add(compared, Ordering::Relaxed);
        counter!("walcast_policy_verifications_total").increment(compared);
        if differing.is_empty() {
            return;
        }
        let positions: BTreeSet<usize> = differing.values().flatten().copied().collect();
        let of_rows = self.causes(context, &positions).await;
        for ((role, is_visible), positions) in differing {
            let have_rights_changed = self.have_rights_changed(context, &role).await;
            let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
            for at in positions {
                let of_row = of_rows.get(&at).copied().unwrap_or(Cause::Unknown);
                let cause = if have_rights_changed {
                    Cause::Rights
                } else {
                    of_row
                };
                *causes.entry(cause).or_default() += 1;
            }
            for (cause, count) in causes {
                self.report(context, &role, is_visible, cause, count);
            }
        }
    }

    fn report(&self, context: &Context, role: &str, is_visible: bool, cause: Cause, count: u64) {
        counter!("walcast_policy_differences_total", "cause" => cause.as_str()).increment(count);
        let policies = self.accesses.get(role).map(Access::policies).unwrap_or_default();
        let (schema, table, decided) = (
            &self.schema,
            &self.table,
            if is_visible { "visible" } else { "hidden" },
        );
        if cause == Cause::Policy {
            context.figures.differences.fetch_add(count, Ordering::Relaxed);
            tracing::error!(
                %schema, %table, role, ?policies, decided, count,
                "Postgres decides otherwise about rows than was decided in process: set WALCAST_RLS=sql and report this"
            );
        } else {
            tracing::info!(
                %schema, %table, role, ?policies, decided, count, cause = cause.as_str(),
                "Postgres decides otherwise about rows, for what is judged may be another by now"
            );
        }
    }

    async fn have_rights_changed(&self, context: &Context, role: &str) -> bool {
        let now = policy::load(&context.pool, self.source.oid, role).await;
        let known = self.accesses.get(role);
        now.map_or(true, |facts| Some(&policy::compile(&facts)) != known)
    }

    /// Whether rows are still what was judged.
    async fn causes(&self, context: &Context, positions: &BTreeSet<usize>) -> HashMap<usize, Cause> {
        match self.read(context, positions).await {
            Ok(causes) => causes,
            Err(error) => {
                tracing::warn!(schema = %self.schema, table = %self.table, %error, "rows could not be read for comparison");
                HashMap::new()
            }
        }
    }

    async fn read(
        &self,
        context: &Context,
        positions: &BTreeSet<usize>,
    ) -> Result<HashMap<usize, Cause>, sqlx::Error> {
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|column| visibility::quote_identifier(column))
            // What the output function prints, as the stream carries it: a cast may print something else.
            .map(|column| format!("case when t.{column} is not null then pg_catalog.format('%s', t.{column}) end"))
            .collect();
        let statement = format!(
            "select k.n, r.xid, r.says, pg_catalog.row_security_active({}::oid) \
             from unnest({}) with ordinality as k({}, n) left join lateral ( \
               select t.xmin::text::int8 as xid, array[{}]::text[] as says from {} t where {} limit 1) r on true",
            self.source.oid,
            visibility::key_parameters(&self.primary_key).join(", "),
            visibility::key_aliases(&self.primary_key).join(", "),
            values.join(", "),
            self.source.from,
            visibility::key_conditions(self.oid, &self.source, &self.primary_key),
        );
        let judged: Vec<(usize, &Judged)> = positions
            .iter()
            .filter_map(|at| Some((*at, self.rows.get(at)?)))
            .collect();
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
        for column in 0..self.primary_key.len() {
            let keys: Vec<Option<&str>> = judged
                .iter()
                .map(|(_, row)| row.key.get(column).map(String::as_str))
                .collect();
            query = query.bind(keys);
        }
        let mut causes = HashMap::new();
        for row in query.fetch_all(&context.pool).await? {
            let number: i64 = row.try_get(0)?;
            let at = usize::try_from(number)
                .ok()
                .and_then(|number| judged.get(number.checked_sub(1)?));
            let Some((at, judged)) = at else { continue };
            let xid: Option<i64> = row.try_get(1)?;
            let values: Option<Vec<Option<String>>> = row.try_get(2)?;
            let cause = if row.try_get(3)? {
                Cause::Unknown
            } else if xid == Some(i64::from(judged.xid)) && judged.says(&values.unwrap_or_default()) {
                Cause::Policy
            } else {
                Cause::Row
            };
            causes.insert(*at, cause);
        }
        Ok(causes)
    }
}

impl Judged {
    /// Whether the row is as it was. A transaction may have written it twice, so it is not enough that it wrote it.
    fn says(&self, values: &[Option<String>]) -> bool {
        self.values
            .iter()
            .zip(values)
            .all(|(judged, now)| judged.as_ref().is_none_or(|judged| judged == now))
    }
}
