//! Conditions that only Postgres can decide, asked in batches: patterns, order under a collation, types whose
//! equality is not that of their text (`database.md 2.6`).

use crate::condition::TypedCondition;
use crate::filter::Operator;
use sqlx::PgPool;

/// For each of `values` what the condition is; `None` is NULL.
pub(crate) async fn hold(
    pool: &PgPool,
    condition: &TypedCondition,
    values: &[&str],
) -> Result<Vec<Option<bool>>, sqlx::Error> {
    let statement = format!(
        "select array_agg(({}) order by k.n) from unnest($1::text[]) with ordinality as k(v, n)",
        expression(condition)
    );
    // The statement holds only an operator and a type's name as the catalog quotes it; values are parameters.
    let holds: Option<Vec<Option<bool>>> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .bind(values)
        .bind(&condition.condition.value)
        .fetch_one(pool)
        .await?;
    Ok(holds.unwrap_or_default())
}

/// `column OP value`, negated if so written. The column's text is `k.v`, the value `$2`.
fn expression(condition: &TypedCondition) -> String {
    let kind = &condition.cast_type;
    let column = format!("k.v::{kind}");
    let compared = |operator: &str| format!("{column} {operator} ($2::text)::{kind}");
    let positive = match condition.condition.operator {
        Operator::Eq => compared("="),
        Operator::Neq => compared("<>"),
        Operator::Lt => compared("<"),
        Operator::Lte => compared("<="),
        Operator::Gt => compared(">"),
        Operator::Gte => compared(">="),
        Operator::In => format!("{column} = any (($2::text)::{kind}[])"),
        Operator::Like => format!("{column} like $2::text"),
        Operator::Ilike => format!("{column} ilike $2::text"),
        Operator::Match => format!("{column} ~ $2::text"),
        Operator::Imatch => format!("{column} ~* $2::text"),
        Operator::IsDistinct => compared("is distinct from"),
        // The parameter is mentioned so that every statement has the same two.
        Operator::Is => match condition.condition.value.as_str() {
            "true" => format!("{column} is true and $2::text is not null"),
            "false" => format!("{column} is false and $2::text is not null"),
            _ => format!("{column} is null and $2::text is not null"),
        },
    };
    if condition.condition.negated {
        format!("not ({positive})")
    } else {
        positive
    }
}
