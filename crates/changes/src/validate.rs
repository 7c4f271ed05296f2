//! Checks a binding against one table for one role, in the order and words of `database.md 2.3`.

use crate::binding::Binding;
use crate::catalog::{self, Attribute, TableFacts, TextEquality};
use crate::condition::{TypedCondition, normalise};
use crate::error::SubscribeError;
use crate::filter::{Condition, Operator};
use sqlx::PgPool;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// An `in` filter may have this many elements.
const MAX_IN_ELEMENTS: i32 = 100;

/// The conditions of `binding` with their values in the types of the table's columns.
pub(crate) async fn conditions(
    pool: &PgPool,
    binding: &Binding,
    facts: &TableFacts,
    selectable: &BTreeSet<String>,
) -> Result<Vec<TypedCondition>, SubscribeError> {
    let mut typed = Vec::with_capacity(binding.conditions.len());
    for condition in &binding.conditions {
        let attribute = facts
            .attribute(&condition.column)
            .filter(|column| selectable.contains(&column.name));
        let Some(attribute) = attribute else {
            return Err(SubscribeError::raised(
                binding,
                &format!("invalid column for filter {}", condition.column),
            ));
        };
        typed.push(check(pool, binding, condition, attribute).await?);
    }
    Ok(typed)
}

/// Every selected column must be one the role may read.
pub(crate) fn selection(binding: &Binding, selectable: &BTreeSet<String>) -> Result<(), SubscribeError> {
    let unusable = binding
        .select
        .iter()
        .flatten()
        .find(|column| !selectable.contains(*column));
    match unusable {
        None => Ok(()),
        Some(column) => Err(SubscribeError::raised(
            binding,
            &format!("invalid column for select {column}"),
        )),
    }
}

async fn check(
    pool: &PgPool,
    binding: &Binding,
    condition: &Condition,
    column: &Attribute,
) -> Result<TypedCondition, SubscribeError> {
    let raised = |message: String| SubscribeError::raised(binding, &message);
    let postgres = |error| SubscribeError::from_postgres(binding, error);
    let value = condition.value.as_str();
    let mut key = None;
    match condition.operator {
        Operator::In => {
            let elements = catalog::array_length(pool, value, &column.cast_type)
                .await
                .map_err(postgres)?;
            if elements > MAX_IN_ELEMENTS {
                return Err(raised(format!(
                    "too many values for `in` filter. Maximum {MAX_IN_ELEMENTS}"
                )));
            }
        }
        Operator::Is => {
            if !matches!(value, "null" | "true" | "false" | "unknown") {
                return Err(raised(
                    "invalid value for is filter: must be null, true, false, or unknown".to_owned(),
                ));
            }
            if value != "null" && column.cast_type != "pg_catalog.bool" {
                return Err(raised(format!(
                    "is {value} filter requires a boolean column, got {}",
                    column.shown_type
                )));
            }
        }
        Operator::Like | Operator::Ilike | Operator::Match | Operator::Imatch => {
            let name = condition.operator.as_str();
            if !column.is_text {
                return Err(raised(format!(
                    "operator {name} requires a text-compatible column type, got {}",
                    column.shown_type
                )));
            }
            if matches!(condition.operator, Operator::Match | Operator::Imatch) {
                catalog::compile_pattern(pool, value)
                    .await
                    .map_err(|error| match error {
                        sqlx::Error::Database(answer) if answer.code().as_deref() == Some("2201B") => {
                            raised(format!(
                                "invalid regular expression for {name} filter: {}",
                                answer.message()
                            ))
                        }
                        error => postgres(error),
                    })?;
            }
        }
        _ => {
            let text = comparable(value, column);
            let canonical = catalog::canonical(pool, &text, &column.cast_type)
                .await
                .map_err(postgres)?;
            let is_equality = matches!(condition.operator, Operator::Eq | Operator::Neq);
            if is_equality && column.text_equality != TextEquality::Ask {
                key = canonical.and_then(|text| normalise(&text, column.text_equality).map(Cow::into_owned));
            }
        }
    }
    Ok(TypedCondition {
        condition: condition.clone(),
        cast_type: column.cast_type.clone(),
        equality: column.text_equality,
        key,
    })
}

/// `bytea` values are written as the messages show them, in hexadecimal without `\x`; with it they are understood too.
fn comparable<'a>(value: &'a str, column: &Attribute) -> Cow<'a, str> {
    if column.cast_type == "pg_catalog.bytea" && !value.starts_with('\\') {
        return Cow::Owned(format!("\\x{value}"));
    }
    Cow::Borrowed(value)
}
