//! What row level security says of the row: of the table as a whole, of the row by all policies together, and each policy
//! by itself.

use super::judge::Judge;
use super::policies::{self, Place, SourceName};
use super::rehearsal;
use super::report::{ExplainError, PolicyKind, PolicyShown};
use crate::asking::Asking;
use crate::binding::Binding;
use crate::catalog;
use crate::diagnosis::{self, Finding};
use crate::engine::DeleteVisibility;
use crate::index::ActionKind;
use crate::policy::{self, Access, Row, Verdict};
use crate::row::{NewRow, OldRow};
use crate::table::{Item, Pending};
use crate::view::View;
use crate::visibility::Visibility;
use std::collections::HashMap;
use walcast_replication::Change;

/// What row level security says.
pub(super) struct Shown {
    pub(super) row_security: (Option<bool>, String, Option<String>),
    pub(super) policies: (Option<bool>, String, Option<String>),
    pub(super) each: Vec<PolicyShown>,
}

impl Judge<'_> {
    /// What row level security says: of the table, of the row, and each policy by itself.
    pub(super) async fn shown(
        &self,
        view: &View,
        key: Option<&[String]>,
        change: Option<&Change>,
        completed: Option<&Change>,
    ) -> Result<Shown, ExplainError> {
        let nothing = |row_security: String, policies: &str| Shown {
            row_security: (Some(true), row_security, None),
            policies: (Some(true), policies.to_owned(), None),
            each: Vec::new(),
        };
        let role = self.role();
        let Some(source) = &view.facts.row_security else {
            let detail = format!("row level security is not enabled on {}", self.table_name());
            return Ok(nothing(detail, "there are no policies to ask"));
        };
        let access = view.role(role).map(|known| &known.access);
        if access == Some(&Access::NoRls) {
            let detail = format!("role \"{role}\" is exempt from row level security");
            return Ok(nothing(detail, "no policy applies to the role"));
        }
        if self.kind == ActionKind::Delete && self.context.options.delete_visibility == DeleteVisibility::All
        {
            let detail = "a DELETE is told to everybody whose filter it passes, by its key alone".to_owned();
            return Ok(nothing(detail, "of a DELETE no policy is asked"));
        }
        let others = policies::for_others(self.context, source.oid, role).await?;
        let others = if others.is_empty() {
            String::new()
        } else {
            format!("; for other roles there are {}", others.join(", "))
        };
        if access.is_none_or(|access| *access == Access::Hidden) {
            let finding = Finding::NoPolicy {
                table: diagnosis::TableName {
                    schema: self.schema.clone(),
                    name: self.table.clone(),
                },
                decided_at: self.decided_at(source.oid).await?,
                role: role.to_owned(),
            };
            return Ok(Shown {
                row_security: (Some(false), format!("{finding}{others}"), finding.remedy()),
                policies: (Some(false), "no policy admits the role".to_owned(), None),
                each: Vec::new(),
            });
        }
        let facts = policy::load(&self.context.pool, source.oid, role).await?;
        let identity = self.context.intern(&self.inquiry.claims);
        let place = Place {
            oid: view.facts.oid,
            source,
            source_name: SourceName::load(self.context, source.oid).await?,
            primary_key: &view.facts.primary_key,
            key: key.unwrap_or_default(),
        };
        let new_row = completed.map(|change| NewRow { view, change });
        let old_row = completed.map(|change| OldRow { view, change });
        let row = if self.kind == ActionKind::Delete {
            old_row.as_ref().map(|row| row as &(dyn Row + Sync))
        } else {
            new_row.as_ref().map(|row| row as &(dyn Row + Sync))
        };
        let judged = policies::judge(self.context, &facts, row, &identity.0, &place).await;
        let row_security = format!(
            "row level security is enabled, with {} for role \"{role}\"{others}",
            counted(judged.len(), "policy", "policies")
        );
        let verdict = match (change, completed) {
            (Some(change), Some(completed)) => self.verdict(view, change, completed).await?,
            _ => (None, Some("there is no row to judge".to_owned())),
        };
        let (passed, told) = verdict;
        let detail = told.unwrap_or_else(|| reason(passed, &judged));
        let remedy =
            "correct the policies, or the claims they compare; the policies are listed with what each says";
        Ok(Shown {
            row_security: (Some(true), row_security, None),
            policies: (passed, detail, Some(remedy.to_owned())),
            each: judged.into_iter().map(|judged| judged.shown).collect(),
        })
    }

    async fn decided_at(&self, oid: u32) -> Result<diagnosis::TableName, sqlx::Error> {
        let facts = catalog::facts(&self.context.pool, &[oid]).await?.pop();
        Ok(facts.map_or_else(
            || diagnosis::TableName {
                schema: self.schema.clone(),
                name: self.table.clone(),
            },
            |facts| diagnosis::TableName {
                schema: facts.schema,
                name: facts.name,
            },
        ))
    }

    /// Whether the policies together show the row: decided as each change is. The sentence says what is not a matter of
    /// single policies.
    async fn verdict(
        &self,
        view: &View,
        change: &Change,
        completed: &Change,
    ) -> Result<(Option<bool>, Option<String>), ExplainError> {
        if self.kind == ActionKind::Delete {
            let anything = Binding {
                clauses: Vec::new(),
                ..self.binding.clone()
            };
            let claims = &self.inquiry.claims;
            let shows = rehearsal::shows(self.context, &anything, Vec::new(), claims, change.clone()).await?;
            return Ok((Some(shows), None));
        }
        let mode = self.context.options.visibility;
        let identity = self.context.intern(&self.inquiry.claims);
        let row = NewRow {
            view,
            change: completed,
        };
        let verdict = match view.role(self.role()) {
            Some(_) if mode == Visibility::Verify => Verdict::Ask,
            Some(role) => role.verdict(mode, &row, identity.0.view()),
            None => Verdict::Hidden,
        };
        match verdict {
            Verdict::Visible => return Ok((Some(true), None)),
            Verdict::Hidden | Verdict::Raises => return Ok((Some(false), None)),
            Verdict::Ask => {}
        }
        let item = Item {
            number: 0,
            change: completed.clone(),
            is_superseded: false,
            tickets: Vec::new(),
            _share: None,
        };
        let asked = HashMap::from([(identity.clone(), vec![0])]);
        let Some(asking) = Asking::new(view, &[Pending::new(item)], asked, None) else {
            return Ok((Some(false), Some("the row cannot be looked up".to_owned())));
        };
        match asking.run(self.context).await {
            Ok(answer) if answer.sees(&identity, 0) => Ok((Some(true), None)),
            Ok(answer) => {
                let raised = answer.failures.into_iter().next();
                let told = raised.map(|failure| format!("checking the policies raised: {}", failure.reason));
                Ok((Some(false), told))
            }
            Err(error) => Ok((Some(false), Some(error.to_string()))),
        }
    }
}

/// Why the row is shown or hidden, by what single policies say.
fn reason(passed: Option<bool>, judged: &[policies::Judged]) -> String {
    let names = |kind: PolicyKind, holds: bool| -> Vec<String> {
        judged
            .iter()
            .filter(|policy| policy.shown.kind == kind && (policy.shown.result == Some(true)) == holds)
            .map(|policy| {
                let why = match &policy.shown {
                    _ if holds => "",
                    shown if shown.raised.is_some() => " (it raises)",
                    _ if policy.is_null => " (it is NULL: something it compares is missing)",
                    shown if shown.result.is_none() => " (it could not be evaluated by itself)",
                    _ => "",
                };
                format!("\"{}\"{why}", policy.shown.name)
            })
            .collect()
    };
    if passed == Some(true) {
        return format!("admitted by {}", names(PolicyKind::Permissive, true).join(", "));
    }
    let held_back = names(PolicyKind::Restrictive, false);
    if held_back.is_empty() {
        format!(
            "no permissive policy holds: {}",
            names(PolicyKind::Permissive, false).join(", ")
        )
    } else {
        format!("held back by the restrictive {}", held_back.join(", "))
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
