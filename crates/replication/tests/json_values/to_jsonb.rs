//! Random values of every type: what is written here is, as jsonb, what Postgres' `to_jsonb` makes of the value.
//!
//! Postgres compares, so that numbers keep their scale and nothing is lost in another parser. The text is the output
//! function's, as a walsender sends it: `format('%s')`, not a cast to text, which prints some types differently. Every
//! value is also looked at inside an array, an array of arrays with other lower bounds, and a row. The two places where
//! `database.md 2.10` wants a column's value otherwise than `to_jsonb` are in [`as_column`].

use crate::{type_rows, written};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::sync::Arc;
use tokio_postgres::Client;
use walcast_replication::json::{Field, Type, TypeCatalog};
use walcast_testkit::Postgres;

const VALUES_PER_QUERY: usize = 40;
const QUERIES_PER_TYPE: u32 = 6;

/// Offsets with minutes and seconds, of one sign and the other.
const TIME_ZONES: &[&str] = &[
    "UTC",
    "Europe/Amsterdam",
    "Asia/Kolkata",
    "America/St_Johns",
    "Africa/Monrovia",
    "Pacific/Kiritimati",
    "<+12:34>-12:34",
    "<-01>+01",
];

/// Values of one type: the SQL expression that makes one of the text `x`, and the texts.
struct Values {
    sql: &'static str,
    texts: BoxedStrategy<String>,
    /// Whether `array[value]` is an array of the type, and not of its elements.
    nests: bool,
}

fn values(sql: &'static str, texts: impl Strategy<Value = String> + 'static) -> Values {
    Values {
        sql,
        texts: texts.boxed(),
        nests: true,
    }
}

fn array_values(sql: &'static str, texts: impl Strategy<Value = String> + 'static) -> Values {
    Values {
        nests: false,
        ..values(sql, texts)
    }
}

fn one_of(texts: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(texts).prop_map(str::to_owned).boxed()
}

/// Everything that one of the grammars quotes, escapes or takes for its own.
fn nasty() -> BoxedStrategy<String> {
    prop_oneof![
        8 => "(?s)[\\x01-\\x30;=>A-C\\[\\]\\\\{}|a-cNUL\\x7füß☃😀\u{85}\u{a0}\u{2028}]{0,14}",
        1 => one_of(&["", "NULL", "null", "NaN", "{}", "()", "\\", "\"", "\\x00", " ", "[0:1]={1}", "\\N"]),
        1 => "[a-z ]{60,70}",
    ]
    .boxed()
}

fn document() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e30..1e30f64).prop_map(Into::into),
        nasty().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(nasty(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
    .prop_map(|value| serde_json::to_string_pretty(&value).unwrap())
    .boxed()
}

fn date() -> impl Strategy<Value = String> {
    (
        prop_oneof![1000..3000i32, 1..9999i32, 10_000..290_000i32],
        1..=12,
        1..=28,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(year, month, day, bc)| {
            let year = if bc { year % 4700 + 1 } else { year };
            format!("{year:04}-{month:02}-{day:02}{}", if bc { " BC" } else { "" })
        })
}

fn time() -> impl Strategy<Value = String> {
    (
        0..24,
        0..60,
        0..60,
        prop_oneof![Just(0), Just(500_000), 0..1_000_000],
    )
        .prop_map(|(h, m, s, us)| format!("{h:02}:{m:02}:{s:02}.{us:06}"))
}

fn timestamp() -> BoxedStrategy<String> {
    prop_oneof![
        12 => (date(), time()).prop_map(|(date, time)| match date.strip_suffix(" BC") {
            Some(date) => format!("{date} {time} BC"),
            None => format!("{date} {time}"),
        }),
        1 => one_of(&["infinity", "-infinity", "epoch"]),
    ]
    .boxed()
}

fn interval() -> impl Strategy<Value = String> {
    (
        -200..200,
        -40..40,
        -1000..1000,
        -100_000_000_000i64..100_000_000_000,
    )
        .prop_map(|(y, m, d, us)| format!("{y} years {m} mons {d} days {us} microseconds"))
}

fn number() -> BoxedStrategy<String> {
    prop_oneof![
        6 => "-?[0-9]{1,30}(\\.[0-9]{0,30})?",
        1 => "-?[0-9]e-?[0-9]{1,2}",
        1 => one_of(&["NaN", "Infinity", "-Infinity", "0", "-0.00"]),
    ]
    .boxed()
}

fn float8() -> BoxedStrategy<String> {
    use prop::num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, QUIET_NAN, SUBNORMAL, ZERO};
    prop_oneof![
        (POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE | QUIET_NAN)
            .prop_map(|float| format!("{float:e}")),
        (-1000..1000i32).prop_map(|thousandths| (f64::from(thousandths) / 1000.0).to_string()),
        (0..330i32, 0..10_000u32)
            .prop_map(|(exponent, digits)| format!("{digits}e{}", exponent - 20).replace("e3", "e2")),
    ]
    .boxed()
}

fn float4() -> BoxedStrategy<String> {
    use prop::num::f32::{INFINITE, NEGATIVE, NORMAL, POSITIVE, QUIET_NAN, ZERO};
    (POSITIVE | NEGATIVE | NORMAL | ZERO | INFINITE | QUIET_NAN)
        .prop_map(|float| format!("{float:e}"))
        .boxed()
}

fn point() -> BoxedStrategy<String> {
    (-100..100i32, -1000..1000i32)
        .prop_map(|(x, y)| format!("({x},{})", f64::from(y) / 8.0))
        .boxed()
}

fn points(open: &'static str, close: &'static str, count: std::ops::Range<usize>) -> BoxedStrategy<String> {
    prop::collection::vec(point(), count)
        .prop_map(move |points| format!("{open}{}{close}", points.join(",")))
        .boxed()
}

fn network() -> BoxedStrategy<String> {
    prop_oneof![
        (any::<u32>(), 0..=32)
            .prop_map(|(bits, length)| format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits))),
        (any::<u128>(), 0..=128)
            .prop_map(|(bits, length)| format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits))),
    ]
    .boxed()
}

fn int_range() -> BoxedStrategy<String> {
    prop_oneof![
        (-100..100, 0..100).prop_map(|(low, length)| format!("[{low},{})", low + length)),
        one_of(&["empty", "(,)", "[1,)", "(,5]"]),
    ]
    .boxed()
}

fn multi_range() -> BoxedStrategy<String> {
    prop::collection::vec(int_range(), 0..4)
        .prop_map(|ranges| format!("{{{}}}", ranges.join(",")))
        .boxed()
}

/// An array literal with a lower bound and NULLs, of elements that need no quotes.
fn plain_array() -> BoxedStrategy<String> {
    (1..4usize, 1..4usize, -3..3i64, prop::bool::ANY)
        .prop_flat_map(|(rows, columns, low, bounds)| {
            let element =
                prop_oneof![9 => (0..1000).prop_map(|n: i32| n.to_string()), 1 => Just("NULL".to_owned())];
            prop::collection::vec(prop::collection::vec(element, columns), rows).prop_map(move |cells| {
                let cells: Vec<String> = cells.iter().map(|row| format!("{{{}}}", row.join(","))).collect();
                let (above, across) = (cells.len() as i64, columns as i64);
                let bounds = match bounds {
                    true => format!("[{low}:{}][{low}:{}]=", low + above - 1, low + across - 1),
                    false => String::new(),
                };
                format!("{bounds}{{{}}}", cells.join(","))
            })
        })
        .boxed()
}

/// Created before the types that use them.
const SCHEMA: &str = r#"
    create extension if not exists hstore;
    create extension if not exists citext;
    create type mood as enum ('sad', 'ok', 'hap"py, {x}', '');
    create domain short as varchar(10);
    create domain shorter as short;
    create domain ratio as float8;
    create domain blob as bytea;
    create domain numbers as int[];
    create type address as (street text, zip int, "odd ""name""\" numeric, seen timestamptz, raw bytea, extra json, tags text[]);
    create domain home as address;
    create type person as (name shorter, home home, others address[], moods mood[], lists numbers[], ratio ratio, attributes hstore);
    create type nothing as ();
    create table visit (id int, gone text, at timestamp, who person);
    alter table visit drop column gone;
"#;

fn every_type() -> Vec<Values> {
    vec![
        values("x::int2", any::<i16>().prop_map(|n| n.to_string())),
        values("x::int4", any::<i32>().prop_map(|n| n.to_string())),
        values("x::int8", any::<i64>().prop_map(|n| n.to_string())),
        values("x::numeric", number()),
        values("x::numeric(60,5)", "-?[0-9]{1,20}(\\.[0-9]{0,30})?"),
        values("x::float4", float4()),
        values("x::float8", float8()),
        values("x::bool", one_of(&["t", "f"])),
        values("x::text", nasty()),
        values("x::varchar(8)", nasty()),
        values("x::bpchar", nasty()),
        values("x::char(5)", nasty()),
        values("x::\"char\"", "[\\x01-\\x7e]?"),
        values("x::name", nasty()),
        values("x::citext", nasty()),
        values("x::short", "(?s).{0,10}".prop_map(|text| text.replace('\0', ""))),
        values(
            "xmlelement(name a, xmlattributes(x as b), x)",
            "[a-c<>&\"' {},\\\\]{0,9}",
        ),
        values("convert_to(x, 'UTF8')", nasty()),
        values("x::uuid", any::<u128>().prop_map(|n| format!("{n:032x}"))),
        values("x::json", document()),
        values("x::jsonb", document()),
        values("x::jsonpath", one_of(&["$.a[*]", "$.\"b c\"", "$ ? (@ > 1)"])),
        values(
            "x::date",
            prop_oneof![date().boxed(), one_of(&["infinity", "-infinity"])],
        ),
        values("x::time", time()),
        values(
            "x::timetz",
            (time(), -12..12).prop_map(|(time, zone)| format!("{time}{zone:+03}")),
        ),
        values("x::timestamp", timestamp()),
        values("x::timestamp(0)", timestamp()),
        values("x::timestamptz", timestamp()),
        values("x::interval", interval()),
        values("x::inet", network()),
        values("network(x::inet)", network()),
        values(
            "x::macaddr",
            any::<u64>().prop_map(|n| format!("{:012x}", n >> 16)),
        ),
        values("x::macaddr8", any::<u64>().prop_map(|n| format!("{n:016x}"))),
        values("x::bit(4)", "[01]{4}"),
        values("x::varbit", "[01]{0,20}"),
        values(
            "x::money",
            (-1_000_000..1_000_000i32).prop_map(|cents| (f64::from(cents) / 100.0).to_string()),
        ),
        values("x::int4range", int_range()),
        values("x::int8multirange", multi_range()),
        values("tstzrange(x::timestamptz, null)", timestamp()),
        values(
            "daterange(x::date, 'infinity')",
            date().prop_filter("too late", |date| !date.contains("99999")),
        ),
        values("tstzmultirange(tstzrange(x::timestamptz, null))", timestamp()),
        values("to_tsvector('simple', x)", nasty()),
        values("plainto_tsquery('simple', x)", nasty()),
        values("x::point", point()),
        values("x::box", points("", "", 2..3)),
        values("x::lseg", points("[", "]", 2..3)),
        values(
            "x::path",
            prop_oneof![points("[", "]", 1..4), points("(", ")", 1..4)],
        ),
        values("x::polygon", points("(", ")", 1..5)),
        values("x::circle", point().prop_map(|point| format!("<{point},2.5>"))),
        values(
            "x::line",
            (-9..9, 1..9, -9..9).prop_map(|(a, b, c)| format!("{{{a},{b},{c}}}")),
        ),
        values("x::oid", any::<u32>().prop_map(|n| n.to_string())),
        values("x::xid", any::<u32>().prop_map(|n| n.to_string())),
        values("x::xid8", any::<u64>().prop_map(|n| n.to_string())),
        values(
            "x::tid",
            (any::<u32>(), any::<u16>()).prop_map(|(block, item)| format!("({block},{item})")),
        ),
        values(
            "x::pg_lsn",
            (any::<u32>(), any::<u32>()).prop_map(|(high, low)| format!("{high:X}/{low:X}")),
        ),
        values("x::pg_snapshot", one_of(&["10:20:10,14,15", "1:1:"])),
        values(
            "x::regclass",
            one_of(&["pg_class", "information_schema.tables", "visit"]),
        ),
        values(
            "x::regtype",
            one_of(&["int4", "text[]", "timestamptz", "address"]),
        ),
        values("x::regproc", one_of(&["pg_typeof", "now"])),
        values("x::regrole", one_of(&["pg_monitor", "pg_read_all_data"])),
        array_values("x::int2vector", "[0-9]{1,3}( [0-9]{1,3}){0,3}"),
        array_values("x::oidvector", "([0-9]{1,3}( [0-9]{1,3}){0,3})?"),
        array_values(
            "array[x::int2vector, x::int2vector]",
            "[0-9]{1,3}( [0-9]{1,3}){0,3}",
        ),
        values("x::mood", one_of(&["sad", "ok", "hap\"py, {x}", ""])),
        values("x::ratio", float8()),
        values("convert_to(x, 'UTF8')::blob", nasty()),
        array_values(
            "x::int4[]",
            prop_oneof![4 => plain_array(), 1 => one_of(&["{}", "{{{{{{1}}}}}}", "[5:5]={NULL}"])],
        ),
        array_values("x::text[]", plain_array()),
        array_values("x::numbers", plain_array()),
        array_values("array[x::numbers, null::numbers, '{}'::numbers]", plain_array()),
        array_values(
            "x::box[]",
            prop::collection::vec(points("", "", 2..3), 0..4)
                .prop_map(|boxes| format!("{{{}}}", boxes.join(";"))),
        ),
        array_values("array[x, null, x || '\"', '']", nasty()),
        array_values("array[array[x, 'NULL'], array[lower(x), null]]", nasty()),
        values(
            "hstore(array[x, 'k', '', 'n', x || '='], array[x, x, '', null, '\"'])",
            nasty(),
        ),
        values(ADDRESS, nasty()),
        values(
            "row('a', null, null, null, null, null, array[x])::address::home",
            nasty(),
        ),
        array_values(
            "array[row(x, 1, null, null, null, null, null)::address, null]",
            nasty(),
        ),
        values(PERSON, nasty()),
        values(
            "row(length(x), '2024-01-02 03:04:05', row(null, null, null, null, null, null, hstore(x, x)))::visit",
            nasty(),
        ),
        values("row()::nothing", one_of(&[""])),
    ]
}

const ADDRESS: &str = "row(x, length(x), 1.50, '1800-01-01 12:00+00', convert_to(x, 'UTF8'), to_json(x), array[x, null, upper(x)])::address";
const PERSON: &str = "row(
    left(x, 10),
    row(x, null, 'NaN', 'infinity', '\\x', json_build_array(x), '{}')::address,
    array[row(x, 1, -0.10, null, convert_to(x, 'UTF8'), 'null', array[x])::address, null],
    '{sad,\"hap\\\"py, {x}\",\"\"}',
    array['{1,2}'::numbers, null::numbers, '[0:0]={3}'::numbers],
    '-Infinity',
    hstore(x, x)
)::person";

/// The value of a column, where `json` is what `to_jsonb` says: bytea without its prefix, null for what is no number.
fn as_column(kind: &Type, json: &str) -> String {
    match kind {
        Type::Bytea => json.replacen("\\\\x", "", 1),
        Type::Float | Type::Numeric if json.starts_with('"') => "null".to_owned(),
        _ => json.to_owned(),
    }
}

/// One value at one place: how it is to be read, what Postgres prints, and what `to_jsonb` makes of it.
struct Sample {
    kind: Arc<Type>,
    text: String,
    to_jsonb: String,
}

async fn samples(
    client: &Client,
    types: &mut TypeCatalog,
    sql: &str,
    nests: bool,
    texts: &[String],
) -> Vec<Sample> {
    let arrays = if nests {
        "array[value], array_fill(value, array[1, 2], array[0, -3])"
    } else {
        "value, value"
    };
    let query = format!(
        "select pg_typeof(value)::oid, pg_typeof(a)::oid,
                format('%s', value), to_jsonb(value)::text,
                format('%s', a), to_jsonb(a)::text,
                format('%s', b), to_jsonb(b)::text,
                format('%s', row(value, null, value)), to_jsonb(row(value, null, value))::text
           from unnest($1::text[]) with ordinality as t (x, position)
          cross join lateral (select {sql} as value offset 0) as v
          cross join lateral (select {arrays}) as n (a, b)
          order by position"
    );
    let rows = client
        .query(&query, &[&texts])
        .await
        .unwrap_or_else(|error| panic!("{sql} of {texts:?}: {error:?}"));
    let mut samples = Vec::new();
    for row in rows {
        let (value_oid, array_oid): (u32, u32) = (row.get(0), row.get(1));
        if types.get(value_oid).is_none() || types.get(array_oid).is_none() {
            types.extend(type_rows(client, &[value_oid, array_oid]).await);
        }
        let value = types.get(value_oid).unwrap();
        let array = types.get(array_oid).unwrap();
        let fields = ["f1", "f2", "f3"].map(|name| Field::new(name, Arc::clone(&value)));
        let record = Arc::new(Type::Composite {
            fields: Box::new(fields),
        });
        for (kind, column) in [(value, 2), (Arc::clone(&array), 4), (array, 6), (record, 8)] {
            samples.push(Sample {
                kind,
                text: row.get(column),
                to_jsonb: row.get(column + 1),
            });
        }
    }
    samples
}

/// What is written of the samples, each as Postgres' jsonb prints it.
async fn as_jsonb(client: &Client, samples: &[Sample]) -> Result<Vec<String>, TestCaseError> {
    let mut documents = Vec::new();
    for sample in samples {
        let json = written(&sample.kind, &sample.text).map_err(|error| {
            TestCaseError::fail(format!("{:?} as {:?}: {error}", sample.text, sample.kind))
        })?;
        prop_assert!(!json.contains('\n'));
        documents.push(json);
    }
    let rows = client
        .query(
            "select document::jsonb::text from unnest($1::text[]) with ordinality as t (document, position) order by position",
            &[&documents],
        )
        .await
        .unwrap_or_else(|error| panic!("Postgres reads {documents:?}: {error:?}"));
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[test]
fn every_value_is_what_to_jsonb_makes_of_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, _database) = runtime.block_on(async {
        let database = Postgres::shared().await.database().await;
        let client = database.client().await;
        client.batch_execute(SCHEMA).await.unwrap();
        // As the replication session sets them (database.md 9.12).
        client
            .batch_execute(
                "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set extra_float_digits = 1; set bytea_output = 'hex'",
            )
            .await
            .unwrap();
        (client, database)
    });
    let types = tokio::sync::Mutex::new(TypeCatalog::new());
    for Values { sql, texts, nests } in every_type() {
        let mut runner = TestRunner::new(Config {
            cases: QUERIES_PER_TYPE,
            failure_persistence: None,
            ..Config::default()
        });
        let batch = (
            prop::sample::select(TIME_ZONES),
            prop::collection::vec(texts, 1..VALUES_PER_QUERY),
        );
        runner
            .run(&batch, |(zone, texts)| {
                runtime.block_on(async {
                    client
                        .query("select set_config('TimeZone', $1, false)", &[&zone])
                        .await
                        .unwrap();
                    let samples = samples(&client, &mut *types.lock().await, sql, nests, &texts).await;
                    for (sample, found) in samples.iter().zip(as_jsonb(&client, &samples).await?) {
                        let expected = as_column(&sample.kind, &sample.to_jsonb);
                        prop_assert_eq!(found, expected, "{:?} as {:?}", sample.text, sample.kind);
                    }
                    Ok(())
                })
            })
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}
