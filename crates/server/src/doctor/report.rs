//! What was found, for people and for programs.

use serde::Serialize;
use std::fmt::{self, Write as _};
use std::process::ExitCode;
use walcast_changes::diagnosis::{Finding, Severity};

use super::session::Session;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something does not work.
    Problem,
    /// Something works in part, or may stop working.
    Warning,
    /// As it should be.
    Ok,
}

/// The codes of entries that are not findings about tables, each explained in `docs/troubleshooting.md`.
pub const CODES: &[&str] = &[
    "clock_skew",
    "inactive_slot",
    "key_expires_soon",
    "key_refused",
    "key_without_role",
    "max_slot_wal_keep_size",
    "messages_missing",
    "messages_not_owned",
    "messages_not_published",
    "migrations_missing",
    "migrations_not_allowed",
    "no_free_slot",
    "no_free_walsender",
    "no_message_policy",
    "no_partition",
    "no_replication",
    "no_replication_right",
    "not_looked_at",
    "old_version",
    "policies_not_allowed",
    "pooler",
    "redis_cluster",
    "redis_eviction",
    "redis_far",
    "redis_login",
    "redis_old_version",
    "redis_refuses",
    "redis_replica",
    "redis_unreachable",
    "row_security_off",
    "short_idle_timeout",
    "short_statement_timeout",
    "standby",
    "wal_level",
    "wal_sender_timeout",
    "walcast_not_owned",
];

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// How bad it is.
    pub level: Level,
    /// One of [`CODES`] or of [`Finding::CODES`]; none where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// A sentence.
    pub message: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

impl Entry {
    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            code: None,
            message: message.into(),
            sql: None,
        }
    }

    pub(super) fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            code: Some(code),
            ..Self::ok(message)
        }
    }

    pub(super) fn problem(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            ..Self::warning(code, message)
        }
    }

    /// Adds the statements that mend it, separated by `; `.
    pub(super) fn mended_by(self, sql: impl Into<String>) -> Self {
        Self {
            sql: Some(sql.into()),
            ..self
        }
    }
}

impl From<&Finding> for Entry {
    fn from(finding: &Finding) -> Self {
        Self {
            level: match finding.severity() {
                Severity::Problem => Level::Problem,
                Severity::Warning => Level::Warning,
            },
            code: Some(finding.code()),
            message: finding.to_string(),
            sql: finding.remedy(),
        }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where, without a password.
    database: String,
    role: String,
    is_complete: bool,
    checks: Vec<Entry>,
}

impl Report {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            database: session.database().to_owned(),
            role: session.role().to_owned(),
            is_complete: true,
            checks: Vec::new(),
        }
    }

    pub(super) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.checks.extend(entries);
    }

    /// Something could not be looked at.
    pub(super) fn miss(&mut self, what: &str, cause: &sqlx::Error) {
        self.is_complete = false;
        self.checks.push(Entry::problem(
            "not_looked_at",
            format!("{what} could not be looked at: {cause}"),
        ));
    }

    /// The entries of a level.
    pub fn of(&self, level: Level) -> impl Iterator<Item = &Entry> {
        self.checks.iter().filter(move |entry| entry.level == level)
    }

    /// 0 without a problem, 1 with one, 2 when something could not be looked at.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if !self.is_complete {
            return ExitCode::from(2);
        }
        match self.of(Level::Problem).next() {
            None => ExitCode::SUCCESS,
            Some(_) => ExitCode::FAILURE,
        }
    }

    /// One JSON object: `database`, `role`, `is_complete`, and `checks` with `level`, `code`, `message` and `sql`.
    ///
    /// # Errors
    /// None in practice: it is made of text.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "database {} as role {}", self.database, self.role)?;
        for (level, title) in [
            (Level::Problem, "Problems"),
            (Level::Warning, "Warnings"),
            (Level::Ok, "Ok"),
        ] {
            let mut entries = self.of(level).peekable();
            if entries.peek().is_none() {
                continue;
            }
            writeln!(formatter, "\n{title}")?;
            for entry in entries {
                match entry.code {
                    Some(code) => writeln!(formatter, "  [{code}] {}", entry.message)?,
                    None => writeln!(formatter, "  {}", entry.message)?,
                }
                if let Some(sql) = &entry.sql {
                    writeln!(formatter, "      {sql};")?;
                }
            }
        }
        let counted = |level| self.of(level).count();
        let mut sum = format!(
            "{}, {}",
            count(counted(Level::Problem), "problem"),
            count(counted(Level::Warning), "warning")
        );
        if counted(Level::Problem) + counted(Level::Warning) > 0 {
            let _ = write!(sum, "; each code is explained in docs/troubleshooting.md");
        }
        writeln!(formatter, "\n{sum}")
    }
}

/// `1 problem`, `2 problems`.
pub(super) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
