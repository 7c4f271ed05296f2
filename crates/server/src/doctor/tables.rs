//! The publication, and each of its tables for each role.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgConnection;
use walcast_changes::binding::Pattern;
use walcast_changes::diagnosis::{self, Exposure, Finding, TableName, Wish};

use super::report::{Entry, Level, count};

/// Schemas of the platform's and ours: `for all tables` publishes them too, and nobody subscribes to them.
const INTERNAL_SCHEMAS: [&str; 3] = ["realtime", "_realtime", "walcast"];

/// What is to be looked at.
pub(super) struct Wanted<'a> {
    pub(super) publication: &'a str,
    /// Empty: every published table.
    pub(super) tables: &'a [TableName],
    pub(super) roles: &'a [String],
    /// The roles were asked for by name, so that each must see something.
    pub(super) is_each_role_wanted: bool,
    /// DELETEs are told to those alone who could see the row.
    pub(super) checks_deletes: bool,
}

pub(super) async fn look(
    postgres: &mut PgConnection,
    wanted: &Wanted<'_>,
) -> Result<Vec<Entry>, sqlx::Error> {
    let roles: Vec<&str> = wanted.roles.iter().map(String::as_str).collect();
    let found = diagnosis::exposures(&mut *postgres, wanted.publication, None, &roles).await?;
    let mut by_table: BTreeMap<&TableName, Vec<&Exposure>> = BTreeMap::new();
    for exposure in &found {
        by_table.entry(exposure.table()).or_default().push(exposure);
    }
    let mut entries = Vec::new();
    if wanted.tables.is_empty() {
        by_table.retain(|table, _| !INTERNAL_SCHEMAS.contains(&table.schema.as_str()));
        if by_table.is_empty() {
            // Also when no role exists, which is said elsewhere.
            let finding = unpublished(postgres, wanted.publication, &Pattern::Any, &Pattern::Any).await?;
            entries.push(Entry::from(&finding));
        } else {
            entries.push(Entry::ok(format!(
                "publication {} offers {}",
                wanted.publication,
                count(by_table.len(), "table")
            )));
        }
    } else {
        by_table.retain(|table, _| wanted.tables.contains(table));
        for table in wanted.tables.iter().filter(|table| !by_table.contains_key(table)) {
            let exact = |name: &String| Pattern::Exact(name.clone());
            let finding = unpublished(
                postgres,
                wanted.publication,
                &exact(&table.schema),
                &exact(&table.name),
            )
            .await?;
            entries.push(Entry::from(&finding));
        }
    }
    let mut said = HashSet::new();
    for (table, exposures) in by_table {
        let mut all = of_table(table, &exposures, wanted.is_each_role_wanted);
        if wanted.checks_deletes {
            for exposure in exposures {
                let hidden = diagnosis::hidden_deletes(&mut *postgres, exposure).await?;
                all.extend(hidden.as_ref().map(Entry::from));
            }
        }
        for entry in all {
            if said.insert(entry.message.clone()) {
                entries.push(entry);
            }
        }
    }
    Ok(entries)
}

async fn unpublished(
    postgres: &mut PgConnection,
    publication: &str,
    schema: &Pattern,
    table: &Pattern,
) -> Result<Finding, sqlx::Error> {
    diagnosis::unpublished(postgres, publication, schema, table).await
}

/// A role that is shown nothing of a table is a problem if it was asked for, or if users of neither kind are shown
/// anything; that visitors are shown less than users is how most applications are meant.
fn of_table(table: &TableName, exposures: &[&Exposure], is_each_role_wanted: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut reached = Vec::new();
    let mut of_roles = Vec::new();
    for exposure in exposures {
        let (of_role, of_all): (Vec<_>, Vec<_>) = exposure
            .findings(Wish::Everything)
            .into_iter()
            // Said once for the role, with the roles.
            .filter(|finding| !matches!(finding, Finding::RoleNotGranted { .. }))
            .partition(|finding| finding.role().is_some());
        entries.extend(of_all.iter().map(Entry::from));
        if of_role.is_empty() {
            reached.push(exposure.role());
        }
        of_roles.extend(of_role);
    }
    let is_for_users = reached
        .iter()
        .any(|role| matches!(*role, "anon" | "authenticated"));
    for finding in &of_roles {
        let mut entry = Entry::from(finding);
        if is_for_users && !is_each_role_wanted {
            entry.level = Level::Warning;
        }
        entries.push(entry);
    }
    let is_sound = entries.iter().all(|entry| entry.level != Level::Problem);
    if is_sound && !reached.is_empty() {
        entries.push(Entry::ok(format!("table {table} reaches {}", reached.join(", "))));
    }
    entries
}
