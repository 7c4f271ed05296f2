//! Checks a binding against one table for one role, in the order and words of `database.md 2.3`.

use crate::binding::Binding;
use crate::catalog::{self, Attribute, TableFacts};
use crate::clause::Clause;
use crate::condition::{Operand, TypedCondition};
use crate::error::SubscribeError;
use crate::filter::{Condition, Operator};
use crate::like::Pattern;
use crate::scalar::{Family, Scalar};
use sqlx::PgPool;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An `in` filter may have this many elements.
const MAX_IN_ELEMENTS: usize = 100;

/// The filter of `binding` with its values in the types of the table's columns.
pub(crate) async fn clauses(
    pool: &PgPool,
    binding: &Binding,
    facts: &TableFacts,
    selectable: &BTreeSet<String>,
) -> Result<Vec<Clause<TypedCondition>>, SubscribeError> {
    let mut clauses = Vec::with_capacity(binding.clauses.len());
    for clause in &binding.clauses {
        let mut typed = Vec::new();
        for condition in clause.conditions() {
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
        clauses.push(clause.with(typed));
    }
    Ok(clauses)
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
    let operand = match condition.operator {
        Operator::In => {
            let (length, operand) = list(pool, value, column).await.map_err(postgres)?;
            if length > MAX_IN_ELEMENTS {
                return Err(raised(format!(
                    "too many values for `in` filter. Maximum {MAX_IN_ELEMENTS}"
                )));
            }
            operand
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
            Operand::Word
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
            pattern(condition.operator, value, column)
        }
        _ => {
            let text = comparable(value, column);
            let canonical = catalog::canonical(pool, &text, &column.cast_type)
                .await
                .map_err(postgres)?;
            if column.family.may_move(value) {
                Operand::Ask
            } else {
                canonical.map_or(Operand::Ask, |text| compared(condition.operator, &text, column))
            }
        }
    };
    Ok(TypedCondition {
        condition: condition.clone(),
        cast_type: column.cast_type.clone(),
        family: column.family,
        operand,
    })
}

/// What a comparison compares with, by its value's canonical text.
fn compared(operator: Operator, text: &str, column: &Attribute) -> Operand {
    let needs_order = !matches!(operator, Operator::Eq | Operator::Neq | Operator::IsDistinct);
    if needs_order && let Some(labels) = &column.labels {
        let place = labels.iter().position(|label| label == text);
        return place.map_or(Operand::Ask, |place| Operand::Label(Arc::clone(labels), place));
    }
    if needs_order && !column.is_ordered {
        return Operand::Ask;
    }
    column
        .family
        .scalar(text)
        .map_or(Operand::Ask, |value| Operand::Value(value.into_owned()))
}

fn pattern(operator: Operator, pattern: &str, column: &Attribute) -> Operand {
    if !column.is_plain_like {
        return Operand::Ask;
    }
    let operand = match operator {
        Operator::Like => Pattern::read(pattern).map(Operand::Like),
        Operator::Ilike if column.folds_ascii && pattern.is_ascii() => {
            Pattern::read(&pattern.to_ascii_lowercase()).map(Operand::AsciiIlike)
        }
        _ => None,
    };
    operand.unwrap_or(Operand::Ask)
}

/// How many elements an `in` filter has, and what it compares with.
async fn list(pool: &PgPool, value: &str, column: &Attribute) -> Result<(usize, Operand), sqlx::Error> {
    if column.family == Family::Unknown {
        let length = catalog::array_length(pool, value, &column.cast_type).await?;
        let operand = if length == 0 {
            Operand::List {
                values: Vec::new(),
                has_null: false,
            }
        } else {
            Operand::Ask
        };
        return Ok((usize::try_from(length).unwrap_or(usize::MAX), operand));
    }
    let is_bytea = column.cast_type == BYTEA;
    let cast_type = if is_bytea {
        "pg_catalog.text"
    } else {
        &column.cast_type
    };
    let elements = catalog::elements(pool, value, cast_type).await?;
    let length = elements.len();
    if column.family.may_move(value) {
        return Ok((length, Operand::Ask));
    }
    let has_null = elements.iter().any(Option::is_none);
    let values: Option<Vec<Scalar<'static>>> = elements
        .iter()
        .flatten()
        .map(|text| {
            let text = if is_bytea {
                Cow::Owned(comparable(text, column).to_ascii_lowercase())
            } else {
                Cow::Borrowed(text.as_str())
            };
            column.family.scalar(&text).map(Scalar::into_owned)
        })
        .collect();
    let operand = values.map_or(Operand::Ask, |mut values| {
        values.sort_unstable();
        values.dedup();
        Operand::List { values, has_null }
    });
    Ok((length, operand))
}

const BYTEA: &str = "pg_catalog.bytea";

/// `bytea` values are written as the messages show them, in hexadecimal without `\x`; with it they are understood too.
fn comparable<'a>(value: &'a str, column: &Attribute) -> Cow<'a, str> {
    if column.cast_type == BYTEA && !value.starts_with('\\') {
        return Cow::Owned(format!("\\x{value}"));
    }
    Cow::Borrowed(value)
}
