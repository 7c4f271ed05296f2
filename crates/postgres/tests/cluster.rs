//! A cluster's life against the installed Postgres: found again, told apart, and never left behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests state facts; clippy only knows that of the functions marked so"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use walcast_postgres::{Cluster, Options, PLATFORM_SQL, Port, StartError, Tls, reachable_folder};

/// Names the folder to run a cluster in, in the processes that [`owner`] starts.
const OWN: &str = "WALCAST_TEST_OWN_CLUSTER";

/// The version to test.
fn version() -> Option<u16> {
    std::env::var("WALCAST_TEST_PG")
        .ok()
        .filter(|version| !version.is_empty())
        .map(|version| version.parse().unwrap())
}

fn throwaway() -> Options {
    let mut options = Options::throwaway();
    options.version = version();
    options
}

fn kept_in(folder: impl Into<PathBuf>) -> Options {
    let mut options = Options::kept_in(folder);
    options.version = version();
    options
}

async fn connect(cluster: &Cluster, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(cluster.port())
        .user(user)
        .password(password)
        .dbname("postgres")
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn connect_by_socket(cluster: &Cluster) -> Client {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(cluster.socket_dir())
        .port(cluster.port())
        .user(cluster.superuser())
        .dbname("postgres")
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// A folder that whoever runs Postgres may enter.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").unwrap()
}

#[tokio::test]
async fn a_kept_cluster_finds_its_data_again() {
    let folder = folder();
    let mut first = Cluster::start(kept_in(folder.path())).await.unwrap();
    connect_by_socket(&first)
        .await
        .batch_execute("create table kept (n int); insert into kept values (7)")
        .await
        .unwrap();
    first.stop().await.unwrap();
    drop(first);

    let mut second = Cluster::start(kept_in(folder.path())).await.unwrap();
    let row = connect_by_socket(&second)
        .await
        .query_one("select n from kept", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_cluster_recovers_on_the_same_port() {
    let mut cluster = Cluster::start(throwaway()).await.unwrap();
    let port = cluster.port();
    connect_by_socket(&cluster)
        .await
        .batch_execute("create table kept as select 7 as n")
        .await
        .unwrap();
    cluster.kill().await.unwrap();
    assert_eq!(cluster.pid(), None);
    cluster.restart().await.unwrap();
    assert_eq!(cluster.port(), port);
    assert!(
        cluster.log_tail().contains("automatic recovery in progress"),
        "{}",
        cluster.log_tail()
    );
    connect_by_socket(&cluster)
        .await
        .query_one("select n from kept", &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_end_of_postgres_is_told() {
    let cluster = Cluster::start(throwaway()).await.unwrap();
    let ended = cluster.ended();
    signal("-QUIT", cluster.pid().unwrap());
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert_eq!(cluster.pid(), None);
}

#[tokio::test]
async fn logical_replication_is_on_and_settings_win() {
    let options = throwaway()
        .setting("max_replication_slots", "3")
        .setting("log_line_prefix", r"it's \ %p ");
    let cluster = Cluster::start(options).await.unwrap();
    let client = connect_by_socket(&cluster).await;
    for (setting, value) in [
        ("wal_level", "logical"),
        ("max_replication_slots", "3"),
        ("log_line_prefix", r"it's \ %p "),
        ("listen_addresses", "127.0.0.1"),
        ("fsync", "off"),
    ] {
        let row = client
            .query_one("select current_setting($1)", &[&setting])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
}

#[tokio::test]
async fn tcp_asks_for_a_password_and_hba_lines_decide_before_that() {
    let mut options = throwaway();
    options.hba.push("host all shut all reject".to_owned());
    let cluster = Cluster::start(options).await.unwrap();
    let setup = "create role known login password 'right'; create role shut login password 'right'";
    connect_by_socket(&cluster)
        .await
        .batch_execute(setup)
        .await
        .unwrap();

    connect(&cluster, "known", "right").await.unwrap();
    for (user, password, refusal) in [("known", "wrong", "28P01"), ("shut", "right", "28000")] {
        let error = connect(&cluster, user, password).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), refusal, "{user}");
    }
}

#[tokio::test]
async fn tls_is_offered_with_a_certificate_only() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls {
        certificate_pem: cert.pem(),
        key_pem: signing_key.serialize_pem(),
    };
    for (tls, answer) in [(Some(tls), b'S'), (None, b'N')] {
        let mut options = throwaway();
        options.tls = tls;
        let cluster = Cluster::start(options).await.unwrap();
        // SSLRequest: its length and its code.
        let mut connection = TcpStream::connect(("127.0.0.1", cluster.port())).unwrap();
        connection
            .write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])
            .unwrap();
        let mut answered = [0];
        connection.read_exact(&mut answered).unwrap();
        assert_eq!(answered, [answer]);
    }
}

#[tokio::test]
async fn a_taken_port_is_said_plainly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut options = throwaway();
    options.port = Port::Fixed(port);
    let error = Cluster::start(options).await.unwrap_err();
    assert!(
        matches!(error, StartError::PortTaken { port: taken } if taken == port),
        "{error}"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_while_stopped_is_said_plainly() {
    let mut cluster = Cluster::start(throwaway()).await.unwrap();
    cluster.stop().await.unwrap();
    let _listener = TcpListener::bind(("127.0.0.1", cluster.port())).unwrap();
    let error = cluster.restart().await.unwrap_err();
    assert!(
        matches!(error, StartError::PortTaken { port } if port == cluster.port()),
        "{error}"
    );
}

#[tokio::test]
async fn a_setting_postgres_refuses_is_reported_with_its_own_words() {
    let error = Cluster::start(throwaway().setting("wal_level", "sideways"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StartError::Ended { .. }) && error.to_string().contains("sideways"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cluster_has_one_owner_at_a_time() {
    let folder = folder();
    let _first = Cluster::start(kept_in(folder.path())).await.unwrap();
    let error = Cluster::start(kept_in(folder.path())).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn data_of_another_version_are_refused_by_name() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/PG_VERSION"), "12\n").unwrap();
    let mut options = kept_in(folder.path());
    let installed = walcast_postgres::Installation::find(version()).unwrap().major();
    options.version = Some(installed);
    let error = Cluster::start(options).await.unwrap_err();
    assert!(
        matches!(error, StartError::OtherVersion { data: 12, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_with_a_path_too_long_for_a_socket_will_do() {
    let folder = folder();
    let long = folder.path().join("x".repeat(120));
    let mut cluster = Cluster::start(kept_in(&long)).await.unwrap();
    connect_by_socket(&cluster)
        .await
        .query_one("select 1", &[])
        .await
        .unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_platform_can_be_laid_twice() {
    let cluster = Cluster::start(throwaway()).await.unwrap();
    let client = connect_by_socket(&cluster).await;
    client.batch_execute(PLATFORM_SQL).await.unwrap();
    client.batch_execute(PLATFORM_SQL).await.unwrap();
}

/// Not a test of its own: what [`owner`] runs. It says what it started, and waits to be killed.
#[tokio::test]
#[ignore = "a process that other tests start"]
async fn owner_process() {
    let Some(folder) = std::env::var_os(OWN) else {
        return;
    };
    let options = if folder == "throwaway" {
        throwaway()
    } else {
        kept_in(folder)
    };
    let cluster = Cluster::start(options).await.unwrap();
    println!("OWNER {} {}", cluster.pid().unwrap(), cluster.folder().display());
    cluster.ended().await;
    // Not to go by itself: how it goes is the caller's to choose.
    std::future::pending::<()>().await;
}

/// A process that runs a cluster, the postmaster's id and the cluster's folder.
fn owner(folder: &Path) -> (Child, u32, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["owner_process", "--exact", "--ignored", "--nocapture"])
        .env(OWN, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    for line in stdout.lines() {
        let line = line.unwrap();
        // The harness does not end its own line before the test writes.
        let Some((_, said)) = line.split_once("OWNER ") else {
            continue;
        };
        let (pid, folder) = said.split_once(' ').unwrap();
        return (child, pid.parse().unwrap(), folder.into());
    }
    panic!("the owner ended before it had a cluster");
}

fn signal(signal: &str, pid: u32) {
    assert!(
        Command::new("kill")
            .arg(signal)
            .arg(pid.to_string())
            .status()
            .unwrap()
            .success()
    );
}

/// A process that has ended but whose parent has not asked for its status (`Z`) does not run.
fn runs(pid: u32) -> bool {
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    !output.stdout.is_empty() && !output.stdout.starts_with(b"Z")
}

/// Nothing tells one process of the end of another that is not its child.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killing_the_owner_stops_postgres_and_removes_a_throwaway_folder() {
    let (mut owner, pid, folder) = owner(Path::new("throwaway"));
    assert!(runs(pid) && folder.join("data/PG_VERSION").exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the end of Postgres", || !runs(pid));
    wait_until("the removal of the folder", || !folder.exists());
}

#[test]
fn killing_the_owner_stops_a_kept_cluster_in_good_order() {
    let kept = folder();
    let (mut owner, pid, folder) = owner(kept.path());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the end of Postgres", || !runs(pid));
    wait_until("the shutdown", || {
        let log = std::fs::read_to_string(folder.join("postgres.log")).unwrap();
        log.contains("database system is shut down")
    });
}

#[tokio::test]
async fn a_start_while_the_postgres_of_a_killed_owner_is_stopping_waits_for_its_end() {
    let kept = folder();
    let (mut owner, pid, folder) = owner(kept.path());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let mut next = Cluster::start(kept_in(&folder)).await.unwrap();
    assert!(next.pid().is_some() && next.pid() != Some(pid));
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_postgres_left_behind_with_its_watchdog_killed_is_stopped_by_the_next_start() {
    let kept = folder();
    let (mut owner, pid, folder) = owner(kept.path());
    let watchdog = processes("pid", pid, "ppid")[0];
    for part in processes("ppid", watchdog, "pid")
        .into_iter()
        .filter(|part| *part != pid)
        .chain([watchdog])
    {
        signal("-KILL", part);
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(runs(pid), "with the watchdog gone nothing stops it");

    let mut next = Cluster::start(kept_in(&folder)).await.unwrap();
    assert!(!runs(pid));
    assert_ne!(next.pid(), Some(pid));
    next.stop().await.unwrap();
}

/// One column of the processes in whose row another column has this value.
fn processes(column: &str, value: u32, wanted: &str) -> Vec<u32> {
    let format = format!("{column}=,{wanted}=");
    let output = Command::new("ps").args(["-A", "-o", &format]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .map(|number| number.parse().unwrap())
                .collect::<Vec<u32>>()
        })
        .filter(|row| row[0] == value)
        .map(|row| row[1])
        .collect()
}

#[tokio::test]
async fn a_stale_status_file_that_names_some_other_process_is_no_hindrance() {
    let folder = folder();
    let mut first = Cluster::start(kept_in(folder.path())).await.unwrap();
    let status_file = first.folder().join("data/postmaster.pid");
    let status = std::fs::read_to_string(&status_file).unwrap();
    first.stop().await.unwrap();
    drop(first);
    // As after a restart of the machine: the id now belongs to somebody else, here to a shell of Postgres' user.
    let stale = status.replacen(status.lines().next().unwrap(), &std::process::id().to_string(), 1);
    std::fs::write(&status_file, stale).unwrap();

    let mut second = Cluster::start(kept_in(folder.path())).await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_closed_to_the_account_that_runs_postgres_is_named_and_another_one_found() {
    let closed = folder();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let inside = closed.path().join(".walcast/postgres");
    let found = reachable_folder(closed.path()).unwrap();
    if Command::new("id").arg("-u").output().unwrap().stdout != b"0\n" {
        assert_eq!(found, inside, "an ordinary user runs Postgres itself");
        return;
    }
    let error = Cluster::start(kept_in(&inside)).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Unreachable { barrier, .. } if barrier == closed.path()),
        "{error}"
    );
    assert!(found.starts_with("/var/lib/walcast"), "{}", found.display());
    assert_eq!(
        found,
        reachable_folder(closed.path()).unwrap(),
        "the same for the same project"
    );

    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(reachable_folder(closed.path()).unwrap(), inside);
}

#[tokio::test]
async fn a_dropped_cluster_stops() {
    let cluster = Cluster::start(throwaway()).await.unwrap();
    let (ended, folder) = (cluster.ended(), cluster.folder().to_owned());
    std::thread::spawn(move || drop(cluster)).join().unwrap();
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert!(!folder.exists(), "the watchdog removes the folder before it ends");
}
