//! `walcast doctor`: what it finds, what it prints, and that it changes nothing. What it says about tables and roles is
//! `walcast_changes::diagnosis`, whose tests provoke each finding; here are those of its own.

use std::net::SocketAddr;
use std::process::Output;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use walcast::doctor::{self, CODES, DoctorOptions, Entry, Level, Report};
use walcast::migrate::migrate_at;
use walcast::options::Options;
use walcast_testkit::{Database, Postgres, Redis};

use crate::binary::{run, walcast};
use crate::server::{SECRET, Walcast, anon, forged, sign, user};

fn at(url: &str) -> DoctorOptions {
    let server = Options::from_environment([("DATABASE_URL", url), ("API_JWT_SECRET", SECRET)]).unwrap();
    DoctorOptions {
        table: Vec::new(),
        role: Vec::new(),
        key: None,
        json: false,
        server,
    }
}

async fn examine(options: &DoctorOptions) -> Report {
    Box::pin(doctor::run(options)).await.unwrap()
}

/// The entry with this code.
fn entry<'a>(report: &'a Report, code: &str) -> Option<&'a Entry> {
    [Level::Problem, Level::Warning]
        .into_iter()
        .flat_map(|level| report.of(level))
        .find(|entry| entry.code == Some(code))
}

/// Statement by statement, as a person would: `alter system` wants to be alone.
async fn run_sql(database: &Database, sql: &str) {
    for statement in sql.split("; ") {
        database.execute(statement).await;
    }
}

async fn prepared(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    Box::pin(migrate_at(&database.url())).await.unwrap();
    database
}

#[tokio::test]
async fn what_sql_can_mend_is_gone_once_it_has_been_run() {
    let cases = [
        (
            "inactive_slot",
            Level::Warning,
            "select pg_create_logical_replication_slot('Left over', 'pgoutput')"
                .replace("Left over", "left_over"),
        ),
        (
            "short_statement_timeout",
            Level::Warning,
            set("statement_timeout", "200"),
        ),
        (
            "short_idle_timeout",
            Level::Warning,
            set("idle_in_transaction_session_timeout", "200"),
        ),
        (
            "wal_sender_timeout",
            Level::Warning,
            set("wal_sender_timeout", "0"),
        ),
        (
            "wal_sender_timeout",
            Level::Warning,
            set("wal_sender_timeout", "1000"),
        ),
        ("row_security_off", Level::Problem, set("row_security", "off")),
        ("no_message_policy", Level::Warning, String::new()),
        (
            "no_publication",
            Level::Problem,
            "drop publication supabase_realtime".to_owned(),
        ),
        (
            "no_policy",
            Level::Problem,
            "create table t (id int primary key); alter table t enable row level security;
             alter publication supabase_realtime add table t"
                .to_owned(),
        ),
    ];
    let postgres = Postgres::start(Postgres::options()).await;
    for (code, level, setup) in cases {
        let database = prepared(&postgres).await;
        database
            .execute(&setup.replace("{database}", database.name()))
            .await;
        let options = at(&database.url());
        let report = examine(&options).await;
        let found = entry(&report, code).unwrap_or_else(|| panic!("no {code} in {report}"));
        assert_eq!(found.level, level, "{found:?}");
        // The same may be wrong for two roles.
        for entry in report.of(level).filter(|entry| entry.code == Some(code)) {
            run_sql(&database, entry.sql.as_ref().unwrap()).await;
        }
        let report = examine(&options).await;
        assert_eq!(entry(&report, code), None, "{report}");
    }
}

#[tokio::test]
async fn where_deletes_are_checked_those_that_cannot_be_are_named() {
    let postgres = Postgres::shared().await;
    let database = prepared(postgres).await;
    database
        .execute(
            "create table t (id int primary key, owner uuid); grant select on t to authenticated;
             alter table t enable row level security; alter publication supabase_realtime add table t;
             create policy own on t for select to authenticated using (owner = auth.uid())",
        )
        .await;
    let unchecked = at(&database.url());
    assert_eq!(entry(&examine(&unchecked).await, "delete_hidden"), None);
    let url = database.url();
    let server = [
        ("DATABASE_URL", url.as_str()),
        ("API_JWT_SECRET", SECRET),
        ("WALCAST_DELETE_VISIBILITY", "rls"),
    ];
    let checked = DoctorOptions {
        server: Options::from_environment(server).unwrap(),
        role: vec!["authenticated".to_owned()],
        ..unchecked
    };
    let report = examine(&checked).await;
    let found = entry(&report, "delete_hidden").unwrap_or_else(|| panic!("{report}"));
    assert_eq!(found.level, Level::Warning);
    assert!(
        found.message.contains("the policies of public.t read owner"),
        "{found:?}"
    );
    run_sql(&database, found.sql.as_ref().unwrap()).await;
    assert_eq!(entry(&examine(&checked).await, "delete_hidden"), None);
}

fn set(setting: &str, value: &str) -> String {
    format!("alter database {{database}} set {setting} = {value}")
}

#[tokio::test]
async fn what_needs_a_restart_is_gone_after_it() {
    let options = Postgres::options()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "0")
        .setting("max_wal_senders", "0");
    let postgres = Postgres::start(options).await;
    let database = prepared(&postgres).await;
    let options = at(&database.url());
    let report = examine(&options).await;
    let codes = [
        "wal_level",
        "no_free_slot",
        "no_free_walsender",
        "max_slot_wal_keep_size",
    ];
    for code in codes {
        let found = entry(&report, code).unwrap_or_else(|| panic!("no {code} in {report}"));
        run_sql(&database, found.sql.as_ref().unwrap()).await;
    }
    assert!(entry(&report, "no_replication").is_some(), "{report}");
    postgres.restart().await;
    let report = examine(&options).await;
    for code in codes.into_iter().chain(["no_replication"]) {
        assert_eq!(entry(&report, code), None, "{report}");
    }
}

#[tokio::test]
async fn a_plain_role_is_told_all_it_needs_to_run_walcast() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let plain = format!("Plain of {}", database.name());
    database
        .execute(&format!(
            "create role \"{plain}\" login; create table t (id int primary key); grant select on t to anon;
             revoke create on database {} from public; alter publication supabase_realtime add table t",
            database.name()
        ))
        .await;
    let url = database.url_as(&plain, "");
    let options = at(&url);
    let codes = async || -> Vec<&'static str> {
        let report = examine(&options).await;
        let mut codes = Vec::new();
        for problem in report.of(Level::Problem) {
            codes.extend(problem.code);
            run_sql(
                &database,
                problem.sql.as_ref().unwrap_or_else(|| panic!("{problem:?}")),
            )
            .await;
        }
        codes
    };
    let expected = [
        "no_replication_right",
        "migrations_not_allowed",
        "role_not_granted",
        "role_not_granted",
        "role_not_granted",
    ];
    assert_eq!(codes().await, expected);
    assert_eq!(codes().await, Vec::<&str>::new());
    let report = examine(&options).await;
    assert!(entry(&report, "migrations_missing").is_some(), "{report}");
    assert!(entry(&report, "messages_missing").is_some(), "{report}");
    Box::pin(migrate_at(&url)).await.unwrap();
    // Made by itself, they are its own; those of another owner it may not keep.
    database
        .execute("alter table realtime.messages owner to supabase_realtime_admin")
        .await;
    assert_eq!(codes().await, ["messages_not_owned"]);
    let report = examine(&options).await;
    assert_eq!(report.of(Level::Problem).count(), 0, "{report}");
    for partition in report
        .of(Level::Warning)
        .filter(|entry| entry.code == Some("no_partition"))
    {
        run_sql(&database, partition.sql.as_ref().unwrap()).await;
    }
    for code in ["migrations_missing", "messages_missing", "no_partition"] {
        assert_eq!(entry(&examine(&options).await, code), None);
    }
    database
        .execute(&format!(
            "revoke anon, authenticated, service_role, supabase_realtime_admin from \"{plain}\";
             drop owned by \"{plain}\" cascade; drop role \"{plain}\""
        ))
        .await;
}

#[tokio::test]
async fn a_partition_of_today_that_a_running_server_did_not_make_is_a_problem() {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    // A join is answered when changes are streamed, and the partitions come before that.
    database
        .execute("create table t (id int primary key); alter publication supabase_realtime add table t")
        .await;
    let entries = serde_json::json!([{"event": "*", "schema": "public", "table": "t"}]);
    let config = serde_json::json!({"config": {"postgres_changes": entries}});
    let (status, _) = server.socket().await.join("realtime:a", "1", config).await;
    assert_eq!(status, "ok");
    let options = at(&database.url());
    let report = examine(&options).await;
    assert_eq!(entry(&report, "no_partition"), None, "{report}");
    let is_streaming = |entry: &Entry| entry.message == "a Walcast server is streaming from this database";
    assert!(report.of(Level::Ok).any(is_streaming), "{report}");
    let client = database.client().await;
    let drops = client
        .query_one(
            "select string_agg(format('drop table %s', inhrelid::regclass), ';') from pg_inherits where inhparent = 'realtime.messages'::regclass",
            &[],
        )
        .await
        .unwrap();
    client.batch_execute(drops.get(0)).await.unwrap();
    let report = examine(&options).await;
    let levels: Vec<Level> = [Level::Problem, Level::Warning]
        .into_iter()
        .flat_map(|level| report.of(level))
        .filter(|entry| entry.code == Some("no_partition"))
        .map(|entry| entry.level)
        .collect();
    assert_eq!(levels, [Level::Problem, Level::Warning], "{report}");
}

#[tokio::test]
async fn roles_and_tables_that_are_named_are_looked_at_alone_and_strictly() {
    let database = prepared(Postgres::shared().await).await;
    database
        .execute(
            "create table notes (id int primary key); alter table notes enable row level security;
             create policy p on notes for select to authenticated using (true);
             grant select on notes to anon, authenticated, service_role;
             create table other (body text); create view seen as select 1;
             alter publication supabase_realtime add table notes, other",
        )
        .await;
    let mut options = at(&database.url());
    options.table = ["notes", "nope", "seen"].map(table).to_vec();
    let report = examine(&options).await;
    // That visitors see less than users is no problem,
    assert_eq!(entry(&report, "no_policy").unwrap().level, Level::Warning);
    let problems: Vec<_> = report.of(Level::Problem).filter_map(|entry| entry.code).collect();
    assert_eq!(problems, ["no_such_table", "not_a_table"], "{report}");
    // unless they are asked for.
    options.role = vec!["anon".to_owned(), "nobody at all".to_owned()];
    options.table.truncate(1);
    let report = examine(&options).await;
    let problems: Vec<_> = report.of(Level::Problem).collect();
    assert_eq!(
        problems.iter().filter_map(|entry| entry.code).collect::<Vec<_>>(),
        ["no_such_role", "no_policy"]
    );
    assert_eq!(
        problems[0].sql.as_deref(),
        Some("create role \"nobody at all\" nologin noinherit")
    );
}

fn table(name: &str) -> walcast_changes::diagnosis::TableName {
    walcast_changes::diagnosis::TableName {
        schema: "public".to_owned(),
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn a_key_is_judged_as_the_server_would() {
    let database = prepared(Postgres::shared().await).await;
    let cases = [
        (user("u1", 10 * 86_400), None, "the key is valid for"),
        (user("u1", 600), Some("key_expires_soon"), "is valid for"),
        (user("u1", -60), Some("key_refused"), "Token has expired"),
        (forged(), Some("key_refused"), "JwtSignatureError"),
        ("sb_publishable_x".to_owned(), Some("key_refused"), "opaque"),
        ("x".to_owned(), Some("key_refused"), "not a valid JWT"),
        (
            sign(&serde_json::json!({"role": null, "exp": 9_999_999_999_i64})),
            Some("key_without_role"),
            "`role` is null",
        ),
        (
            sign(&serde_json::json!({"role": "no such role", "exp": 9_999_999_999_i64})),
            Some("no_such_role"),
            "there is no role \"no such role\"",
        ),
    ];
    for (key, code, words) in cases {
        let mut options = at(&database.url());
        options.key = Some(key.clone());
        let report = examine(&options).await;
        let said = match code {
            Some(code) => entry(&report, code).map(|entry| entry.message.clone()),
            None => report
                .of(Level::Ok)
                .map(|entry| entry.message.clone())
                .find(|message| message.contains(words)),
        };
        assert!(said.is_some_and(|said| said.contains(words)), "{words}: {report}");
        assert!(
            !report.to_string().contains(&key) || key == "x",
            "the key is shown"
        );
    }
}

/// As PgBouncer does, lets only ordinary connections through.
async fn pooler(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pool(client, to));
        }
    });
    address
}

async fn pool(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    const TLS_REQUEST: &[u8] = &80_877_103_u32.to_be_bytes();
    loop {
        let length = client.read_u32().await?;
        let mut packet = vec![0; usize::try_from(length - 4).unwrap()];
        client.read_exact(&mut packet).await?;
        if packet == TLS_REQUEST {
            client.write_all(b"N").await?;
            continue;
        }
        if packet.windows(11).any(|part| part == b"replication") {
            let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
            client.write_u8(b'E').await?;
            client.write_u32(u32::try_from(fields.len() + 4).unwrap()).await?;
            return client.write_all(fields).await;
        }
        let mut server = TcpStream::connect(to).await?;
        server.write_u32(length).await?;
        server.write_all(&packet).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
}

#[tokio::test]
async fn a_pooler_is_named_as_what_it_is() {
    let postgres = Postgres::shared().await;
    let database = prepared(postgres).await;
    let pooler = pooler(SocketAddr::from(([127, 0, 0, 1], postgres.port()))).await;
    let url = database
        .url()
        .replace(&format!(":{}/", postgres.port()), &format!(":{}/", pooler.port()));
    let report = examine(&at(&url)).await;
    let found = entry(&report, "pooler").unwrap_or_else(|| panic!("{report}"));
    assert!(found.message.contains("connect to Postgres itself"), "{found:?}");
}

#[tokio::test]
async fn nothing_is_written_and_nothing_left() {
    // With no vacuum running by itself, every transaction that writes is somebody's.
    let postgres = Postgres::start(Postgres::options().setting("autovacuum", "off")).await;
    let database = prepared(&postgres).await;
    database
        .execute("create table t (body text); alter publication supabase_realtime add table t")
        .await;
    let client = database.client().await;
    let next_xid = async || -> i64 {
        let row = client
            .query_one("select txid_snapshot_xmax(txid_current_snapshot())", &[])
            .await;
        row.unwrap().get(0)
    };
    let before = next_xid().await;
    let mut options = at(&database.url());
    options.key = Some(anon());
    let report = examine(&options).await;
    assert!(entry(&report, "no_primary_key").is_some(), "{report}");
    assert_eq!(next_xid().await, before);
    let slots = client
        .query("select from pg_replication_slots", &[])
        .await
        .unwrap();
    assert_eq!(slots.len(), 0);
    // The measure itself measures.
    client.batch_execute("create table u ()").await.unwrap();
    assert!(next_xid().await > before);
}

async fn doctor_at(url: &str, arguments: &[&str]) -> Output {
    run(walcast()
        .env("DATABASE_URL", url)
        .env("API_JWT_SECRET", SECRET)
        .arg("doctor")
        .args(arguments))
    .await
}

#[tokio::test]
async fn the_exit_code_tells_sound_from_sick_from_unknown() {
    let database = prepared(Postgres::shared().await).await;
    database
        .execute(&format!(
            "create table t (id int primary key); grant select on t to anon; alter publication supabase_realtime add table t;
             create role \"blind_of_{0}\" login replication in role anon, authenticated, service_role, supabase_realtime_admin;
             revoke select on pg_catalog.pg_policy from public",
            database.name()
        ))
        .await;
    let url = database.url();
    let blind = database.url_as(&format!("blind_of_{}", database.name()), "");
    let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
    for (url, arguments, code) in [
        (url.as_str(), vec![], 0),
        (&url, vec!["--json"], 0),
        (&url, vec!["--table", "nope"], 1),
        (&url, vec!["--table", "public.nope", "--json"], 1),
        (&url, vec!["--table", "."], 2),
        (&blind, vec![], 2),
        (nowhere, vec![], 2),
        ("no url", vec![], 2),
    ] {
        let output = doctor_at(url, &arguments).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?} {said} {output:?}"
        );
    }
    let said = doctor_at(&blind, &[]).await.stdout;
    assert!(String::from_utf8_lossy(&said).contains("[not_looked_at]"));
    let said = doctor_at(&url, &["--table", "nope", "--json"]).await.stdout;
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    let checks = said["checks"].as_array().unwrap();
    assert_eq!(said["is_complete"], true);
    assert!(
        checks
            .iter()
            .any(|check| check["level"] == "problem" && check["code"] == "no_such_table")
    );
    database
        .execute(&format!("drop role \"blind_of_{}\"", database.name()))
        .await;
}

#[tokio::test]
async fn a_typical_report_reads_so() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = prepared(&postgres).await;
    database
        .execute(
            "create table messages (id bigint primary key, room_id int, body text);
             grant select on messages to anon, authenticated, service_role;
             create table todos (id int primary key, owner uuid); alter table todos enable row level security;
             create policy own on todos for select to authenticated using (owner = auth.uid());
             grant select on todos to anon, authenticated, service_role;
             create table secrets (id int primary key); alter table secrets enable row level security;
             create table \"Log\" (at timestamptz, line text); revoke all on \"Log\" from anon;
             grant select on \"Log\" to authenticated, service_role;
             alter publication supabase_realtime add table messages, todos, secrets, \"Log\"",
        )
        .await;
    database
        .execute("select pg_create_logical_replication_slot('old_reader', 'pgoutput')")
        .await;
    let output = doctor_at(&database.url(), &["--key", &user("u1", 10 * 86_400)]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = said.lines().map(masked).collect();
    let expected: Vec<&str> = include_str!("doctor/typical.txt").lines().collect();
    assert_eq!(lines, expected, "{}", lines.join("\n"));
    database
        .execute("select pg_drop_replication_slot('old_reader')")
        .await;
}

/// What is different each time, as `#`: versions, sizes, days, ports.
fn masked(line: &str) -> String {
    if line.starts_with("  Postgres ") {
        return "  Postgres #".to_owned();
    }
    if let Some((before, held)) = line.split_once(" holds ") {
        let after = held.find(" of the log").unwrap_or_default();
        return format!("{before} holds #{}", &held[after..]);
    }
    let counted = [
        "database ",
        "the key is valid",
        " are free",
        "realtime.messages",
        "migrations",
    ];
    if !counted.iter().any(|part| line.contains(part)) {
        return line.to_owned();
    }
    let mut masked = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if masked.ends_with('#') => {}
            '0'..='9' => masked.push('#'),
            other => masked.push(other),
        }
    }
    masked
}

#[test]
fn every_code_is_explained() {
    let page = include_str!("../../../../docs/troubleshooting.md");
    for code in CODES {
        assert!(page.contains(&format!("| `{code}` |")), "{code} is not explained");
    }
    assert!(CODES.is_sorted());
    let explained = page.lines().filter(|line| line.starts_with("| `")).count();
    let known = CODES.len() + walcast_changes::diagnosis::Finding::CODES.len();
    assert_eq!(explained, known, "a code is explained that there is not");
}

type Settings<'a> = &'a [(&'a str, &'a str)];

/// The report of a server whose nodes would share this Redis.
async fn with_redis(settings: Settings<'_>) -> Report {
    let database = Postgres::shared().await.database().await;
    let url = database.url();
    let given = [("DATABASE_URL", url.as_str()), ("API_JWT_SECRET", SECRET)];
    let server = Options::from_environment(given.into_iter().chain(settings.iter().copied())).unwrap();
    let options = DoctorOptions { server, ..at(&url) };
    examine(&options).await
}

#[tokio::test]
async fn redis_is_looked_at_where_nodes_share_one() {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return;
    }
    let fit = Redis::start(&[]).await;
    let full = Redis::start(&[("maxmemory", "64mb"), ("maxmemory-policy", "allkeys-lru")]).await;
    let locked = Redis::start(&[("requirepass", "secret")]).await;
    let confined = Redis::start(&[]).await;
    let mut asking = UnixStream::connect(confined.socket()).await.unwrap();
    let user = b"ACL SETUSER nodes on >secret resetchannels ~other:* &other:* +@all\r\n";
    asking.write_all(user).await.unwrap();
    assert_eq!(asking.read_u8().await.unwrap(), b'+');
    let (port, folder) = (fit.port().to_string(), fit.folder().display().to_string());
    let replica = Redis::start(&[("replicaof", &format!("127.0.0.1 {port}"))]).await;
    let as_nodes = format!("redis://nodes:secret@127.0.0.1:{}", confined.port());
    let nobody = format!("unix://{folder}/nobody");
    let cases: [(Settings<'_>, &[&str]); 8] = [
        (&[("REDIS_URL", &fit.url())], &[]),
        (&[("REDIS_URL", &full.url())], &["redis_eviction"]),
        (&[("REDIS_URL", &locked.url())], &["redis_login"]),
        (&[("REDIS_URL", &as_nodes)], &["redis_refuses"; 4]),
        (
            &[("REDIS_URL", &as_nodes), ("WALCAST_REDIS_PREFIX", "other:")],
            &[],
        ),
        (&[("REDIS_URL", &replica.url())], &["redis_replica"]),
        (&[("REDIS_URL", &nobody)], &["redis_unreachable"]),
        (
            &[("REDIS_URL", &fit.url()), ("REDIS_CLUSTER", "true")],
            &["redis_cluster"],
        ),
    ];
    for (settings, expected) in cases {
        let report = with_redis(settings).await;
        let entries = [Level::Problem, Level::Warning]
            .into_iter()
            .flat_map(|level| report.of(level));
        let codes: Vec<&str> = entries
            .filter_map(|entry| entry.code)
            // How far away it is, a busy machine cannot tell.
            .filter(|code| code.starts_with("redis_") && *code != "redis_far")
            .collect();
        assert_eq!(codes, expected, "{settings:?}: {report}");
    }
}
