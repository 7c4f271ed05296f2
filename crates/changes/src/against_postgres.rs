//! Conditions against Postgres: what is decided in process is what Postgres says of `value::type OP value::type`
//! (`database.md 2.6`), for random types, values, operators and negation.
//!
//! Every operator is tried on every type it fits. `WALCAST_FILTER_CASES` is how many answers are compared at least; the
//! first ones are always the same.

use crate::binding::{Binding, EventFilter, Pattern};
use crate::catalog::{self, TableFacts};
use crate::clause::Clause;
use crate::condition::{Answer, Truth, TypedCondition};
use crate::filter::{self, Condition, Grammar, Operator};
use crate::row_read::RowRead;
use crate::validate;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::PgPool;
use std::collections::BTreeSet;
use walcast_testkit::Postgres;

/// Values that one condition is tried on.
const VALUES: usize = 20;

/// What is expected of a type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Every comparison is decided.
    Ordered,
    /// Text in the order of the database: `lt` to `gte` are decided where that is the order of bytes.
    Text,
    /// Text in the order of its bytes.
    ByteText,
    /// Nothing is decided of a value.
    Asked,
}

/// A column of the table: its name, its type, and what is expected of it.
const COLUMNS: [(&str, &str, Kind); 25] = [
    ("bool", "pg_catalog.bool", Kind::Ordered),
    ("int2", "pg_catalog.int2", Kind::Ordered),
    ("int4", "pg_catalog.int4", Kind::Ordered),
    ("int8", "pg_catalog.int8", Kind::Ordered),
    ("oid", "pg_catalog.oid", Kind::Ordered),
    ("float4", "pg_catalog.float4", Kind::Ordered),
    ("float8", "pg_catalog.float8", Kind::Ordered),
    ("numeric", "pg_catalog.numeric", Kind::Ordered),
    ("percent", "percent", Kind::Ordered),
    ("uuid", "pg_catalog.uuid", Kind::Ordered),
    ("date", "pg_catalog.date", Kind::Ordered),
    ("time", "pg_catalog.time", Kind::Ordered),
    ("timestamp", "pg_catalog.timestamp", Kind::Ordered),
    ("timestamptz", "pg_catalog.timestamptz", Kind::Ordered),
    ("mood", "mood", Kind::Ordered),
    ("macaddr", "pg_catalog.macaddr", Kind::Ordered),
    ("text", "pg_catalog.text", Kind::Text),
    ("varchar", "pg_catalog.varchar", Kind::Text),
    ("bpchar", "pg_catalog.bpchar", Kind::Text),
    ("short", "short", Kind::Text),
    ("name", "pg_catalog.name", Kind::ByteText),
    ("byte_text", "byte_text", Kind::ByteText),
    ("loose", "loose", Kind::Asked),
    ("interval", "pg_catalog.interval", Kind::Asked),
    ("jsonb", "pg_catalog.jsonb", Kind::Asked),
];

const SETUP: &str = r#"
    create type mood as enum ('sad', 'happy');
    alter type mood add value 'ok' before 'happy';
    alter type mood add value 'Über' after 'sad';
    create domain percent as numeric check (value is null or value is not null);
    create domain short as varchar(3);
    create domain byte_text as text collate "C";
    create collation caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create domain loose as text collate caseless;
    create table t (id int primary key, "bool" bool, "int2" int2, "int4" int4, "int8" int8, "oid" oid,
      "float4" float4, "float8" float8, "numeric" numeric, "percent" percent, "uuid" uuid, "date" date, "time" time,
      "timestamp" timestamp, "timestamptz" timestamptz, "mood" mood, "macaddr" macaddr, "text" text,
      "varchar" varchar(6), "bpchar" char(5), "short" short, "name" name, "byte_text" byte_text, "loose" loose,
      "interval" interval, "jsonb" jsonb);
"#;

const OPERATORS: [Operator; 13] = [
    Operator::Eq,
    Operator::Neq,
    Operator::Lt,
    Operator::Lte,
    Operator::Gt,
    Operator::Gte,
    Operator::In,
    Operator::Like,
    Operator::Ilike,
    Operator::Is,
    Operator::Match,
    Operator::Imatch,
    Operator::IsDistinct,
];

fn one_of(values: &'static [&'static str]) -> BoxedStrategy<String> {
    proptest::sample::select(values).prop_map(str::to_owned).boxed()
}

fn date(years: std::ops::Range<i32>) -> impl Strategy<Value = (String, &'static str)> {
    (years, 1..=12, 1..=28).prop_map(|(year, month, day)| {
        let era = if year > 0 { "" } else { " BC" };
        let year = if year > 0 { year } else { 1 - year };
        (format!("{year:04}-{month:02}-{day:02}"), era)
    })
}

fn clock() -> BoxedStrategy<String> {
    let digits = prop_oneof![Just(String::new()), "\\.[0-9]{1,6}"];
    (0..24, 0..60, 0..60, digits)
        .prop_map(|(hour, minute, second, fraction)| format!("{hour:02}:{minute:02}:{second:02}{fraction}"))
        .boxed()
}

fn years() -> impl Strategy<Value = std::ops::Range<i32>> {
    prop_oneof![Just(1900..2100), Just(-3..4), Just(-4000..290_000)]
}

/// Texts of values of a type, as people write them.
fn values(column: &str) -> BoxedStrategy<String> {
    match column {
        "bool" => one_of(&["true", "false"]),
        "int2" => prop_oneof![
            any::<i16>().prop_map(|n| n.to_string()),
            (-3_i32..4).prop_map(|n| n.to_string())
        ]
        .boxed(),
        "int4" => prop_oneof![
            any::<i32>().prop_map(|n| n.to_string()),
            (-3_i32..4).prop_map(|n| n.to_string())
        ]
        .boxed(),
        "int8" => prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            one_of(&[
                "9223372036854775807",
                "-9223372036854775808",
                "9007199254740993",
                "9007199254740992",
                " 7"
            ])
        ]
        .boxed(),
        "oid" => prop_oneof![
            any::<u32>().prop_map(|n| n.to_string()),
            one_of(&["0", "4294967295", "9"])
        ]
        .boxed(),
        "float4" => prop_oneof![
            any::<u32>().prop_map(|bits| format!("{:e}", f32::from_bits(bits))),
            one_of(&[
                "-0",
                "0",
                "0.1",
                "0.10000000149",
                "NaN",
                "Infinity",
                "-Infinity",
                "1e-45",
                "3.4028235e38",
                "1e10"
            ])
        ]
        .prop_map(|text| special_float(&text))
        .boxed(),
        "float8" => prop_oneof![
            any::<u64>().prop_map(|bits| format!("{:e}", f64::from_bits(bits))),
            one_of(&[
                "-0",
                "0",
                "0.1",
                "0.30000000000000004",
                "NaN",
                "Infinity",
                "-Infinity",
                "5e-324",
                "2e-310",
                "1.7976931348623157e308",
                "1e100",
                "100"
            ])
        ]
        .prop_map(|text| special_float(&text))
        .boxed(),
        "numeric" | "percent" => prop_oneof![
            "-?[0-9]{1,30}(\\.[0-9]{1,20})?",
            "-?[0-2](\\.[0-1]{1,3})?",
            one_of(&[
                "NaN",
                "Infinity",
                "-Infinity",
                "-0.000",
                "0",
                "1e-30",
                "1e40",
                "1.0",
                "1.00",
                "1",
                "10",
                "9.99"
            ])
        ]
        .boxed(),
        "uuid" => prop_oneof![
            any::<u128>().prop_map(|n| format!("{n:032x}")),
            any::<u128>().prop_map(|n| format!("{{{n:032X}}}")),
            one_of(&[
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff"
            ])
        ]
        .boxed(),
        "date" => prop_oneof![
            years().prop_flat_map(date).prop_map(|(date, era)| date + era),
            one_of(&[
                "infinity",
                "-infinity",
                "4714-11-24 BC",
                "5874897-12-31",
                "0001-01-01",
                "0001-12-31 BC",
                "2024-02-29",
                "1900-02-28",
                "February 3, 2024",
                "20240203",
                "epoch",
                "today"
            ])
        ]
        .boxed(),
        "time" => prop_oneof![
            clock(),
            one_of(&["00:00:00", "24:00:00", "4:00 PM", "23:59:59.999999", "allballs"])
        ]
        .boxed(),
        "timestamp" => prop_oneof![
            (years().prop_flat_map(date), clock())
                .prop_map(|((date, era), clock)| format!("{date} {clock}{era}")),
            one_of(&[
                "infinity",
                "-infinity",
                "4714-11-24 00:00:00 BC",
                "294276-12-31 23:59:59.999999",
                "2024-02-03",
                "2000-01-01 00:00:00",
                "1999-12-31 23:59:59.999999",
                "epoch",
                "yesterday"
            ])
        ]
        .boxed(),
        "timestamptz" => prop_oneof![
            (
                years().prop_flat_map(date),
                clock(),
                one_of(&["Z", "+02", "-05:30", "+13:45", "", " UTC"])
            )
                .prop_map(|((date, era), clock, offset)| format!("{date} {clock}{offset}{era}")),
            one_of(&[
                "infinity",
                "-infinity",
                "4714-11-25 00:00:00Z BC",
                "294276-12-31 12:59:59.999999Z",
                "2024-02-03T04:05:06+02:00",
                "Sat Feb 03 02:05:06 2024 UTC",
                "1890-01-01 00:00:00Z",
                "2024-02-03 02:05:06 Europe/Paris",
                "epoch",
                "now",
                "tomorrow"
            ])
        ]
        .boxed(),
        "mood" => one_of(&["sad", "happy", "ok", "Über"]),
        "macaddr" => any::<[u8; 6]>()
            .prop_map(|bytes| bytes.map(|byte| format!("{byte:02X}")).join("-"))
            .boxed(),
        "interval" => one_of(&["1 day", "24:00:00", "1 month", "-3 hours"]),
        "jsonb" => one_of(&["1", "1.0", "{\"a\": 1}", "[]", "null"]),
        // Text of all sorts.
        _ => prop_oneof![
            "[aAbBzZ]{0,3} {0,2}",
            "[ab%_\\\\\"', éßſ👩]{0,6}",
            "\\PC{0,8}",
            one_of(&[
                "",
                " ",
                "ab   ",
                "İ",
                "ı",
                "K",
                "\u{212a}",
                "ﬀ",
                "a\tb\nc",
                "e\u{301}",
                "é",
                "NULL",
                "now",
                "\u{10ffff}",
                "\u{ffff}",
                "NaN"
            ])
        ]
        .boxed(),
    }
}

/// As Postgres reads them; Rust prints `inf`.
fn special_float(text: &str) -> String {
    text.replace("inf", "Infinity")
}

fn patterns() -> BoxedStrategy<String> {
    prop_oneof![
        "([aAbB%_é👩]|\\\\[a%_\\\\é])*",
        "%[abAB]{1,2}%",
        "[abAB _]{1,3}%",
        "%[aAé_]%[bB%]_",
    ]
    .boxed()
}

fn literal(text: &str) -> String {
    format!("'{}'::text", text.replace('\'', "''"))
}

/// The SQL the reference runs.
fn reference_sql(kind: &str, value: Option<&str>, condition: &Condition) -> String {
    let counts_as_null = matches!(
        kind,
        "pg_catalog.float4" | "pg_catalog.float8" | "pg_catalog.numeric" | "percent"
    );
    let value = value.filter(|text| !(counts_as_null && matches!(*text, "NaN" | "Infinity" | "-Infinity")));
    let column = match value {
        Some(text) => format!("{}::{kind}", literal(text)),
        None => format!("null::{kind}"),
    };
    let operand = literal(&condition.value);
    let typed = |operator: &str| format!("{column} {operator} {operand}::{kind}");
    let positive = match condition.operator {
        Operator::Eq => typed("="),
        Operator::Neq => typed("!="),
        Operator::Lt => typed("<"),
        Operator::Lte => typed("<="),
        Operator::Gt => typed(">"),
        Operator::Gte => typed(">="),
        Operator::In => format!("{column} = any ({operand}::{kind}[])"),
        Operator::Like => format!("{column} like {operand}"),
        Operator::Ilike => format!("{column} ilike {operand}"),
        Operator::Is => format!("{column} is {}", condition.value),
        Operator::Match => format!("{column} ~ {operand}"),
        Operator::Imatch => format!("{column} ~* {operand}"),
        Operator::IsDistinct => typed("is distinct from"),
    };
    if condition.negated {
        format!("(not ({positive}))")
    } else {
        format!("({positive})")
    }
}

/// Patterns are for text.
fn fits(kind: Kind, operator: Operator) -> bool {
    let is_pattern = matches!(
        operator,
        Operator::Like | Operator::Ilike | Operator::Match | Operator::Imatch
    );
    matches!(kind, Kind::Text | Kind::ByteText) || !is_pattern
}

/// Whether the condition must be decided for a value that is not NULL.
fn must_be_decided(kind: Kind, orders_bytes: bool, condition: &Condition, text: &str) -> bool {
    use Operator::{Eq, Gt, Gte, Ilike, Imatch, In, Is, IsDistinct, Like, Lt, Lte, Match, Neq};
    let is_text = matches!(kind, Kind::Text | Kind::ByteText);
    let in_byte_order = kind == Kind::ByteText || kind == Kind::Text && orders_bytes;
    match condition.operator {
        Is => true,
        Eq | Neq | In | IsDistinct => kind != Kind::Asked,
        Lt | Lte | Gt | Gte => kind == Kind::Ordered || in_byte_order,
        Like => is_text,
        Ilike => in_byte_order && text.is_ascii() && condition.value.is_ascii(),
        Match | Imatch => false,
    }
}

/// A word that means another moment at another time.
fn moves(column: &str, value: &str) -> bool {
    matches!(column, "date" | "time" | "timestamp" | "timestamptz")
        && ["now", "today", "tomorrow", "yesterday"]
            .iter()
            .any(|word| value.contains(word))
}

struct Trial {
    runner: TestRunner,
    pool: PgPool,
    facts: TableFacts,
    orders_bytes: bool,
}

impl Trial {
    async fn new(pool: PgPool, orders_bytes: bool) -> Self {
        for statement in SETUP.split(';') {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(&pool)
                .await
                .unwrap();
        }
        let oid: i64 = sqlx::query_scalar("select 't'::regclass::oid::int8")
            .fetch_one(&pool)
            .await
            .unwrap();
        let facts = catalog::facts(&pool, &[u32::try_from(oid).unwrap()])
            .await
            .unwrap()
            .remove(0);
        Self {
            runner: TestRunner::deterministic(),
            pool,
            facts,
            orders_bytes,
        }
    }

    fn pick<T>(&mut self, strategy: &impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    fn condition(&mut self, column: &str, operator: Operator, texts: &[String]) -> Condition {
        let strategy = prop_oneof![values(column), proptest::sample::select(texts.to_vec())];
        let value = match operator {
            Operator::In => {
                let elements = self.pick(&proptest::collection::vec(
                    proptest::option::weighted(0.9, strategy),
                    0..6,
                ));
                let elements: Vec<String> = elements
                    .iter()
                    .map(|element| match element {
                        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
                        None => "null".to_owned(),
                    })
                    .collect();
                format!("{{{}}}", elements.join(","))
            }
            Operator::Is if column == "bool" => self.pick(&one_of(&["null", "true", "false", "unknown"])),
            Operator::Is => "null".to_owned(),
            Operator::Like | Operator::Ilike => self.pick(&patterns()),
            Operator::Match | Operator::Imatch => "^a".to_owned(),
            _ => self.pick(&strategy),
        };
        Condition {
            column: column.to_owned(),
            operator,
            value,
            negated: self.pick(&any::<bool>()),
        }
    }

    /// The values as the stream prints them, whatever the zone of the database.
    async fn printed(&mut self, name: &str, texts: &[String]) -> Vec<String> {
        let kind = match name {
            "varchar" => "varchar(6)",
            "bpchar" => "char(5)",
            other => &format!("\"{other}\""),
        };
        let zone = self.pick(&one_of(&[
            "UTC",
            "America/St_Johns",
            "Asia/Kolkata",
            "Europe/Amsterdam",
        ]));
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("select set_config('TimeZone', $1, true)")
            .bind(zone)
            .execute(&mut *transaction)
            .await
            .unwrap();
        let values: Vec<String> = texts
            .iter()
            .map(|text| format!("format('%s', {}::{kind})", literal(text)))
            .collect();
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select array[{}]", values.join(","))))
            .fetch_one(&mut *transaction)
            .await
            .unwrap()
    }

    /// `None`: an element of the list is too long for the column.
    async fn typed(&self, clauses: Vec<Clause<Condition>>) -> Option<Vec<Clause<TypedCondition>>> {
        let binding = Binding {
            event: EventFilter::All,
            schema: Pattern::Exact("public".into()),
            table: Pattern::Exact("t".into()),
            clauses,
            select: None,
            since: None,
            options: Default::default(),
        };
        let columns = self.facts.attributes.iter();
        let selectable: BTreeSet<String> = columns.map(|column| column.name.clone()).collect();
        match validate::clauses(&self.pool, &binding, &self.facts, &selectable).await {
            Ok(typed) => Some(typed),
            Err(error)
                if error
                    .to_string()
                    .contains("too long for type character varying(3)") =>
            {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// One condition on several values; how many answers were compared.
    async fn try_one(&mut self, column: (&str, &str, Kind), operator: Operator) -> usize {
        let (name, kind, expected) = column;
        let texts = self.pick(&proptest::collection::vec(values(name), VALUES));
        let condition = self.condition(name, operator, &texts);
        let Some(typed) = self.typed(vec![Clause::Condition(condition.clone())]).await else {
            return 0;
        };
        let typed = typed.first().and_then(Clause::condition).unwrap();
        let printed = self.printed(name, &texts).await;
        let mut statements = Vec::new();
        let mut answers = Vec::new();
        for text in printed.iter().map(|text| Some(text.as_str())).chain([None]) {
            let answer = typed.evaluate(text);
            let decided = answer != Answer::Ask;
            if moves(name, &condition.value) {
                assert!(
                    !decided || text.is_none() || condition.operator == Operator::In,
                    "{condition} of {name}"
                );
            } else if text.is_none_or(|text| must_be_decided(expected, self.orders_bytes, &condition, text)) {
                assert!(decided, "{condition} of {kind} must not be asked about {text:?}");
            }
            if decided {
                statements.push(reference_sql(kind, text, &condition));
                answers.push((text, answer));
            }
        }
        let truth: Vec<Option<bool>> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select array[{}]::bool[]",
            statements.join(",")
        )))
        .fetch_one(&self.pool)
        .await
        .unwrap_or_else(|error| panic!("{condition} of {kind}: {error}"));
        for ((text, answer), truth) in answers.iter().zip(&truth) {
            assert_eq!(
                *answer,
                Answer::from(*truth),
                "{text:?} under {condition} of {kind}"
            );
        }
        answers.len()
    }
}

async fn compare(url: &str, orders_bytes: bool) {
    let mut trial = Trial::new(PgPool::connect(url).await.unwrap(), orders_bytes).await;
    let wanted: usize = std::env::var("WALCAST_FILTER_CASES").map_or(1, |cases| cases.parse().unwrap());
    let mut compared = 0;
    while compared < wanted {
        for column in COLUMNS {
            for operator in OPERATORS {
                if fits(column.2, operator) {
                    compared += trial.try_one(column, operator).await;
                }
            }
        }
    }
    println!("{compared} answers are those of Postgres");
}

#[tokio::test]
async fn what_is_decided_in_process_is_what_postgres_says() {
    let database = Postgres::shared().await.database().await;
    compare(&database.url(), false).await;
}

#[tokio::test]
async fn text_is_ordered_and_folded_in_process_where_the_database_compares_bytes() {
    let database = Postgres::shared().await.database().await;
    let name = format!("{}_c", database.name());
    database
        .execute(&format!(
            "create database {name} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'"
        ))
        .await;
    let url = database.url().replace(database.name(), &name);
    compare(&url, true).await;
}

/// A filter's member and the SQL it means.
fn member() -> BoxedStrategy<(String, String)> {
    let condition = prop_oneof![
        ("int4|int8", "eq|neq|lt|gte", 0..3).prop_map(|(column, operator, n)| {
            let symbol = match operator.as_str() {
                "eq" => "=",
                "neq" => "<>",
                "lt" => "<",
                _ => ">=",
            };
            (
                format!("{column}.{operator}.{n}"),
                format!("v.{column} {symbol} {n}"),
            )
        }),
        "[ab]%?".prop_map(|text| (
            format!("text.not.like.\"{text}\""),
            format!("not (v.text like '{text}')")
        )),
        "[ab]".prop_map(|text| (
            format!("text.in.({text},z)"),
            format!("v.text in ('{text}', 'z')")
        )),
        "true|false|null|unknown".prop_map(|word| (format!("bool.is.{word}"), format!("v.bool is {word}"))),
    ];
    condition
        .prop_recursive(4, 24, 4, |inner| {
            let members = proptest::collection::vec(inner, 1..4);
            ("(not\\.)?(and|or)", members).prop_map(|(word, members)| {
                let (texts, meanings): (Vec<String>, Vec<String>) = members.into_iter().unzip();
                let junction = if word.ends_with("and") { " and " } else { " or " };
                let not = if word.starts_with("not") { "not " } else { "" };
                (
                    format!("{word}({})", texts.join(",")),
                    format!("({not}({}))", meanings.join(junction)),
                )
            })
        })
        .boxed()
}

#[tokio::test]
async fn groups_are_what_postgres_says_they_are() {
    let database = Postgres::shared().await.database().await;
    let pool = PgPool::connect(&database.url()).await.unwrap();
    let mut trial = Trial::new(pool, false).await;
    let rows = "(values (0, 1, 'a', true), (1, null, 'ab', false), (2, 2, null, null), (null, 0, 'b', true),
                        (null, null, null, null)) as v (int4, int8, text, bool)";
    let rows_read: Vec<[Option<String>; 4]> = sqlx::query_as::<
        _,
        (Option<String>, Option<String>, Option<String>, Option<String>),
    >(sqlx::AssertSqlSafe(format!(
        "select v.int4::text, v.int8::text, v.text, left(v.bool::text, 1) from {rows}"
    )))
    .fetch_all(&trial.pool)
    .await
    .unwrap()
    .into_iter()
    .map(|(a, b, c, d)| [a, b, c, d])
    .collect();
    let columns = ["int4", "int8", "text", "bool"];
    for _ in 0..400 {
        let (text, meaning) = trial.pick(&member());
        let clauses = filter::parse(&format!("or=({text})"), Grammar::Groups).unwrap();
        let clauses = trial.typed(clauses).await.unwrap();
        let truth: Vec<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select coalesce({meaning}, false) from {rows}"
        )))
        .fetch_all(&trial.pool)
        .await
        .unwrap();
        for (row, truth) in rows_read.iter().zip(truth) {
            let value = |column: &str| {
                row.get(columns.iter().position(|name| *name == column)?)
                    .map(Option::as_deref)
            };
            let found = RowRead::new(value).evaluate(&clauses, |_, _| Answer::Ask);
            let expected = if truth { Truth::Holds } else { Truth::Fails };
            assert_eq!(found, expected, "{text} of {row:?}");
        }
    }
}
