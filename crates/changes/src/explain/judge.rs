//! The checks of delivery in its order, each with its finding.

use super::filter;
use super::rehearsal;
use super::report::{Check, CheckName, ExplainError, Explanation, IdentityShown, Inquiry, PolicyShown};
use super::subject::{Found, Subject};
use crate::binding::{Binding, EventFilter, Pattern};
use crate::catalog;
use crate::clause::Clause;
use crate::condition::TypedCondition;
use crate::diagnosis::{self, Finding, Wish};
use crate::engine::Context;
use crate::error::SubscribeError;
use crate::index::ActionKind;
use crate::rights::RightsVersion;
use crate::table::Item;
use crate::validate;
use crate::view::View;
use std::collections::BTreeSet;
use std::sync::Arc;
use walcast_replication::Change;

/// One question on its way to its answer.
pub(super) struct Judge<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) inquiry: &'a Inquiry,
    pub(super) binding: Binding,
    pub(super) schema: String,
    pub(super) table: String,
    /// What is supposed to happen to the row.
    pub(super) kind: ActionKind,
    checks: Vec<Check>,
}

/// A filter made ready for the table, or why it does not fit.
type Clauses = Result<Vec<Clause<TypedCondition>>, String>;

impl<'a> Judge<'a> {
    pub(super) fn new(
        context: &'a Arc<Context>,
        inquiry: &'a Inquiry,
        binding: Binding,
    ) -> Result<Self, ExplainError> {
        let (Pattern::Exact(schema), Pattern::Exact(table)) = (binding.schema.clone(), binding.table.clone())
        else {
            return Err(ExplainError::Wildcard);
        };
        let kind = match binding.event {
            EventFilter::All | EventFilter::Update => ActionKind::Update,
            EventFilter::Insert => ActionKind::Insert,
            EventFilter::Delete => ActionKind::Delete,
        };
        Ok(Self {
            context,
            inquiry,
            binding,
            schema,
            table,
            kind,
            checks: Vec::new(),
        })
    }

    pub(super) async fn run(mut self) -> Result<Explanation, ExplainError> {
        let has_role = catalog::role_exists(&self.context.pool, self.role()).await?;
        self.token(has_role);
        let unpublished = self.unpublished().await?;
        let subject = Subject::load(
            &self.context.pool,
            &self.context.options.publication,
            &self.schema,
            &self.table,
        )
        .await?;
        let Some(subject) = subject else {
            self.no_table(unpublished.as_ref());
            return Ok(self.report(Some(false), Vec::new()));
        };
        let findings = self.findings(&subject).await?;
        let rights = self
            .context
            .rights
            .version(&self.context.pool, &self.context.asker)
            .await?;
        let view = self.view(&subject, &rights).await?;
        let selectable = catalog::selectable(&self.context.pool, subject.facts.oid, self.role()).await?;
        let selectable: BTreeSet<String> = selectable.into_iter().collect();
        let clauses = self.clauses(&subject, &selectable).await?;
        let key = match &self.inquiry.key {
            Some(key) if !subject.facts.primary_key.is_empty() => Some(subject.key(key)?),
            _ => None,
        };
        let found = match &key {
            Some(key) => {
                let timeout_ms = self.context.options.visibility_timeout_ms;
                let found = subject.find(&self.context.pool, self.kind, key, timeout_ms);
                Some(found.await?)
            }
            None => None,
        };

        self.push(
            CheckName::Table,
            Some(true),
            format!("there is a table {}.{}", self.schema, self.table),
            None,
        );
        self.publication(unpublished.as_ref(), &findings, found.as_ref());
        self.primary_key(&subject, &findings);
        self.select_right(&view, &findings, &selectable);
        self.columns(&view, &selectable);
        self.filter_valid(&clauses);
        self.row(key.as_deref(), found.as_ref());
        let change = match &found {
            Some(Found::Row { change, .. } | Found::Unreadable { change, .. }) => Some(change.as_ref()),
            Some(Found::Nothing) | None => None,
        };
        // As the table's task sees it, with the columns that the stream leaves out.
        let mut view = view;
        let completed = match change {
            Some(change) => Some(self.complete(&mut view, change.clone()).await),
            None => None,
        };
        let is_partial = matches!(found, Some(Found::Unreadable { .. }));
        let completed = completed.as_ref();
        self.filter(&view, &clauses, completed, is_partial).await;
        let shown = self.shown(&view, key.as_deref(), change, completed).await?;
        let (passed, detail, remedy) = shown.row_security;
        self.push(CheckName::RowSecurity, passed, detail, remedy);
        let (passed, detail, remedy) = shown.policies;
        self.push(CheckName::Policies, passed, detail, remedy);
        let visible = self.visible(clauses, change, is_partial, found.is_some()).await?;
        Ok(self.report(visible, shown.each))
    }

    pub(super) fn role(&self) -> &str {
        &self.inquiry.claims.role
    }

    pub(super) fn table_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    fn push(&mut self, check: CheckName, passed: Option<bool>, detail: String, remedy: Option<String>) {
        self.checks.push(Check {
            check,
            passed,
            detail,
            // What is well needs none.
            remedy: remedy.filter(|_| passed != Some(true)),
        });
    }

    fn passed(&self, name: CheckName) -> Option<bool> {
        self.checks
            .iter()
            .find(|check| check.check == name)
            .and_then(|check| check.passed)
    }

    fn report(self, visible: Option<bool>, policies: Vec<PolicyShown>) -> Explanation {
        let claims: serde_json::Value = serde_json::from_str(&self.inquiry.claims.json).unwrap_or_default();
        Explanation {
            visible,
            identity: IdentityShown {
                role: self.role().to_owned(),
                sub: claims.get("sub").and_then(|sub| sub.as_str()).map(str::to_owned),
            },
            judged_as: self.kind.as_str(),
            checks: self.checks,
            policies,
        }
    }

    /// Whether the row would be shown: what delivery itself does with it, unless it would not come to that.
    async fn visible(
        &self,
        clauses: Clauses,
        change: Option<&Change>,
        is_partial: bool,
        is_asked_of_row: bool,
    ) -> Result<Option<bool>, ExplainError> {
        let fails = |name: CheckName| self.passed(name) == Some(false);
        let subscription = [
            CheckName::Token,
            CheckName::Publication,
            CheckName::Columns,
            CheckName::FilterValid,
        ];
        let (Ok(clauses), false) = (clauses, subscription.into_iter().any(fails)) else {
            return Ok(Some(false));
        };
        let Some(change) = change else {
            let of_table = [
                CheckName::PrimaryKey,
                CheckName::SelectRight,
                CheckName::RowSecurity,
            ];
            let is_out = is_asked_of_row || of_table.into_iter().any(fails);
            return Ok(is_out.then_some(false));
        };
        let claims = &self.inquiry.claims;
        let shows = rehearsal::shows(self.context, &self.binding, clauses, claims, change.clone()).await?;
        // A part that is not known of a row that is not: what delivery would do with it is not known either.
        let is_unsure = is_partial
            && if shows {
                self.passed(CheckName::Publication).is_none()
            } else {
                self.passed(CheckName::Filter).is_none() && !fails(CheckName::Policies)
            };
        Ok((!is_unsure).then_some(shows))
    }

    fn token(&mut self, has_role: bool) {
        let role = self.role().to_owned();
        let (passed, detail, remedy) = match &self.inquiry.token_refused {
            Some(refused) => (false, refused.reason.clone(), Some(refused.remedy.clone())),
            None if !has_role => {
                let finding = Finding::NoSuchRole { role };
                (false, finding.to_string(), finding.remedy())
            }
            None => (
                true,
                format!("the claims are valid, and role \"{role}\" exists"),
                None,
            ),
        };
        self.push(CheckName::Token, Some(passed), detail, remedy);
    }

    async fn unpublished(&self) -> Result<Option<Finding>, sqlx::Error> {
        let (pool, publication) = (&self.context.pool, &self.context.options.publication);
        let (schema, table) = (&self.binding.schema, &self.binding.table);
        if catalog::published(pool, publication, schema, table)
            .await?
            .is_empty()
        {
            return diagnosis::unpublished(pool, publication, schema, table)
                .await
                .map(Some);
        }
        Ok(None)
    }

    fn no_table(&mut self, why: Option<&Finding>) {
        let (detail, remedy) = why.map_or_else(
            || (format!("there is no table {}", self.table_name()), None),
            |finding| (finding.to_string(), finding.remedy()),
        );
        self.push(CheckName::Table, Some(false), detail, remedy);
        let rest = [
            CheckName::Publication,
            CheckName::PrimaryKey,
            CheckName::SelectRight,
            CheckName::Columns,
            CheckName::FilterValid,
            CheckName::Row,
            CheckName::Filter,
            CheckName::RowSecurity,
            CheckName::Policies,
        ];
        for check in rest {
            self.push(check, None, "there is no table to judge".to_owned(), None);
        }
    }

    /// What a subscription would be told of the table.
    async fn findings(&self, subject: &Subject) -> Result<Vec<Finding>, sqlx::Error> {
        let (pool, publication) = (&self.context.pool, &self.context.options.publication);
        let (oids, roles) = ([subject.facts.oid], [self.role()]);
        let exposures = diagnosis::exposures(pool, publication, Some(&oids), &roles).await?;
        let exposure = exposures.into_iter().next();
        Ok(exposure
            .map(|exposure| exposure.findings(Wish::Binding(&self.binding)))
            .unwrap_or_default())
    }

    async fn view(&self, subject: &Subject, rights: &RightsVersion) -> Result<View, ExplainError> {
        let view = View::load(self.context, &subject.relation, rights).await?;
        let Some(mut view) = view else {
            return Err(ExplainError::Undecided(format!(
                "table {} is gone by now",
                self.table_name()
            )));
        };
        view.refresh_role(self.context, self.role(), rights).await?;
        Ok(view)
    }

    async fn clauses(
        &self,
        subject: &Subject,
        selectable: &BTreeSet<String>,
    ) -> Result<Clauses, ExplainError> {
        let clauses = validate::clauses(&self.context.pool, &self.binding, &subject.facts, selectable);
        match clauses.await {
            Ok(clauses) => Ok(Ok(clauses)),
            Err(SubscribeError::Rejected { exception, .. }) => Ok(Err(exception)),
            Err(SubscribeError::Database(error)) => Err(error.into()),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn publication(&mut self, unpublished: Option<&Finding>, findings: &[Finding], found: Option<&Found>) {
        let action = self.kind.as_str().to_lowercase();
        let stops = |finding: &&Finding| match finding {
            Finding::ActionsNotPublished { missing, .. } => missing.contains(&action.as_str()),
            Finding::NoReplicaIdentity { .. } => self.kind != ActionKind::Insert,
            _ => false,
        };
        let narrows = |finding: &&Finding| matches!(finding, Finding::RowFilter(_));
        let publication = &self.context.options.publication;
        let (passed, detail, remedy) = if let Some(finding) =
            unpublished.or_else(|| findings.iter().find(stops))
        {
            (Some(false), finding.to_string(), finding.remedy())
        } else if let Some(finding) = findings.iter().find(narrows) {
            let (passed, detail) = match found {
                Some(Found::Row {
                    is_published: true, ..
                }) => (
                    Some(true),
                    format!("the row passes the row filter of publication {publication}"),
                ),
                Some(Found::Row { .. }) => (
                    Some(false),
                    format!(
                        "the row does not pass the row filter of publication {publication}, so its changes never arrive"
                    ),
                ),
                _ => (None, finding.to_string()),
            };
            (passed, detail, finding.remedy())
        } else {
            let mut detail = format!("publication {publication} offers it");
            let lists = findings
                .iter()
                .find(|finding| matches!(finding, Finding::ColumnsNotPublished { .. }));
            if let Some(finding) = lists {
                detail = format!("{detail}; but {finding}");
            }
            (Some(true), detail, None)
        };
        self.push(CheckName::Publication, passed, detail, remedy);
    }

    fn primary_key(&mut self, subject: &Subject, findings: &[Finding]) {
        let columns = &subject.facts.primary_key;
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let (passed, detail, remedy) = if self.kind == ActionKind::Delete {
            (true, "a DELETE needs none".to_owned(), None)
        } else if names.is_empty() {
            let finding = findings
                .iter()
                .find(|finding| matches!(finding, Finding::NoPrimaryKey { .. }));
            let detail = format!(
                "table {} has no primary key, so INSERT and UPDATE arrive without data",
                self.table_name()
            );
            (false, detail, finding.and_then(Finding::remedy))
        } else {
            (true, format!("the primary key is {}", names.join(", ")), None)
        };
        self.push(CheckName::PrimaryKey, Some(passed), detail, remedy);
    }

    fn select_right(&mut self, view: &View, findings: &[Finding], selectable: &BTreeSet<String>) {
        let role = self.role();
        let sees_key = view.role(role).is_some_and(|role| role.sees_key);
        // Of a deleted row whatever the role may see is shown (`protocol.md 7.5`).
        let passed = sees_key && !selectable.is_empty() || self.kind == ActionKind::Delete;
        let found = findings.iter().find(|finding| {
            matches!(
                finding,
                Finding::NoSelect { .. } | Finding::KeyNotSelectable { .. }
            )
        });
        let (detail, remedy) = match found {
            _ if passed && sees_key => (format!("role \"{role}\" may select the primary key"), None),
            _ if passed => (
                "of a deleted row only what the role may select is shown".to_owned(),
                None,
            ),
            Some(finding) => (finding.to_string(), finding.remedy()),
            None => (
                format!(
                    "role \"{role}\" may not select the primary key of {}",
                    self.table_name()
                ),
                Some(format!(
                    "grant select on {}.{} to {}",
                    diagnosis::identifier(&self.schema),
                    diagnosis::identifier(&self.table),
                    diagnosis::identifier(role)
                )),
            ),
        };
        self.push(CheckName::SelectRight, Some(passed), detail, remedy);
    }

    fn columns(&mut self, view: &View, selectable: &BTreeSet<String>) {
        let (passed, detail) = match validate::selection(&self.binding, selectable) {
            Err(SubscribeError::Rejected { exception, .. }) => (false, exception),
            Err(error) => (false, error.to_string()),
            Ok(()) => {
                let hidden: Vec<&str> = view
                    .relation
                    .columns
                    .iter()
                    .map(|column| column.name.as_str())
                    .filter(|name| !selectable.contains(*name))
                    .collect();
                let detail = if hidden.is_empty() {
                    "all columns that are wanted are shown".to_owned()
                } else {
                    format!(
                        "the role may not select {}, and is not shown it",
                        hidden.join(", ")
                    )
                };
                (true, detail)
            }
        };
        let remedy = "leave the column out of `select`, or grant select on it to the role";
        self.push(CheckName::Columns, Some(passed), detail, Some(remedy.to_owned()));
    }

    fn filter_valid(&mut self, clauses: &Clauses) {
        let (passed, detail) = match clauses {
            Ok(clauses) if clauses.is_empty() => (true, "there is no filter".to_owned()),
            Ok(_) => (true, "the filter fits the table and the role".to_owned()),
            Err(exception) => (false, exception.clone()),
        };
        let remedy = "correct the filter; see `filter` in the message";
        self.push(
            CheckName::FilterValid,
            Some(passed),
            detail,
            Some(remedy.to_owned()),
        );
    }

    fn row(&mut self, key: Option<&[String]>, found: Option<&Found>) {
        let (passed, detail, remedy) = match found {
            None if key.is_none() && self.inquiry.key.is_some() => (
                None,
                "without a primary key no row can be looked up".to_owned(),
                None,
            ),
            None => (None, "no `key` was given".to_owned(), None),
            Some(Found::Row { .. }) => (Some(true), "there is a row with this key".to_owned(), None),
            Some(Found::Nothing) => (
                Some(false),
                "there is no row with this key; if there was one, it is gone".to_owned(),
                None,
            ),
            Some(Found::Unreadable { reason, .. }) => (
                None,
                format!("the row could not be read, so only its key is known: {reason}"),
                Some(format!(
                    "grant select on {}.{} to the role Walcast connects as, or ask as one that may read it",
                    diagnosis::identifier(&self.schema),
                    diagnosis::identifier(&self.table)
                )),
            ),
        };
        self.push(CheckName::Row, passed, detail, remedy);
    }

    /// Gives the change the generated columns that the stream leaves out.
    async fn complete(&self, view: &mut View, change: Change) -> Change {
        let mut item = Item {
            number: 0,
            change,
            is_superseded: false,
            tickets: Vec::new(),
            _share: None,
        };
        if let Some(completion) = &mut view.completion {
            let items = std::slice::from_mut(&mut item);
            if let Some(error) = completion.complete(&self.context.asker, items).await {
                tracing::warn!(%error, "generated columns could not be computed for an explanation");
            }
        }
        item.change
    }

    async fn filter(&mut self, view: &View, clauses: &Clauses, change: Option<&Change>, is_partial: bool) {
        let (passed, detail) = match (clauses, change) {
            (Err(_), _) => (None, "the filter does not fit the table".to_owned()),
            (Ok(clauses), _) if clauses.is_empty() => (Some(true), "there is no filter".to_owned()),
            (Ok(_), None) => (None, "there is no row to judge".to_owned()),
            (Ok(clauses), Some(change)) => {
                let judged = filter::judge(self.context, view, change, clauses).await;
                let known = |name: &str| view.facts.primary_key.iter().any(|column| column.name == name);
                let reads_more = clauses
                    .iter()
                    .flat_map(Clause::conditions)
                    .any(|condition| !known(&condition.condition.column));
                if is_partial && reads_more {
                    (None, "the filter reads columns that are not known".to_owned())
                } else {
                    (judged.passed, judged.detail)
                }
            }
        };
        let remedy = "the filter compares in the column's type, and case counts; correct it, or the row";
        self.push(CheckName::Filter, passed, detail, Some(remedy.to_owned()));
    }
}
