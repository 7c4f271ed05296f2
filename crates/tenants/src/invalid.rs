//! What is wrong with a tenant that somebody wants, in the reference server's words and form (`protocol.md 10`).

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub(crate) const BLANK: &str = "can't be blank";
pub(crate) const INVALID: &str = "is invalid";
pub(crate) const TAKEN: &str = "has already been taken";

/// The errors of each field, in the order of fields that the reference has: `{"external_id":["can't be blank"]}`. Holds
/// names of fields and what is wrong, never a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Invalid(BTreeMap<&'static str, Errors>);

/// Of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Errors {
    /// Of the field itself.
    Field(Vec<String>),
    /// Of each of its extensions, none for one that is as it should be.
    Extensions(Vec<Invalid>),
}

impl Invalid {
    /// One error of one field.
    #[must_use]
    pub fn field(name: &'static str, error: &str) -> Self {
        let mut invalid = Self::default();
        invalid.add(name, error);
        invalid
    }

    pub(crate) fn add(&mut self, name: &'static str, error: impl Into<String>) {
        let errors = self.0.entry(name).or_insert_with(|| Errors::Field(Vec::new()));
        if let Errors::Field(errors) = errors {
            errors.push(error.into());
        }
    }

    pub(crate) fn add_extensions(&mut self, of_each: Vec<Self>) {
        if of_each.iter().any(|invalid| !invalid.is_empty()) {
            self.0.insert("extensions", Errors::Extensions(of_each));
        }
    }

    pub(crate) fn names(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.0.iter().map(|(name, errors)| match errors {
            Errors::Field(errors) => format!("{name} {}", errors.join(", ")),
            Errors::Extensions(of_each) => {
                let of_each: Vec<String> = of_each.iter().map(Self::to_string).collect();
                format!("{name} [{}]", of_each.join("; "))
            }
        });
        formatter.write_str(&named.collect::<Vec<_>>().join("; "))
    }
}
