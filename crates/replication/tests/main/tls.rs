//! TLS as `sslmode` means it, and logins bound to it.

use crate::server::Database;
use crate::watched::{Everything, Watched, eager};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use walcast_replication::{Config, StreamError};
use walcast_testkit::{Postgres, Tls};

/// Certificates made for a test: an authority, one of a server named `localhost` signed by it, and one that signs
/// itself.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn make() -> Self {
        let certificates = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        certificates.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        );
        certificates.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout other.key -out other.crt",
        );
        certificates
            .openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
        std::fs::write(certificates.path("names"), "subjectAltName=DNS:localhost\n").unwrap();
        certificates.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha384 -days 2 -extfile names -out server.crt",
        );
        certificates.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -keyout self.key -out self.crt",
        );
        certificates
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .output()
            .unwrap_or_else(|error| panic!("openssl is needed for this test: {error}"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    async fn server(&self, name: &str, hba: &[&str]) -> (Postgres, Database) {
        let mut options = Postgres::options();
        options.hba = hba.iter().map(|line| (*line).to_owned()).collect();
        options.tls = Some(Tls {
            certificate_pem: self.read(&format!("{name}.crt")),
            key_pem: self.read(&format!("{name}.key")),
        });
        let postgres = Postgres::start(options).await;
        let database = Database::of(&postgres).await;
        (postgres, database)
    }
}

fn url(database: &Database, host: &str, mode: &str, root: Option<&Path>) -> String {
    let root = root.map_or(String::new(), |path| format!("&sslrootcert={}", path.display()));
    format!(
        "{}?sslmode={mode}{root}",
        database.url().replace("127.0.0.1", host)
    )
}

async fn refusal(url: &str) -> StreamError {
    let mut watched = Watched::spawn(Config::from_url(url).unwrap(), eager(), Everything);
    let reason = watched.lost().await;
    watched.cancel().await;
    std::sync::Arc::into_inner(reason).unwrap()
}

async fn is_encrypted(database: &Database) -> bool {
    let encrypted = "select ssl::int from pg_stat_ssl join pg_stat_replication using (pid)";
    database.number(encrypted).await == 1
}

#[tokio::test]
async fn each_mode_checks_what_it_promises() {
    let certificates = Certificates::make();
    let (_postgres, database) = certificates.server("server", &[]).await;
    let [ca, other] = ["ca.crt", "other.crt"].map(|file| certificates.path(file));
    let [ca, other] = [Some(&*ca), Some(&*other)];
    // The certificate is for "localhost" alone.
    for (host, mode, root, encrypts) in [
        ("127.0.0.1", "disable", None, Some(false)),
        ("127.0.0.1", "prefer", None, Some(true)),
        ("127.0.0.1", "prefer", other, Some(true)),
        ("127.0.0.1", "require", None, Some(true)),
        ("127.0.0.1", "require", ca, Some(true)),
        ("127.0.0.1", "require", other, None),
        ("127.0.0.1", "verify-ca", ca, Some(true)),
        ("127.0.0.1", "verify-ca", other, None),
        ("127.0.0.1", "verify-ca", None, None),
        ("127.0.0.1", "verify-full", ca, None),
        ("localhost", "verify-full", ca, Some(true)),
        ("localhost", "verify-full", other, None),
        ("localhost", "verify-full", None, None),
    ] {
        let url = url(&database, host, mode, root);
        match encrypts {
            Some(encrypts) => {
                let watched = Watched::start(&url).await;
                assert_eq!(is_encrypted(&database).await, encrypts, "{url}");
                watched.cancel().await;
            }
            None => {
                let error = refusal(&url).await;
                assert!(matches!(error, StreamError::Tls(_)), "{url}: {error}");
            }
        }
    }
    let missing = url(
        &database,
        "localhost",
        "verify-full",
        Some(Path::new("/nonexistent.crt")),
    );
    let error = refusal(&missing).await;
    assert!(error.to_string().contains("/nonexistent.crt"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted_itself() {
    let certificates = Certificates::make();
    let (_postgres, database) = certificates.server("self", &[]).await;
    let own = certificates.path("self.crt");
    Watched::start(&url(&database, "localhost", "verify-full", Some(&own)))
        .await
        .cancel()
        .await;
    Watched::start(&url(&database, "127.0.0.1", "verify-ca", Some(&own)))
        .await
        .cancel()
        .await;
    let error = refusal(&url(&database, "127.0.0.1", "verify-full", Some(&own))).await;
    assert!(matches!(error, StreamError::Tls(_)), "{error}");
    let error = refusal(&url(
        &database,
        "localhost",
        "verify-ca",
        Some(&certificates.path("other.crt")),
    ))
    .await;
    assert!(matches!(error, StreamError::Tls(_)), "{error}");
}

/// Postgres itself compares the hash of its certificate: with a wrong one the login fails.
#[tokio::test]
async fn a_login_by_scram_is_bound_to_the_certificate_of_the_server() {
    let certificates = Certificates::make();
    for certificate in ["server", "self"] {
        let hba = [
            "hostssl all bound 127.0.0.1/32 scram-sha-256",
            "host all bound 127.0.0.1/32 reject",
        ];
        let (_postgres, database) = certificates.server(certificate, &hba).await;
        database
            .run("create publication supabase_realtime; create role bound login replication password 'p'")
            .await;
        let url = format!("{}?sslmode=require", database.url_as("bound", "p"));
        let mut watched = Watched::start(&url).await;
        assert!(is_encrypted(&database).await);
        database
            .run("create table t (id int primary key); alter publication supabase_realtime add table t")
            .await;
        database
            .run("insert into t select generate_series(1, 5000)")
            .await;
        assert_eq!(watched.rows(5000).await.last().unwrap(), "INSERT t (5000)");
        watched.cancel().await;
        let error = refusal(&format!("{}?sslmode=require", database.url_as("bound", "wrong"))).await;
        assert!(matches!(error, StreamError::WrongPassword(_)), "{error}");
    }
}

#[tokio::test]
async fn prefer_goes_without_tls_where_only_that_lets_in() {
    let certificates = Certificates::make();
    let hba = [
        "hostnossl all plain 127.0.0.1/32 trust",
        "hostssl all plain 127.0.0.1/32 reject",
    ];
    let (_postgres, database) = certificates.server("server", &hba).await;
    database
        .run("create publication supabase_realtime; create role plain login replication")
        .await;
    let watched = Watched::start(&database.url_as("plain", "")).await;
    assert!(!is_encrypted(&database).await);
    watched.cancel().await;
    let error = refusal(&format!("{}?sslmode=require", database.url_as("plain", ""))).await;
    assert!(matches!(error, StreamError::LoginRefused(_)), "{error}");
}
