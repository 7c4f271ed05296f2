//! The crate's front: starts the stream and its dispatcher, and makes subscriptions.

use crate::binding::{Binding, Pattern};
use crate::catalog::{self, TableFacts};
use crate::claims::{Claims, Identities, IdentityRef};
use crate::diagnosis::{self, Exposure, Finding};
use crate::dispatch;
use crate::error::SubscribeError;
use crate::explain::{ExplainError, Explainer, Explanation, Inquiry};
use crate::filter::Grammar;
use crate::fresh::Fresh;
use crate::meter::Meter;
use crate::policy::{self, Access};
use crate::recovery::Recovery;
use crate::registry::{Attachment, Registry};
use crate::rights::Rights;
use crate::sharing::{Follower, Following, Holder, Sharing, SharingFigures};
use crate::source::Source;
use crate::subscription::{Request, Subscriber, Subscription};
use crate::tap::{Tap, Tapped};
use crate::validate;
use crate::visibility::{Asker, Visibility, VisibilityFigures};
use crate::window::{self, Moment, Window, WindowLimits};
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walcast_replication::json::Digits;
use walcast_replication::{Lsn, Relation, Stats, StreamOptions};

/// How long an answer of the catalog serves further joins.
const CATALOG_KEPT_FOR: Duration = Duration::from_secs(1);

/// Who hears that a row was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteVisibility {
    /// Everybody whose filter matches what is known of the row, which is its key under row security: the reference's
    /// rule (`protocol.md 7.5`).
    #[default]
    All,
    /// Under row security only who could see the row, as far as its policies can be decided on what is known of it;
    /// otherwise nobody (decision 19).
    RowSecurity,
}

/// Settings of the engine.
#[derive(Clone)]
pub struct Options {
    /// The publication that says which tables' changes are offered.
    pub publication: String,
    /// Create it, empty, when it is missing and the role may.
    pub create_publication: bool,
    /// Changes larger than this lose their values of more than 64 bytes (`database.md 2.9`).
    pub max_record_bytes: usize,
    /// Who hears that a row was deleted.
    pub delete_visibility: DeleteVisibility,
    /// Which numbers are strings, where a binding says nothing about it.
    pub digits: Digits,
    /// Filters may have groups, which the reference refuses: `or=(a.eq.1,b.lt.2)`.
    pub filter_or: bool,
    /// Who decides which rows are visible.
    pub visibility: Visibility,
    /// Time limit of one visibility question.
    pub visibility_timeout_ms: u64,
    /// How long a visibility question is repeated while its transaction runs or Postgres is away.
    pub visibility_patience_ms: u64,
    /// Connections for visibility questions.
    pub visibility_connections: u32,
    /// The stream's own settings.
    pub stream: StreamOptions,
    /// Other nodes that share one slot with this one; `None` for a node alone.
    pub cluster: Option<Sharing>,
    /// Another reader of the stream.
    pub tap: Option<Arc<dyn Tap>>,
    /// How much of what was delivered is kept for channels that come back.
    pub window: WindowLimits,
    /// Limits how much is delivered.
    pub meter: Option<Arc<dyn Meter>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            publication: "supabase_realtime".to_owned(),
            create_publication: true,
            max_record_bytes: 1_048_576,
            delete_visibility: DeleteVisibility::default(),
            digits: Digits::default(),
            filter_or: false,
            visibility: Visibility::default(),
            visibility_timeout_ms: 5_000,
            visibility_patience_ms: 15_000,
            visibility_connections: 2,
            stream: StreamOptions::default(),
            cluster: None,
            tap: None,
            window: WindowLimits::default(),
            meter: None,
        }
    }
}

impl Options {
    pub(crate) fn grammar(&self) -> Grammar {
        if self.filter_or {
            Grammar::Groups
        } else {
            Grammar::Reference
        }
    }
}

/// What the replication stream is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not streaming yet.
    Starting,
    /// Changes arrive.
    Streaming,
    /// The connection was lost; it is being tried again.
    Lost,
    /// Ended for good.
    Stopped,
}

/// What the tasks of the crate share.
pub(crate) struct Context {
    pub(crate) pool: PgPool,
    pub(crate) options: Options,
    pub(crate) registry: Registry,
    pub(crate) asker: Asker,
    pub(crate) tapped: Tapped,
    pub(crate) window: Window,
    /// How often the stream was lost, or could not be started.
    pub(crate) losses: AtomicU64,
    /// Where the stream began.
    began: Mutex<Moment>,
    stats: Mutex<Arc<Stats>>,
    pub(crate) figures: Arc<VisibilityFigures>,
    pub(crate) rights: Rights,
    identities: Identities,
    published: Fresh<(Pattern, Pattern), Arc<Vec<u32>>>,
    facts: Fresh<u32, Option<Arc<TableFacts>>>,
    roles: Fresh<String, bool>,
    selectable: Fresh<(u32, String), Arc<BTreeSet<String>>>,
    access: Fresh<(u32, String), Access>,
    pub(crate) exposures: Fresh<(u32, String), Option<Arc<Exposure>>>,
    /// By the schema and table that are named, and by role.
    pub(crate) wide_exposures: Fresh<(Pattern, Pattern, String), Arc<Vec<Exposure>>>,
    unpublished: Fresh<(Pattern, Pattern), Finding>,
}

/// What a check of bindings found.
pub(crate) struct Checked {
    attachments: Vec<Attachment>,
    pub(crate) warnings: Vec<String>,
}

impl Context {
    /// What is shared while nothing is known yet. `pool` is used for the catalog; visibility has connections of its
    /// own with the same settings, made when they are needed.
    pub(crate) fn new(pool: PgPool, options: Options) -> Self {
        let asker = Asker::new(
            pool.connect_options().as_ref().clone(),
            options.visibility_connections,
            options.visibility_timeout_ms,
            options.visibility_patience_ms,
        );
        Self {
            tapped: Tapped::new(options.tap.clone()),
            figures: Arc::default(),
            rights: Rights::default(),
            pool,
            registry: Registry::default(),
            window: Window::new(options.window),
            options,
            losses: AtomicU64::new(0),
            began: Mutex::new(window::beginning(Lsn::default(), i64::MAX)),
            stats: Mutex::default(),
            asker,
            identities: Identities::default(),
            published: Fresh::new(CATALOG_KEPT_FOR),
            facts: Fresh::new(CATALOG_KEPT_FOR),
            roles: Fresh::new(CATALOG_KEPT_FOR),
            selectable: Fresh::new(CATALOG_KEPT_FOR),
            access: Fresh::new(CATALOG_KEPT_FOR),
            exposures: Fresh::new(CATALOG_KEPT_FOR),
            wide_exposures: Fresh::new(CATALOG_KEPT_FOR),
            unpublished: Fresh::new(CATALOG_KEPT_FOR),
        }
    }

    pub(crate) fn intern(&self, claims: &Claims) -> IdentityRef {
        self.identities.intern(claims)
    }

    /// A stream began. What was committed before it, and after the last one's end, is lost.
    pub(crate) async fn begin_at(&self, start: Lsn) {
        // Nothing of before this moment of the server's clock is certain to be in it.
        let clock = "select (extract(epoch from clock_timestamp()) * 1000000)::int8";
        let now_us = sqlx::query_scalar(clock).fetch_one(&self.pool).await;
        let moment = window::beginning(
            start,
            now_us.unwrap_or_else(|error| {
                tracing::warn!(%error, "the server's clock could not be read: what was missed is told by position only");
                i64::MAX
            }),
        );
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        self.window.interrupt(moment);
    }

    /// Up to where the stream was read, at least.
    pub(crate) fn now(&self) -> Moment {
        self.stats().begun().map_or_else(
            || *self.began.lock().unwrap_or_else(PoisonError::into_inner),
            |(commit, commit_timestamp_us)| window::beginning(commit, commit_timestamp_us),
        )
    }

    /// Figures of the stream that is read now.
    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on another stream is read.
    pub(crate) fn set_stats(&self, stats: Arc<Stats>) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Forgets what nobody uses.
    pub(crate) fn sweep(&self) {
        self.window.sweep();
        self.identities.sweep();
        self.published.sweep();
        self.facts.sweep();
        self.roles.sweep();
        self.selectable.sweep();
        self.access.sweep();
        self.exposures.sweep();
        self.wide_exposures.sweep();
        self.unpublished.sweep();
    }

    /// Nothing the catalog said before is to be relied on: the stream is a new one.
    pub(crate) fn relations_changed(&self) {
        self.published.clear();
        self.facts.clear();
        self.roles.clear();
        self.selectable.clear();
        self.access.clear();
        self.exposures.clear();
        self.wide_exposures.clear();
        self.unpublished.clear();
    }

    /// What was read about a table before is old.
    pub(crate) fn forget_table(&self, oid: u32) {
        self.published.clear();
        self.facts.remove(|known| *known == oid);
        self.selectable.remove(|(known, _)| *known == oid);
        self.access.remove(|(known, _)| *known == oid);
        self.exposures.remove(|(known, _)| *known == oid);
        self.wide_exposures.clear();
    }

    /// Whether the publication offers a table. The stream may carry more than that publication.
    pub(crate) async fn is_published(&self, relation: &Relation) -> Result<bool, sqlx::Error> {
        let schema = Pattern::Exact(relation.schema.as_str().into());
        let table = Pattern::Exact(relation.name.as_str().into());
        let oids = catalog::published(&self.pool, &self.options.publication, &schema, &table).await?;
        Ok(oids.contains(&relation.oid))
    }

    /// What `oid` means to some bindings of a subscriber, checked as at its join.
    pub(crate) async fn attachments(
        &self,
        subscriber: &Subscriber,
        bindings: &[usize],
        oid: u32,
    ) -> Result<Vec<Attachment>, SubscribeError> {
        let claims = subscriber.identity().0.claims.clone();
        let mut attachments = Vec::new();
        for at in bindings {
            let Some((_, binding)) = subscriber.bindings.get(*at) else {
                continue;
            };
            let Some(facts) = self.table_facts(binding, oid).await? else {
                continue;
            };
            if binding.schema.matches(&facts.schema) && binding.table.matches(&facts.name) {
                attachments.push(self.attachment(*at, binding, &facts, &claims.role).await?);
            }
        }
        Ok(attachments)
    }

    async fn table_facts(
        &self,
        binding: &Binding,
        oid: u32,
    ) -> Result<Option<Arc<TableFacts>>, SubscribeError> {
        self.known_facts(oid)
            .await
            .map_err(|error| SubscribeError::from_postgres(binding, error))
    }

    /// The names of a table's primary key columns.
    pub(crate) async fn key_names(&self, oid: u32) -> Result<Vec<String>, sqlx::Error> {
        let facts = self.known_facts(oid).await?;
        let names = facts.iter().flat_map(|facts| &facts.primary_key);
        Ok(names.map(|column| column.name.clone()).collect())
    }

    async fn known_facts(&self, oid: u32) -> Result<Option<Arc<TableFacts>>, sqlx::Error> {
        self.facts
            .get(oid, async {
                Ok::<_, sqlx::Error>(catalog::facts(&self.pool, &[oid]).await?.pop().map(Arc::new))
            })
            .await
    }

    pub(crate) async fn selectable(
        &self,
        binding: &Binding,
        oid: u32,
        role: &str,
    ) -> Result<Arc<BTreeSet<String>>, SubscribeError> {
        self.selectable
            .get((oid, role.to_owned()), async {
                let names = catalog::selectable(&self.pool, oid, role).await?;
                Ok::<_, sqlx::Error>(Arc::new(names.into_iter().collect()))
            })
            .await
            .map_err(|error| SubscribeError::from_postgres(binding, error))
    }

    /// How `role` is shown rows of the table whose policies count.
    pub(crate) async fn known_access(
        &self,
        binding: &Binding,
        source: u32,
        role: &str,
    ) -> Result<Access, SubscribeError> {
        self.access
            .get((source, role.to_owned()), async {
                Ok::<_, sqlx::Error>(policy::compile(&policy::load(&self.pool, source, role).await?))
            })
            .await
            .map_err(|error| SubscribeError::from_postgres(binding, error))
    }

    async fn attachment(
        &self,
        at: usize,
        binding: &Binding,
        facts: &TableFacts,
        role: &str,
    ) -> Result<Attachment, SubscribeError> {
        let selectable = self.selectable(binding, facts.oid, role).await?;
        let clauses = validate::clauses(&self.pool, binding, facts, &selectable).await?;
        validate::selection(binding, &selectable)?;
        Ok(Attachment {
            oid: facts.oid,
            at,
            clauses,
        })
    }

    /// Checks every binding for a role, in request order; the first that fails makes all fail
    /// (`protocol.md 7.3`).
    ///
    /// A refusal ends the matter for the client, so it must not rest on what the catalog said before it asked: a
    /// table may have been made anew since, a right granted.
    async fn check(&self, bindings: &[&Binding], claims: &Claims) -> Result<Checked, SubscribeError> {
        let asked = Instant::now();
        match self.check_as_known(bindings, claims).await {
            Err(error) if error.is_final() && self.forget_before(asked, bindings, &claims.role) => {
                self.check_as_known(bindings, claims).await
            }
            checked => checked,
        }
    }

    /// Forgets what the catalog said before a moment of the tables that the bindings name; whether there was
    /// anything.
    fn forget_before(&self, moment: Instant, bindings: &[&Binding], role: &String) -> bool {
        let mut forgotten = self.roles.forget_before(role, moment);
        for binding in bindings {
            let names = (binding.schema.clone(), binding.table.clone());
            for oid in self.published.known(&names).iter().flat_map(|oids| oids.iter()) {
                forgotten |= self.facts.forget_before(oid, moment);
                forgotten |= self.selectable.forget_before(&(*oid, role.clone()), moment);
            }
            forgotten |= self.published.forget_before(&names, moment);
        }
        forgotten
    }

    async fn check_as_known(
        &self,
        bindings: &[&Binding],
        claims: &Claims,
    ) -> Result<Checked, SubscribeError> {
        let mut checked = Checked {
            attachments: Vec::new(),
            warnings: Vec::new(),
        };
        for (at, binding) in bindings.iter().enumerate() {
            let fail = |error| SubscribeError::from_postgres(binding, error);
            let published = self
                .published
                .get((binding.schema.clone(), binding.table.clone()), async {
                    let found = catalog::published(
                        &self.pool,
                        &self.options.publication,
                        &binding.schema,
                        &binding.table,
                    );
                    // An empty answer is an error to `get`, so that a table published a moment later is found.
                    match found.await {
                        Ok(oids) if oids.is_empty() => Err(None),
                        Ok(oids) => Ok(Arc::new(oids)),
                        Err(error) => Err(Some(error)),
                    }
                })
                .await;
            let oids = match published {
                Ok(oids) => oids,
                Err(None) => return Err(self.why_unpublished(binding).await),
                Err(Some(error)) => return Err(fail(error)),
            };
            let role = &claims.role;
            let exists = self
                .roles
                .get(role.clone(), async {
                    match catalog::role_exists(&self.pool, role).await {
                        Ok(true) => Ok(true),
                        Ok(false) => Err(None),
                        Err(error) => Err(Some(error)),
                    }
                })
                .await;
            if let Err(error) = exists {
                return Err(error.map_or_else(|| SubscribeError::unknown_role(binding, role), fail));
            }
            for oid in oids.iter() {
                let Some(facts) = self.table_facts(binding, *oid).await? else {
                    continue;
                };
                let attachment = self.attachment(at, binding, &facts, role).await?;
                checked.attachments.push(attachment);
            }
            self.warn(binding, &oids, claims, &mut checked.warnings).await?;
        }
        Ok(checked)
    }

    /// The refusal of a binding that means no published table.
    async fn why_unpublished(&self, binding: &Binding) -> SubscribeError {
        let (schema, table) = (&binding.schema, &binding.table);
        let finding = self.unpublished.get((schema.clone(), table.clone()), async {
            diagnosis::unpublished(&self.pool, &self.options.publication, schema, table).await
        });
        match finding.await {
            Ok(finding) => SubscribeError::not_published(binding, finding),
            Err(error) => SubscribeError::from_postgres(binding, error),
        }
    }
}

/// The changes of one database. Cheap to clone.
#[derive(Clone)]
pub struct Changes {
    context: Arc<Context>,
    status: watch::Receiver<Status>,
    sharing: Option<Arc<SharingFigures>>,
    explainer: Explainer,
}

impl Changes {
    /// Starts the stream and its dispatcher and returns at once. `pool` is used for the catalog; visibility has
    /// connections of its own with the same settings.
    #[must_use]
    pub fn start(
        replication: walcast_replication::Config,
        pool: PgPool,
        options: Options,
        cancel: CancellationToken,
    ) -> Self {
        let stream_options = StreamOptions {
            publications: vec![options.publication.clone()],
            create_publication: options.create_publication,
            ..options.stream.clone()
        };
        let explainer = Explainer::new(pool.clone(), &options);
        let context = Arc::new(Context::new(pool, options));
        let interest: Arc<dyn walcast_replication::Interest> = Arc::new(Listening(Arc::clone(&context)));
        let (source, sharing) = match context.options.cluster.clone() {
            None => {
                let stream = walcast_replication::spawn(replication, stream_options, interest, cancel);
                context.set_stats(stream.stats());
                (Source::own(stream), None)
            }
            Some(sharing) => {
                let figures: Arc<SharingFigures> = Arc::default();
                let holder = Holder {
                    config: replication.clone(),
                    options: stream_options.clone(),
                    sharing: sharing.clone(),
                    figures: Arc::clone(&figures),
                };
                let following = Following {
                    context: Arc::clone(&context),
                    interest,
                    config: replication,
                    options: stream_options,
                    sharing,
                    figures: Arc::clone(&figures),
                    cancel: cancel.clone(),
                };
                let holder = tokio::spawn(holder.run(cancel));
                let follower = Follower::start(following, holder);
                (Source::Shared(Box::new(follower)), Some(figures))
            }
        };
        let (sender, status) = watch::channel(Status::Starting);
        tokio::spawn(dispatch::run(Arc::clone(&context), source, sender));
        Self {
            context,
            status,
            sharing,
            explainer,
        }
    }

    /// Subscribes a channel. When this returns, every change committed from now on is delivered
    /// (`design.md 3`, promise 1). Waits while the stream is not running; the caller bounds that.
    ///
    /// # Errors
    /// See [`SubscribeError`]; one bad entry means that none is active (`protocol.md 7.3`).
    pub async fn subscribe(&self, request: Request) -> Result<Subscription, SubscribeError> {
        loop {
            if let Some(subscription) = self.subscribe_once(&request).await? {
                return Ok(subscription);
            }
        }
    }

    /// `None`: the stream was lost meanwhile, and this channel may not have been told.
    async fn subscribe_once(&self, request: &Request) -> Result<Option<Subscription>, SubscribeError> {
        let bindings = parse(request, self.context.options.grammar())?;
        let mut status = self.status.clone();
        let mut losses = 0;
        let running = status
            .wait_for(|status| {
                // A loss is counted when the status says it, and before anybody is told.
                losses = self.context.losses.load(Ordering::Acquire);
                matches!(status, Status::Streaming | Status::Stopped)
            })
            .await;
        if running.map_or(true, |status| *status == Status::Stopped) {
            return Err(SubscribeError::Stopped);
        }
        let checked = {
            let bindings: Vec<&Binding> = bindings.iter().map(|(_, binding)| binding).collect();
            self.check(&bindings, &request.claims).await?
        };
        let id = self.context.registry.next_id();
        let subscriber = Arc::new(Subscriber::new(
            id,
            request,
            bindings,
            self.intern(&request.claims),
        ));
        let recovery = Recovery::new(&self.context, &subscriber, &checked.attachments);
        self.context
            .registry
            .add(&self.context, &subscriber, checked.attachments);
        // Read up to here before the subscription is answered, so committed before that.
        let start = self.context.now().position;
        let subscription = Subscription::new(self.clone(), subscriber, checked.warnings, start);
        if self.context.losses.load(Ordering::Acquire) != losses {
            return Ok(None);
        }
        if let Some(recovery) = recovery {
            tokio::spawn(recovery.run());
        }
        Ok(Some(subscription))
    }

    /// Says whether somebody would receive a row, as [`Explainer::explain`].
    ///
    /// # Errors
    /// As there.
    pub async fn explain(&self, inquiry: &Inquiry) -> Result<Explanation, ExplainError> {
        self.explainer.explain(inquiry).await
    }

    /// What the stream is doing, now and when it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Figures of what is read at the moment: the replication connection, or in a cluster what the holder of the slot
    /// hands over.
    #[must_use]
    pub fn replication_stats(&self) -> Arc<Stats> {
        self.context.stats()
    }

    /// This node's part in sharing one slot; `None` for a node alone.
    #[must_use]
    pub fn sharing_figures(&self) -> Option<Arc<SharingFigures>> {
        self.sharing.clone()
    }

    /// What deciding visibility took so far.
    #[must_use]
    pub fn visibility_figures(&self) -> Arc<VisibilityFigures> {
        Arc::clone(&self.context.figures)
    }

    /// Tables that somebody listens to.
    #[must_use]
    pub fn subscribed_tables(&self) -> usize {
        self.context.registry.tables_count()
    }

    /// Resolves when the stream has ended and its slot is gone.
    pub async fn stopped(&self) {
        let _ = self
            .status
            .clone()
            .wait_for(|status| *status == Status::Stopped)
            .await;
    }

    /// Whether both are of one engine.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context)
    }

    pub(crate) async fn check(
        &self,
        bindings: &[&Binding],
        claims: &Claims,
    ) -> Result<Checked, SubscribeError> {
        self.context.check(bindings, claims).await
    }

    pub(crate) fn intern(&self, claims: &Claims) -> IdentityRef {
        self.context.intern(claims)
    }

    pub(crate) fn switch_identity(&self, subscriber: &Subscriber, identity: &IdentityRef) {
        self.context.registry.switch_identity(subscriber, identity);
    }

    pub(crate) fn forget(&self, subscriber: &Subscriber) {
        self.context.registry.remove(&self.context, subscriber);
    }
}

/// The registry as the stream's reader asks it.
struct Listening(Arc<Context>);

impl walcast_replication::Interest for Listening {
    fn wants(&self, relation_oid: u32) -> bool {
        self.0.registry.wants(relation_oid)
            || self.0.tapped.wants(relation_oid)
            || self.0.window.covers(relation_oid)
    }

    fn announced(&self, relation: &Relation) {
        self.0.registry.announced(relation);
        self.0.tapped.announced(relation);
    }
}

fn parse(request: &Request, grammar: Grammar) -> Result<Vec<(u32, Binding)>, SubscribeError> {
    request
        .entries
        .iter()
        .map(|entry| {
            let fields = serde_json::from_str(entry.raw.get()).unwrap_or_default();
            Ok((entry.id, Binding::parse(&fields, grammar)?))
        })
        .collect()
}
