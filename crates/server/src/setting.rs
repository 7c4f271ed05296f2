//! One setting: from text, perhaps empty, to a value or a refusal in one sentence that names the variable.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use walcast_tenants::Secret;

/// Why the configuration was refused. Each message names the variable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A variable without which nothing can be served.
    #[error("{variable} is not set: {remedy}")]
    Missing {
        /// The variable.
        variable: &'static str,
        /// What to set it to.
        remedy: &'static str,
    },
    /// A value that means nothing.
    #[error("{variable} must be {expected}, but is `{value}`")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        value: String,
    },
    /// A value that means nothing and may hold a password, so it is not repeated.
    #[error("{variable} must be {expected}")]
    InvalidSecret {
        /// The variable.
        variable: &'static str,
        /// What it may be.
        expected: String,
    },
    /// What is said of other nodes means nothing.
    #[error(transparent)]
    Nodes(#[from] walcast_cluster::ConfigError),
}

/// The value, if there is one: an empty variable is none.
pub(crate) fn text(raw: &Option<String>) -> Option<&str> {
    raw.as_deref().filter(|value| !value.trim().is_empty())
}

pub(crate) fn invalid(variable: &'static str, expected: impl Into<String>, value: &str) -> ConfigError {
    ConfigError::Invalid {
        variable,
        expected: expected.into(),
        value: value.to_owned(),
    }
}

pub(crate) fn parse<T: FromStr>(
    variable: &'static str,
    value: &str,
    expected: &str,
) -> Result<T, ConfigError> {
    value
        .trim()
        .parse()
        .map_err(|_| invalid(variable, expected, value))
}

pub(crate) fn number<T>(
    variable: &'static str,
    raw: &Option<String>,
    default: T,
    least: T,
    most: T,
) -> Result<T, ConfigError>
where
    T: FromStr + PartialOrd + fmt::Display + Copy,
{
    let Some(value) = text(raw) else {
        return Ok(default);
    };
    match value.trim().parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(invalid(
            variable,
            format!("a whole number from {least} to {most}"),
            value,
        )),
    }
}

pub(crate) fn duration(
    variable: &'static str,
    raw: &Option<String>,
    default_ms: u64,
    least_ms: u64,
    most_ms: u64,
) -> Result<Duration, ConfigError> {
    number(variable, raw, default_ms, least_ms, most_ms).map(Duration::from_millis)
}

pub(crate) fn limit(variable: &'static str, raw: &Option<String>) -> Result<Option<usize>, ConfigError> {
    text(raw)
        .map(|_| number(variable, raw, 0, 1, u32::MAX as usize))
        .transpose()
}

/// One of a few words; the first is meant where there is none.
pub(crate) fn one_of<T: Copy, const COUNT: usize>(
    variable: &'static str,
    raw: &Option<String>,
    (default_word, default): (&str, T),
    others: [(&str, T); COUNT],
) -> Result<T, ConfigError> {
    let Some(value) = text(raw) else {
        return Ok(default);
    };
    let is_meant = |word: &str| word.eq_ignore_ascii_case(value.trim());
    if is_meant(default_word) {
        return Ok(default);
    }
    if let Some((_, meaning)) = others.iter().find(|(word, _)| is_meant(word)) {
        return Ok(*meaning);
    }
    let words: Vec<String> = std::iter::once(default_word)
        .chain(others.iter().map(|(word, _)| *word))
        .map(|word| format!("`{word}`"))
        .collect();
    let expected = match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    };
    Err(invalid(variable, expected, value))
}

pub(crate) fn boolean(
    variable: &'static str,
    raw: &Option<String>,
    default: bool,
) -> Result<bool, ConfigError> {
    let Some(value) = text(raw) else {
        return Ok(default);
    };
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(invalid(variable, "true or false", value)),
    }
}
