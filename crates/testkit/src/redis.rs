//! A Redis (or Valkey) for tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::until::until;

/// Names the program to run instead of the first of [`PROGRAMS`] that is in the path.
const PROGRAM: &str = "WALCAST_TEST_REDIS";
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// Tells the process id and waits for a word, or for the end of its input, which comes with the end of the test process
/// however that ends; then Redis goes, even one that has been halted. Without a word its folder goes, too.
const WATCHDOG: &str = r#""$@" >>log 2>&1 &
echo $!
read -r word
kill -KILL $!
wait
[ "$word" = keep ] || rm -rf "$PWD""#;

/// The ports of the nodes of a Redis cluster to each other are this much higher.
const GOSSIP: u16 = 10_000;
const FIRST_PORT: u16 = 21_000;
const PORTS: u16 = 11_000;

struct Running {
    pipe: ChildStdin,
    watchdog: Child,
    pid: String,
}

/// A Redis of a test's own, which keeps nothing on disk. It goes with this value, or with the process.
pub struct Redis {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    running: Mutex<Option<Running>>,
}

impl Redis {
    /// Where the program is, if there is one. Tests that find none say that they are skipped.
    pub fn program() -> Option<PathBuf> {
        if let Some(program) = std::env::var_os(PROGRAM).filter(|program| !program.is_empty()) {
            return Some(program.into());
        }
        let path = std::env::var_os("PATH")?;
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        PROGRAMS
            .iter()
            .flat_map(|program| folders.iter().map(move |folder| folder.join(program)))
            .find(|program| program.is_file())
    }

    /// Starts one with settings as in its configuration file, on a free port and on a socket.
    ///
    /// # Panics
    /// When it cannot be started, with the reason.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let program = Self::program().unwrap_or_else(|| {
            panic!("neither redis-server nor valkey-server is installed; run scripts/provide-redis")
        });
        let folder = new_folder();
        let redis = Self {
            program,
            folder,
            port: free_port(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            running: Mutex::new(None),
        };
        redis.restart().await;
        redis
    }

    /// Starts it again after a stop, on the same port and without its data.
    ///
    /// # Panics
    /// When it cannot be started, with the end of its log.
    pub async fn restart(&self) {
        self.stop();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WATCHDOG, "redis-watchdog"])
            .arg(&self.program);
        let port = self.port.to_string();
        let is_tls = self.settings.iter().any(|(name, _)| name.starts_with("tls-"));
        let (plain, tls) = if is_tls {
            ("0", port.as_str())
        } else {
            (port.as_str(), "0")
        };
        let socket = self.socket().display().to_string();
        for (name, value) in [
            ("port", plain),
            ("tls-port", tls),
            ("bind", "127.0.0.1"),
            ("unixsocket", &socket),
            ("save", ""),
            ("appendonly", "no"),
        ] {
            // A build without TLS does not know the setting.
            if name != "tls-port" || is_tls {
                command.arg(format!("--{name}")).arg(value);
            }
        }
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        let mut watchdog = command
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("no /bin/sh: {error}"));
        let (Some(pipe), Some(stdout)) = (watchdog.stdin.take(), watchdog.stdout.take()) else {
            panic!("no pipes to the watchdog of Redis");
        };
        let mut pid = String::new();
        BufReader::new(stdout)
            .read_line(&mut pid)
            .unwrap_or_else(|error| panic!("no process id of Redis: {error}"));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running {
            pipe,
            watchdog,
            pid: pid.trim().to_owned(),
        });
        until(
            &format!("a Redis that answers; see {}/log", self.folder.display()),
            || async { self.answers().then_some(()) },
        )
        .await;
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else {
            return false;
        };
        let mut answer = [0; 7];
        let asked = stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .and_then(|()| stream.write_all(b"PING\r\n"))
            .and_then(|()| stream.read_exact(&mut answer));
        asked.is_ok() && matches!(&answer, b"+PONG\r\n" | b"-NOAUTH")
    }

    /// Ends it as a crash does. What it knew is lost.
    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running {
            mut pipe,
            mut watchdog,
            ..
        }) = running
        {
            pipe.write_all(b"keep\n")
                .unwrap_or_else(|error| panic!("the watchdog of Redis does not listen: {error}"));
            drop(pipe);
            watchdog
                .wait()
                .unwrap_or_else(|error| panic!("the watchdog of Redis cannot be waited for: {error}"));
        }
        // A socket that is left over would be taken for a Redis that starts.
        std::fs::remove_file(self.socket()).ok();
    }

    /// Halts it: connections stay and nothing answers.
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Running { pid, .. }) = &*running else {
            panic!("Redis does not run");
        };
        let done = Command::new("kill").args([signal, pid]).status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "no process {pid} to signal"
        );
    }

    /// Its URL, over TCP.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The folder that holds everything of it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn new_folder() -> PathBuf {
    // Short: the path of a socket has 107 bytes at most.
    let folder = std::env::temp_dir().join(format!("walcast-redis-{}-{}", std::process::id(), number()));
    // One of a process of the same number that was killed.
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("no folder {}: {error}", folder.display()));
    folder
}

fn free_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Processes that start together begin at different places.
    let start = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    for _ in 0..PORTS {
        let offset = (start + u32::from(number())) % u32::from(PORTS);
        let port = FIRST_PORT + u16::try_from(offset).unwrap_or_default();
        if is_free(port) && is_free(port + GOSSIP) {
            return port;
        }
    }
    panic!("no free port");
}
