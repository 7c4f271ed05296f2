//! What the checks found, for people and for programs.

use std::fmt;
use std::process::ExitCode;

use serde_json::{Map, Value};
use walcast_changes::{Check, Decided, Explanation, Inquiry, PolicyKind, PolicyShown};

/// An explanation and what was asked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where, without a password.
    place: String,
    entry: Map<String, Value>,
    key: Option<Map<String, Value>>,
    explanation: Explanation,
}

impl Answer {
    pub(super) fn new(place: String, inquiry: &Inquiry, explanation: Explanation) -> Self {
        Self {
            place,
            entry: inquiry.entry.clone(),
            key: inquiry.key.clone(),
            explanation,
        }
    }

    /// 0 where the row would be received, 1 where not, 2 where that is not known.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self.explanation.visible {
            Some(true) => ExitCode::SUCCESS,
            Some(false) => ExitCode::FAILURE,
            None => ExitCode::from(2),
        }
    }

    /// One JSON object, as `POST /api/explain` answers it.
    ///
    /// # Errors
    /// None in practice: it is made of text.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(&self.explanation)
    }

    fn those(&self, passed: Option<bool>) -> impl Iterator<Item = &Check> {
        self.explanation
            .checks
            .iter()
            .filter(move |check| check.passed == passed)
    }

    fn question(&self) -> String {
        let identity = &self.explanation.identity;
        let text = |name: &str| self.entry.get(name).and_then(Value::as_str);
        let mut asked = format!("role \"{}\"", identity.role);
        if let Some(sub) = &identity.sub {
            asked.push_str(&format!(", sub \"{sub}\""));
        }
        asked.push_str(&format!(
            ": {} of {}.{}",
            self.explanation.judged_as,
            text("schema").unwrap_or_default(),
            text("table").unwrap_or_default()
        ));
        if let Some(key) = &self.key {
            asked.push_str(&format!(" {}", Value::Object(key.clone())));
        }
        if let Some(filter) = text("filter") {
            asked.push_str(&format!(", filter {filter}"));
        }
        asked
    }

    fn sum(&self) -> String {
        let no: Vec<&str> = self
            .those(Some(false))
            .map(|check| check.check.as_str())
            .collect();
        match self.explanation.visible {
            Some(true) => "the row is received".to_owned(),
            Some(false) if no.is_empty() => "the row is not received".to_owned(),
            Some(false) => format!(
                "the row is not received, by {}; each check is explained in docs/troubleshooting.md",
                no.join(", ")
            ),
            None if self.key.is_none() && no.is_empty() => {
                "the subscription is in order; whether a row is received says --key".to_owned()
            }
            None => "it is not known whether the row is received".to_owned(),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n{}", self.place, self.question())?;
        for (passed, title) in [(Some(false), "No"), (None, "Not known"), (Some(true), "Yes")] {
            let mut checks = self.those(passed).peekable();
            if checks.peek().is_none() {
                continue;
            }
            writeln!(formatter, "\n{title}")?;
            for check in checks {
                writeln!(formatter, "  [{}] {}", check.check.as_str(), check.detail)?;
                if let Some(remedy) = &check.remedy {
                    writeln!(formatter, "      {remedy}")?;
                }
            }
        }
        if !self.explanation.policies.is_empty() {
            writeln!(formatter, "\nPolicies")?;
            for policy in &self.explanation.policies {
                writeln!(formatter, "  {}", described(policy))?;
                writeln!(formatter, "      using {}", policy.using)?;
            }
        }
        writeln!(formatter, "\n{}", self.sum())
    }
}

fn described(policy: &PolicyShown) -> String {
    let kind = match policy.kind {
        PolicyKind::Permissive => "admits",
        PolicyKind::Restrictive => "holds back",
    };
    let by = match policy.decided {
        Decided::Compiled => "Walcast",
        Decided::Asked => "Postgres",
    };
    let said = match (&policy.raised, policy.result) {
        (Some(error), _) => format!("raised an error ({by}): {error}"),
        (None, Some(true)) => format!("holds ({by})"),
        (None, Some(false)) => format!("does not hold ({by})"),
        (None, None) => "was not evaluated".to_owned(),
    };
    format!(
        "{} ({kind}, for {}): {said}",
        policy.name,
        policy.roles.join(", ")
    )
}
