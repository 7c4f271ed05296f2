//! Walcast as a role that is no superuser: what `docs/supabase.md` tells to grant is enough, is all needed, and what of
//! it is missing `walcast doctor` finds and mends.

use walcast::doctor::{self, DoctorOptions, Level, Report};
use walcast::migrate::migrate_at;
use walcast::options::Options;
use walcast_testkit::{Database, Postgres, until};

use crate::server::{SECRET, Walcast};
use crate::swap::{APPLICATION, NOTHING, catalog, changed, left_behind, use_everything};

const GUIDE: &str = include_str!("../../../../docs/supabase.md");

/// The statements of the guide, for this database.
fn grants(database: &Database) -> String {
    let section = GUIDE.split_once("## A role of its own").unwrap().1;
    let statements = section
        .split_once("```sql")
        .unwrap()
        .1
        .split_once("```")
        .unwrap()
        .0;
    assert_eq!(statements.matches(';').count(), 4);
    statements.replace("database postgres", &format!("database \"{}\"", database.name()))
}

/// A cluster of its own: roles and memberships belong to the whole of it.
async fn postgres() -> Postgres {
    Postgres::start(Postgres::options()).await
}

fn url(database: &Database) -> String {
    database.url_as("walcast", "…")
}

async fn examine(database: &Database) -> Report {
    let url = url(database);
    let server =
        Options::from_environment([("DATABASE_URL", url.as_str()), ("API_JWT_SECRET", SECRET)]).unwrap();
    let options = DoctorOptions {
        table: Vec::new(),
        role: Vec::new(),
        key: None,
        json: false,
        server,
    };
    Box::pin(doctor::run(&options)).await.unwrap()
}

/// Runs what the report prints for a code, as a superuser; whether it has it.
async fn mend(database: &Database, report: &Report, code: &str) -> bool {
    let entries = [Level::Problem, Level::Warning]
        .into_iter()
        .flat_map(|level| report.of(level));
    let mut found = false;
    for entry in entries.filter(|entry| entry.code == Some(code)) {
        found = true;
        for statement in entry.sql.as_ref().unwrap().split("; ") {
            database.execute(statement).await;
        }
    }
    found
}

/// What is wrong, but for an application that has published nothing yet.
fn problems(report: &Report) -> Vec<&'static str> {
    let codes = report.of(Level::Problem).filter_map(|entry| entry.code);
    codes
        .filter(|code| !matches!(*code, "nothing_published" | "no_publication"))
        .collect()
}

#[tokio::test]
async fn the_grants_of_the_guide_suffice_where_the_reference_server_was() {
    let postgres = postgres().await;
    let database = left_behind(&postgres).await;
    database.execute(&grants(&database)).await;
    assert_eq!(problems(&examine(&database).await), [""; 0]);
    let before = catalog(&database).await;

    let server = Walcast::start_on(&url(&database), &[]).await;
    use_everything(&database, &server).await;
    let report = examine(&database).await;
    assert_eq!(problems(&report), [""; 0], "{report}");
    server.stop().await;
    database
        .until("select count(*) = 0 from pg_replication_slots")
        .await;
    assert_eq!(changed(&before, &catalog(&database).await), NOTHING);

    // What the first start needed beyond the others is not needed again.
    database
        .execute(&format!(
            "revoke create on database \"{}\" from walcast",
            database.name()
        ))
        .await;
    database
        .execute("truncate public.orders, realtime.messages")
        .await;
    let server = Walcast::start_on(&url(&database), &[]).await;
    use_everything(&database, &server).await;
    assert_eq!(problems(&examine(&database).await), [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn the_grants_of_the_guide_suffice_where_only_the_platform_was() {
    let postgres = postgres().await;
    let database = postgres.database().await;
    database.execute(&grants(&database)).await;
    assert_eq!(problems(&examine(&database).await), [""; 0]);
    let server = Walcast::start_on(&url(&database), &[]).await;
    until("the server is ready", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let report = examine(&database).await;
    assert_eq!(problems(&report), [""; 0], "{report}");
    assert!(mend(&database, &report, "policies_not_allowed").await, "{report}");
    database.execute(APPLICATION).await;
    use_everything(&database, &server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_grants_of_the_guide_suffice_where_nothing_was() {
    let postgres = postgres().await;
    let database = postgres.database().await;
    database
        .execute("drop schema realtime, auth, extensions cascade; drop publication supabase_realtime")
        .await;
    database.execute(&grants(&database)).await;
    let server = Walcast::start_on(&url(&database), &[]).await;
    until("the server is ready", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let report = examine(&database).await;
    assert_eq!(problems(&report), [""; 0], "{report}");
    server.stop().await;
}

#[tokio::test]
async fn each_grant_that_is_missing_is_found_and_mended() {
    let postgres = postgres().await;
    let not_inherited = if postgres.major() >= 16 {
        "grant supabase_realtime_admin to walcast with inherit false"
    } else {
        "alter role walcast noinherit"
    };
    let before_the_first_start = [
        ("alter role walcast noreplication", "no_replication_right"),
        (
            "revoke create on database {database} from walcast, supabase_realtime_admin",
            "migrations_not_allowed",
        ),
        (
            "revoke anon from walcast, supabase_realtime_admin",
            "role_not_granted",
        ),
        (
            "revoke service_role, authenticated from walcast, supabase_realtime_admin",
            "role_not_granted",
        ),
        (
            "revoke supabase_realtime_admin from walcast",
            "messages_not_owned",
        ),
        (not_inherited, "messages_not_owned"),
    ];
    let no_create = "revoke create on database {database} from walcast, supabase_realtime_admin;";
    let after_it = [
        (
            format!("{no_create} drop publication supabase_realtime_messages_publication"),
            "messages_not_published",
        ),
        (
            format!("{no_create} alter publication supabase_realtime_messages_publication set table public.orders"),
            "messages_not_published",
        ),
        ("revoke supabase_realtime_admin from postgres".to_owned(), "policies_not_allowed"),
        // As if it had run as a superuser before.
        (
            "alter schema walcast owner to supabase_admin; alter table walcast.migrations owner to supabase_admin;
             alter table walcast.message_lifetimes owner to supabase_admin;
             alter function walcast.visible_rows owner to supabase_admin;
             alter function walcast.channel_rights owner to supabase_admin"
                .to_owned(),
            "walcast_not_owned",
        ),
    ];
    let database = left_behind(&postgres).await;
    database.execute(&grants(&database)).await;
    let name = format!("\"{}\"", database.name());
    for (harm, code) in before_the_first_start {
        database.execute(&harm.replace("{database}", &name)).await;
        mended(&database, harm, code).await;
    }
    Box::pin(migrate_at(&url(&database))).await.unwrap();
    for (harm, code) in &after_it {
        database.execute(&harm.replace("{database}", &name)).await;
        mended(&database, harm, code).await;
    }
    let server = Walcast::start_on(&url(&database), &[]).await;
    use_everything(&database, &server).await;
    server.stop().await;
}

/// That the doctor finds it, and that its statements mend it and leave no problem.
async fn mended(database: &Database, harm: &str, code: &str) {
    let report = examine(database).await;
    assert!(
        mend(database, &report, code).await,
        "{harm}: no {code} in {report}"
    );
    let report = examine(database).await;
    assert_eq!(problems(&report), [""; 0], "{harm}: {report}");
    assert!(!mend(database, &report, code).await, "{harm}: {report}");
}
