//! One reason for silence, in words and with its remedy.

use super::old_rows::Doubt;
use super::sql_name::{identifier, identifiers};
use serde::Deserialize;
use std::fmt;

/// A table, by the names of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl TableName {
    /// As SQL names it.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// As people name it, without quotes.
impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

/// How much is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Some changes, or parts of them, do not arrive. It may be meant.
    Warning,
    /// Nothing arrives, or nothing of use.
    Problem,
}

/// A table in its publication, so that it can be taken out and put back differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The publication.
    pub publication: String,
    /// The table.
    pub table: TableName,
    /// The publication names this table by itself, not with all tables or those of a schema.
    pub is_explicit: bool,
    /// Tables inherit from it, and are meant by its name unless it is said otherwise.
    pub has_children: bool,
    /// Its column list, if it has one.
    pub columns: Option<Vec<String>>,
    /// Its row filter, as SQL.
    pub row_filter: Option<String>,
}

impl Listing {
    /// Takes the table out and puts it back with these columns and this condition.
    fn relist(&self, columns: Option<&[String]>, row_filter: Option<&str>) -> Option<String> {
        use std::fmt::Write as _;
        if !self.is_explicit {
            return None;
        }
        let publication = identifier(&self.publication);
        let only = if self.has_children { "only " } else { "" };
        let table = format!("{only}{}", self.table.quoted());
        let mut sql = format!(
            "alter publication {publication} drop table {table}; alter publication {publication} add table {table}"
        );
        if let Some(columns) = columns {
            let _ = write!(sql, " ({})", identifiers(columns.iter().map(String::as_str)));
        }
        if let Some(condition) = row_filter {
            // Printed by Postgres, in parentheses of its own.
            let _ = write!(sql, " where ({condition})");
        }
        Some(sql)
    }
}

/// What a table without a primary key could get as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOffer {
    /// These columns are unique and never null.
    Columns(Vec<String>),
    /// A new column of this name, which is free.
    NewColumn(String),
    /// Nothing can be told without knowing what the table is about.
    Nothing,
}

/// Why changes do not arrive, or not all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is no publication.
    NoPublication {
        /// Its name.
        publication: String,
        /// The table that should be in it, if one is asked for.
        table: Option<TableName>,
    },
    /// The publication has no table, or none of those that a wildcard means.
    NothingPublished {
        /// The publication.
        publication: String,
        /// The schema that is asked for.
        schema: Option<String>,
        /// The name that is asked for in any schema.
        name: Option<String>,
    },
    /// No table has this name.
    NoSuchTable {
        /// The name.
        table: TableName,
        /// A published table whose name is nearly the same.
        similar: Option<TableName>,
    },
    /// The table is not in the publication.
    NotPublished {
        /// The publication.
        publication: String,
        /// The table.
        table: TableName,
    },
    /// What has this name can never be published.
    NotATable {
        /// The name.
        table: TableName,
        /// What it is, with its article: `a view`.
        kind: String,
    },
    /// An unlogged table writes nothing to the log that changes are read from.
    Unlogged {
        /// The publication.
        publication: String,
        /// The table.
        table: TableName,
        /// The publication takes every table that can be published.
        is_for_all_tables: bool,
    },
    /// A partition whose changes are published under the name of its root.
    PublishedUnderRoot {
        /// The publication.
        publication: String,
        /// The partition.
        table: TableName,
        /// Whose name its changes have.
        root: TableName,
    },
    /// A partitioned table whose changes are published under the names of its partitions.
    PublishedAsPartitions {
        /// The publication.
        publication: String,
        /// The partitioned table.
        table: TableName,
    },
    /// The publication leaves out some kinds of changes.
    ActionsNotPublished {
        /// The publication.
        publication: String,
        /// What it has, as in `publish`.
        published: Vec<&'static str>,
        /// What is wanted and left out, as in `publish`.
        missing: Vec<&'static str>,
        /// Nothing of what is wanted is left.
        is_all: bool,
    },
    /// The publication leaves out rows.
    RowFilter(Listing),
    /// The publication leaves out columns.
    ColumnsNotPublished {
        /// The table in the publication.
        listing: Listing,
        /// Those that are missed.
        columns: Vec<String>,
        /// Without them no row can be decided on: a filter or the primary key needs them.
        is_needed: bool,
    },
    /// No such role.
    NoSuchRole {
        /// Its name.
        role: String,
    },
    /// Walcast may not become the role, so it cannot ask which rows the role sees.
    RoleNotGranted {
        /// The role.
        role: String,
        /// The role Walcast connects as.
        to: String,
        /// Whether membership needs the SET option (Postgres 16).
        has_options: bool,
    },
    /// Row level security, and the role may not use the schema: every check fails.
    NoSchemaUsage {
        /// The table.
        table: TableName,
        /// Where its row level security is decided.
        schema: String,
        /// The role.
        role: String,
    },
    /// The role may select no column.
    NoSelect {
        /// The table.
        table: TableName,
        /// The role.
        role: String,
    },
    /// The role may not select the whole primary key.
    KeyNotSelectable {
        /// The table.
        table: TableName,
        /// The role.
        role: String,
        /// The columns of the key it may not select.
        columns: Vec<String>,
    },
    /// Row level security without a policy for the role.
    NoPolicy {
        /// The table.
        table: TableName,
        /// Where row level security is decided: the table, or the one it is a partition of.
        decided_at: TableName,
        /// The role.
        role: String,
    },
    /// The policies raise an error for a token's claims, whatever the row.
    ClaimsRaise {
        /// The table.
        table: TableName,
        /// The role.
        role: String,
    },
    /// No primary key.
    NoPrimaryKey {
        /// The table.
        table: TableName,
        /// What could be one.
        offer: KeyOffer,
    },
    /// Postgres refuses UPDATE and DELETE.
    NoReplicaIdentity {
        /// The table.
        table: TableName,
        /// It has a primary key, which could be its identity.
        has_key: bool,
    },
    /// The old row of a DELETE lacks columns that are filtered by.
    FilterNotInIdentity {
        /// The table.
        table: TableName,
        /// The columns.
        columns: Vec<String>,
        /// Only DELETE is asked for.
        is_all: bool,
    },
    /// It cannot be told whether the role could see a row that was deleted, where only such are told.
    DeleteHidden {
        /// The table.
        table: TableName,
        /// The role.
        role: String,
        /// Why.
        doubt: Doubt,
    },
    /// It cannot be told whether the role was shown a row before an UPDATE.
    LeaveNotTold {
        /// The table.
        table: TableName,
        /// The role.
        role: String,
        /// Why.
        doubt: Doubt,
    },
    /// A binding wants to know when a row leaves, and does not hear what that is told as.
    LeaveNotHeard {
        /// What it hears.
        event: &'static str,
    },
}

impl Finding {
    /// Names the finding in programs and in `docs/troubleshooting.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPublication { .. } => "no_publication",
            Self::NothingPublished { .. } => "nothing_published",
            Self::NoSuchTable { .. } => "no_such_table",
            Self::NotPublished { .. } => "not_published",
            Self::NotATable { .. } => "not_a_table",
            Self::Unlogged { .. } => "unlogged",
            Self::PublishedUnderRoot { .. } => "published_under_root",
            Self::PublishedAsPartitions { .. } => "published_as_partitions",
            Self::ActionsNotPublished { .. } => "actions_not_published",
            Self::RowFilter(_) => "row_filter",
            Self::ColumnsNotPublished { .. } => "columns_not_published",
            Self::NoSuchRole { .. } => "no_such_role",
            Self::RoleNotGranted { .. } => "role_not_granted",
            Self::NoSchemaUsage { .. } => "no_schema_usage",
            Self::NoSelect { .. } => "no_select",
            Self::KeyNotSelectable { .. } => "key_not_selectable",
            Self::NoPolicy { .. } => "no_policy",
            Self::ClaimsRaise { .. } => "claims_raise",
            Self::NoPrimaryKey { .. } => "no_primary_key",
            Self::NoReplicaIdentity { .. } => "no_replica_identity",
            Self::FilterNotInIdentity { .. } => "filter_not_in_identity",
            Self::DeleteHidden { .. } => "delete_hidden",
            Self::LeaveNotTold { .. } => "leave_not_told",
            Self::LeaveNotHeard { .. } => "leave_not_heard",
        }
    }

    /// All codes.
    pub const CODES: &[&str] = &[
        "no_publication",
        "nothing_published",
        "no_such_table",
        "not_published",
        "not_a_table",
        "unlogged",
        "published_under_root",
        "published_as_partitions",
        "actions_not_published",
        "row_filter",
        "columns_not_published",
        "no_such_role",
        "role_not_granted",
        "no_schema_usage",
        "no_select",
        "key_not_selectable",
        "no_policy",
        "claims_raise",
        "no_primary_key",
        "no_replica_identity",
        "filter_not_in_identity",
        "delete_hidden",
        "leave_not_told",
        "leave_not_heard",
    ];

    /// How much is missing.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::RowFilter(_)
            | Self::RoleNotGranted { .. }
            | Self::ActionsNotPublished { is_all: false, .. }
            | Self::ColumnsNotPublished { is_needed: false, .. }
            | Self::FilterNotInIdentity { is_all: false, .. }
            | Self::DeleteHidden { .. }
            | Self::LeaveNotTold { .. }
            | Self::LeaveNotHeard { .. } => Severity::Warning,
            _ => Severity::Problem,
        }
    }

    /// The role it concerns; none: everybody.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        match self {
            Self::NoSuchRole { role }
            | Self::RoleNotGranted { role, .. }
            | Self::NoSchemaUsage { role, .. }
            | Self::NoSelect { role, .. }
            | Self::KeyNotSelectable { role, .. }
            | Self::NoPolicy { role, .. }
            | Self::ClaimsRaise { role, .. }
            | Self::DeleteHidden { role, .. }
            | Self::LeaveNotTold { role, .. } => Some(role),
            _ => None,
        }
    }

    /// The SQL that mends it, for whoever owns the table or the publication. None where only people can tell.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NoPublication { publication, table } => {
                let publication = identifier(publication);
                match table {
                    Some(table) => format!("create publication {publication} for table {}", table.quoted()),
                    None => format!("create publication {publication}"),
                }
            }
            Self::NotPublished { publication, table } => format!(
                "alter publication {} add table {}",
                identifier(publication),
                table.quoted()
            ),
            Self::Unlogged {
                publication,
                table,
                is_for_all_tables,
            } => {
                let table = table.quoted();
                let logged = format!("alter table {table} set logged");
                if *is_for_all_tables {
                    logged
                } else {
                    let publication = identifier(publication);
                    format!("{logged}; alter publication {publication} add table {table}")
                }
            }
            Self::PublishedUnderRoot { publication, .. } => format!(
                "alter publication {} set (publish_via_partition_root = false)",
                identifier(publication)
            ),
            Self::PublishedAsPartitions { publication, .. } => format!(
                "alter publication {} set (publish_via_partition_root = true)",
                identifier(publication)
            ),
            Self::ActionsNotPublished {
                publication,
                published,
                missing,
                ..
            } => {
                let all: Vec<&str> = published.iter().chain(missing).copied().collect();
                let publication = identifier(publication);
                format!(
                    "alter publication {publication} set (publish = '{}')",
                    all.join(", ")
                )
            }
            Self::RowFilter(listing) => return listing.relist(listing.columns.as_deref(), None),
            Self::ColumnsNotPublished { listing, .. } => {
                return listing.relist(None, listing.row_filter.as_deref());
            }
            Self::NoSuchRole { role } => format!("create role {} nologin noinherit", identifier(role)),
            Self::RoleNotGranted {
                role,
                to,
                has_options,
            } => {
                let options = if *has_options { " with set true" } else { "" };
                format!("grant {} to {}{options}", identifier(role), identifier(to))
            }
            Self::NoSchemaUsage { schema, role, .. } => format!(
                "grant usage on schema {} to {}",
                identifier(schema),
                identifier(role)
            ),
            Self::NoSelect { table, role } => {
                format!("grant select on {} to {}", table.quoted(), identifier(role))
            }
            Self::KeyNotSelectable { table, role, columns } => format!(
                "grant select ({}) on {} to {}",
                identifiers(columns.iter().map(String::as_str)),
                table.quoted(),
                identifier(role)
            ),
            Self::NoPolicy { decided_at, role, .. } => format!(
                "create policy {} on {} for select to {} using (true)",
                identifier(&format!("{role} reads")),
                decided_at.quoted(),
                identifier(role)
            ),
            Self::NoPrimaryKey { table, offer } => match offer {
                KeyOffer::Columns(columns) => format!(
                    "alter table {} add primary key ({})",
                    table.quoted(),
                    identifiers(columns.iter().map(String::as_str))
                ),
                KeyOffer::NewColumn(name) => format!(
                    "alter table {} add column {} bigint generated always as identity primary key",
                    table.quoted(),
                    identifier(name)
                ),
                KeyOffer::Nothing => return None,
            },
            Self::NoReplicaIdentity { table, has_key } => {
                let identity = if *has_key { "default" } else { "full" };
                format!("alter table {} replica identity {identity}", table.quoted())
            }
            Self::FilterNotInIdentity { table, .. } => {
                format!("alter table {} replica identity full", table.quoted())
            }
            Self::DeleteHidden { table, doubt, .. } | Self::LeaveNotTold { table, doubt, .. } => {
                match doubt {
                    Doubt::PolicyColumns(_) | Doubt::FilterColumns(_) => {
                        format!("alter table {} replica identity full", table.quoted())
                    }
                    Doubt::NoPolicy | Doubt::OnlyPostgres(_) => return None,
                }
            }
            Self::NothingPublished { .. }
            | Self::NoSuchTable { .. }
            | Self::NotATable { .. }
            | Self::ClaimsRaise { .. }
            | Self::LeaveNotHeard { .. } => return None,
        })
    }

    /// The sentence with its remedy, as a client is shown it. A row filter of the publication is nothing to show to
    /// everybody.
    #[must_use]
    pub fn warning(&self) -> String {
        let tells_too_much = matches!(
            self,
            Self::ColumnsNotPublished { listing, .. } if listing.row_filter.is_some()
        );
        match self.remedy() {
            Some(sql) if !tells_too_much => format!("{self}: {sql}"),
            _ => self.to_string(),
        }
    }
}

/// The cause and what it leads to, in one sentence.
impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| names.join(", ");
        match self {
            Self::NoPublication { publication, .. } => write!(
                formatter,
                "there is no publication {publication}, so no table's changes are offered"
            ),
            Self::NothingPublished {
                publication,
                schema,
                name,
            } => {
                write!(formatter, "publication {publication} has no table")?;
                if let Some(schema) = schema {
                    write!(formatter, " of schema {schema}")?;
                }
                if let Some(name) = name {
                    write!(formatter, " called {name}")?;
                }
                write!(formatter, "; add the tables whose changes are wanted")
            }
            Self::NoSuchTable { table, similar } => {
                write!(formatter, "there is no table {table}")?;
                match similar {
                    Some(similar) => write!(
                        formatter,
                        "; schema \"{}\", table \"{}\" is published and is spelt nearly so",
                        similar.schema, similar.name
                    ),
                    None => write!(
                        formatter,
                        "; names are taken letter by letter, upper and lower case differ"
                    ),
                }
            }
            Self::NotPublished { publication, table } => write!(
                formatter,
                "table {table} is not in publication {publication}, so its changes are not offered"
            ),
            Self::NotATable { table, kind } => write!(
                formatter,
                "{table} is {kind}, which has no changes of its own; subscribe to the tables behind it"
            ),
            Self::Unlogged { table, .. } => write!(
                formatter,
                "table {table} is unlogged, so its changes are not in the log they are read from"
            ),
            Self::PublishedUnderRoot { table, root, .. } => write!(
                formatter,
                "changes of partition {table} are published under the name of {root}; subscribe to that, or publish partitions by their own names"
            ),
            Self::PublishedAsPartitions { table, .. } => write!(
                formatter,
                "changes of {table} are published under the names of its partitions; subscribe to those, or publish them under its own name"
            ),
            Self::ActionsNotPublished {
                publication, missing, ..
            } => write!(
                formatter,
                "publication {publication} leaves out {}, which therefore never arrives",
                missing.join(" and ").to_uppercase()
            ),
            Self::RowFilter(listing) => write!(
                formatter,
                "publication {} has a row filter for {}, so changes of other rows never arrive",
                listing.publication, listing.table
            ),
            Self::ColumnsNotPublished {
                listing,
                columns,
                is_needed,
            } => write!(
                formatter,
                "publication {} has a column list for {} without {}, so {}",
                listing.publication,
                listing.table,
                list(columns),
                if *is_needed {
                    "no row can be judged"
                } else {
                    "records come without"
                }
            ),
            Self::NoSuchRole { role } => {
                write!(
                    formatter,
                    "there is no role \"{role}\", so its tokens are refused"
                )
            }
            Self::RoleNotGranted { role, to, .. } => write!(
                formatter,
                "role \"{to}\" may not become \"{role}\", so Postgres cannot be asked which rows \"{role}\" sees, and rows under policies that only Postgres can decide are hidden"
            ),
            Self::NoSchemaUsage {
                table, schema, role, ..
            } => write!(
                formatter,
                "row level security is enabled on {table} and role \"{role}\" may not use schema {schema}, so every INSERT and UPDATE is hidden"
            ),
            Self::NoSelect { table, role } => write!(
                formatter,
                "role \"{role}\" may not SELECT from {table}, so its changes arrive without data"
            ),
            Self::KeyNotSelectable { table, role, columns } => write!(
                formatter,
                "role \"{role}\" may not SELECT the primary key column {} of {table}, so INSERT and UPDATE arrive without data",
                list(columns)
            ),
            Self::NoPolicy { table, role, .. } => write!(
                formatter,
                "row level security is enabled on {table} and no policy lets role \"{role}\" select from it, so every INSERT and UPDATE is hidden; create one, with the condition that says which rows in place of true"
            ),
            Self::ClaimsRaise { table, role } => write!(
                formatter,
                "the policies of {table} for role \"{role}\" raise an error for the claims of this token, e.g. a `sub` that is no uuid, so every INSERT and UPDATE is hidden; give the claims the form that the policies compare"
            ),
            Self::NoPrimaryKey { table, offer } => {
                write!(
                    formatter,
                    "table {table} has no primary key, so INSERT and UPDATE arrive without data"
                )?;
                if *offer == KeyOffer::Nothing {
                    write!(formatter, "; add one")?;
                }
                Ok(())
            }
            Self::NoReplicaIdentity { table, .. } => write!(
                formatter,
                "table {table} has no replica identity, so Postgres refuses UPDATE and DELETE while it is published"
            ),
            Self::FilterNotInIdentity { table, columns, .. } => write!(
                formatter,
                "the filter needs {} of {table}, which a deleted row does not carry, so no DELETE passes it",
                list(columns)
            ),
            Self::DeleteHidden { table, role, doubt } => {
                write!(formatter, "DELETE is hidden from role \"{role}\": ")?;
                match doubt {
                    Doubt::NoPolicy => write!(formatter, "no policy of {table} lets it select; create one"),
                    Doubt::OnlyPostgres(reason) => write!(
                        formatter,
                        "whether it could see a row of {table} that is gone cannot be decided, since {reason}; simplify the policies"
                    ),
                    Doubt::PolicyColumns(columns) | Doubt::FilterColumns(columns) => write!(
                        formatter,
                        "the policies of {table} read {}, which a deleted row does not carry",
                        list(columns)
                    ),
                }
            }
            Self::LeaveNotTold { table, role, doubt } => {
                write!(formatter, "that a row left is not told to role \"{role}\": ")?;
                match doubt {
                    Doubt::NoPolicy => write!(formatter, "no policy of {table} shows it any"),
                    Doubt::OnlyPostgres(reason) => write!(
                        formatter,
                        "only Postgres can decide who sees rows of {table}, since {reason}, and it knows none as it was"
                    ),
                    Doubt::PolicyColumns(columns) => write!(
                        formatter,
                        "the policies of {table} read {}, which an UPDATE does not carry of the row as it was",
                        list(columns)
                    ),
                    Doubt::FilterColumns(columns) => write!(
                        formatter,
                        "the filter needs {} of {table}, which an UPDATE does not carry of the row as it was",
                        list(columns)
                    ),
                }
            }
            Self::LeaveNotHeard { event } => write!(
                formatter,
                "`leave` has no effect with `event: \"{event}\"`, for that a row left is told as a DELETE"
            ),
        }
    }
}
