//! The program as an operator meets it: exit codes, sentences, signals.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use walcast::token::{ClaimRules, Keys, Verifier};

use crate::server::{Client, PATIENCE, SECRET, anon, request};

pub(crate) fn walcast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
    command.env_clear().kill_on_drop(true);
    command
}

pub(crate) async fn run(command: &mut Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("it does not end")
        .unwrap()
}

#[tokio::test]
async fn a_wrong_setting_is_one_sentence_on_standard_error() {
    let cases = [
        (vec![], "API_JWT_SECRET is not set"),
        (
            vec![("API_JWT_SECRET", SECRET), ("PORT", "x")],
            "PORT must be a whole number from 0 to 65535, but is `x`",
        ),
        (
            vec![("API_JWT_SECRET", SECRET), ("WALCAST_RLS", "off")],
            "WALCAST_RLS must be `compiled`, `sql` or `verify`, but is `off`",
        ),
    ];
    for (variables, sentence) in cases {
        let output = run(walcast().envs(variables)).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(
            said.contains(sentence) && said.trim_end().lines().count() == 1,
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_minted_token_is_one_the_server_takes() {
    let arguments = [
        "token",
        "--role",
        "authenticated",
        "--sub",
        "u1",
        "--lifetime",
        "1h",
        "--claims",
        r#"{"org":7}"#,
    ];
    let output = run(walcast().env("API_JWT_SECRET", SECRET).args(arguments)).await;
    let token = String::from_utf8(output.stdout).unwrap();
    let claims = Verifier::new(Keys::of_secrets([SECRET]), ClaimRules::default())
        .verify(&token)
        .unwrap();
    assert_eq!(claims.role.as_deref(), Some("authenticated"));
    assert!(
        claims.json.contains(r#""org":7"#) && claims.json.contains(r#""sub":"u1""#),
        "{}",
        claims.json
    );
}

#[tokio::test]
async fn help_shows_no_secret() {
    let output = run(walcast().env("API_JWT_SECRET", "hunter2").arg("--help")).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("API_JWT_SECRET") && !said.contains("hunter2"),
        "{said}"
    );
}

pub(crate) struct Running {
    pub(crate) child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub(crate) address: SocketAddr,
    /// All it has said so far.
    pub(crate) said: Vec<String>,
}

impl Running {
    /// The next log line that has this text.
    pub(crate) async fn line(&mut self, text: &str) -> String {
        let line = async {
            loop {
                let line = self.log.next_line().await.unwrap().expect("the program ended");
                self.said.push(line.clone());
                if line.contains(text) {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, line)
            .await
            .expect("it does not say so")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

async fn start(variables: &[(&str, &str)]) -> Running {
    start_as(walcast(), variables).await
}

async fn start_as(mut command: Command, variables: &[(&str, &str)]) -> Running {
    command
        .env("API_JWT_SECRET", SECRET)
        .env("PORT", "0")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .envs(variables.iter().copied());
    started(&mut command).await
}

/// The program, once it listens.
pub(crate) async fn started(command: &mut Command) -> Running {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut running = Running {
        child,
        log,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        said: Vec::new(),
    };
    let line = running.line("walcast listens").await;
    let port = line.rsplit_once("]:").expect("no port").1;
    let digits = port.chars().take_while(char::is_ascii_digit).collect::<String>();
    running.address.set_port(digits.parse().unwrap());
    running
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let an_hour = [
        ("WALCAST_DRAIN_SPREAD_MS", "3600000"),
        ("WALCAST_DRAIN_TIMEOUT_MS", "3600000"),
    ];
    let mut running = start(&an_hour).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(Client::connect(running.address, "2.0.0", &anon()).await);
    }
    running.signal(Signal::TERM);
    running.line("a second signal ends at once").await;
    running.signal(Signal::TERM);
    let status = tokio::time::timeout(PATIENCE, running.child.wait())
        .await
        .expect("it waits for its sockets")
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_crowd_beyond_the_open_files_leaves_it_able_to_answer_and_to_recover() {
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_walcast");
    command
        .args(["-c", r#"ulimit -n 200; exec "$0""#, program])
        .env_clear()
        .kill_on_drop(true);
    let mut running = start_as(command, &[]).await;
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(TcpStream::connect(running.address).await.unwrap());
    }
    running.line("ConnectionTurnedAway").await;
    drop(crowd);
    let answered = async {
        while request(running.address, "GET", "/api/none", &[]).await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("it is full for ever");
    let mut socket = Client::connect(running.address, "2.0.0", &anon()).await;
    socket.join_ok("realtime:a", "1").await;
}

#[tokio::test]
async fn both_signals_end_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = start(&[]).await;
        running.signal(signal);
        running.line("walcast has stopped").await;
        let status = tokio::time::timeout(PATIENCE, running.child.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn log_lines_have_no_colours_where_nobody_sees_them() {
    let mut running = start(&[]).await;
    let line = running.line("UnableToConnectToProject").await;
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[tokio::test]
async fn log_lines_are_json_objects_where_asked_for() {
    let mut running = start(&[("WALCAST_LOG_FORMAT", "json")]).await;
    let line: serde_json::Value =
        serde_json::from_str(&running.line("UnableToConnectToProject").await).unwrap();
    assert_eq!(
        (&line["level"], &line["code"]),
        (&"ERROR".into(), &"UnableToConnectToProject".into())
    );
}
