//! Generated columns, which the stream does not carry before Postgres 18 (`database.md 9.6`).
//!
//! A generation expression is immutable and looks at nothing but its own row, so evaluated on the values of a change
//! it yields what the row held when it was committed; reading the row by its key would yield what it holds by then.
//! Postgres evaluates it, for all rows of a batch at once and with the rights of the table's owner: whoever can alter
//! the table must not get ours by way of a function in an expression.

use crate::catalog::TableFacts;
use crate::row::carried;
use crate::table::Item;
use crate::visibility::{Asker, VisibilityError, quote_identifier};
use sqlx::postgres::types::Oid;
use sqlx::{PgPool, Row};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walcast_replication::{Action, Column, OldTuple, Relation, ReplicaIdentity, Tuple, Value};

/// How long expressions that failed are left alone if they ran into the time limit, and how often that is told.
const SUSPENDED_FOR: Duration = Duration::from_secs(30);

/// A publication that lists the table's columns offers those and no others.
const QUERY: &str = r"
select a.attname::text as name, a.atttypid as type_oid, a.atttypmod as type_modifier,
       pg_get_expr(d.adbin, d.adrelid) as expression,
       array(select distinct s.attname::text
             from pg_depend p
             join pg_attribute s on s.attrelid = a.attrelid and s.attnum = p.refobjsubid
             where p.refclassid = 'pg_class'::regclass and p.refobjid = a.attrelid
               and p.refobjsubid > 0 and p.refobjsubid <> a.attnum
               -- The second until Postgres 14.
               and (p.classid = 'pg_attrdef'::regclass and p.objid = d.oid
                    or p.classid = 'pg_class'::regclass and p.objid = a.attrelid and p.objsubid = a.attnum)) as sources,
       exists (select from pg_index i
               where i.indrelid = a.attrelid and a.attnum = any(i.indkey::int2[])
                 and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
         as is_key,
       pg_get_userbyid(c.relowner)::text as owner
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.oid = $1
  and not exists (
    select from pg_publication p
    join pg_publication_rel r on r.prpubid = p.oid
    -- Postgres 14 has no such lists.
    where p.pubname = $2 and to_jsonb(r) ->> 'prattrs' is not null
      and (r.prrelid = c.oid or r.prrelid in (select relid from pg_partition_ancestors(c.oid) as ancestor (relid))))
order by a.attnum";

/// Settings of a transaction by which values have the forms they have in the stream (`database.md 9.12`).
macro_rules! stream_forms {
    () => {
        "set_config('bytea_output', 'hex', true), set_config('intervalstyle', 'postgres', true), \
         set_config('timezone', coalesce((select split_part(entry, '=', 2) \
           from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase \
           cross join unnest(s.setconfig) entry \
           where d.datname = current_database() and s.setrole = 0 and lower(split_part(entry, '=', 1)) = 'timezone'), \
           current_setting('timezone')), true)"
    };
}
pub(crate) use stream_forms;

/// A generated column that the stream leaves out.
struct Generated {
    name: String,
    type_oid: u32,
    type_modifier: i32,
    /// As printed under an empty search path, so that every name means what it meant to whoever wrote it.
    expression: String,
    /// The columns it is computed from.
    sources: Vec<String>,
    is_key: bool,
}

/// Where a column of the completed relation comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The stream, at this position.
    Streamed(usize),
    /// The expression with this number.
    Computed(usize),
}

/// How changes of one version of a relation are completed.
pub(crate) struct Completion {
    /// The relation with all its columns, in table order.
    pub(crate) relation: Arc<Relation>,
    origins: Vec<Origin>,
    /// Positions in the streamed relation of all columns that expressions use.
    sources: Vec<usize>,
    /// For each expression, which of `sources` it uses.
    needs: Vec<Vec<usize>>,
    statement: String,
    owner: String,
    suspended_until: Option<Instant>,
    told: Option<Instant>,
}

/// A tuple of a change that is to be completed: what is known of each source, and what may be computed from it.
struct Asked<'a> {
    item: usize,
    sources: Vec<Option<Option<&'a str>>>,
}

/// What expressions yield for one tuple: `None` where it cannot be told.
type Computed = Vec<Option<Option<String>>>;

impl Completion {
    /// Finds out which generated columns of `relation` are not streamed; `None` if none are.
    pub(crate) async fn load(
        pool: &PgPool,
        publication: &str,
        relation: &Relation,
        facts: &TableFacts,
    ) -> Result<Option<Self>, sqlx::Error> {
        let mut transaction = pool.begin().await?;
        sqlx::query("select set_config('search_path', '', true)")
            .execute(&mut *transaction)
            .await?;
        let rows = sqlx::query(QUERY)
            .bind(Oid(relation.oid))
            .bind(publication)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let mut owner = String::new();
        let mut generated = Vec::new();
        for row in &rows {
            owner = row.try_get("owner")?;
            generated.push(Generated {
                name: row.try_get("name")?,
                type_oid: row.try_get::<Oid, _>("type_oid")?.0,
                type_modifier: row.try_get("type_modifier")?,
                expression: row.try_get("expression")?,
                sources: row.try_get("sources")?,
                is_key: row.try_get("is_key")?,
            });
        }
        let position = |name: &str| relation.columns.iter().position(|column| column.name == name);
        // One that the stream carries needs nothing; one whose sources it does not know, because the table was
        // altered since, cannot be computed.
        generated.retain(|column| {
            position(&column.name).is_none() && column.sources.iter().all(|name| position(name).is_some())
        });
        Ok((!generated.is_empty()).then(|| Self::new(relation, facts, &generated, owner)))
    }

    fn new(relation: &Relation, facts: &TableFacts, generated: &[Generated], owner: String) -> Self {
        let names: BTreeSet<&str> = generated
            .iter()
            .flat_map(|column| column.sources.iter().map(String::as_str))
            .collect();
        let position = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let sources: Vec<usize> = names.iter().filter_map(|name| position(name)).collect();
        let needs = generated
            .iter()
            .map(|column| {
                let used = |name: &String| names.iter().position(|known| known == name);
                column.sources.iter().filter_map(used).collect()
            })
            .collect();
        let (columns, origins) = columns(relation, facts, generated);
        Self {
            relation: Arc::new(Relation {
                columns,
                ..relation.clone()
            }),
            origins,
            sources,
            needs,
            statement: statement(relation.oid, &names, facts, generated),
            owner,
            suspended_until: None,
            told: None,
        }
    }

    /// Gives every change all its columns. An expression that cannot be evaluated leaves its column out, as if the
    /// change did not carry it. What is returned, then, is why, unless it was said a moment ago.
    pub(crate) async fn complete(&mut self, asker: &Asker, items: &mut [Item]) -> Option<VisibilityError> {
        let mut asked = Vec::new();
        for (at, item) in items.iter().enumerate() {
            self.ask_for(at, &item.change.action, &mut asked);
        }
        let is_suspended = self.suspended_until.is_some_and(|until| Instant::now() < until);
        let (computed, failure) = if is_suspended {
            (HashMap::new(), None)
        } else {
            self.compute(asker, &asked).await
        };
        // Tuples are looked up in the order they were asked for.
        let mut of_item: HashMap<usize, Vec<Computed>> = HashMap::new();
        for (at, values) in computed {
            of_item.insert(at, values);
        }
        for (at, item) in items.iter_mut().enumerate() {
            let mut computed = of_item.remove(&at).unwrap_or_default().into_iter();
            let mut completed = |tuple: &Tuple| self.completed(tuple, computed.next());
            let action = match &item.change.action {
                Action::Insert { new } => completed(new).map(|new| Action::Insert { new }),
                Action::Update { old, new } => completed(new).and_then(|new| {
                    let old = match old {
                        None => None,
                        Some(OldTuple::Key(old)) => Some(OldTuple::Key(completed(old)?)),
                        Some(OldTuple::Full(old)) => Some(OldTuple::Full(completed(old)?)),
                    };
                    Some(Action::Update { old, new })
                }),
                Action::Delete {
                    old: OldTuple::Key(old),
                } => completed(old).map(|old| Action::Delete {
                    old: OldTuple::Key(old),
                }),
                Action::Delete {
                    old: OldTuple::Full(old),
                } => completed(old).map(|old| Action::Delete {
                    old: OldTuple::Full(old),
                }),
            };
            // A row beyond 4 GiB does not exist in Postgres.
            if let Some(action) = action {
                item.change.action = action;
                item.change.relation = Arc::clone(&self.relation);
            }
        }
        let error = failure?;
        if error.is_timeout() {
            self.suspended_until = Some(Instant::now() + SUSPENDED_FOR);
        }
        let is_news = self.told.is_none_or(|told| told.elapsed() >= SUSPENDED_FOR);
        is_news.then(|| {
            self.told = Some(Instant::now());
            error
        })
    }

    /// The tuples of an action, in the order in which they are completed.
    fn ask_for<'a>(&self, item: usize, action: &'a Action, asked: &mut Vec<Asked<'a>>) {
        let mut ask = |tuple: &'a Tuple, old: Option<&'a Tuple>, key_only: bool| {
            let known = |at: &usize| {
                let is_known = !key_only || self.is_streamed_key(*at);
                is_known.then(|| carried(tuple, old, *at)).flatten()
            };
            asked.push(Asked {
                item,
                sources: self.sources.iter().map(known).collect(),
            });
        };
        match action {
            Action::Insert { new } => ask(new, None, false),
            Action::Update { old, new } => {
                match old {
                    Some(OldTuple::Full(old)) => ask(new, Some(old), false),
                    _ => ask(new, None, false),
                }
                match old {
                    Some(OldTuple::Full(old)) => ask(old, None, false),
                    Some(OldTuple::Key(old)) => ask(old, None, true),
                    None => {}
                }
            }
            Action::Delete { old } => ask(old.tuple(), None, matches!(old, OldTuple::Key(_))),
        }
    }

    fn is_streamed_key(&self, at: usize) -> bool {
        let is_it = |origin: &Origin| matches!(origin, Origin::Streamed(from) if *from == at);
        let column = self.origins.iter().position(is_it);
        column.is_some_and(|at| self.relation.columns.get(at).is_some_and(|column| column.is_key))
    }

    /// By item, what was computed for each of its tuples. An item of which anything failed is missing: its new row
    /// must not be filled up from its old one.
    async fn compute(
        &self,
        asker: &Asker,
        asked: &[Asked<'_>],
    ) -> (HashMap<usize, Vec<Computed>>, Option<VisibilityError>) {
        let mut of_item: HashMap<usize, Vec<Computed>> = HashMap::new();
        let error = match self.evaluate(asker, asked).await {
            Ok(computed) => {
                for (tuple, values) in asked.iter().zip(computed) {
                    of_item.entry(tuple.item).or_default().push(values);
                }
                return (of_item, None);
            }
            Err(error) => error,
        };
        if is_of_the_value(&error) {
            for tuples in asked.chunk_by(|a, b| a.item == b.item) {
                match (tuples.first(), self.evaluate(asker, tuples).await) {
                    (Some(first), Ok(computed)) => {
                        of_item.insert(first.item, computed);
                    }
                    (_, Err(error)) if !is_of_the_value(&error) => return (of_item, Some(error)),
                    _ => {}
                }
            }
        }
        (of_item, Some(error))
    }

    async fn evaluate(&self, asker: &Asker, asked: &[Asked<'_>]) -> Result<Vec<Computed>, VisibilityError> {
        let is_computable = |tuple: &Asked<'_>, needs: &Vec<usize>| {
            needs
                .iter()
                .all(|source| tuple.sources.get(*source).is_some_and(Option::is_some))
        };
        let values: Vec<Vec<Option<&str>>> = (0..self.sources.len())
            .map(|source| {
                asked
                    .iter()
                    .map(|tuple| tuple.sources.get(source).copied().flatten().flatten())
                    .collect()
            })
            .collect();
        let computable: Vec<Vec<bool>> = self
            .needs
            .iter()
            .map(|needs| asked.iter().map(|tuple| is_computable(tuple, needs)).collect())
            .collect();
        if !computable.iter().flatten().any(|computable| *computable) {
            return Ok(asked.iter().map(|_| vec![None; self.needs.len()]).collect());
        }
        let rows = asker
            .patiently(|| async {
                let mut transaction = asker.pool().begin().await?;
                sqlx::query(concat!(
                    "select set_config('transaction_read_only', 'on', true), ",
                    stream_forms!(),
                    ", set_config('role', $1, true)"
                ))
                .bind(&self.owner)
                .execute(&mut *transaction)
                .await?;
                let mut query = sqlx::query_scalar::<_, Vec<Option<String>>>(sqlx::AssertSqlSafe(
                    self.statement.as_str(),
                ));
                for column in &computable {
                    query = query.bind(column);
                }
                for column in &values {
                    query = query.bind(column);
                }
                let rows = query.fetch_all(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(Some(rows))
            })
            .await?;
        let computed = rows.into_iter().enumerate().map(|(row, values)| {
            let is_computed =
                |number: usize| computable.get(number).and_then(|rows| rows.get(row)) == Some(&true);
            values
                .into_iter()
                .enumerate()
                .map(|(number, value)| is_computed(number).then_some(value))
                .collect()
        });
        Ok(computed.collect())
    }

    fn completed(&self, tuple: &Tuple, computed: Option<Computed>) -> Option<Tuple> {
        let computed = computed.unwrap_or_default();
        Tuple::of(self.origins.iter().map(|origin| match origin {
            Origin::Streamed(at) => tuple.get(*at).unwrap_or(Value::UnchangedToast),
            Origin::Computed(number) => match computed.get(*number) {
                Some(Some(Some(text))) => Value::Text(text),
                Some(Some(None)) => Value::Null,
                _ => Value::UnchangedToast,
            },
        }))
    }
}

/// All columns in table order. A column that the catalog does not know any more keeps its place in the stream.
fn columns(relation: &Relation, facts: &TableFacts, generated: &[Generated]) -> (Vec<Column>, Vec<Origin>) {
    let rank = |name: &str| {
        facts
            .attributes
            .iter()
            .position(|attribute| attribute.name == name)
    };
    let mut columns: Vec<Column> = relation.columns.clone();
    let mut origins: Vec<Origin> = (0..columns.len()).map(Origin::Streamed).collect();
    for (number, column) in generated.iter().enumerate() {
        let at = columns
            .iter()
            .rposition(|before| rank(&before.name).is_some_and(|before| Some(before) < rank(&column.name)))
            .map_or(0, |before| before + 1);
        let column = Column {
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            is_key: column.is_key || relation.replica_identity == ReplicaIdentity::Full,
        };
        columns.insert(at, column);
        origins.insert(at, Origin::Computed(number));
    }
    (columns, origins)
}

/// The statement that computes all expressions for many rows. Its parameters are arrays: for each expression whether
/// it is to be evaluated for the row, then each source's text. What is not text of ours comes from the catalog as it
/// quotes it.
fn statement(oid: u32, names: &BTreeSet<&str>, facts: &TableFacts, generated: &[Generated]) -> String {
    // Expressions name columns without a table, so no name of ours may be that of a column.
    let mut ours = "_".to_owned();
    while facts
        .attributes
        .iter()
        .any(|attribute| attribute.name.starts_with(&ours))
    {
        ours.push('_');
    }
    let flags: Vec<String> = (0..generated.len())
        .map(|number| format!("{ours}f{number}"))
        .collect();
    let texts: Vec<String> = (0..names.len())
        .map(|number| format!("{ours}t{number}"))
        .collect();
    let parameters: Vec<String> = flags
        .iter()
        .map(|_| "bool[]")
        .chain(texts.iter().map(|_| "text[]"))
        .enumerate()
        .map(|(at, kind)| format!("${}::{kind}", at + 1))
        .collect();
    let typed: Vec<String> = names
        .iter()
        .zip(&texts)
        .filter_map(|(name, text)| {
            let kind = &facts.attribute(name)?.cast_type;
            Some(format!("k.{text}::{kind} as {}", quote_identifier(name)))
        })
        .collect();
    let computed: Vec<String> = generated
        .iter()
        .zip(&flags)
        .map(|(column, flag)| {
            // A composite value whose fields are all NULL `is null`, and is not counted as one.
            format!(
                "case when {flag} then (select case when num_nulls(value) = 0 then format('%s', value) end \
                 from (select {} as value offset 0) as one) end",
                column.expression
            )
        })
        .collect();
    let mut inner = flags.clone();
    inner.extend(typed);
    format!(
        "select array[{computed}]::text[] \
         from (select {inner}, {oid}::oid as tableoid, {ours}n from unnest({parameters}) with ordinality as k({names}, {ours}n)) as v \
         order by {ours}n",
        computed = computed.join(", "),
        inner = inner.join(", "),
        parameters = parameters.join(", "),
        names = [flags, texts].concat().join(", "),
    )
}

/// Raised by an expression, other than by the time limit: other rows may do.
fn is_of_the_value(error: &VisibilityError) -> bool {
    error
        .sqlstate()
        .is_some_and(|code| code.starts_with("22") || code == "P0001")
}
