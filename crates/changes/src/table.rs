//! The task of one subscribed table: takes its changes as they come, finds who listens, has visibility decided for
//! all that queued up meanwhile at once, and hands out the frames in commit order.

use crate::claims::IdentityRef;
use crate::condition::Truth;
use crate::engine::Context;
use crate::index::{ActionKind, Index, Listener};
use crate::lane::Ticket;
use crate::meter::Metered;
use crate::open_filters::OpenFilters;
use crate::outgoing::{Data, Outgoing};
use crate::policy::{Access, Row, Verdict};
use crate::registry::Table;
use crate::render::{self, NO_PRIMARY_KEY, UNAUTHORIZED};
use crate::row::{NewRow, change_bytes, filter_value, new_value};
use crate::subscription::Subscriber;
use crate::view::View;
use crate::visibility::{Answer, Question, VisibilityError};
use metrics::counter;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use walcast_protocol::Frame;
use walcast_replication::{Change, Relation};

/// Changes decided together at most; bounds one question to Postgres.
const BATCH_CHANGES: usize = 256;
/// Changes a table may have waiting before the dispatcher waits for it.
pub(crate) const QUEUE_CHANGES: usize = 4_096;
/// How often the roles of all listeners are looked at for those that may not see the key at all.
const CENSUS_EVERY: Duration = Duration::from_secs(1);
/// How long catalog questions are repeated while Postgres is away.
const CATALOG_PATIENCE: Duration = Duration::from_secs(10);

/// A change on its way to its table's task.
pub(crate) struct Item {
    /// Number in the order of dispatch.
    pub(crate) number: u64,
    pub(crate) change: Change,
    /// A slot in each lane that leads through this table.
    pub(crate) tickets: Vec<Ticket>,
    /// Its share of the memory the table may use; given back when the item is done.
    pub(crate) _share: Option<OwnedSemaphorePermit>,
}

/// Starts the task of a table. It ends when the table has no listeners any more.
pub(crate) fn spawn(context: &Arc<Context>) -> Arc<Table> {
    let (queue, items) = mpsc::channel(QUEUE_CHANGES);
    let table = Arc::new(Table {
        queue,
        listeners: RwLock::new(Index::default()),
        lanes: Mutex::new(Vec::new()),
    });
    let worker = Worker {
        context: Arc::clone(context),
        table: Arc::downgrade(&table),
        view: None,
        roles: None,
        open_filters: OpenFilters::default(),
        metered: Metered::default(),
    };
    tokio::spawn(worker.run(items));
    table
}

/// What a change means to one channel.
pub(crate) struct Part {
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) identity: IdentityRef,
    pub(crate) listener: Arc<Listener>,
    pub(crate) truth: Truth,
}

/// A change with those concerned.
pub(crate) struct Pending {
    pub(crate) item: Item,
    kind: ActionKind,
    pub(crate) parts: Vec<Part>,
    /// Channels whose role can be shown nothing of this table, with the reason.
    pub(crate) refused: Vec<(Part, &'static str)>,
}

struct Worker {
    context: Arc<Context>,
    table: std::sync::Weak<Table>,
    view: Option<View>,
    roles: Option<(Instant, HashSet<String>)>,
    open_filters: OpenFilters,
    metered: Metered,
}

impl Worker {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut batch = Vec::with_capacity(BATCH_CHANGES);
        while items.recv_many(&mut batch, BATCH_CHANGES).await > 0 {
            let mut rest = batch.drain(..).peekable();
            while let Some(first) = rest.next() {
                // A batch is of one version of the relation: between two lies DDL, a GRANT or a policy.
                let relation = Arc::clone(&first.change.relation);
                let mut run = vec![first];
                while let Some(item) = rest.next_if(|item| item.change.relation.version == relation.version) {
                    run.push(item);
                }
                let count = run.len();
                if let Err(error) = self.process(run).await {
                    self.give_up(&relation, count, &error);
                }
            }
        }
    }

    async fn process(&mut self, mut items: Vec<Item>) -> Result<(), VisibilityError> {
        let (Some(table), Some(first)) = (self.table.upgrade(), items.first()) else {
            return Ok(());
        };
        self.prepare_view(&first.change).await?;
        self.complete(&mut items).await;
        self.take_census(&table).await?;
        let mut pending = Vec::with_capacity(items.len());
        for item in items {
            pending.push(self.find(&table, item));
        }
        if let Some(meter) = &self.context.options.meter {
            self.metered.limit(meter, &mut pending);
        }
        self.learn_roles(&pending).await?;
        if let Some(view) = &self.view {
            self.open_filters
                .decide(&self.context.asker, view, &mut pending)
                .await;
        }
        let answer = self.decide_visibility(&mut pending).await;
        for (at, change) in pending.into_iter().enumerate() {
            self.deliver(at, change, &answer);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Nothing of these changes can be decided: nobody sees them, and those concerned are told.
    fn give_up(&self, relation: &Relation, changes: usize, error: &VisibilityError) {
        tracing::error!(
            schema = %relation.schema, table = %relation.name, changes, %error,
            "changes were not delivered: the catalog could not be read"
        );
        counter!("walcast_changes_undecided_total").increment(changes as u64);
        self.tell_everybody(|subscriber| {
            crate::notice::missed(subscriber, "the database could not be asked who may see them")
        });
    }

    /// Says something to every channel that listens to the table.
    fn tell_everybody(&self, notice: impl Fn(&Subscriber) -> Frame) {
        let Some(table) = self.table.upgrade() else { return };
        let mut told = HashSet::new();
        let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for kind in [ActionKind::Insert, ActionKind::Update, ActionKind::Delete] {
            listeners.find_all(kind, |listener| {
                if told.insert(listener.subscriber.id) {
                    listener.subscriber.deliver(notice(&listener.subscriber));
                }
            });
        }
    }

    /// Gives changes the generated columns that the stream leaves out.
    async fn complete(&mut self, items: &mut [Item]) {
        let Some(view) = &mut self.view else { return };
        let Some(completion) = &mut view.completion else {
            return;
        };
        let Some(error) = completion.complete(&self.context.asker, items).await else {
            return;
        };
        let table = format!("{}.{}", view.relation.schema, view.relation.name);
        tracing::error!(%table, %error, "generated columns could not be computed");
        // The error may quote values of rows that not everybody may see.
        self.tell_everybody(|subscriber| {
            let text = format!(
                "generated columns of {table} are missing from its changes, for they could not be computed: see the server's log"
            );
            crate::notice::refused(subscriber, &text)
        });
    }

    /// Sees to it that the view is that of the version of the relation that `change` was written under.
    async fn prepare_view(&mut self, change: &Change) -> Result<(), VisibilityError> {
        let relation = &change.relation;
        match &self.view {
            Some(view) if view.relation.version == relation.version => {
                if !view.is_stale() {
                    return Ok(());
                }
            }
            // What made the relation new may be part of the change's own transaction.
            _ => self.context.asker.settled(change.transaction.xid).await?,
        }
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match View::load(&self.context, relation).await {
                Ok(view) => {
                    self.view = view;
                    self.roles = None;
                    return Ok(());
                }
                Err(error) if started.elapsed() + pause > CATALOG_PATIENCE => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, table = %relation.name, "reading the catalog failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Which roles listen at all: one that may not read the primary key hears of every change, whatever its filters
    /// (`protocol.md 7.5`). Those that came since are learnt at once; only those that left may stay on for a while.
    async fn take_census(&mut self, table: &Table) -> Result<(), sqlx::Error> {
        let mut roles = HashSet::new();
        {
            let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
            let is_recent = self
                .roles
                .as_ref()
                .is_some_and(|(taken, _)| taken.elapsed() < CENSUS_EVERY);
            if is_recent && !listeners.has_new_roles() {
                drop(listeners);
                self.follow_policies(table);
                return Ok(());
            }
            if !is_recent {
                self.roles = None;
                for kind in [ActionKind::Insert, ActionKind::Update] {
                    listeners.find_all(kind, |listener| {
                        let identity = listener.subscriber.identity();
                        if !roles.contains(&identity.0.claims.role) {
                            roles.insert(identity.0.claims.role.clone());
                        }
                    });
                }
            }
        }
        roles.extend(
            table
                .listeners
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take_new_roles(),
        );
        if let Some(view) = &mut self.view {
            for role in &roles {
                view.refresh_role(&self.context, role).await?;
            }
        }
        let (_, known) = self.roles.get_or_insert_with(|| (Instant::now(), HashSet::new()));
        known.extend(roles);
        self.follow_policies(table);
        Ok(())
    }

    /// Sees to it that listeners are found as the policies known now allow: by those of before, some would not be.
    fn follow_policies(&self, table: &Table) {
        let Some(view) = &self.view else { return };
        let mut changed = Vec::new();
        {
            let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
            let routed = listeners.routed_roles().filter(|role| view.role(role).is_none());
            changed.extend(routed.map(|role| (role.to_owned(), None)));
            for (role, known) in view.roles() {
                let routes = known.access.routes();
                if !listeners.follows(role, routes.as_ref()) {
                    changed.push((role.to_owned(), routes));
                }
            }
        }
        if !changed.is_empty() {
            let mut listeners = table.listeners.write().unwrap_or_else(PoisonError::into_inner);
            for (role, routes) in changed {
                listeners.follow(&role, routes.as_ref());
            }
        }
    }

    /// Roles among the matches that the last census did not see, and those whose rights are due again.
    async fn learn_roles(&mut self, pending: &[Pending]) -> Result<(), sqlx::Error> {
        let Some(view) = &mut self.view else { return Ok(()) };
        let mut seen: HashSet<&str> = HashSet::new();
        for part in pending.iter().flat_map(|change| &change.parts) {
            let role = part.identity.0.claims.role.as_str();
            if seen.insert(role) {
                view.refresh_role(&self.context, role).await?;
            }
        }
        Ok(())
    }

    fn find(&self, table: &Table, item: Item) -> Pending {
        let kind = render::kind_of(&item.change.action);
        let mut pending = Pending {
            item,
            kind,
            parts: Vec::new(),
            refused: Vec::new(),
        };
        let Some(view) = &self.view else { return pending };
        let number = pending.item.number;
        let part = |listener: &Arc<Listener>, truth| {
            let subscriber = &listener.subscriber;
            subscriber.may_see(number).then(|| Part {
                subscriber: Arc::clone(subscriber),
                identity: subscriber.identity(),
                listener: Arc::clone(listener),
                truth,
            })
        };
        let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
        if kind != ActionKind::Delete {
            let keyless = view.facts.primary_key.is_empty();
            let blind = |role: &str| view.role(role).is_some_and(|role| !role.sees_key);
            let any_blind = self
                .roles
                .as_ref()
                .is_some_and(|(_, roles)| roles.iter().any(|role| blind(role)));
            if keyless || any_blind {
                listeners.find_all(kind, |listener| {
                    let Some(part) = part(listener, Truth::Holds) else {
                        return;
                    };
                    if keyless {
                        pending.refused.push((part, NO_PRIMARY_KEY));
                    } else if blind(&part.identity.0.claims.role) {
                        pending.refused.push((part, UNAUTHORIZED));
                    }
                });
            }
            if keyless {
                return pending;
            }
        }
        let change = &pending.item.change;
        let parts = &mut pending.parts;
        let refused: HashSet<*const Listener> = pending
            .refused
            .iter()
            .map(|(part, _)| Arc::as_ptr(&part.listener))
            .collect();
        // A DELETE has no policies (`database.md 2.5`).
        let row = NewRow { view, change };
        listeners.find(
            kind,
            (kind != ActionKind::Delete).then_some(&row as &dyn Row),
            |column| filter_value(view, change, column),
            |listener, truth| {
                if refused.contains(&Arc::as_ptr(listener)) {
                    return;
                }
                if let Some(part) = part(listener, truth) {
                    parts.push(part);
                }
            },
        );
        pending
    }

    /// Removes the parts that are hidden by what is known here, and asks Postgres about those that only it knows.
    async fn decide_visibility(&self, pending: &mut [Pending]) -> Answer {
        let Some(view) = &self.view else {
            return Answer::default();
        };
        let mut asked: HashMap<IdentityRef, Vec<usize>> = HashMap::new();
        let mut evaluated = 0;
        for (at, change) in pending.iter_mut().enumerate() {
            if change.kind == ActionKind::Delete {
                continue;
            }
            let row = NewRow {
                view,
                change: &change.item.change,
            };
            let mut decided: HashMap<IdentityRef, Verdict> = HashMap::new();
            change.parts.retain(|part| {
                let verdict = *decided.entry(part.identity.clone()).or_insert_with(|| {
                    match view.role(&part.identity.0.claims.role).map(|role| &role.access) {
                        Some(Access::NoRls) => Verdict::Visible,
                        Some(Access::Compiled(program)) => {
                            evaluated += 1;
                            program.evaluate(&row, part.identity.0.view())
                        }
                        Some(Access::Ask { .. }) => Verdict::Ask,
                        Some(Access::Hidden) | None => Verdict::Hidden,
                    }
                });
                if verdict == Verdict::Ask {
                    let rows = asked.entry(part.identity.clone()).or_default();
                    if rows.last() != Some(&at) {
                        rows.push(at);
                    }
                }
                verdict != Verdict::Hidden
            });
            // Parts that stay and were not asked about are visible: the answer says so for them.
            change.parts.iter_mut().for_each(|part| {
                let verdict = decided.get(&part.identity);
                part.truth = if verdict == Some(&Verdict::Ask) {
                    Truth::Ask
                } else {
                    Truth::Holds
                };
            });
        }
        self.context
            .figures
            .evaluated
            .fetch_add(evaluated, Ordering::Relaxed);
        counter!("walcast_policy_evaluations_total").increment(evaluated);
        if asked.is_empty() {
            return Answer::default();
        }
        self.ask(view, pending, asked).await
    }

    async fn ask(&self, view: &View, pending: &[Pending], asked: HashMap<IdentityRef, Vec<usize>>) -> Answer {
        let Some(source) = &view.facts.row_security else {
            return Answer::default();
        };
        let mut concerned: Vec<usize> = asked.values().flatten().copied().collect();
        concerned.sort_unstable();
        concerned.dedup();
        // Rows are numbered anew: only those somebody asks for travel.
        let mut rows = Vec::with_capacity(concerned.len());
        let mut number_of: HashMap<usize, usize> = HashMap::new();
        let mut xids: Vec<u32> = Vec::new();
        for at in concerned {
            let Some(change) = pending.get(at).map(|change| &change.item.change) else {
                continue;
            };
            let key: Option<Vec<String>> = view
                .key_at
                .iter()
                .map(|at| {
                    (*at)
                        .and_then(|at| new_value(change, at))
                        .flatten()
                        .map(str::to_owned)
                })
                .collect();
            // A key column that was dropped or renamed meanwhile: the row cannot be found, so nobody sees it.
            if let Some(key) = key {
                number_of.insert(at, rows.len());
                rows.push(key);
                xids.push(change.transaction.xid);
            }
        }
        xids.sort_unstable();
        xids.dedup();
        let asked: HashMap<IdentityRef, Vec<usize>> = asked
            .into_iter()
            .map(|(identity, rows)| {
                (
                    identity,
                    rows.into_iter()
                        .filter_map(|at| number_of.get(&at).copied())
                        .collect::<Vec<_>>(),
                )
            })
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        if asked.is_empty() {
            return Answer::default();
        }
        let question = Question {
            table: view.facts.oid,
            source,
            primary_key: &view.facts.primary_key,
            rows,
            asked,
            xids,
        };
        let started = Instant::now();
        let answer = self.context.asker.ask(&question).await;
        counter!("walcast_visibility_calls_total").increment(1);
        counter!("walcast_visibility_identities_total").increment(question.asked.len() as u64);
        metrics::histogram!("walcast_visibility_call_seconds").record(started.elapsed().as_secs_f64());
        match answer {
            Ok(mut answer) => {
                for failure in answer.failures.iter().take(3) {
                    tracing::warn!(
                        schema = %view.relation.schema, table = %view.relation.name, role = %failure.role,
                        reason = %failure.reason, "a row was hidden because checking its visibility raised an error"
                    );
                }
                counter!("walcast_visibility_failures_total").increment(answer.failures.len() as u64);
                let at_of: HashMap<usize, usize> =
                    number_of.into_iter().map(|(at, number)| (number, at)).collect();
                for rows in answer.seen.values_mut() {
                    for row in rows.iter_mut() {
                        *row = at_of.get(row).copied().unwrap_or(usize::MAX);
                    }
                    rows.sort_unstable();
                }
                answer
            }
            Err(error) => {
                tracing::error!(
                    schema = %view.relation.schema, table = %view.relation.name, changes = pending.len(), %error,
                    "changes were hidden because their visibility could not be checked"
                );
                counter!("walcast_visibility_failures_total").increment(question.asked.len() as u64);
                let mut told = HashSet::new();
                for part in pending
                    .iter()
                    .flat_map(|change| &change.parts)
                    .filter(|part| part.truth == Truth::Ask)
                {
                    if told.insert(part.subscriber.id) {
                        part.subscriber.deliver(crate::notice::missed(
                            &part.subscriber,
                            "their visibility could not be checked in time",
                        ));
                    }
                }
                Answer::default()
            }
        }
    }

    /// Hands out what is left of a change: one message for each channel and selection.
    fn deliver(&mut self, at: usize, pending: Pending, answer: &Answer) {
        let Pending {
            item,
            kind,
            mut parts,
            mut refused,
        } = pending;
        let Item { change, tickets, .. } = item;
        let mut outgoing = Outgoing::default();
        if let Some(view) = &mut self.view {
            parts.retain(|part| part.truth != Truth::Ask || answer.sees(&part.identity, at));
            let too_large = change_bytes(&change) > self.context.options.max_record_bytes;
            parts.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
            for group in parts.chunk_by(same_message) {
                let Some(first) = group.first() else { continue };
                let role = &first.identity.0.claims.role;
                let Some(number) = view.shape_number(role, first.listener.select.as_ref()) else {
                    continue;
                };
                let Some(shape) = view.shape(number) else { continue };
                let data = Data::Shape(number);
                outgoing.push(kind, first, group, data, || {
                    view.face.render(&change, shape, too_large)
                });
            }
            refused.sort_unstable_by(|a, b| order(&a.0).cmp(&order(&b.0)));
            for group in refused.chunk_by(|a, b| same_message(&a.0, &b.0)) {
                let Some((first, error)) = group.first() else {
                    continue;
                };
                let members = group.iter().map(|(part, _)| part);
                outgoing.push(kind, first, members, Data::Refusal(error), || {
                    view.face.render_refusal(kind, error)
                });
            }
        }
        counter!("walcast_changes_delivered_total").increment(outgoing.count);
        for ticket in tickets {
            let deliveries = outgoing
                .laned
                .remove(&Arc::as_ptr(ticket.lane()))
                .unwrap_or_default();
            ticket.fill(deliveries);
        }
    }
}

/// Messages of one channel next to each other, its ids in reverse request order as the reference lists them.
fn order(part: &Part) -> (u64, Option<&[String]>, Reverse<usize>) {
    (
        part.subscriber.id,
        part.listener.select.as_deref(),
        Reverse(part.listener.at),
    )
}

fn same_message(a: &Part, b: &Part) -> bool {
    a.subscriber.id == b.subscriber.id && a.listener.select == b.listener.select
}
