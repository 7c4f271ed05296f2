//! What each policy says of the row: as delivery judges it, each for itself.

use super::{Decided, PolicyKind, PolicyShown};
use crate::catalog::{KeyColumn, Source};
use crate::claims::Identity;
use crate::engine::Context;
use crate::generated::stream_forms;
use crate::policy::{Outcome, PolicyFacts, Row, Single, singles};
use crate::visibility::{self, SEARCH_PATH, Visibility};
use sqlx::PgConnection;

/// Policies asked of Postgres for one explanation; a table has a handful.
const ASKED_AT_MOST: usize = 32;

/// How Postgres' own look at the row is made.
pub(super) struct Place<'a> {
    pub(super) oid: u32,
    pub(super) source: &'a Source,
    /// The name of the table whose policies count: their expressions may use it.
    pub(super) source_name: SourceName,
    pub(super) primary_key: &'a [KeyColumn],
    pub(super) key: &'a [String],
}

/// The table whose policies count.
pub(super) struct SourceName {
    /// `"public"."messages"`, which is the name of its rows' type, too.
    pub(super) quoted: String,
    /// Without its schema, as an SQL identifier.
    pub(super) bare: String,
}

impl SourceName {
    pub(super) async fn load(context: &Context, oid: u32) -> Result<Self, sqlx::Error> {
        let (quoted, bare) = sqlx::query_as(
            "select format('%I.%I', n.nspname, c.relname), quote_ident(c.relname) \
             from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1::int8::oid",
        )
        .bind(i64::from(oid))
        .fetch_one(&context.pool)
        .await?;
        Ok(Self { quoted, bare })
    }
}

/// A policy with what it is for the row, if there is one.
pub(super) struct Judged {
    pub(super) shown: PolicyShown,
    pub(super) is_null: bool,
}

/// Policies that would show rows to other roles, as `"name" (roles)`.
pub(super) async fn for_others(
    context: &Context,
    source: u32,
    role: &str,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select format('\"%s\" (%s)', p.polname, (
             select string_agg(pg_get_userbyid(wanted.oid)::text, ', ') from unnest(p.polroles) wanted(oid))) \
         from pg_policy p join pg_roles r on r.rolname = $2 \
         where p.polrelid = $1::int8::oid and p.polcmd in ('r', '*') and p.polpermissive \
           and not exists (select from unnest(p.polroles) wanted(oid) \
                           where wanted.oid = 0 or pg_has_role(r.oid, wanted.oid, 'usage')) \
         order by p.polname limit 5",
    )
    .bind(i64::from(source))
    .bind(role)
    .fetch_all(&context.pool)
    .await
}

/// Judges every policy that applies. `row` is what is known of it; of none there is nothing to judge.
pub(super) async fn judge(
    context: &Context,
    facts: &PolicyFacts,
    row: Option<&(dyn Row + Sync)>,
    identity: &Identity,
    place: &Place<'_>,
) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut asked = 0;
    for policy in singles(facts) {
        let here = row
            .filter(|_| context.options.visibility == Visibility::Compiled)
            .and_then(|row| policy.outcome(row, identity.view()));
        // What Postgres would raise, only Postgres can word.
        let is_asked = row.is_some()
            && !matches!(here, Some(Outcome::True | Outcome::False | Outcome::Null))
            && asked < ASKED_AT_MOST;
        let answer = if is_asked {
            asked += 1;
            ask(context, &policy, identity, place).await
        } else {
            Answer::Unknown
        };
        let (result, is_null) = match (here, &answer) {
            (Some(Outcome::True), _) | (None, Answer::Value(Some(true))) => (Some(true), false),
            (Some(Outcome::False), _) | (None, Answer::Value(Some(false))) => (Some(false), false),
            (Some(Outcome::Null), _) | (None, Answer::Value(None)) => (Some(false), true),
            _ => (None, false),
        };
        let raised = match (here, answer) {
            (_, Answer::Raised(message)) => Some(message),
            (Some(Outcome::Raises), _) => Some("the condition raises an error".to_owned()),
            _ => None,
        };
        judged.push(Judged {
            shown: PolicyShown {
                name: policy.name,
                kind: if policy.is_permissive {
                    PolicyKind::Permissive
                } else {
                    PolicyKind::Restrictive
                },
                roles: policy.roles,
                using: policy.using,
                result,
                decided: if here.is_some() {
                    Decided::Compiled
                } else {
                    Decided::Asked
                },
                raised,
            },
            is_null,
        });
    }
    judged
}

/// What Postgres says of a policy.
enum Answer {
    /// `None` is NULL.
    Value(Option<bool>),
    Raised(String),
    /// It cannot be evaluated apart from its table, or the row cannot be read for it.
    Unknown,
}

/// Has one policy evaluated on the row as the identity, in a transaction that may change nothing.
async fn ask(context: &Context, policy: &Single, identity: &Identity, place: &Place<'_>) -> Answer {
    let evaluate = async {
        let mut transaction = context.pool.begin().await?;
        let answer = ask_in(context, &mut transaction, policy, identity, place).await;
        transaction.rollback().await?;
        answer
    };
    match evaluate.await {
        Ok(answer) => answer,
        Err(sqlx::Error::Database(error)) => match error.code().as_deref() {
            // Of the row as a row of its table there is more than its values: `tableoid`, `xmin`.
            Some("42703") => Answer::Unknown,
            Some("57014") => Answer::Raised(format!(
                "it took longer than {} ms",
                context.options.visibility_timeout_ms
            )),
            _ => Answer::Raised(error.message().to_owned()),
        },
        Err(error) => {
            tracing::warn!(%error, "a policy could not be asked about for an explanation");
            Answer::Unknown
        }
    }
}

async fn ask_in(
    context: &Context,
    connection: &mut PgConnection,
    policy: &Single,
    identity: &Identity,
    place: &Place<'_>,
) -> Result<Answer, sqlx::Error> {
    sqlx::query(concat!(
        "select set_config('transaction_read_only', 'on', true), set_config('statement_timeout', $1, true), \
           set_config('search_path', $2, true), ",
        stream_forms!()
    ))
    .bind(context.options.visibility_timeout_ms.to_string())
    .bind(SEARCH_PATH)
    .execute(&mut *connection)
    .await?;
    let conditions: Vec<String> = (1..)
        .zip(place.primary_key)
        .map(|(number, column)| visibility::key_condition(column, &format!("${number}::text")))
        .chain((place.source.oid != place.oid).then(|| format!("t.tableoid = {}::oid", place.oid)))
        .collect();
    let statement = format!(
        "select (t.*)::text from {} t where {} limit 1",
        place.source.from,
        conditions.join(" and ")
    );
    let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(statement));
    for text in place.key {
        query = query.bind(text);
    }
    let Ok(Some(row)) = query.fetch_optional(&mut *connection).await else {
        return Ok(Answer::Unknown);
    };
    let claims = &identity.claims;
    // As at delivery: `none` would be the session's own, far mightier role, and no role can be called that.
    let exists: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
        .bind(&claims.role)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Answer::Unknown);
    }
    sqlx::query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)")
        .bind(&claims.role)
        .bind(claims.json.as_ref())
        .execute(&mut *connection)
        .await?;
    // The row is given as a value of its own type, so that row security does not hide it from its own policy. The
    // expression is as Postgres prints it.
    let statement = format!(
        "select ({}) from pg_catalog.unnest(array[$1::text::{}]) as {}",
        policy.using, place.source_name.quoted, place.source_name.bare
    );
    let holds: Option<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .bind(row)
        .fetch_one(&mut *connection)
        .await?;
    Ok(Answer::Value(holds))
}
