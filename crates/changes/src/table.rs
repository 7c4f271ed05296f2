//! The task of one subscribed table: takes its changes as they come, finds who listens, has visibility decided for
//! all that queued up meanwhile at once, and hands out the frames in commit order.

use crate::asking::Asking;
use crate::claims::IdentityRef;
use crate::condition::Truth;
use crate::deleted;
use crate::engine::{Context, DeleteVisibility};
use crate::index::{ActionKind, Index, Listener, ListenerKey};
use crate::lane::{Lane, Ticket};
use crate::leaving;
use crate::lost_columns::LostColumns;
use crate::meter::Metered;
use crate::open_filters::OpenFilters;
use crate::outgoing::{Data, Outgoing};
use crate::policy::{Row, Verdict};
use crate::position::Position;
use crate::raised::Raised;
use crate::registry::Table;
use crate::render::{self, NO_PRIMARY_KEY, UNAUTHORIZED};
use crate::retype::{self, Unfit};
use crate::rights::RightsVersion;
use crate::row::{NewRow, change_bytes, filter_value, old_value};
use crate::subscription::Subscriber;
use crate::verify::Verification;
use crate::view::View;
use crate::visibility::{Answer, Visibility, VisibilityError};
use crate::window::Moment;
use metrics::counter;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use walcast_protocol::Frame;
use walcast_replication::json::Digits;
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
    /// Whether the row is known to have changed since, so that nobody can be asked about this version of it.
    pub(crate) is_superseded: bool,
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
    tokio::spawn(Worker::new(context, &table).run(items));
    table
}

/// A table with these listeners, of which no other knows.
pub(crate) fn apart(listeners: impl Iterator<Item = Listener>, lane: &Arc<Lane>) -> Arc<Table> {
    let mut index = Index::default();
    listeners.for_each(|listener| index.insert(Arc::new(listener)));
    let (queue, _) = mpsc::channel(1);
    Arc::new(Table {
        queue,
        listeners: RwLock::new(index),
        lanes: Mutex::new(vec![(Arc::clone(lane), 1)]),
    })
}

/// What a change means to one channel.
pub(crate) struct Part {
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) identity: IdentityRef,
    pub(crate) listener: Arc<Listener>,
    pub(crate) truth: Truth,
    /// It was found by the row as it was before the UPDATE.
    pub(crate) of_old: bool,
}

impl Part {
    pub(crate) fn key(&self) -> ListenerKey {
        (self.subscriber.id, self.listener.at)
    }

    /// What the filter sees of a column.
    pub(crate) fn filter_value<'a>(
        &self,
        view: &View,
        change: &'a Change,
        column: &str,
    ) -> Option<Option<&'a str>> {
        if self.of_old {
            old_value(change, view.position(column)?)
        } else {
            filter_value(view, change, column)
        }
    }
}

/// A change with those concerned.
pub(crate) struct Pending {
    pub(crate) item: Item,
    kind: ActionKind,
    pub(crate) parts: Vec<Part>,
    /// Channels whose role can be shown nothing of this table, with the reason.
    pub(crate) refused: Vec<(Part, &'static str)>,
    /// Channels that were shown the row before the UPDATE, and are told if they are not any more.
    pub(crate) leaving: Vec<Part>,
}

impl Pending {
    /// A change of which it is not known yet whom it concerns.
    pub(crate) fn new(item: Item) -> Self {
        Self {
            kind: render::kind_of(&item.change.action),
            item,
            parts: Vec::new(),
            refused: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// What is to be decided.
    pub(crate) fn all_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().chain(&self.leaving)
    }

    /// How many bindings it concerns as far as is known.
    pub(crate) fn matched(&self) -> usize {
        let heard: Vec<&Part> = self
            .parts
            .iter()
            .filter(|part| self.kind.heard_by(part.listener.event))
            .collect();
        let mut matched = heard.len() + self.refused.len();
        if !self.leaving.is_empty() {
            let heard: HashSet<ListenerKey> = heard.into_iter().map(Part::key).collect();
            matched += self
                .leaving
                .iter()
                .filter(|part| !heard.contains(&part.key()))
                .count();
        }
        matched
    }
}

/// Changes on their way out, in commit order: what of them is visible is known, or being asked.
struct Decided {
    pending: Vec<Pending>,
    /// A task of its own, so that the question goes on while this table's task does something else.
    asking: Option<JoinHandle<Result<Answer, VisibilityError>>>,
    /// Or why there is none.
    answer: Result<Answer, String>,
    /// Channels for whom policies raised an error here.
    raised: Vec<Arc<Subscriber>>,
    /// The right to a second connection, while an earlier question is not answered yet.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Decides about the changes of one table.
pub(crate) struct Worker {
    context: Arc<Context>,
    table: std::sync::Weak<Table>,
    view: Option<View>,
    roles: Option<(Instant, HashSet<String>)>,
    rights: RightsVersion,
    open_filters: OpenFilters,
    lost_columns: LostColumns,
    metered: Metered,
    raised: Raised,
    line: VecDeque<Decided>,
    /// Whether the changes are of the past, told to a channel that missed them.
    of_past: bool,
}

impl Worker {
    fn new(context: &Arc<Context>, table: &Arc<Table>) -> Self {
        Self {
            context: Arc::clone(context),
            table: Arc::downgrade(table),
            view: None,
            roles: None,
            rights: RightsVersion::default(),
            open_filters: OpenFilters::default(),
            lost_columns: LostColumns::default(),
            metered: Metered::default(),
            raised: Raised::default(),
            line: VecDeque::new(),
            of_past: false,
        }
    }

    /// For changes that its listeners missed.
    pub(crate) fn of_past(context: &Arc<Context>, table: &Arc<Table>) -> Self {
        Self {
            of_past: true,
            ..Self::new(context, table)
        }
    }

    /// Decides about changes and hands them out. They are of one version of the relation.
    pub(crate) async fn tell(&mut self, items: Vec<Item>) -> Result<(), VisibilityError> {
        self.process(items, None).await?;
        self.deliver_all().await;
        Ok(())
    }

    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut batch = Vec::with_capacity(BATCH_CHANGES);
        loop {
            let permit = match self.line.len() {
                0 => Some(None),
                1 => self.context.asker.second_connection().map(Some),
                _ => None,
            };
            let Some(permit) = permit else {
                self.deliver_next().await;
                continue;
            };
            tokio::select! {
                biased;
                () = answered(&mut self.line) => self.deliver_next().await,
                count = items.recv_many(&mut batch, BATCH_CHANGES) => {
                    if count == 0 {
                        break;
                    }
                    self.take(&mut batch, permit).await;
                }
            }
        }
        self.deliver_all().await;
    }

    async fn take(&mut self, batch: &mut Vec<Item>, mut permit: Option<OwnedSemaphorePermit>) {
        let mut rest = batch.drain(..).peekable();
        while let Some(first) = rest.next() {
            // A batch is of one version of the relation: between two lies DDL, a GRANT or a policy.
            let relation = Arc::clone(&first.change.relation);
            let mut run = vec![first];
            while let Some(item) = rest.next_if(|item| item.change.relation.version == relation.version) {
                run.push(item);
            }
            let count = run.len();
            if let Err(error) = self.process(run, permit.take()).await {
                self.give_up(&relation, count, &error);
            }
        }
    }

    async fn process(
        &mut self,
        mut items: Vec<Item>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), VisibilityError> {
        let (Some(table), Some(first)) = (self.table.upgrade(), items.first()) else {
            return Ok(());
        };
        let rights = self
            .context
            .rights
            .version(&self.context.pool, &self.context.asker)
            .await?;
        if self.rights != rights {
            self.rights = rights;
            self.roles = None;
        }
        if !self.has_view_of(&first.change.relation) {
            // What is under way was matched with the view that is replaced.
            self.deliver_all().await;
            self.renew_view(&first.change).await?;
            if let Some(view) = &self.view {
                // What was missed is told by filters that were checked a moment ago.
                let unfit = if self.of_past {
                    Unfit::new()
                } else {
                    retype::retype(&self.context, view, &table).await
                };
                let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
                self.lost_columns.tell(view, &listeners, &unfit);
            }
        }
        self.complete(&mut items).await;
        self.take_census(&table).await?;
        let mut pending = Vec::with_capacity(items.len());
        for item in items {
            pending.push(self.find(&table, item));
        }
        if let Some(meter) = &self.context.options.meter
            && !self.of_past
        {
            self.metered.limit(meter, &mut pending);
        }
        self.learn_roles(&pending).await?;
        if let Some(view) = &self.view {
            self.open_filters
                .decide(&self.context.asker, view, &mut pending)
                .await;
        }
        let mut raised = Vec::new();
        let asking = self.decide_visibility(&mut pending, &mut raised).map(|asking| {
            let context = Arc::clone(&self.context);
            tokio::spawn(async move { asking.run(&context).await })
        });
        self.line.push_back(Decided {
            pending,
            asking,
            answer: Ok(Answer::default()),
            raised,
            _permit: permit,
        });
        Ok(())
    }

    async fn deliver_all(&mut self) {
        while !self.line.is_empty() {
            self.deliver_next().await;
        }
    }

    /// Waits until the first in line is decided and hands it out.
    async fn deliver_next(&mut self) {
        answered(&mut self.line).await;
        let Some(Decided {
            mut pending,
            answer,
            raised,
            ..
        }) = self.line.pop_front()
        else {
            return;
        };
        let answer = answer.unwrap_or_else(|error| {
            self.report_undecided(&pending, &error);
            for change in &mut pending {
                leaving::withdraw(&mut change.leaving, &change.parts, |part| {
                    part.truth == Truth::Ask
                });
            }
            Answer::default()
        });
        if let Some(view) = &self.view {
            self.raised.report(view, &pending, &answer);
            self.raised.report_here(view, &raised);
        }
        for (at, change) in pending.into_iter().enumerate() {
            self.deliver(at, change, &answer);
            tokio::task::yield_now().await;
        }
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

    fn has_view_of(&self, relation: &Relation) -> bool {
        self.view
            .as_ref()
            .is_some_and(|view| view.relation.version == relation.version && !view.is_stale(&self.rights))
    }

    /// Reads the view of the version of the relation that `change` was written under.
    async fn renew_view(&mut self, change: &Change) -> Result<(), VisibilityError> {
        let relation = &change.relation;
        let is_known = |view: &View| view.relation.version == relation.version;
        if !self.view.as_ref().is_some_and(is_known) {
            // What made the relation new may be part of the change's own transaction.
            self.context.asker.settled(change.transaction.xid).await?;
        }
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match View::load(&self.context, relation, &self.rights).await {
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
                view.refresh_role(&self.context, role, &self.rights).await?;
            }
        }
        let (_, known) = self.roles.get_or_insert_with(|| (Instant::now(), HashSet::new()));
        known.extend(roles);
        self.follow_policies(table);
        Ok(())
    }

    /// Sees to it that listeners are found as the policies known now allow: by those of before, some would not be.
    fn follow_policies(&self, table: &Table) {
        let (Some(view), Some((_, listening))) = (&self.view, &self.roles) else {
            return;
        };
        let mut changed = Vec::new();
        {
            let listeners = table.listeners.read().unwrap_or_else(PoisonError::into_inner);
            // What is known of a role that nobody had may be old.
            let gone = listeners.routed_roles().filter(|role| !listening.contains(*role));
            changed.extend(gone.map(|role| (role.to_owned(), None)));
            for role in listening {
                let routes = view.role(role).and_then(|known| known.routes.clone());
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

    /// Roles among the matches that the last census did not see.
    async fn learn_roles(&mut self, pending: &[Pending]) -> Result<(), sqlx::Error> {
        let Some(view) = &mut self.view else { return Ok(()) };
        let mut seen: HashSet<&str> = HashSet::new();
        for part in pending.iter().flat_map(Pending::all_parts) {
            let role = part.identity.0.claims.role.as_str();
            if seen.insert(role) {
                view.refresh_role(&self.context, role, &self.rights).await?;
            }
        }
        Ok(())
    }

    fn find(&self, table: &Table, item: Item) -> Pending {
        let mut pending = Pending::new(item);
        let kind = pending.kind;
        let Some(view) = &self.view else { return pending };
        let number = pending.item.number;
        let moment = Moment::of(&pending.item.change);
        let part = |listener: &Arc<Listener>, truth| {
            let subscriber = &listener.subscriber;
            let wants = listener.wanted.is_none_or(|wanted| wanted.has(moment));
            (wants && subscriber.may_see(number)).then(|| Part {
                subscriber: Arc::clone(subscriber),
                identity: subscriber.identity(),
                listener: Arc::clone(listener),
                truth,
                of_old: false,
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
                    let is_heard = kind.heard_by(listener.event);
                    let Some(part) = part(listener, Truth::Holds).filter(|_| is_heard) else {
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
        pending.leaving = leaving::find(view, &listeners, change, |listener, truth| {
            part(listener, truth).filter(|_| !refused.contains(&Arc::as_ptr(listener)))
        });
        pending
    }

    /// Removes the parts that are hidden by what is known here; those for whom policies raise an error are noted. What
    /// is left to ask of Postgres is returned.
    fn decide_visibility(
        &self,
        pending: &mut [Pending],
        raised: &mut Vec<Arc<Subscriber>>,
    ) -> Option<Asking> {
        let view = self.view.as_ref()?;
        let mut asked: HashMap<IdentityRef, Vec<usize>> = HashMap::new();
        let mut evaluated = 0_u64;
        let mode = self.context.options.visibility;
        let mut verification = (mode == Visibility::Verify)
            .then(|| Verification::new(view))
            .flatten();
        for (at, change) in pending.iter_mut().enumerate() {
            if change.kind == ActionKind::Delete {
                if self.context.options.delete_visibility == DeleteVisibility::RowSecurity {
                    deleted::retain_visible(view, change);
                }
                continue;
            }
            leaving::retain_shown(view, mode, change);
            let row = NewRow {
                view,
                change: &change.item.change,
            };
            let mut decided: HashMap<IdentityRef, Verdict> = HashMap::new();
            change.parts.retain(|part| {
                let verdict = *decided.entry(part.identity.clone()).or_insert_with(|| {
                    let Some(role) = view.role(&part.identity.0.claims.role) else {
                        return Verdict::Hidden;
                    };
                    evaluated += u64::from(role.is_judged_here(mode));
                    let verdict = role.verdict(mode, &row, part.identity.0.view());
                    match &mut verification {
                        Some(verification) if verdict != Verdict::Ask => {
                            verification.note(&part.identity, at, verdict == Verdict::Visible);
                            Verdict::Ask
                        }
                        _ => verdict,
                    }
                });
                if verdict == Verdict::Ask {
                    let rows = asked.entry(part.identity.clone()).or_default();
                    if rows.last() != Some(&at) {
                        rows.push(at);
                    }
                }
                if verdict == Verdict::Raises {
                    raised.push(Arc::clone(&part.subscriber));
                }
                matches!(verdict, Verdict::Visible | Verdict::Ask)
            });
            if let Some(verification) = &mut verification {
                verification.judge(view, at, &change.item.change);
            }
            // Parts that stay and are not asked about are visible.
            change.parts.iter_mut().for_each(|part| {
                let verdict = decided.get(&part.identity);
                part.truth = if verdict == Some(&Verdict::Ask) {
                    Truth::Ask
                } else {
                    Truth::Holds
                };
            });
            if change.item.is_superseded {
                leaving::withdraw(&mut change.leaving, &change.parts, |part| {
                    part.truth == Truth::Ask
                });
            }
        }
        self.context
            .figures
            .evaluated
            .fetch_add(evaluated, Ordering::Relaxed);
        counter!("walcast_policy_evaluations_total").increment(evaluated);
        Asking::new(view, pending, asked, verification)
    }

    /// Changes are hidden from those who had to be asked about; they are told.
    fn report_undecided(&self, pending: &[Pending], error: &str) {
        let Some(view) = &self.view else { return };
        tracing::error!(
            schema = %view.relation.schema, table = %view.relation.name, changes = pending.len(), error,
            "changes were hidden because their visibility could not be checked"
        );
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
        counter!("walcast_visibility_failures_total").increment(told.len() as u64);
    }

    /// Hands out what is left of a change: one message for each channel and selection.
    fn deliver(&mut self, at: usize, pending: Pending, answer: &Answer) {
        let Pending {
            item,
            kind,
            mut parts,
            mut refused,
            mut leaving,
        } = pending;
        let Item { change, tickets, .. } = item;
        let mut outgoing = Outgoing::new(Position::of(&change), self.of_past);
        if let Some(view) = &mut self.view {
            parts.retain(|part| part.truth != Truth::Ask || answer.sees(&part.identity, at));
            leaving::retain_gone(&mut leaving, &parts);
            parts.retain(|part| kind.heard_by(part.listener.event));
            let too_large = change_bytes(&change) > self.context.options.max_record_bytes;
            for (mut parts, is_leaving) in [(parts, false), (leaving, true)] {
                parts.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
                for group in parts.chunk_by(same_message) {
                    let Some(first) = group.first() else { continue };
                    let role = &first.identity.0.claims.role;
                    let Some(number) =
                        view.shape_number(role, first.listener.select.as_ref(), first.listener.digits)
                    else {
                        continue;
                    };
                    let Some(shape) = view.shape(number) else { continue };
                    if is_leaving {
                        outgoing.push(ActionKind::Delete, first, group, Data::Left(number), || {
                            view.face.render_left(&change, shape, too_large)
                        });
                    } else {
                        outgoing.push(kind, first, group, Data::Shape(number), || {
                            view.face.render(&change, shape, too_large)
                        });
                    }
                }
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
        if !self.of_past {
            outgoing.measure(change.transaction.commit_timestamp_us);
        }
        for ticket in tickets {
            let deliveries = outgoing
                .laned
                .remove(&Arc::as_ptr(ticket.lane()))
                .unwrap_or_default();
            ticket.fill(deliveries);
        }
    }
}

/// Ready when the first in line can be handed out; never when nobody is in line.
async fn answered(line: &mut VecDeque<Decided>) {
    std::future::poll_fn(|context| {
        let Some(first) = line.front_mut() else {
            return Poll::Pending;
        };
        if let Some(asking) = &mut first.asking {
            let asked = ready!(Pin::new(asking).poll(context));
            first.asking = None;
            first.answer = match asked {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(broken) => Err(broken.to_string()),
            };
        }
        Poll::Ready(())
    })
    .await;
}

/// Messages of one channel next to each other, its ids in reverse request order as the reference lists them.
fn order(part: &Part) -> (u64, Option<&[String]>, Digits, Reverse<usize>) {
    (
        part.subscriber.id,
        part.listener.select.as_deref(),
        part.listener.digits,
        Reverse(part.listener.at),
    )
}

fn same_message(a: &Part, b: &Part) -> bool {
    a.subscriber.id == b.subscriber.id
        && a.listener.select == b.listener.select
        && a.listener.digits == b.listener.digits
}
