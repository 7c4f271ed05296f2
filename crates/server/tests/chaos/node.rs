//! A process of the real program.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Names a program to run instead of the one that was built.
const PROGRAM: &str = "WALCAST_BIN";

pub(crate) const SECRET: &str = "a-secret-of-at-least-thirty-two-characters";

/// One of the nodes: process after process, each on a port of its own.
pub(crate) struct Node {
    name: String,
    settings: Vec<(String, String)>,
    running: Mutex<Option<Running>>,
    lives: AtomicU32,
    peak_bytes: AtomicU64,
}

struct Running {
    child: Child,
    port: u16,
}

impl Node {
    pub(crate) fn new(name: String, settings: Vec<(String, String)>) -> Self {
        Self {
            name,
            settings,
            running: Mutex::new(None),
            lives: AtomicU32::new(0),
            peak_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn start(&self, logs: &Path) {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let log = File::create(logs.join(format!("{}-{life}.log", self.name))).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_walcast").into());
        let child = Command::new(program)
            .arg("serve")
            .env_clear()
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("PORT", port.to_string())
            .env("WALCAST_HOST", "127.0.0.1")
            .env("API_JWT_SECRET", SECRET)
            .env("LOG_LEVEL", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        *self.running.lock().unwrap() = Some(Running { child, port });
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(&self) {
        let running = self.running.lock().unwrap().take();
        if let Some(mut running) = running {
            running.child.kill().await.unwrap();
        }
    }

    pub(crate) fn halt(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("the node runs"), signal).unwrap();
    }

    fn pid(&self) -> Option<Pid> {
        let running = self.running.lock().unwrap();
        let id = running.as_ref()?.child.id()?;
        Pid::from_raw(i32::try_from(id).unwrap())
    }

    /// What clients are given, if it runs.
    pub(crate) fn url(&self) -> Option<String> {
        let running = self.running.lock().unwrap();
        let port = running.as_ref()?.port;
        Some(format!("ws://127.0.0.1:{port}/socket"))
    }

    /// What `/readyz` says; `None` while nobody answers.
    pub(crate) async fn health(&self) -> Option<String> {
        let port = self.running.lock().unwrap().as_ref()?.port;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// Complains if the process has ended by itself.
    pub(crate) fn ended(&self) -> Option<String> {
        let mut running = self.running.lock().unwrap();
        let status = running.as_mut()?.child.try_wait().unwrap()?;
        Some(format!("{} ended by itself: {status}", self.name))
    }

    /// Looks at how much memory it has now.
    pub(crate) fn weigh(&self) {
        let Some(pid) = self.pid() else { return };
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        // It may just have been killed.
        let resident = status.ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        self.peak_bytes
            .fetch_max(resident.unwrap_or(0) * 1024, Ordering::Relaxed);
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
}
